"""Vision Transformers such as ViT-B/16. Submodule names are the keys of transformers' ViTModel.

StableIdentity reads faces with one that was trained to tell people apart.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from idejax.nets.attention import attention, split_heads
from idejax.nets.layers import Conv, Dense, Dtype, LayerNorm, param
from idejax.nets.naming import parameter_shapes


@dataclasses.dataclass(frozen=True)
class ViTConfig:
  """transformers' ViTConfig: its names, its defaults."""

  hidden_size: int = 768
  intermediate_size: int = 3072
  num_hidden_layers: int = 12
  num_attention_heads: int = 12
  num_channels: int = 3
  image_size: int = 224
  patch_size: int = 16
  qkv_bias: bool = True
  layer_norm_eps: float = 1e-12

  @classmethod
  def from_json(cls, json: Mapping[str, Any]) -> "ViTConfig":
    """From transformers' config.json of ViTModel or ViTForImageClassification. Raises ValueError."""
    if (kind := json.get("model_type")) != "vit":
      raise ValueError(f"model_type is {kind!r}, not 'vit'")
    if (act := json.get("hidden_act", "gelu")) != "gelu":
      raise ValueError(f"hidden_act is {act!r}, not 'gelu'")
    cfg = cls(**{k: v for k, v in json.items() if k in {f.name for f in dataclasses.fields(cls)}})
    if cfg.hidden_size % cfg.num_attention_heads:
      raise ValueError(f"hidden_size {cfg.hidden_size} cannot be divided into {cfg.num_attention_heads} heads")
    if cfg.num_channels != 3:
      raise ValueError(f"num_channels is {cfg.num_channels}, not 3")
    return cfg


class Layer(nn.Module):
  """One layer as a scan body: (x, anything) -> (next x, None)."""

  cfg: ViTConfig
  dtype: Dtype

  @nn.compact
  def __call__(self, x: jax.Array, _):
    c = self.cfg
    norm = lambda name: LayerNorm(c.layer_norm_eps, self.dtype, name=name)
    dense = lambda size, name, bias=True: Dense(size, bias, self.dtype, name=name)

    h = norm("layernorm_before")(x)
    project = lambda name: dense(c.hidden_size, f"attention.attention.{name}", c.qkv_bias)(h)
    q, k, v = (split_heads(project(name), c.num_attention_heads) for name in ("query", "key", "value"))
    x += dense(c.hidden_size, "attention.output.dense")(attention(q, k, v).reshape(x.shape))
    h = dense(c.intermediate_size, "intermediate.dense")(norm("layernorm_after")(x))
    return x + dense(c.hidden_size, "output.dense")(jax.nn.gelu(h, approximate=False)), None


class ViT(nn.Module):
  cfg: ViTConfig
  dtype: Dtype = None  # computes in this; None: the dtype of the input

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Images [B, image_size, image_size, 3], normalised -> tokens [B, 1 + patches, D] after the final
    norm; the first is the class token. Raises ValueError for another size."""
    c, dtype = self.cfg, self.dtype or x.dtype
    if x.shape[1:3] != (c.image_size, c.image_size):
      raise ValueError(
        f"image of {x.shape[1]} x {x.shape[2]} pixels, but the ViT takes {c.image_size} x {c.image_size}"
      )
    patches = Conv(
      c.hidden_size, c.patch_size, c.patch_size, 0, dtype=dtype, name="embeddings.patch_embeddings.projection"
    )(x)
    patches = patches.reshape(x.shape[0], -1, c.hidden_size)
    first = param(self, "embeddings.cls_token", nn.initializers.normal(0.02), (1, 1, c.hidden_size))
    place = param(
      self, "embeddings.position_embeddings", nn.initializers.normal(0.02), (1, 1 + patches.shape[1], c.hidden_size)
    )
    first = jnp.broadcast_to(first.astype(dtype), (x.shape[0], 1, c.hidden_size))
    tokens = jnp.concatenate([first, patches], axis=1)
    tokens += jnp.broadcast_to(place.astype(dtype), tokens.shape)
    scan = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=c.num_hidden_layers)
    tokens, _ = scan(c, dtype, name="encoder.layer.*")(tokens, None)
    return LayerNorm(c.layer_norm_eps, dtype, name="layernorm")(tokens)


def shapes(cfg: ViTConfig):
  """The parameters as float32 ShapeDtypeStructs; nothing is computed or allocated."""
  x = jax.ShapeDtypeStruct((1, cfg.image_size, cfg.image_size, cfg.num_channels), jnp.float32)
  return parameter_shapes(ViT(cfg), x)
