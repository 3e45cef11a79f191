"""A pipeline that diffusers' Flax classes wrote before they were removed, and the pictures they made of it.

`write_flax_pipeline.py` says how the archive came about.
"""

import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from support.converting import go
from support.fakes import relative_error

import idejax
from idejax.sampling import pipeline
from idejax.sampling.pipeline import Request, Settings

PROMPTS = ["a photo of a cat", "two dogs, at night"]


@pytest.fixture(scope="module")
def old(tmp_path_factory):
  root = tmp_path_factory.mktemp("flax")
  with tarfile.open(Path(__file__).parents[1] / "support" / "flax_pipeline.tar.xz") as archive:
    archive.extractall(root, filter="data")
  return root / "flax_pipeline"


@pytest.fixture(scope="module")
def new(old):
  target = old.parent / "safetensors"
  go(old, target)
  return target


@pytest.fixture(scope="module")
def made(old):
  with np.load(old / "made.npz") as arrays:
    return dict(arrays)


@pytest.mark.parametrize("which", ["old", "new"])
def test_it_samples_the_same_pictures(which, request, made):
  pipe = idejax.load(request.getfixturevalue(which), devices=jax.devices()[:1])
  (batch,) = pipeline.generate(
    pipe,
    [Request(p, guidance=7.5) for p in PROMPTS],
    Settings(5, height=16, width=16, batch=2),
    made["latents"].transpose(0, 2, 3, 1),
  )
  off = np.abs(batch.images.astype(int) - np.round(made["images"] * 255).astype(int))
  assert off.max() <= 1 and (off > 0).mean() < 1e-3


def test_diffusers_opens_what_it_became(new, made):
  import diffusers
  import torch

  pipe = diffusers.DiffusionPipeline.from_pretrained(new, local_files_only=True)
  x = {n: torch.from_numpy(a) for n, a in made.items()}
  with torch.no_grad():
    context = pipe.text_encoder(x["ids"].long())[0]
    noise = pipe.unet(x["latents"], x["timesteps"], x["context"]).sample
    mean = pipe.vae.encode(x["images"].permute(0, 3, 1, 2)).latent_dist.mean
  assert "Flax" not in (new / "scheduler" / "scheduler_config.json").read_text()
  assert relative_error(context, made["context"]) < 1e-5
  assert relative_error(noise, made["noise"]) < 1e-4  # Flax's GELU is not PyTorch's to the last digits
  assert relative_error(mean.permute(0, 2, 3, 1), made["mean"]) < 1e-4


@pytest.mark.parametrize("target, how", [("one.safetensors", {}), ("orbax", {"to": "orbax"})])
def test_it_becomes_what_its_safetensors_become(old, new, tmp_path, target, how):
  results = []
  for name, source in (("old", old), ("new", new)):
    (tmp_path / name).mkdir()
    go(source, tmp_path / name / target, **how)
    if how:
      go(tmp_path / name / target, tmp_path / name / "back", model=str(source))
    results.append(load_file(tmp_path / name / ("back/unet/diffusion_pytorch_model.safetensors" if how else target)))
  assert results[0].keys() == results[1].keys()
  for k, x in results[0].items():
    assert x.tobytes() == results[1][k].tobytes(), k
