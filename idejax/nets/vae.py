"""The VAE of Stable Diffusion (1.x, 2.x, XL and kin). Submodule names are diffusers' keys.

Encoder and Decoder are two modules over one parameter tree: each applies to the whole tree and
reads its own half (`quant_conv` belongs to the encoder, `post_quant_conv` to the decoder).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from idejax.nets.attention import attention
from idejax.nets.layers import Conv, Dense, Dtype, GroupNorm
from idejax.nets.naming import parameter_shapes

_EPS = 1e-6  # fixed in diffusers' VAE, whatever its config says


@dataclasses.dataclass(frozen=True)
class VAEConfig:
  """diffusers' AutoencoderKL config.json: its names, its defaults."""

  in_channels: int = 3
  out_channels: int = 3
  block_out_channels: tuple[int, ...] = (64,)
  layers_per_block: int = 1
  latent_channels: int = 4
  norm_num_groups: int = 32
  sample_size: int = 32  # only tiled decoding reads it
  scaling_factor: float = 0.18215
  shift_factor: float | None = None
  latents_mean: tuple[float, ...] | None = None
  latents_std: tuple[float, ...] | None = None
  force_upcast: bool = True
  use_quant_conv: bool = True
  use_post_quant_conv: bool = True
  mid_block_add_attention: bool = True

  @classmethod
  def from_json(cls, json: Mapping[str, Any]) -> "VAEConfig":
    """From diffusers' config.json; keys that diffusers ignores are ignored. Raises ValueError."""
    if (kind := json.get("_class_name", "AutoencoderKL")) != "AutoencoderKL":
      raise ValueError(f"VAE config: _class_name is {kind!r}, only 'AutoencoderKL' is supported.")
    fields = {f.name for f in dataclasses.fields(cls)}
    tidy = lambda v: tuple(v) if isinstance(v, list) else v
    values: dict[str, Any] = {k: tidy(v) for k, v in json.items() if k in fields}
    size = values.get("sample_size", cls.sample_size)
    if isinstance(size, tuple):
      if len(set(size)) != 1:
        raise ValueError(f"VAE config: sample_size {size} is not square.")
      values["sample_size"] = size[0]
    cfg = cls(**values)
    if (act := json.get("act_fn", "silu")) not in ("silu", "swish"):
      raise ValueError(f"VAE config: act_fn is {act!r}, only 'silu' is supported.")
    for key, want in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
      types = tuple(json.get(key, (want,)))
      if types != (want,) * len(cfg.block_out_channels):
        raise ValueError(
          f"VAE config: {key} is {types}, supported is one {want!r} for each of "
          f"the {len(cfg.block_out_channels)} block_out_channels."
        )
    if bad := [c for c in cfg.block_out_channels if c % cfg.norm_num_groups]:
      raise ValueError(
        f"VAE config: block_out_channels {bad} cannot be divided into norm_num_groups {cfg.norm_num_groups}."
      )
    return cfg

  @property
  def factor(self) -> int:
    """Pixels per latent cell along one side: 8 for Stable Diffusion."""
    return 2 ** (len(self.block_out_channels) - 1)

  @property
  def latent_tile(self) -> int:
    """diffusers' tile_latent_min_size: the side of a tile in `tiled_decode`."""
    return self.sample_size // self.factor


class ResBlock(nn.Module):
  dim: int
  groups: int
  dtype: Dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    norm = lambda name: GroupNorm(self.groups, _EPS, self.dtype, name=name)
    h = nn.silu(norm("norm1")(x))
    h = Conv(self.dim, dtype=self.dtype, name="conv1")(h)
    h = nn.silu(norm("norm2")(h))
    h = Conv(self.dim, dtype=self.dtype, name="conv2")(h)
    if x.shape[-1] != self.dim:
      x = Conv(self.dim, 1, dtype=self.dtype, name="conv_shortcut")(x)
    return x + h


