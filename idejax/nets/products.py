"""Products of bfloat16 with float32 sums: the only ones for which XLA's CPU code uses AMX and AVX512-BF16.

Gradients are written out: jax's own multiply a float32 cotangent with bfloat16, and no unit takes two dtypes.
"""

import functools

import jax
import jax.numpy as jnp

from idejax.nets import target

# Channels from which a convolution as shifted matmuls on AMX was faster than XLA's own (GFLOP/s of a core: 320
# channels 214, 640 channels 362, 128 channels 132, 48 channels 92, against 127 to 160).
WIDE = 96


def fast(*arrays: jax.Array) -> bool:
  """Whether this CPU has units for products of these arrays."""
  return (
    target.platform() == "cpu" and target.cpu_multiplies_bfloat16() and all(a.dtype == jnp.bfloat16 for a in arrays)
  )


def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """[..., I] @ [I, O] in the dtype of both."""
  if not fast(x, kernel):
    return x @ kernel
  return product(x.reshape(-1, x.shape[-1]), kernel).astype(x.dtype).reshape(*x.shape[:-1], kernel.shape[-1])


@jax.custom_vjp
def product(a: jax.Array, b: jax.Array) -> jax.Array:
  """[*B, L, D] @ [*B, D, S] of bfloat16 -> float32 [*B, L, S]."""
  return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _product_forward(a, b):
  """Saves only what the requested gradients read."""
  return product(a.value, b.value), (a.value if b.perturbed else None, b.value if a.perturbed else None)


def _product_backward(residuals, dy):
  a, b = residuals
  if isinstance(dy, jax.custom_derivatives.SymbolicZero):
    return None, None
  dy = dy.astype(jnp.bfloat16)
  da = None if b is None else product(dy, b.swapaxes(-1, -2)).astype(b.dtype)
  return da, None if a is None else product(a.swapaxes(-1, -2), dy).astype(a.dtype)


product.defvjp(_product_forward, _product_backward, symbolic_zeros=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: jax.Array, kernel: jax.Array, pad) -> jax.Array:
  """Convolution of stride 1 as shifted matmuls, bfloat16: [B, H, W, I], [h, w, I, O] -> [B, H', W', O]."""
  return sum(product(part, k) for part, k in _shifts(x, kernel, pad)).astype(x.dtype).reshape(_shape(x, kernel, pad))


def _shape(x, kernel, pad):
  (b, h, w, _), (rows, columns, _, o) = x.shape, kernel.shape
  return b, h + sum(pad[0]) - rows + 1, w + sum(pad[1]) - columns + 1, o


def _shifts(x, kernel, pad):
  """What each of the kernel's positions reads [B H' W', I], and its matrix [I, O]."""
  _, h, w, _ = _shape(x, kernel, pad)
  x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(*p, 0) for p in ((0, 0), *pad, (0, 0))])  # negative too, in gradients
  rows, columns, i, _ = kernel.shape
  for y in range(rows):
    for z in range(columns):
      yield x[:, y : y + h, z : z + w].reshape(-1, i), kernel[y, z]


def _convolve_forward(x, kernel, pad):
  kept = x.value if kernel.perturbed else None
  return convolve(x.value, kernel.value, pad), (kept, kernel.value, () if x.perturbed else None)


def _convolve_backward(pad, residuals, dy):
  x, kernel, needs_dx = residuals
  if isinstance(dy, jax.custom_derivatives.SymbolicZero):
    return None, None
  sides = tuple((size - 1 - before, size - 1 - after) for size, (before, after) in zip(kernel.shape, pad))
  dx = None if needs_dx is None else convolve(dy, kernel[::-1, ::-1].swapaxes(2, 3), sides)
  if x is None:
    return dx, None
  flat = dy.reshape(-1, dy.shape[-1])
  parts = [product(part.T, flat) for part, _ in _shifts(x, kernel, pad)]
  return dx, jnp.stack(parts).reshape(kernel.shape).astype(kernel.dtype)


convolve.defvjp(_convolve_forward, _convolve_backward, symbolic_zeros=True)
