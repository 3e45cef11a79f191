"""Dew, a JAX library of the same folders and files: what goes there and comes back draws the same pictures."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from support import tiny_pipelines

import idejax
from idejax import config
from idejax.exporting import imports
from idejax.jobs import convert, export
from idejax.sampling import learned, pipeline
from idejax.sampling.requests import Request, Settings
from idejax.storage import hub

pytestmark = pytest.mark.slow
PROMPT, STEPS, SCALE = "a photo of a woman with red hair", 6, 5.0


@pytest.fixture
def source():
  """A function that opens a folder in Dew: `dew.interop.pretrained.load_diffusion_source` in float32."""
  pretrained = pytest.importorskip("dew.interop.pretrained", reason="pip install dewml", exc_type=ImportError)
  with jax.numpy_rank_promotion("allow"):
    yield lambda folder: pretrained.load_diffusion_source(str(folder), dtype="float32")


def noise(pipe) -> np.ndarray:
  return pipeline.noise(0, 0, pipe.latent_shape(Settings()))[None]


def ours(pipe, prompt: str) -> np.ndarray:
  """Latents [1, h, w, C] by DDIM."""
  request = Request(prompt, None, 0, 0, SCALE)
  (batch,) = pipeline.generate(pipe, [request], Settings(STEPS, "ddim"), noise(pipe))
  return batch.latents


def theirs(bundle, prompt: str, z: np.ndarray) -> np.ndarray:
  task = bundle.text_to_image()
  inputs = task.prepare([prompt], steps=STEPS, initial=z, key=0)
  return np.asarray(task(inputs, steps=STEPS, guidance=SCALE, key=0).latents)


def error(a: np.ndarray, b: np.ndarray) -> float:
  return float(np.abs(a - b).max() / np.abs(b).max())


def test_a_folder_goes_there_and_back(source, tmp_path):
  """The built-in pipeline, opened and saved by Dew, is the same pipeline here, to the bit."""
  folder = hub.BUILT_IN["miniature"]
  source(folder).save(tmp_path / "back")
  mine = pipeline.load(folder, devices=jax.devices()[:1], notify=lambda _: None)
  back = pipeline.load(tmp_path / "back", devices=jax.devices()[:1], notify=lambda _: None)
  assert jax.tree.structure(mine.backbone.params) == jax.tree.structure(back.backbone.params)
  for a, b in zip(jax.tree.leaves(mine.backbone.params), jax.tree.leaves(back.backbone.params)):
    assert np.array_equal(a, b)
  assert np.array_equal(ours(mine, PROMPT), ours(back, PROMPT))


def test_a_lora_comes_from_there_and_goes_back(source, tmp_path):
  """A LoRA that Dew wrote, read here as a person, exported, and read by Dew again: latents agree each time."""
  from dew.lora import LoRA

  tiny_pipelines.write(tmp_path, "sd15")
  base = tmp_path / "sd15"
  scheduler = base / "scheduler" / "scheduler_config.json"
  scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"_class_name": "DDIMScheduler"}))
  plain = source(base)
  adapted = plain.adapt(LoRA(rank=2, modules=("to_q", "to_k", "to_v", "to_out.0")), key=3)
  rng = np.random.default_rng(0)
  values = jax.tree.map_with_path(
    lambda path, x: (
      0.3 * rng.standard_normal(x.shape).astype(np.float32) if "lora_B" in jax.tree_util.keystr(path) else x
    ),
    adapted.variables,
  )
  adapted = dataclasses.replace(adapted, variables=values)
  (tmp_path / "theirs").mkdir()
  adapted.adapter.save(adapted.variables, tmp_path / "theirs")
  pipe = idejax.load(base, devices=jax.devices()[:1], notify=lambda _: None)
  z, said = noise(pipe), "a photo of q x"
  there = theirs(adapted, said, z)
  assert error(ours(pipe, said), theirs(plain, said, z)) < 2e-4
  assert error(theirs(plain, said, z), there) > 0.01  # the LoRA does something

  file, run = tmp_path / "theirs" / "pytorch_lora_weights.safetensors", tmp_path / "run"
  convert.main(config.Convert((file, run), kind="identity", model=str(base), name="<x>", word="q x"))
  here = ours(pipe.with_people(learned.load(run)), "a photo of <x>")
  assert error(here, there) < 2e-4

  export.main(config.Export(tmp_path / "again", run, format="lora", verify=False))
  again = LoRA.load(plain.model, plain.variables, tmp_path / "again", layouts=plain.layouts)
  back = dataclasses.replace(plain, model=again.model, variables=again.variables, adapter=again)
  assert error(theirs(back, said, z), there) < 2e-4
  assert imports.kind(imports.read(tmp_path / "again" / file.name)) == "lora"
