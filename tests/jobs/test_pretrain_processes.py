"""`idejax pretrain` by real processes on one machine: the same numbers on every shape, and how they continue and end.

Every process compiles a UNet's gradient: minutes.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import pretraining, several
from support.command import IDEJAX
from support.several import arrays, close, good, records

SHAPES = [(2, 4), (4, 2)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """Two people with six photos each, as records with what the nets make of them."""
  root = pretraining.world(tmp_path_factory.mktemp("several"), each=6)
  pretraining.prepared(root, root / "faces", root / "people", 32)
  return root


def go(shape, root, out, **given):
  return good(several.launch(shape, "pretrain", root / out, json.dumps({"root": str(root)} | given)))


@pytest.fixture(scope="module")
def alone(root):
  go((1, 8), root, "alone")
  return root / "alone"


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_the_same_numbers_whatever_the_processes(root, alone, shape):
  """Eight rows on eight devices of one, two and four processes, each of which reads its own rows from the disk. In
  float32: gradients are summed in another order, 1e-5 of the loss is left after four steps of Adam."""
  ends = go(shape, root, f"several-{shape[0]}")
  losses = [[r["loss"] for r in records(f)] for f in (root / f"several-{shape[0]}", alone)]
  assert np.shape(losses) == (2, 4)
  np.testing.assert_allclose(*losses, rtol=1e-5)
  close(arrays(root / f"several-{shape[0]}.npz"), arrays(root / "alone.npz"), 2e-4)
  assert "facesnap 4/4" in ends[0].err and all("facesnap" not in e.err for e in ends[1:])
  assert (root / f"several-{shape[0]}" / "addon" / "addon.json").is_file()


@pytest.mark.slow
def test_a_run_that_stopped_continues_on_another_shape(root, alone):
  """Two steps by one process, then two by two: the shape's order of sums apart, the run of four."""
  go((1, 8), root, "moved", steps=2)
  go((2, 4), root, "moved")
  close(arrays(root / "moved.npz"), arrays(root / "alone.npz"), 2e-4)
  assert [r["step"] for r in records(root / "moved")] == list(range(4))


@pytest.mark.slow
def test_a_process_that_loses_its_shards_says_which_and_ends_the_job(root):
  """The second process finds a shard gone when a step wants a record of it."""
  ends = several.launch((2, 1), "pretrain", root / "lost", json.dumps({"root": str(root), "lost": 1}))
  assert [e.code for e in ends] == [2, 2], ends
  words = [e.err.splitlines()[-1] for e in ends]
  assert "array_record-00001-of-00004 is missing" in words[1] and "(process 1)" in words[1], ends
  assert "another process of this job has ended" in words[0], ends


@pytest.mark.slow
def test_the_whole_way_by_the_commands_on_two_processes(tmp_path):
  """Drawn photos to records by two processes, and a training on them by two, validated at its end."""
  launch = [Path(__file__).parents[2] / "launch" / "local.sh", "--devices", "2", "2", IDEJAX]
  env = os.environ | {"IDEJAX_CACHE": str(tmp_path / "cache")}
  run = lambda *words: subprocess.run(
    [*map(str, (*launch, *words))], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=1500
  )
  nets = ["--size=64", "--model=miniature", "--vision=miniature"]
  made = run("prepare", "--drawn=40", "--out=faces", "--shard=10", *nets)
  assert made.returncode == 0, made.stderr
  train = ["--data=faces", "--preset=tiny", "--steps=4", "--memory=0", "--validate-every=4", "--validate-people=3"]
  out = run("pretrain", *train, "--tensorboard", "--out=run")
  assert out.returncode == 0, out.stderr
  assert "40 faces of 10 people, read step by step" in out.stderr
  (line,) = [json.loads(x) for x in (tmp_path / "run" / "validation.jsonl").read_text().splitlines()]
  assert line["step"] == 4 and 0 < line["loss"] < 10 and -1 <= (line["self"] or 0) <= 1
  with Image.open(tmp_path / "run" / "validation" / "0000004.png") as sheet:
    assert min(sheet.size) > 64
  assert list((tmp_path / "run" / "validation" / "events").iterdir())
  assert len(records(tmp_path / "run")) == 4 and (tmp_path / "run" / "addon" / "addon.json").is_file()
