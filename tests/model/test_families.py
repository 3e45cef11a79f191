"""Folders with random weights that idejax writes: PyTorch's libraries open them."""

import json
import warnings

import jax
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fakes import state_dict

from idejax.model import backbone, families, tokens
from idejax.nets import clip, unet, vae
from idejax.storage import weights

FAMILIES = list(families.FAMILIES)
COUNTS = {  # of the released checkpoints; the UNets' are in test_unet
  "sd15": (123_060_480, None),
  "sd21-base": (340_387_840, None),
  "sd21": (340_387_840, None),
  "sdxl": (123_060_480, 694_659_840),
}


def test_there_is_a_count_for_every_family():
  assert set(COUNTS) == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_json_describes_the_released_weights(family):
  configs = families.FAMILIES[family]
  number = lambda shapes: sum(int(np.prod(s.shape)) for s in jax.tree.leaves(shapes))
  assert number(vae.shapes(vae.VAEConfig.from_json(configs["vae"]))) == 83_653_863
  for name, count in zip(("text_encoder", "text_encoder_2"), COUNTS[family]):
    assert (name in configs) == (count is not None)
    if count:
      assert number(clip.shapes(clip.TextConfig.from_json(configs[name]))) == count
  width = sum(c["hidden_size"] for k, c in configs.items() if k.startswith("text"))
  assert configs["unet"]["cross_attention_dim"] == width


@pytest.mark.parametrize("family", FAMILIES)
def test_small_relatives_keep_the_architecture(family):
  """Widths and layers shrink; nothing that decides which code runs changes."""
  full, small = families.FAMILIES[family], families.small(family)
  assert set(full) == set(small)
  free = {
    "block_out_channels",
    "norm_num_groups",
    "sample_size",
    "cross_attention_dim",
    "layers_per_block",
    "attention_head_dim",
    "transformer_layers_per_block",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
    "down_block_types",
    "up_block_types",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "vocab_size",
    "bos_token_id",
    "eos_token_id",
    "projection_dim",
  }
  for name in full:
    fixed = lambda config: {k: v for k, v in config.items() if k not in free}
    assert fixed(small[name]) == fixed(full[name])
  assert small["unet"]["down_block_types"] == full["unet"]["down_block_types"]
  many = lambda c: isinstance(c["unet"]["attention_head_dim"], list)
  assert many(small) == many(full)
  cfg = unet.UNetConfig.from_json(small["unet"])
  assert all(w % (h or 1) == 0 for w, h in zip(cfg.widths, cfg.heads))


@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_and_transformers_open_the_folder(family, random_folder):
  """No key missing, unused or of another shape, and the pipeline assembles itself."""
  import diffusers
  import transformers

  folder, configs = random_folder(family), families.small(family)
  quiet = warnings.catch_warnings()
  with quiet:
    warnings.simplefilter("ignore")
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    parts = {
      "unet": diffusers.UNet2DConditionModel,
      "vae": diffusers.AutoencoderKL,
      **{k: getattr(transformers, c["architectures"][0]) for k, c in configs.items() if k.startswith("text")},
    }
    b = backbone.load(folder)
    for name, cls in parts.items():
      module, info = cls.from_pretrained(folder / name, output_loading_info=True, local_files_only=True)
      assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
      assert isinstance(getattr(pipe, name), cls)
      # The same numbers arrive, under whatever name this version of transformers uses.
      theirs = state_dict(module)
      if name.startswith("text"):
        theirs = weights.rename_clip(theirs)
      ours = weights.to_torch(b.params[name])
      assert set(ours) == set(theirs)
      for key in ours:
        np.testing.assert_array_equal(ours[key], theirs[key])
  assert type(pipe).__name__ == ("StableDiffusionXLPipeline" if family == "sdxl" else "StableDiffusionPipeline")
  assert type(pipe.scheduler).__name__ == configs["scheduler"]["_class_name"]
  assert pipe.scheduler.config.prediction_type == ("v_prediction" if family == "sd21" else "epsilon")
  ids = pipe.tokenizer("a photo of a cat", padding="max_length", return_tensors="pt").input_ids
  assert ids.shape == (1, 77)
  with torch.no_grad():
    assert torch.isfinite(pipe.text_encoder(ids)[0]).all()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=20))
def test_the_byte_tokenizer_reads_any_text(random_folder, text):
  t = tokens.load(random_folder("sd15") / "tokenizer")
  ids = t.bpe.ids(text)
  # A byte is a token, but for white space between words; the unknown token never appears.
  assert t.bos not in ids and t.eos not in ids and all(0 <= i < 512 for i in ids)
  assert len(ids) <= len(text.lower().encode()) * 4
  if text.isascii() and text.isprintable() and not set(text) & set(" !<|>"):
    assert len(ids) == len(text)


def test_same_seed_same_bytes_another_seed_other_weights(tmp_path):
  configs = families.small("sd15")
  small = dict(block_out_channels=[8], norm_num_groups=4, layers_per_block=1)
  configs["unet"] |= small | dict(down_block_types=["CrossAttnDownBlock2D"], up_block_types=["CrossAttnUpBlock2D"])
  configs["vae"] |= small | dict(down_block_types=["DownEncoderBlock2D"], up_block_types=["UpDecoderBlock2D"])
  for name, seed in (("a", 3), ("b", 3), ("c", 4)):
    families.write_random(tmp_path / name, "sd15", seed=seed, configs=configs)
  content = lambda name: {
    p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()
  }
  assert content("a") == content("b")
  paths = {str(p) for p, data in content("a").items() if content("c")[p] != data}
  assert paths == {p for p in map(str, content("a")) if p.endswith(".safetensors")} and len(paths) == 3
  index = json.loads((tmp_path / "a" / "model_index.json").read_text())
  assert index["unet"] == ["diffusers", "UNet2DConditionModel"] and index["safety_checker"] == [None, None]


def test_random_weights_keep_activations_near_one():
  """Otherwise random pipelines would give black pictures or NaN, and parity could not be measured on them."""
  shapes = {
    "a": {"kernel": jax.ShapeDtypeStruct((3, 3, 64, 32), np.float32), "bias": jax.ShapeDtypeStruct((32,), np.float32)},
    "n": {"scale": jax.ShapeDtypeStruct((32,), np.float32)},
    "blocks.*": {"kernel": jax.ShapeDtypeStruct((5, 64, 32), np.float32)},
  }
  params = families.random_params(shapes, 0)
  assert abs(params["a"]["kernel"].std() * (9 * 64) ** 0.5 - 1) < 0.05
  assert abs(params["blocks.*"]["kernel"].std() * 8 - 1) < 0.05
  assert not params["a"]["bias"].any() and (params["n"]["scale"] == 1).all()
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