class Attention(nn.Module):
  """Single-head self-attention over all cells, with its norm and residual inside."""

  groups: int
  dtype: Dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    b, h, w, c = x.shape
    dense = lambda name: Dense(c, dtype=self.dtype, name=name)
    y = GroupNorm(self.groups, _EPS, self.dtype, name="group_norm")(x).reshape(b, h * w, c)
    q, k, v = (dense(name)(y)[:, :, None] for name in ("to_q", "to_k", "to_v"))
    return x + dense("to_out.0")(attention(q, k, v)[:, :, 0]).reshape(x.shape)


class MidBlock(nn.Module):
  cfg: VAEConfig
  dtype: Dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    dim, groups = x.shape[-1], self.cfg.norm_num_groups
    x = ResBlock(dim, groups, self.dtype, name="resnets.0")(x)
    if self.cfg.mid_block_add_attention:
      x = Attention(groups, self.dtype, name="attentions.0")(x)
    return ResBlock(dim, groups, self.dtype, name="resnets.1")(x)


class Encoder(nn.Module):
  cfg: VAEConfig
  dtype: Dtype = None  # computes in this; None: the dtype of the input

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Images [B, H, W, 3] in [-1, 1] -> (mean, logvar), each [B, H/factor, W/factor, C].

    `logvar` is clipped to [-30, 20] as diffusers does. Latents for a UNet are still to be
    scaled (`scaling_factor` and company).
    """
    c = self.cfg
    dtype = self.dtype or x.dtype
    conv = lambda name, dim, **kw: Conv(dim, dtype=dtype, name=name, **kw)
    h = conv("encoder.conv_in", c.block_out_channels[0])(x)
    for i, dim in enumerate(c.block_out_channels):
      block = f"encoder.down_blocks.{i}"
      for j in range(c.layers_per_block):
        h = ResBlock(dim, c.norm_num_groups, dtype, name=f"{block}.resnets.{j}")(h)
      if i + 1 < len(c.block_out_channels):
        pad = ((0, 1), (0, 1))  # the original pads below and to the right only
        h = conv(f"{block}.downsamplers.0.conv", dim, stride=2, padding=pad)(h)
    h = MidBlock(c, dtype, name="encoder.mid_block")(h)
    h = nn.silu(GroupNorm(c.norm_num_groups, _EPS, dtype, name="encoder.conv_norm_out")(h))
    h = conv("encoder.conv_out", 2 * c.latent_channels)(h)
    if c.use_quant_conv:
      h = conv("quant_conv", 2 * c.latent_channels, size=1)(h)
    mean, logvar = jnp.split(h, 2, axis=-1)
    return mean, jnp.clip(logvar, -30.0, 20.0)


class Decoder(nn.Module):
  cfg: VAEConfig
  dtype: Dtype = None  # computes in this; None: the dtype of the input

  @nn.compact
  def __call__(self, z: jax.Array) -> jax.Array:
    """Unscaled latents [B, h, w, C] -> images [B, h*factor, w*factor, 3], about [-1, 1]."""
    c = self.cfg
    dtype = self.dtype or z.dtype
    conv = lambda name, dim, **kw: Conv(dim, dtype=dtype, name=name, **kw)
    if c.use_post_quant_conv:
      z = conv("post_quant_conv", c.latent_channels, size=1)(z)
    h = conv("decoder.conv_in", c.block_out_channels[-1])(z)
    h = MidBlock(c, dtype, name="decoder.mid_block")(h)
    for i, dim in enumerate(reversed(c.block_out_channels)):
      block = f"decoder.up_blocks.{i}"
      for j in range(c.layers_per_block + 1):
        h = ResBlock(dim, c.norm_num_groups, dtype, name=f"{block}.resnets.{j}")(h)
      if i + 1 < len(c.block_out_channels):
        h = conv(f"{block}.upsamplers.0.conv", dim, grown=(2 * h.shape[1], 2 * h.shape[2]))(h)
    h = nn.silu(GroupNorm(c.norm_num_groups, _EPS, dtype, name="decoder.conv_norm_out")(h))
    return conv("decoder.conv_out", c.out_channels)(h)


def shapes(cfg: VAEConfig):
  """Both halves' parameters as float32 ShapeDtypeStructs; nothing is computed or allocated."""
  x = jax.ShapeDtypeStruct((1, cfg.factor, cfg.factor, cfg.in_channels), jnp.float32)
  z = jax.ShapeDtypeStruct((1, 1, 1, cfg.latent_channels), jnp.float32)
  return {**parameter_shapes(Encoder(cfg), x), **parameter_shapes(Decoder(cfg), z)}


