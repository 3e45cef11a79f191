"""Checkpoints of our runs as pipeline folders and back: the average's bits, and refusals of what does not fit."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import tiny_pipelines
from support.converting import go, refused

import idejax
from idejax.exporting import folders, single_file
from idejax.storage import tensorfiles, weights
from idejax.storage.files import write_json
from idejax.training import step as st
from idejax.training.checkpoint import Checkpoints


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  return tiny_pipelines.write(tmp_path_factory.mktemp("orbax"), "sd15", "sdxl")


@pytest.fixture(scope="module")
def pipe(root):
  return idejax.load(root / "sd15", devices=jax.devices()[:1])


def run(folder, params, *, ema=False, step=7, model=None, before=False):
  """A run folder as personalize and train-miniature write it; its average is twice its parameters."""
  state = st.init(jax.tree.map(jnp.asarray, params), optax.sgd(1e-3) if ema else optax.sgd(1e-3, 0.9), ema=ema)
  if ema:
    state = state._replace(ema=jax.tree.map(lambda x: 2 * x, state.ema))
  with Checkpoints(folder / "checkpoints") as checkpoints:
    if before:
      checkpoints.save(step - 1, jax.tree.map(jnp.zeros_like, state), {})
    checkpoints.save(step, state._replace(step=jnp.int32(step)), {})
  if model:
    write_json(folder / "config.json", {"model": str(model), "method": "dreambooth"})
  return folder


def read(folder, part):
  return dict(tensorfiles.read(folder / part, single_file.stem(part)))


def test_dreambooths_unet(root, pipe, tmp_path, rng):
  """The folder has the run's whole UNet, and the other components of the model that the run names."""
  params = jax.tree.map(
    lambda w: np.asarray(w + rng.standard_normal(w.shape), np.float32), pipe.backbone.params["unet"]
  )
  go(run(tmp_path / "run", {"unet": params}, model=root / "sd15"), tmp_path / "out")
  tensors, base = read(tmp_path / "out", "unet"), read(root / "sd15", "unet")
  want = weights.to_torch(params)
  assert tensors.keys() == base.keys() == want.keys()
  for k in want:
    assert tensors[k].tobytes() == np.ascontiguousarray(want[k]).tobytes(), k
  for part in ("vae", "text_encoder"):
    for k, x in read(root / "sd15", part).items():
      assert read(tmp_path / "out", part)[k].tobytes() == x.tobytes()
  idejax.load(tmp_path / "out", devices=jax.devices()[:1])


def test_the_average_is_taken_where_there_is_one(root, pipe, tmp_path):
  """As in the miniature's runs: text encoder and UNet in one run, the autoencoder alone in another."""
  params = pipe.backbone.params
  nets = {k: params[k] for k in ("unet", "text_encoder")}
  go(run(tmp_path / "diffusion", nets, ema=True), tmp_path / "both", model=str(root / "sd15"))
  go(run(tmp_path / "vae", params["vae"], ema=True), tmp_path / "auto", model=str(root / "sd15"), dtype="float16")
  for folder, parts in (("both", ("unet", "text_encoder")), ("auto", ("vae",))):
    for part in ("unet", "text_encoder", "vae"):
      kind = np.float16 if folder == "auto" and part == "vae" else np.float32
      for k, x in read(root / "sd15", part).items():
        want = (x * (2 if part in parts else 1)).astype(kind)
        assert read(tmp_path / folder, part)[k].tobytes() == want.tobytes(), k


@pytest.mark.parametrize("family, dtype", [("sd15", "bfloat16"), ("sdxl", None)])
def test_there_and_back_to_the_bit(root, tmp_path, monkeypatch, family, dtype):
  start = root / family
  if dtype:
    go(start, tmp_path / "cast", dtype=dtype)
    start = tmp_path / "cast"
  go(start, tmp_path / "run", to="orbax")
  assert [p.name for p in (tmp_path / "run").iterdir()] == ["checkpoints"]
  monkeypatch.chdir(tmp_path)
  go(Path("run"), Path("back"))  # the model is named inside
  for part in single_file.configs(start, folders.index_of(start)):
    want, tensors = read(start, part), read(tmp_path / "back", part)
    assert want.keys() == tensors.keys()
    for k, x in want.items():
      assert tensors[k].dtype == x.dtype and tensors[k].tobytes() == x.tobytes(), k


def test_our_trainer_reads_what_was_written(root, pipe, tmp_path):
  go(root / "sd15", tmp_path / "run", to="orbax")
  with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
    got = checkpoints.restore({"params": {k: pipe.backbone.params[k] for k in ("unet", "vae", "text_encoder")}})
  assert got.step == 0 and got.facts["model"] == str(root / "sd15")
  jax.tree.map(
    np.testing.assert_array_equal, got.state["params"], {k: pipe.backbone.params[k] for k in got.state["params"]}
  )


def test_refusals(root, pipe, tmp_path):
  out, unet = tmp_path / "out", {"unet": pipe.backbone.params["unet"]}
  here = run(tmp_path / "run", unet, before=True)
  refused(here, out, words=[str(here), "--model"])
  refused(here, out, words=["does not fit", "sdxl", "--model"], model=str(root / "sdxl"))
  refused(here / "checkpoints", out, words=["--model"])
  words = run(tmp_path / "words", {"rows": jnp.ones((2, 32))}, model=root / "sd15")
  refused(words, out, words=["trains rows", "idejax export"])
  refused(root / "sd15" / "unet", out, words=["one component"], to="orbax")
  largest = max((p for p in (here / "checkpoints" / "7").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
  data = bytearray(largest.read_bytes())
  data[len(data) // 2] ^= 1
  largest.write_bytes(data)
  refused(here, out, words=["checkpoints/7 is damaged", "1 of"], model=str(root / "sd15"))
  assert sorted(p.name for p in (here / "checkpoints").iterdir() if p.is_dir()) == [
    "6",
    "7",
  ]  # nothing of the run is touched
