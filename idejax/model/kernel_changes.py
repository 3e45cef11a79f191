"""Changes of a net's kernels [(depth,) I, O]: whole, or as the factors {"A" [.., I, r], "B" [.., r, O]} of low rank."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


def whole(kernels: Any) -> Any:
  """Zeros like a tree of kernels, float32."""
  return jax.tree.map(lambda w: jnp.zeros(w.shape), kernels)


def low_rank(key: jax.Array, kernels: Any, rank: int) -> Any:
  """Factors whose product is zero at first: A as PyTorch draws a Linear (Kaiming-uniform), B zero."""
  keys = iter(jax.random.split(key, len(jax.tree.leaves(kernels))))

  def factors(w):
    *depth, inputs, outputs = w.shape
    bound = inputs**-0.5
    a = jax.random.uniform(next(keys), (*depth, inputs, rank), minval=-bound, maxval=bound)
    return {"A": a, "B": jnp.zeros((*depth, rank, outputs))}

  return jax.tree.map(factors, kernels)


def _is_low_rank(change: Any) -> bool:
  """Whether a node of a tree of changes is the factors of one kernel's change."""
  return isinstance(change, Mapping) and "A" in change


def products(changes: Any, strength: Any) -> Any:
  """The changes themselves, times a strength."""
  product = lambda c: c["A"] @ c["B"] if _is_low_rank(c) else c
  return jax.tree.map(lambda c: strength * product(c), changes, is_leaf=_is_low_rank)


def factors(changes: Any, strength: Any) -> tuple[Any, Any] | None:
  """The trees of A and of B, with the strength in B; None if the changes are whole."""
  if not all(map(_is_low_rank, jax.tree.leaves(changes, is_leaf=_is_low_rank))):
    return None
  side = lambda name, by: jax.tree.map(lambda c: c[name] * by, changes, is_leaf=_is_low_rank)
  return side("A", 1.0), side("B", strength)
