"""One mesh for every program, with the axes `replica` and `fsdp` and batches over both, and arrays on it.

With several processes a mesh holds either the devices of one process, for work that each does alone, or all
devices of the job, for training. `put` moves arrays onto it, and `gather` back to the host.
"""

import functools
import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, Sharding
from jax.sharding import PartitionSpec as P

AXES = ("replica", "fsdp")
LARGE = 1 << 20  # elements above which it pays to hold a leaf in parts


def make_mesh(devices=None, fsdp: int = 1) -> jax.sharding.Mesh:
  """All devices (or those given) as replica x fsdp.

  Auto axes: the default of jax 0.10, Explicit, refuses Linen's convolutions with sharded weights.
  """
  devices = jax.devices() if devices is None else devices
  shape = (len(devices) // fsdp, fsdp)
  return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)


def everywhere(mesh: jax.sharding.Mesh) -> jax.sharding.Mesh:
  """The mesh of all processes if there are several, else `mesh`."""
  return mesh if jax.process_count() == 1 else make_mesh()


def share(mesh: jax.sharding.Mesh, rows: int) -> slice:
  """The rows of a batch, spread over the job's devices, that lie on this process's `mesh`."""
  if jax.process_count() == 1:
    return slice(0, rows)
  each, me = rows // jax.device_count(), jax.process_index()
  before = sum(d.process_index < me for d in jax.devices())
  return slice(before * each, (before + mesh.size) * each)


def batch(mesh: jax.sharding.Mesh, axes: tuple[str, ...] = AXES) -> NamedSharding:
  """The leading axis over all devices, or over some axes of the mesh."""
  return NamedSharding(mesh, P(axes) if axes else P())


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  return NamedSharding(mesh, P())


def replicate(tree: Any, mesh: jax.sharding.Mesh) -> Any:
  """Every leaf on every device of the mesh."""
  return jax.device_put(tree, replicated(mesh))


def by_shape(tree: Any, mesh: jax.sharding.Mesh, threshold: int | None = None) -> Any:
  """A sharding for every leaf: large ones along their largest axis that `fsdp` divides.

  Leaves below `threshold` elements (LARGE), or without such an axis, are replicated: gathering them
  costs more than it saves. Optimiser moments have their parameter's shape, hence its sharding.
  """
  parts, least = mesh.shape["fsdp"], LARGE if threshold is None else threshold

  def rule(x):
    shape = np.shape(x)
    axes = [a for a, n in enumerate(shape) if n % parts == 0 and n >= parts]
    if parts == 1 or not axes or math.prod(shape) < least:
      return replicated(mesh)
    axis = max(axes, key=lambda a: shape[a])
    return NamedSharding(mesh, P(*(None,) * axis, "fsdp"))

  return jax.tree.map(rule, tree)


def put(tree: Any, places: Any) -> Any:
  """`jax.device_put` of arrays that all processes hold alike, onto a mesh of all their devices.

  places: shardings, as a prefix of the tree. Nothing is sent: each process takes its part of its own.
  """
  if jax.process_count() == 1:
    return jax.device_put(tree, places)
  return jax.tree.map(lambda place, part: jax.tree.map(lambda x: _put(x, place), part), places, tree)


def _put(x: Any, place: Sharding) -> jax.Array:
  if isinstance(x, jax.Array):
    if x.sharding == place:
      return x
    if not x.is_fully_addressable:
      return jax.device_put(x, place)
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      return jax.jit(jax.random.wrap_key_data, out_shardings=place)(_put(jax.random.key_data(x), place))
    # A model that lies on this process's devices already is not copied.
    if place.is_fully_replicated and x.is_fully_replicated and x.sharding.device_set == place.addressable_devices:
      return jax.make_array_from_single_device_arrays(x.shape, place, [s.data for s in x.addressable_shards])
  x = np.asarray(x)
  x = x.astype(jax.dtypes.canonicalize_dtype(x.dtype), copy=False)
  return jax.make_array_from_callback(x.shape, place, lambda index: x[index])


def gather(tree: Any) -> Any:
  """Every whole array as numpy, on every process; all processes must call this."""
  return jax.tree.map(lambda x: np.asarray(x if _is_readable(x) else _replicate(replicated(x.sharding.mesh))(x)), tree)


def _is_readable(x: Any) -> bool:
  return not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated


@functools.cache
def _replicate(place: NamedSharding):
  return jax.jit(lambda x: x, out_shardings=place)


def sum_all(x: np.ndarray) -> np.ndarray:
  """The sum of all processes' arrays, which must have the same shape."""
  if jax.process_count() == 1:
    return x
  from jax.experimental import multihost_utils

  some = 1 << 6  # rows at a time: the arrays of all processes lie on each
  parts = [multihost_utils.process_allgather(x[at : at + some]) for at in range(0, len(x), some)]
  return np.concatenate([p.sum(0, dtype=x.dtype) for p in parts])
