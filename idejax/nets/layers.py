"""Convolution, norms and timestep features with PyTorch's semantics, NHWC.

Every layer takes `dtype`, the dtype it computes in (None: that of its input); parameters keep
the dtype they were loaded with. Norm statistics are always taken in float32.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from idejax.nets.naming import naming
from idejax.nets.target import platform

Dtype = Any


def param(module: nn.Module, name: str, initializer: nn.initializers.Initializer, shape: tuple[int, ...]) -> jax.Array:
  """`module.param`. Of weights that are there it asks no more than their shape: flax would trace the
  initialiser of each at every use, only to learn that, a sixth of the time of a start."""
  if naming():
    module.put_variable("params", name, value := jnp.zeros(shape))
    return value
  if module.has_variable("params", name):
    value = module.get_variable("params", name)
    if value.shape == shape: return value  # else flax tells what is wrong
  return module.param(name, initializer, shape)


class Dense(nn.Module):
  """`torch.nn.Linear`: [..., I] -> [..., O]."""

  features: int
  use_bias: bool = True
  dtype: Dtype = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    dtype = self.dtype or x.dtype
    kernel = param(self, "kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.features))
    bias = param(self, "bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
    if naming(): return jnp.zeros((*x.shape[:-1], self.features), dtype)
    y = x.astype(dtype) @ kernel.astype(dtype)
    return y if bias is None else y + bias.astype(dtype)[(None,) * (y.ndim - 1)]


class Conv(nn.Module):
  """`torch.nn.Conv2d` with symmetric integer padding: [B, H, W, I] -> [B, H', W', O].

  grown: of the input enlarged to this size first (`upsample`), as the 3x3 convolutions of decoders are.
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


def convolve(x: jax.Array, kernel: jax.Array, stride: int, pad) -> jax.Array:
  """[B, H, W, I] with a kernel [h, w, I, O] -> [B, H', W', O].

  On CPU a wide kernel over few positions (the UNet's 8x8 and 16x16 levels at batch 1) is one
  matmul of gathered patches: 1.2 to 2.3 times as fast there as XLA's convolution, which is at par
  with PyTorch's everywhere else but over pictures smaller than the kernel: ten times as fast there.
  """
  (b, h, w, i), (size, _, _, o) = x.shape, kernel.shape
  if naming():
    rows, columns = ((side + sum(p) - size) // stride + 1 for side, p in zip((h, w), pad))
    return jnp.zeros((b, rows, columns, o), x.dtype)
  if stride > 1 or platform() != "cpu": return _convolve(x, kernel, stride, pad)
  few = h * w < 9 or (b * h * w <= 256 and i >= 256)
  if not (few and size == 3): return _convolve_cpu(x, kernel, tuple(pad))
  x = jnp.pad(x, ((0, 0), *pad, (0, 0)))
  h, w = x.shape[1] - 2, x.shape[2] - 2
  patches = [x[:, y : y + h, z : z + w] for y in range(3) for z in range(3)]
  y = jnp.concatenate(patches, axis=-1).reshape(b * h * w, 9 * i) @ kernel.reshape(9 * i, o)
  return y.reshape(b, h, w, o)


def _convolve(x: jax.Array, kernel: jax.Array, stride: int, pad) -> jax.Array:
  return jax.lax.conv_general_dilated(x, kernel, (stride, stride), pad, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve_cpu(x: jax.Array, kernel: jax.Array, pad) -> jax.Array:
  """`_convolve` of stride 1, whose gradient is written as what it is, another convolution: in loops
  (accumulated gradients) XLA's CPU takes three times as long for jax's own."""
  return _convolve(x, kernel, 1, pad)


def _convolve_forward(x, kernel, pad):
  """Keeps what the gradients that are asked for read: frozen kernels need no input."""
  value = _convolve(x.value, kernel.value, 1, pad)
  return value, (x.value if kernel.perturbed else None, kernel.value, () if x.perturbed else None)


def _convolve_backward(pad, kept, dy):
  x, kernel, wanted = kept
  if isinstance(dy, jax.custom_derivatives.SymbolicZero): return None, None
  sides = [(size - 1 - before, size - 1 - after) for size, (before, after) in zip(kernel.shape, pad)]
  dx = None if wanted is None else _convolve(dy, kernel[::-1, ::-1].swapaxes(2, 3), 1, sides)
  if x is None: return dx, None
  return dx, jax.linear_transpose(lambda k: _convolve(x, k, 1, pad), kernel)(dy)[0]


_convolve_cpu.defvjp(_convolve_forward, _convolve_backward, symbolic_zeros=True)


def convolve_grown(x: jax.Array, kernel: jax.Array, size: tuple[int, int]) -> jax.Array:
  """3x3 "same" convolution of `upsample(x, size)`: [B, H, W, I], [3, 3, I, O] -> [B, *size, O].

  At twice the size two of any three rows are one row of x, so their kernels may be added: each of the
  four outputs above a pixel of x reads 2x2 pixels with a kernel of its own, 4/9 of the work. Done on
  CPU (about twice as fast, a VAE's decoder a fifth faster) where the positions outweigh the additions.
  """
  b, h, w, _ = x.shape
  if naming() or size != (2 * h, 2 * w) or b * h * w < 1024 or platform() != "cpu":
    return convolve(upsample(x, size), kernel, 1, ((1, 1), (1, 1)))
  halves = lambda k: ((k[0], k[1] + k[2]), (k[0] + k[1], k[2]))  # read by even and by odd rows or columns
  both = lambda rows, q: jnp.stack([jnp.stack(halves(row)[q]) for row in rows])
  kernels = [[both(rows, q) for q in (0, 1)] for rows in halves(kernel)]
  even, odd = (1, 0), (0, 1)  # zeros before and after
  ways = [[convolve(x, k, 1, pad) for k, pad in zip(row, ((p, even), (p, odd)))]
          for row, p in zip(kernels, (even, odd))]  # fmt: skip
  lines = [jnp.concatenate(pair, -1).reshape(b, h, 2 * w, -1) for pair in ways]
  return jnp.concatenate(lines, 2).reshape(b, 2 * h, 2 * w, -1)


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
    if self.groups < 1 or c % self.groups: raise ValueError(f"{c} channels are not {self.groups} groups")
    if naming(): return x.astype(dtype)
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
    if naming(): return x.astype(dtype)
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


def upsample2x(x: jax.Array) -> jax.Array:
  """Nearest-neighbour upsampling by two: [B, H, W, C] -> [B, 2H, 2W, C]."""
  b, h, w, c = x.shape
  x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c))
  return x.reshape(b, 2 * h, 2 * w, c)


def upsample(x: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Nearest-neighbour upsampling to a size, as torch's `interpolate(size=...)`: [B, H, W, C].

  Sides that are odd at some level of a UNet come back one short of twice the size.
  """
  h, w = x.shape[1:3]
  if size == (2 * h, 2 * w): return upsample2x(x)
  rows, columns = (np.floor(np.arange(o, dtype=np.float32) * np.float32(i / o)).astype(int)
                   for i, o in zip((h, w), size))  # fmt: skip
  return x[:, rows][:, :, columns]
