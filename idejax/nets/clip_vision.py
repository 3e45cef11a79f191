"""CLIP vision towers (ViT-B/32, L/14, H/14). Submodule names are CLIPVisionModelWithProjection's."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from idejax.nets.clip import Embed, encoder, tower_from_json
from idejax.nets.layers import Conv, Dense, Dtype, LayerNorm, param
from idejax.nets.naming import parameter_shapes


@dataclasses.dataclass(frozen=True)
class VisionConfig:
  """transformers' CLIPVisionConfig: its names, its defaults."""

  hidden_size: int = 768
  intermediate_size: int = 3072
  projection_dim: int | None = None  # None: the checkpoint holds no projection
  num_hidden_layers: int = 12
  num_attention_heads: int = 12
  num_channels: int = 3
  image_size: int = 224
  patch_size: int = 32
  hidden_act: str = "quick_gelu"
  layer_norm_eps: float = 1e-5

  @classmethod
  def from_json(cls, json: Mapping[str, Any]) -> "VisionConfig":
    """From transformers' config.json of CLIPVisionModel, ...WithProjection, or a whole CLIPModel.

    Raises ValueError.
    """
    cfg = tower_from_json(cls, json, "vision")
    for name, size in (("image_size", cfg.image_size), ("patch_size", cfg.patch_size)):
      if not isinstance(size, int):
        raise ValueError(f"CLIP vision config: {name} is {size}, not one integer.")
    return cfg


class VisionOutput(NamedTuple):
  """Tokens are the class token, then patches row by row: T = 1 + (image_size / patch_size)^2."""

  last: jax.Array  # [B, T, D] the last layer's output, no norm
  penultimate: jax.Array  # [B, T, D] the last layer's input
  pooled: jax.Array  # [B, D] the class token of `last` after the final norm
  embeds: jax.Array | None  # [B, P] `pooled` projected into the space shared with text


class Embeddings(nn.Module):
  cfg: VisionConfig
  dtype: Dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    c = self.cfg
    patches = Conv(
      c.hidden_size, c.patch_size, c.patch_size, 0, use_bias=False, dtype=self.dtype, name="patch_embedding"
    )(x)
    first = param(self, "class_embedding", nn.initializers.normal(0.02), (c.hidden_size,))
    first = jnp.broadcast_to(first.astype(patches.dtype), (x.shape[0], 1, c.hidden_size))
    tokens = jnp.concatenate([first, patches.reshape(x.shape[0], -1, c.hidden_size)], axis=1)
    count = tokens.shape[1]
    place = Embed(count, c.hidden_size, tokens.dtype, name="position_embedding")
    return tokens + place(jnp.arange(count)[None])


class VisionEncoder(nn.Module):
  cfg: VisionConfig
  dtype: Dtype = None  # computes in this; None: the dtype of the input
  remat: bool = False  # recompute each layer in the backward pass

  @nn.compact
  def __call__(self, x: jax.Array) -> VisionOutput:
    """Images [B, image_size, image_size, 3], normalised by CLIP's mean and std -> VisionOutput.

    Raises ValueError for another size.
    """
    c, dtype = self.cfg, self.dtype or x.dtype
    if x.shape[1:3] != (c.image_size, c.image_size):
      raise ValueError(
        f"image of {x.shape[1]} x {x.shape[2]} pixels, but the vision tower takes {c.image_size} x {c.image_size}."
      )
    norm = lambda name: LayerNorm(c.layer_norm_eps, dtype, name=f"vision_model.{name}")
    h = norm("pre_layrnorm")(Embeddings(c, dtype, name="vision_model.embeddings")(x))
    last, penultimate = encoder("vision_model", c, False, dtype, self.remat)(h)
    pooled, embeds = norm("post_layernorm")(last[:, 0]), None
    if c.projection_dim:
      embeds = Dense(c.projection_dim, False, dtype, name="visual_projection")(pooled)
    return VisionOutput(last, penultimate, pooled, embeds)


def shapes(cfg: VisionConfig):
  """The parameters as float32 ShapeDtypeStructs; nothing is computed or allocated."""
  x = jax.ShapeDtypeStruct((1, cfg.image_size, cfg.image_size, cfg.num_channels), jnp.float32)
  return parameter_shapes(VisionEncoder(cfg), x)
