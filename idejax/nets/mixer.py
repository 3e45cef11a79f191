"""FaceSnap's Facial Attribute Mixer: who a face is and what it looks like, as a few context tokens.

    f_pre = f_id + CrossAttn(q = f_id, kv = [f_id; f_clip])      eq. 1
    f_mix = Decoder(q = learned queries, kv = f_pre)             eq. 2

f_id are tokens made of the recogniser's embedding, f_clip a CLIP vision tower's. No position is added to
either, so the order of CLIP's tokens does not matter. Of several photos of one person the decoder reads every f_pre
(not in the paper): neither their order nor, if all are repeated as often, their number matters, and one photo is eq. 2.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from idejax.nets.attention import attention
from idejax.nets.layers import Dense, Dtype, LayerNorm, param
from idejax.nets.naming import parameter_shapes

Fuse = Literal["mixer", "concat", "identity", "clip"]
_SIZES = (
  "identity_dim", "clip_dim", "dim", "head_dim", "identity_tokens", "tokens", "layers", "context_dim", "photos",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class MixerConfig:
  """Sizes; the defaults are Stable Diffusion 1.x's with CLIP ViT-H/14.

  fuse: "mixer", or what the paper compares it with: "identity" has no CLIP tokens, "clip" no identity (the
  decoder reads f_clip), "concat" no attention ([f_id; f_clip] through the last projection alone).
  """

  context_dim: int = 768  # of the UNet's cross-attention
  identity_dim: int = 512  # of the recogniser's embedding
  clip_dim: int = 1280  # of the vision tower's hidden states
  dim: int = 1280
  head_dim: int = 64
  identity_tokens: int = 20
  tokens: int = 16
  layers: int = 4  # of the decoder
  fuse: Fuse = "mixer"
  photos: int = 1  # most photos of one person that it was trained to read at once

  @classmethod
  def from_json(cls, config: Mapping[str, Any]) -> "MixerConfig":
    """From `mixer/config.json`, as `to_json` writes it. ValueError, one sentence, for what it cannot be."""
    fields = {f.name for f in dataclasses.fields(cls)}
    if unknown := [k for k in config if not k.startswith("_") and k not in fields]:
      raise ValueError(f"a mixer's config has no {unknown[0]!r}")
    cfg = cls(**{k: v for k, v in config.items() if k in fields})
    for name in _SIZES:
      size = getattr(cfg, name)
      if type(size) is not int or size < 1:
        raise ValueError(f"{name} is {size!r}, not a positive whole number")
    if cfg.fuse not in get_args(Fuse):
      raise ValueError(f"fuse is {cfg.fuse!r}; supported: {', '.join(map(repr, get_args(Fuse)))}")
    if cfg.dim % cfg.head_dim:
      raise ValueError(f"dim {cfg.dim} cannot be divided into heads of {cfg.head_dim}")
    return cfg

  def to_json(self) -> dict[str, Any]:
    return {"_class_name": "FacialAttributeMixer", **dataclasses.asdict(self)}

  @property
  def reads_identity(self) -> bool:
    return self.fuse != "clip"

  @property
  def reads_clip(self) -> bool:
    return self.fuse != "identity"


class _Layers(nn.Module):
  """What the mixer's parts are built with: sizes and the dtype they compute in."""

  cfg: MixerConfig
  dtype: Dtype

  def dense(self, features: int, name: str) -> Dense:
    return Dense(features, dtype=self.dtype, kernel_init=nn.initializers.truncated_normal(0.02), name=name)

  def norm(self, name: str) -> LayerNorm:
    return LayerNorm(dtype=self.dtype, name=name)


class Attention(_Layers):
  """x [B, L, D] attends to y [B, S, D] with cfg.dim / cfg.head_dim heads, biases everywhere."""

  @nn.compact
  def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
    c = self.cfg
    split = lambda z: z.reshape(*z.shape[:2], -1, c.head_dim)
    q, k, v = (split(self.dense(c.dim, name)(z)) for name, z in (("to_q", x), ("to_k", y), ("to_v", y)))
    return self.dense(c.dim, "to_out.0")(attention(q, k, v).reshape(x.shape))


class DecoderLayer(_Layers):
  """Queries [B, 16, D] and f_pre [B, S, D]: self-attention, cross-attention, MLP, each after a norm."""

  @nn.compact
  def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
    c = self.cfg
    h = self.norm("norm1")(x)
    x += Attention(c, self.dtype, name="attn1")(h, h)
    x += Attention(c, self.dtype, name="attn2")(self.norm("norm2")(x), self.norm("norm2_context")(y))
    h = self.dense(4 * c.dim, "ff.net.0")(self.norm("norm3")(x))
    return x + self.dense(c.dim, "ff.net.2")(jax.nn.gelu(h, approximate=False))


