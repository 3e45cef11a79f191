"""TensorBoard's events hold the numbers of metrics.jsonl."""

import struct
import sys

import pytest

from idejax.errors import UserError
from idejax.training.board import Board


def events(folder):
  """(tag, step, value) of all event files, in order of time."""
  proto = pytest.importorskip("tensorboardX.proto.event_pb2")
  out = []
  for file in sorted((folder / "events").iterdir()):
    data = file.read_bytes()
    while data:  # length, its checksum, record, its checksum
      (size,) = struct.unpack("<Q", data[:8])
      event = proto.Event.FromString(data[12 : 12 + size])
      data = data[16 + size :]
      out += [(v.tag, event.step, round(v.simple_value, 5)) for v in event.summary.value]
  return out


def test_events(tmp_path):
  pytest.importorskip("tensorboardX")
  board = Board(tmp_path, 0)
  board.add([{"step": 0, "loss": 0.5, "loss_each": [0.25, None, 0.75], "skipped": 0}, {"step": 1, "loss": None}])
  board.close()
  assert events(tmp_path) == [("loss", 0, 0.5), ("loss_each/0", 0, 0.25), ("loss_each/2", 0, 0.75), ("skipped", 0, 0.0)]


def test_without_tensorboard_it_says_what_to_install(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorboardX", None)
  with pytest.raises(UserError, match=r'pip install -e "\.\[tensorboard\]"'):
    Board(tmp_path, 0)
