"""People whose files diffusers, transformers and peft wrote: idejax samples the same pictures as diffusers."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from support import tiny_pipelines

import idejax
from idejax import config
from idejax.errors import UserError
from idejax.exporting import imports
from idejax.jobs import convert, sample
from idejax.methods import dreambooth
from idejax.sampling import learned, pipeline
from idejax.storage import weights

FILES = {  # kind: (files, options of idejax convert, method)
  "words": (["learned_embeds.safetensors"], {}, "textual-inversion"),
  "words_bin": (["learned_embeds.bin"], {"allow_pickle": True}, "textual-inversion"),
  "raw": (["raw.safetensors"], {}, "textual-inversion"),
  "both_encoders": (["both.safetensors"], {}, "textual-inversion"),
  "two_files": (["learned_embeds.safetensors", "learned_embeds_2.safetensors"], {}, "textual-inversion"),
  "lora": (["pytorch_lora_weights.safetensors"], {"word": "q x"}, "dreambooth"),
  "lora_with_alpha": (["pytorch_lora_weights.safetensors"], {"word": "q x"}, "dreambooth"),
  "custom_diffusion": (
    ["pytorch_custom_diffusion_weights.safetensors", "<sks-toy>.bin"],
    {"allow_pickle": True},
    "id-ea",
  ),
}
CASES = {
  "sd15": ["words", "words_bin", "raw", "lora", "lora_with_alpha", "custom_diffusion"],
  "sd21": ["words", "lora", "custom_diffusion"],
  "sdxl": ["both_encoders", "two_files", "lora_with_alpha"],
}
HAS_PEFT = importlib.util.find_spec("peft") is not None
STEPS, GUIDANCE, PROMPTS = 5, 3.0, ("a photo of <x>", "a photo of <x> on the beach")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  """A function from a family to the result of `write`, which runs once per family."""
  return functools.cache(lambda family: write(tmp_path_factory.mktemp(family), family))


def write(root, family):
  """(the family's pipeline, noise, folder of files and pictures), all by one process of PyTorch a family."""
  tiny_pipelines.write(root, family)
  pipe = idejax.load(root / family, devices=jax.devices()[:1])
  shape = pipe.latent_shape(pipeline.Settings())
  noise = np.stack([pipeline.noise(0, i, shape) for i in range(len(PROMPTS))])
  np.save(root / "noise.npy", np.ascontiguousarray(noise.transpose(0, 3, 1, 2)))
  cases = [c for c in CASES[family] if HAS_PEFT or "lora" not in c]
  job = dict(
    base=str(root / family), out=str(root), noise=str(root / "noise.npy"), cases=cases, steps=STEPS, guidance=GUIDANCE
  )
  (root / "job.json").write_text(json.dumps(job))
  script = Path(__file__).parents[1] / "support" / "stock_writer.py"
  process = subprocess.run(
    [sys.executable, script, root / "job.json"], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""}
  )
  assert process.returncode == 0, process.stderr[-3000:]
  return root / family, root / "noise.npy", root


# One family is in the quick tests; the others take a minute more.
PAIRS = [
  pytest.param(family, case, marks=[pytest.mark.slow] * (family != "sd15"))
  for family in CASES
  for case in CASES[family]
]


@pytest.mark.parametrize("family, case", PAIRS)
def test_idejax_samples_what_diffusers_samples(written, tmp_path, family, case):
  base, noise, root = written(family)
  if "lora" in case and not HAS_PEFT:
    pytest.skip("peft writes these files, and is not installed")
  files, options, method = FILES[case]
  folder, run, out = root / case, tmp_path / "run", tmp_path / "out"
  paths = (*(folder / f for f in files), run)
  convert.main(config.Convert(paths, kind="identity", model=str(base), name="<x>", **options))
  assert learned.load(run).method == method
  sample.main(
    config.Sample(
      identity=(run,),
      prompt=PROMPTS,
      num=1,
      steps=STEPS,
      guidance=GUIDANCE,
      sampler="ddim",
      out=out,
      init_latents=noise,
      save_latents=out / "z.npy",
    )
  )
  ours, theirs = np.load(out / "z.npy"), np.load(folder / "latents.npy")
  assert np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) < 2e-5
  pictures = np.stack([np.asarray(Image.open(out / f"{i:05d}.png")) for i in range(len(PROMPTS))])
  off = np.abs(pictures.astype(int) - np.load(folder / "pictures.npy"))
  assert off.max() <= 1 and off.mean() < 0.01


# What only a LoRA's metadata tells, with no PyTorch.

MODULE = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"


def lora_file(path, about):
  ones = lambda *shape: np.ones(shape, np.float32)
  tensors = {f"unet.{MODULE}.lora_A.weight": ones(4, 32), f"unet.{MODULE}.lora_B.weight": ones(16, 4)}
  text = about if isinstance(about, str) else json.dumps({f"unet.{k}": v for k, v in about.items()})
  save_file(tensors, path, {"lora_adapter_metadata": text})
  return path


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
  root = tiny_pipelines.write(tmp_path_factory.mktemp("metadata"), "sd15")
  return idejax.load(root / "sd15", devices=jax.devices()[:1])


@pytest.mark.parametrize(
  "about, strength",
  [
    ({"r": 4, "lora_alpha": 4}, 1.0),
    ({"r": 4, "lora_alpha": 2}, 0.5),
    ({"r": 4, "lora_alpha": 2, "use_rslora": True}, 1.0),
    ({"r": 8, "lora_alpha": 2, "alpha_pattern": {"attn2.to_k": 12}}, 3.0),
    ({"r": 4, "lora_alpha": 2, "alpha_pattern": {"o_k": 12}}, 0.5),
  ],
)
def test_the_strength_that_a_loras_metadata_tells(pipe, tmp_path, about, strength):
  path = lora_file(tmp_path / "l.safetensors", about)
  person = imports.identity([path], pipe, str(pipe.folder), "<x>", phrase="q x")
  ours = weights.to_torch(dreambooth.override([person.identity], pipe.backbone, person.cfg))
  base = weights.to_torch(pipe.backbone.params["unet"])
  key = f"{MODULE}.weight"
  np.testing.assert_allclose(ours[key] - base[key], 4 * strength, rtol=1e-5)
  assert all(np.array_equal(ours[k], base[k]) for k in ours if k != key)


@pytest.mark.parametrize(
  "about",
  [
    "{",
    "[]",
    '{"unet.r": 4}',
    '{"unet.lora_alpha": "much"}',
    "[" * 100_000,
    '{"unet.lora_alpha": 4, "unet.alpha_pattern": 3}',
    '{"unet.lora_alpha": 4, "unet.use_dora": true}',
  ],
)
def test_metadata_that_makes_no_sense(pipe, tmp_path, about):
  with pytest.raises(UserError, match="l.safetensors"):
    imports.identity([lora_file(tmp_path / "l.safetensors", about)], pipe, str(pipe.folder), "<x>", phrase="q x")
