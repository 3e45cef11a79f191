"""Scaled dot-product attention behind one function, chosen by platform and static shape.

| name     | what                                              | chosen for                        |
|----------|---------------------------------------------------|-----------------------------------|
| `plain`  | head-major matmuls and a softmax, left to XLA     | short keys everywhere (77 tokens) |
| `chunk`  | one head and 512 queries at a time, recomputed in | long self-attention on CPU        |
|          | the backward pass; no L x S array exists          |                                   |
| `cudnn`  | cuDNN's fused kernel, 16-bit only                 | long attention on CUDA            |
| `flash`  | Pallas flash attention                            | long attention on TPU             |
| `splash` | Pallas splash attention                           | by request                        |

A name overrides the choice.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from idejax.nets import products
from idejax.nets.naming import naming
from idejax.nets.target import platform

LONG = 512 * 512  # queries x keys from which an implementation without the score matrix pays
BLOCK = 128  # the Pallas kernels' block: lengths must be multiples of it


def attention(q: jax.Array, k: jax.Array, v: jax.Array, *, causal: bool = False, impl: str | None = None) -> jax.Array:
  """softmax(q k^T / sqrt(D)) v per head: q [B, L, N, D], k and v [B, S, N, D] -> [B, L, N, D].

  Computed in the dtype of q and k, softmax in float32, result in the dtype of v.
  `causal` (row l sees keys 0..l) is always `plain`: only text encoders need it.
  """
  if impl not in (None, *_IMPLEMENTATIONS):
    raise ValueError(f"attention {impl!r}; known: {', '.join(_IMPLEMENTATIONS)}")
  if naming():
    return jnp.zeros(q.shape, v.dtype)
  if causal:
    return _plain(q, k, v, causal=True)
  return _IMPLEMENTATIONS[impl or choose(platform(), q, k)](q, k, v)


def choose(target: str, q, k) -> str:
  """The implementation for a platform and static shapes [B, L, N, D], [B, S, N, D]."""
  (_, l, _, d), s = q.shape, k.shape[1]
  if l * s < LONG:
    return "plain"
  if target == "cpu":
    return "chunk"
  even = l % 2 == s % 2 == 0  # cuDNN refuses other lengths
  if target in ("cuda", "gpu") and q.dtype.itemsize == 2 and d % 8 == 0 and d <= 128 and even:
    return "cudnn"
  if target == "tpu" and l % BLOCK == 0 and s % BLOCK == 0:
    return "flash"
  return "plain"


def split_heads(x: jax.Array, heads: int) -> jax.Array:
  """[B, L, D] -> [B, L, heads, D / heads]."""
  return x.reshape(*x.shape[:2], heads, -1)


def weights(q: jax.Array, k: jax.Array) -> jax.Array:
  """The attention map itself, softmax(q k^T / sqrt(D)): [B, L, N, D], [B, S, N, D] -> [B, N, L, S]."""
  scores = jnp.einsum("blnd,bsnd->bnls", q * q.shape[-1] ** -0.5, k)
  return jax.nn.softmax(scores.astype(jnp.float32), axis=-1)


def _plain(q, k, v, causal=False):
  # Head-major first: XLA's CPU and GPU matmuls read [N, L, D] about twice as fast as [L, N, D].
  dtype, scale = v.dtype, q.shape[-1] ** -0.5
  q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q * scale, k, v))
  if products.fast(q, k):
    scores = products.product(q, k.swapaxes(-1, -2))
  else:
    scores = jnp.einsum("bnld,bnsd->bnls", q, k).astype(jnp.float32)
  if causal:
    visible = jnp.tril(jnp.ones(scores.shape[-2:], bool))[None, None]
    scores = jnp.where(visible, scores, jnp.finfo(jnp.float32).min)
  y = _matmul(jax.nn.softmax(scores, axis=-1).astype(dtype), v)
  return jnp.swapaxes(y.astype(dtype), 1, 2)


def _matmul(a, b):
  """a @ b; float32 where the CPU multiplies bfloat16 so."""
  return products.product(a, b) if products.fast(a, b) else a @ b


def _chunk(q, k, v):
  (b, l, n, d), dtype = q.shape, v.dtype
  chunk = max(c for c in range(1, min(l, 512) + 1) if l % c == 0)
  heads = lambda x: jnp.swapaxes(x, 1, 2).reshape(b * n, x.shape[1], d)

  def head(qkv):
    q, k, v = qkv

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def rows(q):  # the row maximum and sum are divided out after the second, smaller matmul
      scores = _matmul(q, k.T).astype(jnp.float32)
      e = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
      return (_matmul(e.astype(dtype), v) / e.sum(-1, keepdims=True)).astype(dtype)

    return jax.lax.map(rows, q.reshape(l // chunk, chunk, d)).reshape(l, d)

  y = jax.lax.map(head, (heads(q * d**-0.5), heads(k), heads(v)))
  return jnp.swapaxes(y.reshape(b, n, l, d), 1, 2)


def _cudnn(q, k, v):
  q, k = q.astype(v.dtype), k.astype(v.dtype)
  return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")


def _on_each_device(kernel):
  """Under `jax.set_mesh`, let each device run a kernel that XLA cannot partition by itself.

  The batch is split over all axes of the mesh, or every device computes all of it where the
  number of rows does not divide. Axes that the caller has already mapped over are left alone.
  """

  @functools.wraps(kernel)
  def run(q, k, v):
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(a for a, t in zip(mesh.axis_names, mesh.axis_types) if t != AxisType.Manual)
    if not axes:
      return kernel(q, k, v)
    rows = P(axes) if q.shape[0] % math.prod(mesh.shape[a] for a in axes) == 0 else P()
    # A Pallas call does not say over which axes its result varies, hence no check of it.
    mapped = jax.shard_map(kernel, in_specs=(rows,) * 3, out_specs=rows, axis_names=set(axes), check_vma=False)
    return mapped(q, k, v)

  return run


@_on_each_device
def _flash(q, k, v):
  from jax.experimental.pallas.ops.tpu import flash_attention as fa

  bq, bk = (next(b for b in (512, 256, BLOCK) if length % b == 0) for length in (q.shape[1], k.shape[1]))
  blocks = fa.BlockSizes(
    block_q=bq,
    block_k_major=bk,
    block_k=bk,
    block_b=1,
    block_q_major_dkv=bq,
    block_k_major_dkv=bk,
    block_k_dkv=bk,
    block_q_dkv=bq,
    block_k_major_dq=bk,
    block_k_dq=bk,
    block_q_dq=bq,
  )
  d, dtype = q.shape[-1], v.dtype
  # The kernel wants heads above 128 wide in whole lanes; SD 1.x has some of 160.
  pad = ((0, 0),) * 3 + ((0, -d % 128 if d > 128 else 0),)
  q, k, v = (jnp.swapaxes(jnp.pad(x, pad), 1, 2) for x in (q, k, v.astype(q.dtype)))
  y = fa.flash_attention(q, k, v, sm_scale=d**-0.5, block_sizes=blocks)
  return jnp.swapaxes(y, 1, 2)[..., :d].astype(dtype)


@_on_each_device
def _splash(q, k, v):
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as mask

  shape, heads, dtype = (q.shape[1], k.shape[1]), q.shape[2], v.dtype
  full = mask.MultiHeadMask([mask.FullMask(shape)] * heads)
  q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q * q.shape[-1] ** -0.5, k, v.astype(q.dtype)))
  y = jax.vmap(kernel.make_splash_mha(full, head_shards=1, q_seq_shards=1))(q, k, v)
  return jnp.swapaxes(y, 1, 2).astype(dtype)


_IMPLEMENTATIONS = dict(plain=_plain, chunk=_chunk, cudnn=_cudnn, flash=_flash, splash=_splash)
