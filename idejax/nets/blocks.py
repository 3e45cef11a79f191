"""Small trainable blocks that methods are made of: plain functions of a dict of arrays.

A linear layer is {"kernel": [I, O], "bias": [O]}, bias optional.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from idejax.nets import products
from idejax.nets.attention import attention, split_heads

Params = Mapping[str, Any]

lecun = jax.nn.initializers.lecun_normal()
xavier = jax.nn.initializers.glorot_uniform()
torch_default = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # U(+-1 / sqrt(I))


def dense_init(key: jax.Array, inputs: int, outputs: int, kernel=lecun, bias: bool = True) -> dict[str, jax.Array]:
  out = {"kernel": kernel(key, (inputs, outputs), jnp.float32)}
  return out | {"bias": jnp.zeros(outputs)} if bias else out


def dense(p: Params, x: jax.Array) -> jax.Array:
  """[..., I] -> [..., O]."""
  y = products.matmul(x, p["kernel"])
  return y + jnp.broadcast_to(p["bias"], y.shape) if "bias" in p else y


def norm_init(width: int) -> dict[str, jax.Array]:
  return {"scale": jnp.ones(width), "bias": jnp.zeros(width)}


def layer_norm(p: Params, x: jax.Array, eps: float = 1e-5) -> jax.Array:
  """Layer normalisation over the last axis, computed in float32; returned in the dtype of x."""
  y = normalise(x.astype(jnp.float32), eps)
  scale, bias = (jnp.broadcast_to(p[k], y.shape) for k in ("scale", "bias"))
  return (y * scale + bias).astype(x.dtype)


def normalise(x: jax.Array, eps: float = 1e-5) -> jax.Array:
  """Mean 0 and variance 1 over the last axis, computed in float32; returned in the dtype of x."""
  y = x.astype(jnp.float32)
  y -= y.mean(-1, keepdims=True)
  return (y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + eps)).astype(x.dtype)


def heads_attend(q: jax.Array, k: jax.Array, v: jax.Array, heads: int, seen: jax.Array | None = None) -> jax.Array:
  """softmax(q k^T / sqrt(D / heads)) v per head: [B, L, D], [B, S, D] -> [B, L, D].

  seen: the keys that count, bool [B, S]; at least one a row. None: all of them.
  """
  q, k, v = (split_heads(x, heads) for x in (q, k, v))
  if seen is None:
    return attention(q, k, v).reshape(*q.shape[:2], -1)
  scores = jnp.einsum("blnd,bsnd->bnls", q * q.shape[-1] ** -0.5, k).astype(jnp.float32)
  share = jax.nn.softmax(jnp.where(seen[:, None, None], scores, -jnp.inf), axis=-1).astype(v.dtype)
  return jnp.einsum("bnls,bsnd->blnd", share, v).reshape(*q.shape[:2], -1)


def multihead(p: Params, x: jax.Array, y: jax.Array, heads: int) -> jax.Array:
  """x [B, L, D] attends to y [B, S, D], projected by "to_q", "to_k", "to_v" and "to_out"."""
  attended = heads_attend(dense(p["to_q"], x), dense(p["to_k"], y), dense(p["to_v"], y), heads)
  return dense(p["to_out"], attended)