class Mixer(_Layers):
  """Parameters are named as a PyTorch twin's would be; `shapes` lists them."""

  cfg: MixerConfig = MixerConfig()
  dtype: Dtype = None  # computes in this; None: the dtype of the embeddings

  @nn.compact
  def __call__(self, identity: jax.Array | None, clip: jax.Array | None) -> jax.Array:
    """Face features -> context tokens [B, tokens, context_dim]; "concat": identity_tokens + T of them.

    Args:
      identity: the recogniser's embedding [B, identity_dim] of any length; it is scaled to sqrt(identity_dim),
        so that its entries are about 1 whatever the recogniser. Of R photos of each person [B, R, identity_dim].
      clip: the vision tower's hidden states [B, T, clip_dim]: the penultimate layer's. Of R photos [B, R, T, clip_dim].
    What `fuse` does not read is ignored and may be None. ValueError for several photos and "concat", which has no decoder.
    """
    c, faces, several = self.cfg, [], 1
    if (identity.ndim if c.reads_identity else clip.ndim - 1) == 3:
      if c.fuse == "concat":
        raise ValueError("concat has no decoder that could read several photos")
      several = (identity if c.reads_identity else clip).shape[1]
      join = lambda x: None if x is None else x.reshape(-1, *x.shape[2:])
      identity, clip = join(identity), join(clip)
    if c.reads_identity:
      unit = identity.astype(jnp.float32)
      unit *= math.sqrt(c.identity_dim) / jnp.maximum(jnp.linalg.norm(unit, axis=-1, keepdims=True), 1e-6)
      x = self.dense(c.identity_tokens * c.dim, "identity_proj")(unit.astype(self.dtype or identity.dtype))
      faces.append(self.norm("identity_norm")(x.reshape(-1, c.identity_tokens, c.dim)))
    if c.reads_clip:
      faces.append(self.norm("clip_norm")(self.dense(c.dim, "clip_proj")(clip)))
    tokens = jnp.concatenate(faces, axis=1)
    if c.fuse != "concat":
      if c.reads_identity:
        mix = Attention(c, self.dtype, name="mix.attn")
        tokens = faces[0] + mix(self.norm("mix.norm")(faces[0]), self.norm("mix.norm_context")(tokens))
      tokens = tokens.reshape(-1, several * tokens.shape[1], c.dim)  # of each person all photos'
      queries = param(self, "queries", nn.initializers.normal(c.dim**-0.5), (c.tokens, c.dim))
      x = jnp.broadcast_to(queries.astype(tokens.dtype)[None], (len(tokens), *queries.shape))
      for i in range(c.layers):
        x = DecoderLayer(c, self.dtype, name=f"layers.{i}")(x, tokens)
      tokens = x
    return self.norm("norm_out")(self.dense(c.context_dim, "proj_out")(tokens))


def shapes(cfg: MixerConfig):
  """The parameters as float32 ShapeDtypeStructs; nothing is computed or allocated."""
  S = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  return parameter_shapes(Mixer(cfg), S(1, cfg.identity_dim), S(1, 2, cfg.clip_dim))


def draw(cfg: MixerConfig, key: jax.Array) -> dict[str, Any]:
  """Untrained parameters, float32: kernels from a normal of deviation 0.02 cut off at two of them, queries of deviation
  dim^-1/2, norms the identity. With fewer than 1280 features the deviation is greater, so that a layer passes on as much.

  One call of the generator for all of them: one a leaf takes minutes to compile.
  """
  leaves, tree = jax.tree_util.tree_flatten_with_path(shapes(cfg))
  sizes = [math.prod(s.shape) for _, s in leaves]
  z = jax.random.truncated_normal(key, -2.0, 2.0, (sum(sizes),))
  out, at, spread = [], 0, 0.02 * math.sqrt(1280 / cfg.dim)
  for (path, s), size in zip(leaves, sizes):
    name, x = path[-1].key, z[at : at + size].reshape(s.shape)
    fixed = {"scale": jnp.ones(s.shape), "bias": jnp.zeros(s.shape)}
    # A normal cut off at two deviations has 0.8796 of the deviation that it had.
    out.append(fixed[name] if name in fixed else x * (spread if name == "kernel" else cfg.dim**-0.5 / 0.87962566))
    at += size
  return jax.tree.unflatten(tree, out)