def tiled_decode(decode: Callable[[jax.Array], jax.Array], z: jax.Array, tile: int, overlap: float = 0.25) -> jax.Array:
  """`decode(z)` in overlapping square tiles with linear blending: memory of one tile's decode.

  z [B, h, w, C] -> [B, h*f, w*f, 3], equal to diffusers' AutoencoderKL.tiled_decode with
  tile_latent_min_size `tile` (VAEConfig.latent_tile) and tile_overlap_factor `overlap`; a z
  no larger than a tile is decoded in one piece. Raises ValueError if the overlap is not a whole
  number of latent cells.

  Tiles at the right and bottom edge are smaller. They are not padded: the decoder's GroupNorm
  and attention look at a whole tile, so padding would change every pixel. Instead tiles are
  grouped by shape and each group is one `lax.map`: at most nine shapes (three lengths a side),
  each compiled once.
  """
  h, w = z.shape[1:3]
  if h <= tile and w <= tile:
    return decode(z)
  extent = round(tile * overlap)
  if not 0 <= extent < tile or abs(extent - tile * overlap) > 1e-6:
    raise ValueError(
      f"tiled_decode: tile {tile} times overlap {overlap} must be a whole number of latent cells from 0 to {tile - 1}."
    )
  ys, xs = range(0, h, tile - extent), range(0, w, tile - extent)

  groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
  for y in ys:
    for x in xs:
      groups.setdefault((min(tile, h - y), min(tile, w - x)), []).append((y, x))
  tiles: dict[tuple[int, int], jax.Array] = {}
  for (th, tw), corners in groups.items():
    stack = jnp.stack([z[:, y : y + th, x : x + tw] for y, x in corners])
    tiles |= zip(corners, jax.lax.map(decode, stack))
  f = tiles[0, 0].shape[1] // min(tile, h)

  # A tile is blended with its upper, then its left neighbour, both as already blended.
  rows = []
  for i, y in enumerate(ys):
    row = []
    for j, x in enumerate(xs):
      pixels = tiles[y, x]
      if i:
        pixels = _blend(tiles[ys[i - 1], x], pixels, extent * f, axis=1)
      if j:
        pixels = _blend(tiles[y, xs[j - 1]], pixels, extent * f, axis=2)
      tiles[y, x] = pixels
      keep = (tile - extent) * f
      row.append(pixels[:, :keep, :keep])
    rows.append(jnp.concatenate(row, axis=2))
  return jnp.concatenate(rows, axis=1)


def _blend(a: jax.Array, b: jax.Array, extent: int, axis: int) -> jax.Array:
  """`b` whose first `extent` lines along `axis` fade in from the last ones of `a`."""
  n = min(a.shape[axis], b.shape[axis], extent)
  if n == 0:
    return b
  line = [1] * b.ndim
  line[axis] = n
  fade = (jnp.arange(n, dtype=b.dtype) / n).reshape(line)
  end = jax.lax.slice_in_dim(a, a.shape[axis] - n, None, axis=axis)
  start, rest = jnp.split(b, [n], axis=axis)
  return jnp.concatenate([end * (1 - fade) + start * fade, rest], axis=axis)
