"""Pipelines smaller than `families.small`: a dozen layers, so that a gradient compiles in seconds."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from idejax.methods.contract import encode_captions
from idejax.model import backbone, families, tokens
from idejax.model.backbone import Backbone, Nets
from idejax.model.diffusion import NoiseSchedule
from idejax.nets.clip import TextConfig
from idejax.nets.unet import UNetConfig, shapes
from idejax.nets.vae import VAEConfig
from idejax.person import subject


def configs(family: str, attends: bool = True) -> dict[str, families.Config]:
  """Two UNet levels with attention at the finer one (16 x 16) and in the middle (8 x 8), or there only."""
  out = families.small(family)
  xl = "text_encoder_2" in out
  unet = dict(
    block_out_channels=[16, 16],
    norm_num_groups=4,
    layers_per_block=1,
    attention_head_dim=[2, 4] if xl else 4,
    down_block_types=["CrossAttnDownBlock2D" if attends else "DownBlock2D", "DownBlock2D"],
    up_block_types=["UpBlock2D", "CrossAttnUpBlock2D" if attends else "UpBlock2D"],
  )
  if xl:
    unet["transformer_layers_per_block"] = [1, 2]
  out["unet"] = out["unet"] | unet
  out["vae"] = out["vae"] | dict(block_out_channels=[8, 8, 8], norm_num_groups=4)
  return out


@functools.cache
def opened(folder, family, attends=True):
  """(backbone, tokenizers), written below `folder` once."""
  path = folder / f"{family}-{attends}"
  if not path.exists():
    families.write_random(path, family, configs=configs(family, attends))
  b = backbone.load(path)
  return b, tuple(tokens.load(path / f) for f in ["tokenizer", "tokenizer_2"][: len(b.nets.text)])


def frozen(pipeline, method, cfg, person, names=("ab cd", "ef gh", "ij kl")):
  """Everything that a method's loss reads, for a pipeline as `opened` returns it."""
  b, words = pipeline
  needs = method.needs(cfg, b.nets)
  constants, captions = needs.constants(b, words, names, cfg), encode_captions(needs, words, "<id>")
  return jax.tree.map(jnp.asarray, subject.Frozen(b, constants, captions, person))


def full_size(family: str) -> Backbone:
  """A released backbone's nets with the shapes of its UNet's parameters and no arrays, for counting."""
  c: Any = families.FAMILIES[family]
  text = tuple(TextConfig.from_json(v) for k, v in c.items() if k.startswith("text"))
  unet = UNetConfig.from_json(c["unet"])
  nets = Nets(unet, VAEConfig.from_json(c["vae"]), text, NoiseSchedule.from_json(c["scheduler"]))
  return Backbone(nets, {"unet": shapes(unet)})
