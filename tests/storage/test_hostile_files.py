"""Hostile and damaged weight files: one sentence with the file's name, and no surprise."""

import json
import struct

import flax.serialization
import msgpack
import numpy as np
import pytest
from safetensors.numpy import save_file

from idejax.errors import UserError
from idejax.storage import tensorfiles, weights

CLIP = "model"


def safetensors_bytes(header, body=b"", length=None) -> bytes:
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  return struct.pack("<Q", len(text) if length is None else length) + text + body


def f32(shape, start, end):
  return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


def ext(code, payload) -> bytes:
  return msgpack.packb({"a": {"kernel": msgpack.ExtType(code, payload)}})


FILES = {  # name of the case -> (file name, bytes, a word of the message)
  "empty": ("model.safetensors", b"", "0 bytes"),
  "header larger than the file": ("model.safetensors", safetensors_bytes({}, length=10**6), ""),
  "absurd header length": ("model.safetensors", safetensors_bytes({}, length=2**63), ""),
  "body cut off": ("model.safetensors", safetensors_bytes({"a": f32([4], 0, 16)}, b"12345678"), ""),
  "bytes left over": ("model.safetensors", safetensors_bytes({"a": f32([1], 0, 4)}, b"x" * 8), ""),
  "absurd shape": ("model.safetensors", safetensors_bytes({"a": f32([2**62, 2**62], 0, 4)}, b"x" * 4), ""),
  "overlapping offsets": (
    "model.safetensors",
    safetensors_bytes({"a": f32([2], 0, 8), "b": f32([2], 4, 12)}, b"x" * 12),
    "",
  ),
  "header of no text": ("model.safetensors", safetensors_bytes(b"\xff\xfe{}"), ""),
  "header of no JSON": ("model.safetensors", safetensors_bytes(b"{{{{"), ""),
  "fp8": (
    "model.safetensors",
    safetensors_bytes({"w": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}, b"xx"),
    "F8_E4M3",
  ),
  "a zip with a pickle inside": ("model.safetensors", b"PK\x03\x04" + b"x" * 64, ""),
  "LFS pointer": ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "lfs pull"),
  "msgpack garbage": ("flax_model.msgpack", b"\xc1\xc1\xc1", ""),
  "msgpack empty": ("flax_model.msgpack", b"", ""),
  "msgpack cut off": (
    "flax_model.msgpack",
    flax.serialization.msgpack_serialize({"a": {"kernel": np.zeros((9, 9), np.float32)}})[:-9],
    "",
  ),
  "msgpack huge binary": ("flax_model.msgpack", b"\xc6\xff\xff\xff\xff", ""),
  "msgpack huge map": ("flax_model.msgpack", b"\xdf\xff\xff\xff\xff", ""),
  "msgpack deep": ("flax_model.msgpack", b"\x81\xa1a" * 100_000 + b"\x80", ""),
  "msgpack of a list": ("flax_model.msgpack", msgpack.packb([1, 2]), "list"),
  "msgpack with text inside": ("flax_model.msgpack", msgpack.packb({"a": {"b": "x"}}), "a/b"),
  "msgpack unknown type": ("flax_model.msgpack", ext(42, b"os.system"), "42"),
  "msgpack object array": ("flax_model.msgpack", ext(1, msgpack.packb(((1,), "O", b"x" * 8))), "O"),
  "msgpack absurd shape": ("flax_model.msgpack", ext(1, msgpack.packb(((2**62, 2**62), "float32", b"x"))), "1 bytes"),
  "msgpack negative shape": ("flax_model.msgpack", ext(1, msgpack.packb(((-1, -1), "float32", b"xxxx"))), ""),
  "msgpack two in one": ("flax_model.msgpack", msgpack.packb({}) * 2, "after the end"),
  "msgpack broken chunks": (
    "flax_model.msgpack",
    msgpack.packb({"a": {"__msgpack_chunked_array__": True, "shape": {"1": 2}, "chunks": {}}}),
    "",
  ),
  "index garbage": ("model.safetensors.index.json", b"\x00not json", "index"),
  "index of another form": ("model.safetensors.index.json", b'["a"]', "index"),
  "index without a map": ("model.safetensors.index.json", b'{"weight_map": {"a": 3}}', "table"),
  "index nested too deep": ("model.safetensors.index.json", b"[" * 200_000, "index"),
}


