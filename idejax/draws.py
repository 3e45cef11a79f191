"""Random numbers per example: a key for each row of the batch, so no draw depends on its company.

The key of a row is fold_in(fold_in(key(seed), step), row's index in the global batch): the same
on any number of devices and hosts, and after a resume. Each key is split, then used once.
"""

import jax
from jax.typing import ArrayLike


def keys(key: jax.Array, step: ArrayLike, index: ArrayLike) -> jax.Array:
  """Keys [B] of the rows `index` int32 [B] at a step."""
  return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, step), index)


def split(keys: jax.Array, count: int) -> tuple[jax.Array, ...]:
  """`count` independent arrays of keys [B] from one."""
  parts = jax.vmap(lambda k: jax.random.split(k, count))(keys)
  return tuple(parts[:, i] for i in range(count))


def normal(keys: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
  """Standard normal float32 [B, *shape]."""
  return jax.vmap(lambda k: jax.random.normal(k, shape))(keys)


def uniform(keys: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
  """Uniform float32 in [0, 1), [B, *shape]."""
  return jax.vmap(lambda k: jax.random.uniform(k, shape))(keys)


def integers(keys: jax.Array, below: int, shape: tuple[int, ...] = ()) -> jax.Array:
  """Uniform int32 in [0, below), [B, *shape]."""
  return jax.vmap(lambda k: jax.random.randint(k, shape, 0, below))(keys)
