"""Real processes on one machine: the same numbers and pictures whatever their number, and how they end."""

import json
import signal

import numpy as np
import pytest
from PIL import Image
from support import facepack, several, tiny_pipelines
from support.several import arrays, close, good, records

from idejax.sampling.learned import load as open_identity


def equal(a, b):
  assert len(a) == len(b) > 4
  for x, y in zip(a, b):
    np.testing.assert_array_equal(x, y)


def go(shape, folder, job="toy", **given):
  return good(several.launch(shape, job, folder, json.dumps(given)))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def alone(root):
  """The toy run on this process's eight devices, 20 steps."""
  several.toy(root / "alone", 20)
  return arrays(root / "alone.npz")


def test_two_processes_train_as_one_and_only_the_first_speaks(root, alone):
  """Float32: gradients are summed in another order, 1e-6 of it is left after 20 steps of Adam."""
  a, b = go((2, 4), root / "two", steps=20)
  close(arrays(root / "two.npz"), alone, 1e-5)
  losses = [[r["loss"] for r in records(root / f)] for f in ("two", "alone")]
  np.testing.assert_allclose(*losses, rtol=1e-5)
  assert "toy" not in b.err and "20/20" in a.err and "20/20" not in b.err


def test_a_checkpoint_is_the_same_bits_on_any_shape(root, alone):
  """Saved on one process by eight devices, read on two with the weights in four parts; and back."""
  go((2, 4), root / "alone", steps=20, fsdp=4)
  equal(arrays(root / "alone.npz"), alone)
  go((2, 4), root / "parts", steps=8, fsdp=4)
  parts = arrays(root / "parts.npz")
  several.toy(root / "parts", 8, fsdp=2)
  equal(arrays(root / "parts.npz"), parts)


def test_sigterm_to_one_process_stops_all_after_a_save_and_another_shape_continues(root, alone):
  ends = several.launch((2, 4), "toy", root / "term", json.dumps({"steps": 20, "stop": 3}))
  assert [r.code for r in ends] == [130, 130], ends
  assert "stopped and saved at step 10" in ends[0].err and "the same command continues" in ends[0].err
  several.toy(root / "term", 20)
  close(arrays(root / "term.npz"), alone, 1e-5)
  assert [r["step"] for r in records(root / "term")] == list(range(20))


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_process_that_dies_ends_the_job_with_a_sentence_and_it_continues(root, alone, victim):
  folder = root / f"killed-{victim}"
  processes = several.start((2, 4), "toy", folder, json.dumps({"steps": 20, "pause": 0.2}))
  several.wait_for(folder / "checkpoints" / "6.sha256", processes)
  processes[victim].send_signal(signal.SIGKILL)
  ended = several.ended(processes, 120)
  assert ended[victim].code == -signal.SIGKILL
  other = ended[1 - victim]
  assert other.code == 2 and "another process of this job has ended" in other.err.splitlines()[-1], other.err
  assert "Traceback" not in other.err
  several.toy(folder, 20)
  close(arrays(root / f"killed-{victim}.npz"), alone, 1e-5)


def test_a_mistake_that_all_make_is_said_once(root):
  ended = several.launch((2, 1), "command", "sample", "--num", "0", "--prompt", "a", "--out", root / "none")
  assert [r.code for r in ended] == [2, 2]
  assert ended[0].err.count("--num is 0") == 1 and ended[1].err == ""


def test_other_commands_refuse_to_be_several(root):
  ended = several.launch((2, 1), "command", "bench")
  assert [r.code for r in ended] == [2, 2]
  assert "idejax bench runs in one process" in ended[0].err


# The real commands. They compile a UNet's gradient in every process: minutes.


@pytest.fixture(scope="module")
def world(root):
  """A model, a face pack, and a folder of five people, who do not divide by anything."""
  facepack.pack(root / "pack")
  tiny_pipelines.write(root, "sd21-base", "sd15")
  (root / "names.txt").write_text("ab cd\nef gh\nij kl\n")
  (root / "people").mkdir()
  for i in range(5):
    Image.fromarray(facepack.picture((1, 1 + i % 2), seed=i)).save(root / "people" / f"p{i}.png")
  return root


@pytest.fixture(scope="module")
def single(world):
  several.real(world / "single", world)
  return world / "single"


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 4), (4, 2)])
def test_a_crowd_and_its_pictures_are_the_same(world, single, shape):
  """In float32: a crowd's step has no collective, so only the compiler's order of sums may differ."""
  folder = world / f"crowd-{shape[0]}"
  good(several.launch(shape, "real", folder, json.dumps({"root": str(world)})))
  losses = [[r["loss_each"] for r in records(f / "run")] for f in (folder, single)]
  assert np.shape(losses) == (2, 6, 8)
  np.testing.assert_allclose(*losses, rtol=1e-5)
  for i in range(5):
    a, b = (open_identity(f / "run" / f"p{i}").identity["rows"][0] for f in (folder, single))
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  files = [
    sorted(p.relative_to(f).as_posix() for p in f.rglob("*") if "checkpoints" not in str(p)) for f in (folder, single)
  ]
  assert files[0] == files[1]
  np.testing.assert_allclose(np.load(folder / "z.npy"), np.load(single / "z.npy"), rtol=1e-4, atol=1e-4)
  for i in range(9):
    a, b = (np.asarray(Image.open(f / "pictures" / f"{i:05d}.png")).astype(int) for f in (folder, single))
    assert np.abs(a - b).max() <= 1
  manifest = [
    [json.loads(line) for line in (f / "pictures" / "manifest.jsonl").read_text().splitlines()]
    for f in (folder, single)
  ]
  drop = ("latents_sha256", "identities")
  plain = lambda rows: [{k: v for k, v in r.items() if k not in drop} for r in rows]
  assert plain(manifest[0]) == plain(manifest[1]) and all(r["latents_sha256"] for r in manifest[0])


@pytest.mark.slow
def test_all_weights_of_a_unet_in_eight_parts_on_two_processes(world):
  """DreamBooth; the losses agree to 1e-5, the weights after three steps of Adam (lr 1e-4) to 1e-5."""
  several.fsdp(world / "fsdp-1", world)
  go((2, 4), world / "fsdp-2", "fsdp", root=str(world))
  (losses, share, *weights), (want, _, *others) = (arrays(world / f"fsdp-{n}.npz") for n in (2, 1))
  np.testing.assert_allclose(losses, want, rtol=1e-5)
  close(weights, others, 1e-5)
  assert share < 0.2  # of the weights on a device: most are held in eight parts


@pytest.mark.slow
def test_one_person_with_a_batch_that_the_processes_do_not_divide(world):
  """Batch 1 on eight devices of two processes: all work on the same row."""
  several.fsdp(world / "row-1", world, batch=1, steps=1)
  go((2, 4), world / "row-2", "fsdp", root=str(world), batch=1, steps=1)
  (loss, *_), (want, *_) = (arrays(world / f"row-{n}.npz") for n in (2, 1))
  np.testing.assert_allclose(loss, want, rtol=1e-5)