@pytest.mark.parametrize("case", FILES)
def test_damaged_files(case, tmp_path):
  name, data, word = FILES[case]
  (tmp_path / name).write_bytes(data)
  with pytest.raises(UserError) as e:
    tensorfiles.read(tmp_path, CLIP)
  message = str(e.value)
  assert str(tmp_path / name) in message and word in message and "\n" not in message
  assert len(message) < 600


@pytest.mark.parametrize(
  "shard, word",
  [
    ("../../etc/passwd", "plain file name"),
    ("/etc/passwd", "plain file name"),
    ("..", "plain file name"),
    ("sub/x.safetensors", "plain file name"),
    ("..\\x.safetensors", "plain file name"),
    ("C:x.safetensors", "plain file name"),
    ("", "plain file name"),
    ("x\0.safetensors", "plain file name"),
    ("evil.bin", "pickle"),
    ("gone.safetensors", "missing"),
    ("folder.safetensors", "folder"),
  ],
)
def test_indexes_name_files_of_their_own_folder_only(shard, word, tmp_path):
  path = tmp_path / "model.safetensors.index.json"
  path.write_text(json.dumps({"weight_map": {"a": shard}}))
  (tmp_path / "folder.safetensors").mkdir()
  with pytest.raises(UserError, match=word):
    tensorfiles.read(tmp_path, CLIP)


def test_an_index_that_promises_too_much_or_too_little(tmp_path):
  save_file({"a": np.ones(2), "forgotten": np.ones(3)}, tmp_path / "s.safetensors")
  index = tmp_path / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": {"a": "s.safetensors"}}))
  assert set(tensorfiles.read(tmp_path, CLIP)) == {"a", "forgotten"}
  index.write_text(json.dumps({"weight_map": {"a": "s.safetensors", "b": "s.safetensors"}}))
  with pytest.raises(UserError, match="promises b in s.safetensors"):
    tensorfiles.read(tmp_path, CLIP)


def test_folders_links_and_nothing(tmp_path):
  with pytest.raises(UserError, match="no such folder"):
    tensorfiles.read(tmp_path / "x", CLIP)
  with pytest.raises(UserError, match=r"no model.safetensors here \(found: nothing\)"):
    tensorfiles.read(tmp_path, CLIP)
  (tmp_path / "model.safetensors").mkdir()
  with pytest.raises(UserError, match="folder, not a file"):
    tensorfiles.read(tmp_path, CLIP)
  (tmp_path / "model.safetensors").rmdir()
  (tmp_path / "model.safetensors").symlink_to(tmp_path / "nowhere")
  with pytest.raises(UserError, match="leads nowhere"):
    tensorfiles.read(tmp_path, CLIP)


# Any bytes at all: an answer or one UserError, never another exception.


@pytest.mark.parametrize("name", ["model.safetensors", "flax_model.msgpack", "model.safetensors.index.json"])
def test_flipped_bytes_and_cuts_never_escape_as_another_error(name, tmp_path, rng, capsys):
  tree = {"a": {"kernel": np.ones((3, 4), np.float32)}, "b_1": {"bias": np.ones(2, np.float16)}}
  tensorfiles.write(tmp_path / "model.safetensors", weights.to_torch(tree), max_shard_size=9)
  if name == "model.safetensors":
    tensorfiles.write(tmp_path / name, weights.to_torch(tree))
  elif name == "flax_model.msgpack":
    for p in tmp_path.iterdir():
      p.unlink()
    (tmp_path / name).write_bytes(flax.serialization.msgpack_serialize(tree))
  good, refused = (tmp_path / name).read_bytes(), 0
  for _ in range(400):
    bad = bytearray(good[: rng.integers(1, len(good) + 1)] if rng.random() < 0.2 else good)
    for at in rng.integers(0, len(bad), rng.integers(1, 4)):
      bad[at] = rng.integers(256)
    (tmp_path / name).write_bytes(bad)
    try:
      for x in tensorfiles.read(tmp_path, CLIP).values():
        assert isinstance(x, np.ndarray)
    except UserError:
      refused += 1
  assert refused > 20
