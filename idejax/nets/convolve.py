"""Convolution and nearest-neighbour upsampling, NHWC, with versions tuned for CPUs.

`layers.Conv` holds the parameters; here is the arithmetic. Accelerators use XLA's convolution.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from idejax.nets import products
from idejax.nets.naming import naming
from idejax.nets.target import platform


def convolve(x: jax.Array, kernel: jax.Array, stride: int, pad) -> jax.Array:
  """[B, H, W, I] with a kernel [h, w, I, O] -> [B, H', W', O].

  On CPU a wide kernel over few positions (the UNet's 8x8 and 16x16 levels at batch 1) is one
  matmul of gathered patches: 1.2 to 2.3 times as fast as XLA's convolution, and ten times as fast
  over pictures smaller than the kernel. Elsewhere XLA's convolution is at par with PyTorch's.
  """
  (b, h, w, i), (size, _, _, o) = x.shape, kernel.shape
  if naming():
    rows, columns = ((side + sum(p) - size) // stride + 1 for side, p in zip((h, w), pad))
    return jnp.zeros((b, rows, columns, o), x.dtype)
  if stride > 1 or platform() != "cpu":
    return _convolve(x, kernel, stride, pad)
  few = h * w < 9 or (b * h * w <= 256 and i >= 256)
  if not (few and size == 3):
    if products.fast(x, kernel) and min(i, o) >= products.WIDE:
      return products.convolve(x, kernel, tuple(pad))
    return _convolve_cpu(x, kernel, tuple(pad))
  x = jnp.pad(x, ((0, 0), *pad, (0, 0)))
  h, w = x.shape[1] - 2, x.shape[2] - 2
  patches = [x[:, y : y + h, z : z + w] for y in range(3) for z in range(3)]
  y = products.matmul(jnp.concatenate(patches, axis=-1).reshape(b * h * w, 9 * i), kernel.reshape(9 * i, o))
  return y.reshape(b, h, w, o)


def _convolve(x: jax.Array, kernel: jax.Array, stride: int, pad) -> jax.Array:
  return jax.lax.conv_general_dilated(x, kernel, (stride, stride), pad, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve_cpu(x: jax.Array, kernel: jax.Array, pad) -> jax.Array:
  """`_convolve` of stride 1 whose gradient is written out as another convolution.

  Jax's own gradient takes three times as long on CPU inside loops, as of accumulated gradients.
  """
  return _convolve(x, kernel, 1, pad)


def _convolve_forward(x, kernel, pad):
  """Saves only what the requested gradients read: the input is saved for the kernel's gradient alone."""
  value = _convolve(x.value, kernel.value, 1, pad)
  return value, (x.value if kernel.perturbed else None, kernel.value, () if x.perturbed else None)


def _convolve_backward(pad, residuals, dy):
  x, kernel, needs_dx = residuals
  if isinstance(dy, jax.custom_derivatives.SymbolicZero):
    return None, None
  sides = [(size - 1 - before, size - 1 - after) for size, (before, after) in zip(kernel.shape, pad)]
  dx = None if needs_dx is None else _convolve(dy, kernel[::-1, ::-1].swapaxes(2, 3), 1, sides)
  if x is None:
    return dx, None
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
  ways = [
    [convolve(x, k, 1, pad) for k, pad in zip(row, ((p, even), (p, odd)))] for row, p in zip(kernels, (even, odd))
  ]
  lines = [jnp.concatenate(pair, -1).reshape(b, h, 2 * w, -1) for pair in ways]
  return jnp.concatenate(lines, 2).reshape(b, 2 * h, 2 * w, -1)


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
  if size == (2 * h, 2 * w):
    return upsample2x(x)
  rows, columns = (
    np.floor(np.arange(o, dtype=np.float32) * np.float32(i / o)).astype(int) for i, o in zip((h, w), size)
  )
  return x[:, rows][:, :, columns]
