"""Convolution, norms and timestep features with PyTorch's semantics, NHWC.

Every layer takes `dtype`, the dtype it computes in (None: that of its input); parameters keep
the dtype they were loaded with. Norm statistics are always taken in float32.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from idejax.nets import products
from idejax.nets.convolve import convolve, convolve_grown
from idejax.nets.naming import naming

Dtype = jax.typing.DTypeLike | None


def param(module: nn.Module, name: str, initializer: nn.initializers.Initializer, shape: tuple[int, ...]) -> jax.Array:
  """`module.param`, but existing weights are only compared with `shape`.

  Flax would trace the initialiser of each to learn its shape: a sixth of the time of a start.
  """
  if naming():
    module.put_variable("params", name, value := jnp.zeros(shape))
    return value
  if module.has_variable("params", name):
    value = module.get_variable("params", name)
    if value.shape == shape:
      return value  # otherwise flax says what is wrong
  return module.param(name, initializer, shape)


class Dense(nn.Module):
  """`torch.nn.Linear`: [..., I] -> [..., O]."""

  features: int
  use_bias: bool = True
  dtype: Dtype = None
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    dtype = self.dtype or x.dtype
    kernel = param(self, "kernel", self.kernel_init, (x.shape[-1], self.features))
    bias = param(self, "bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
    if naming():
      return jnp.zeros((*x.shape[:-1], self.features), dtype)
    y = products.matmul(x.astype(dtype), kernel.astype(dtype))
    return y if bias is None else y + bias.astype(dtype)[(None,) * (y.ndim - 1)]


class Conv(nn.Module):
  """`torch.nn.Conv2d` with symmetric integer padding: [B, H, W, I] -> [B, H', W', O].

  grown: (H', W') to which the input is upsampled first, as for the 3x3 convolutions of decoders.
  """

  features: int
  size: int = 3
  stride: int = 1
  padding: int | tuple[tuple[int, int], tuple[int, int]] | None = None  # None: "same", odd kernels
  use_bias: bool = True
  dtype: Dtype = None
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
  grown: tuple[int, int] | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    dtype = self.dtype or x.dtype
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel = param(self, "kernel", self.kernel_init, shape)
    bias = param(self, "bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
    pad = self.size // 2 if self.padding is None else self.padding
    pad = ((pad, pad), (pad, pad)) if isinstance(pad, int) else pad
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    y = convolve_grown(x, kernel, self.grown) if self.grown else convolve(x, kernel, self.stride, pad)
    return y if bias is None or naming() else y + bias.astype(dtype)[None, None, None]


class GroupNorm(nn.Module):
  """`torch.nn.GroupNorm` over [B, ..., C], statistics in float32."""

  groups: int
  eps: float = 1e-5
  dtype: Dtype = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    dtype, c = self.dtype or x.dtype, x.shape[-1]
    scale = param(self, "scale", nn.initializers.ones, (c,))
    bias = param(self, "bias", nn.initializers.zeros, (c,))
    if self.groups < 1 or c % self.groups:
      raise ValueError(f"{c} channels are not {self.groups} groups")
    if naming():
      return x.astype(dtype)
    y = x.astype(jnp.float32).reshape(x.shape[0], -1, c)

    def average(y):  # per channel, then per group: three times as fast on CPU as both at once
      groups = y.mean(1).reshape(-1, self.groups, c // self.groups).mean(-1)
      return jnp.repeat(groups, c // self.groups, axis=1)[:, None]

    y -= average(y)
    gain = jax.lax.rsqrt(average(jnp.square(y)) + self.eps) * scale.astype(jnp.float32)[None, None]
    return (y * gain + bias.astype(jnp.float32)[None, None]).reshape(x.shape).astype(dtype)


class LayerNorm(nn.Module):
  """`torch.nn.LayerNorm` over the last axis, statistics in float32."""

  eps: float = 1e-5
  dtype: Dtype = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    dtype, c = self.dtype or x.dtype, x.shape[-1]
    row = (None,) * (x.ndim - 1)
    scale = param(self, "scale", nn.initializers.ones, (c,))
    bias = param(self, "bias", nn.initializers.zeros, (c,))
    if naming():
      return x.astype(dtype)
    scale, bias = (p.astype(jnp.float32)[row] for p in (scale, bias))
    y = x.astype(jnp.float32)
    mean = y.mean(-1, keepdims=True)
    var = jnp.square(y - mean).mean(-1, keepdims=True)
    return ((y - mean) * jax.lax.rsqrt(var + self.eps) * scale + bias).astype(dtype)


def timestep_embedding(t: jax.Array, dim: int, *, flip: bool = True, shift: float = 0.0):
  """Sinusoidal features of timesteps: [B] -> [B, dim] float32, cosines first when `flip`.

  `shift` is diffusers' `downscale_freq_shift` (freq_shift in the config of a UNet).
  """
  half = dim // 2
  exponent = -jnp.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / (half - shift)
  args = t.astype(jnp.float32)[:, None] * jnp.exp(exponent)[None]
  sin, cos = jnp.sin(args), jnp.cos(args)
  emb = jnp.concatenate([cos, sin] if flip else [sin, cos], axis=-1)
  return jnp.pad(emb, ((0, 0), (0, dim % 2)))
