"""Checkpoints of one file: every tensor of a folder is found again in the way back, and diffusers agrees on the names."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support import tiny_pipelines
from support.converting import go, refused

from idejax.exporting import single_file
from idejax.model import families
from idejax.storage import tensorfiles, weights

NAMES = ("sd15", "sd21", "sdxl")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """A folder, its single file, and a folder without weights for each family."""
  root = tiny_pipelines.write(tmp_path_factory.mktemp("single"), *NAMES)
  for family in NAMES:
    go(root / family, root / f"{family}.safetensors")
    shutil.copytree(root / family, root / f"{family}-configs", ignore=shutil.ignore_patterns("*.safetensors"))
  return root


def parts(folder):
  return [p for p in ("unet", "vae", "text_encoder", "text_encoder_2") if (folder / p).is_dir()]


def equal(a, b):
  assert parts(a) == parts(b)
  for part in parts(a):
    x, y = (tensorfiles.read(f / part, single_file.stem(part)) for f in (a, b))
    assert x.keys() == y.keys()
    for k in x:
      assert x[k].dtype == y[k].dtype and x[k].shape == y[k].shape and x[k].tobytes() == y[k].tobytes(), k


@pytest.mark.parametrize("family", NAMES)
def test_there_and_back_to_the_bit(root, tmp_path, family):
  go(root / f"{family}.safetensors", tmp_path / "back", model=str(root / f"{family}-configs"))
  equal(root / family, tmp_path / "back")
  for name in ("model_index.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json", "unet/config.json"):
    assert json.loads((tmp_path / "back" / name).read_text()) == json.loads((root / family / name).read_text())


def test_half_stays_half(root, tmp_path):
  go(root / "sdxl", tmp_path / "half.safetensors", dtype="float16")
  go(root / "sdxl", tmp_path / "half", dtype="float16")
  assert {x.dtype for x in load_file(tmp_path / "half.safetensors").values()} == {np.dtype(np.float16)}
  go(tmp_path / "half.safetensors", tmp_path / "back", model=str(root / "sdxl-configs"), max_shard_size="30KB")
  equal(tmp_path / "half", tmp_path / "back")
  assert list((tmp_path / "back" / "unet").glob("*-of-*"))


@pytest.mark.parametrize("family", NAMES)
def test_diffusers_opens_it(root, family):
  """diffusers' own loader reads the same networks from the file, in every component and tensor."""
  import diffusers

  kind = diffusers.StableDiffusionXLPipeline if family == "sdxl" else diffusers.StableDiffusionPipeline
  pipe = kind.from_single_file(
    str(root / f"{family}.safetensors"), config=str(root / f"{family}-configs"), local_files_only=True
  )
  for part in parts(root / family):
    want, result = tensorfiles.read(root / family / part, single_file.stem(part)), getattr(pipe, part).state_dict()
    result = (
      result
      if part in ("unet", "vae")
      else weights.rename_clip({k: v for k, v in result.items() if "position_ids" not in k})
    )
    assert set(want) == set(result)
    for k in want:
      np.testing.assert_array_equal(want[k], result[k].numpy(), err_msg=k)


@pytest.mark.parametrize("family, kind", [("sd15", "v1"), ("sd21-base", "v2"), ("sdxl", "xl_base")])
def test_names_of_the_released_sizes(family, kind):
  """diffusers recognises the family by our names and converts them to the keys that we began with; no memory is spent."""
  import torch
  from diffusers.loaders import single_file_utils as theirs

  configs, tensors, unet = families.FAMILIES[family], {}, {}
  for part, config in configs.items():
    if part == "scheduler":
      continue
    shapes = single_file.shapes(part, config)
    open_clip = part == "text_encoder_2" or part == "text_encoder" and family.startswith("sd21")
    for p in single_file.places(part, shapes, config, xl=family == "sdxl", open_clip=open_clip):
      assert p.name not in tensors
      shape = shapes[p.keys[0]] + ((1, 1) if p.form == "1x1" else ())
      tensors[p.name] = torch.empty((len(p.keys) * shape[0], *shape[1:]) if p.form == "fused" else shape, device="meta")
      if part == "unet":
        unet[p.keys[0]] = tensors[p.name]
  assert theirs.infer_diffusers_model_type(tensors) == kind
  assert theirs.is_clip_model(tensors) == (family == "sd15") and theirs.is_open_clip_model(tensors) == (
    family == "sd21-base"
  )
  config = configs["unet"] | {
    k: configs["unet"].get(k) for k in ("class_embed_type", "addition_embed_type", "num_class_embeds")
  }
  result = theirs.convert_ldm_unet_checkpoint(dict(tensors), config)
  assert result.keys() == unet.keys() and all(result[k] is unet[k] for k in unet)
  vae = theirs.convert_ldm_vae_checkpoint(dict(tensors), configs["vae"])
  assert {k: tuple(v.shape) for k, v in vae.items()} == single_file.shapes("vae", configs["vae"])


def test_extras_of_released_files_are_left_out(root, tmp_path, rng):
  """Buffers, the averaged copy, and the layer and projection of SD 2's OpenCLIP that no UNet was trained with."""
  tensors = load_file(root / "sd21.safetensors")
  block = {k: v for k, v in tensors.items() if ".resblocks.0." in k}
  tensors |= {k.replace("resblocks.0.", "resblocks.23."): v for k, v in block.items()}
  tensors |= {
    "cond_stage_model.model.text_projection": np.ones((32, 32), np.float32),
    "betas": np.ones(1000, np.float32),
    "cond_stage_model.model.logit_scale": np.ones(1, np.float32),
    "model_ema.decay": np.ones(1, np.float32),
  }
  save_file(tensors, tmp_path / "m.safetensors")
  go(tmp_path / "m.safetensors", tmp_path / "back", model=str(root / "sd21-configs"))
  equal(root / "sd21", tmp_path / "back")


def test_very_old_names(root, tmp_path):
  """CLIP without the prefix text_model., and the VAE's attention as matrices."""
  tensors = {
    k.replace(".transformer.text_model.", ".transformer."): v for k, v in load_file(root / "sd15.safetensors").items()
  }
  flat = [k for k in tensors if ".mid.attn_1." in k and tensors[k].ndim == 4]
  assert len(flat) == 8
  save_file(tensors | {k: tensors[k][:, :, 0, 0] for k in flat}, tmp_path / "old.safetensors")
  go(tmp_path / "old.safetensors", tmp_path / "back", model=str(root / "sd15-configs"))
  equal(root / "sd15", tmp_path / "back")


def test_pickles(root, tmp_path):
  import torch

  state = {k: torch.from_numpy(v) for k, v in load_file(root / "sd15.safetensors").items()}
  torch.save({"state_dict": state, "global_step": 1}, tmp_path / "m.ckpt")
  refused(tmp_path / "m.ckpt", tmp_path / "out", words=["pickle", "--allow-pickle"], model=str(root / "sd15"))
  go(tmp_path / "m.ckpt", tmp_path / "back", model=str(root / "sd15-configs"), allow_pickle=True)
  equal(root / "sd15", tmp_path / "back")
  shutil.copyfile(root / "sd15.safetensors", tmp_path / "m.safetensors")
  refused(tmp_path / "m.ckpt", tmp_path / "out", words=["m.safetensors"], model=str(root / "sd15"), allow_pickle=True)
