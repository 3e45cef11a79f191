"""One mesh for every program: axes `replica` and `fsdp`, batches over both."""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("replica", "fsdp")


def make_mesh(devices=None, fsdp: int = 1) -> jax.sharding.Mesh:
  """All devices (or those given) as replica x fsdp.

  Auto axes: the default of jax 0.10, Explicit, refuses Linen's convolutions with sharded weights.
  """
  devices = jax.devices() if devices is None else devices
  shape = (len(devices) // fsdp, fsdp)
  return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)


def batch(mesh: jax.sharding.Mesh) -> NamedSharding:
  """The leading axis over all devices."""
  return NamedSharding(mesh, P(AXES))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  return NamedSharding(mesh, P())


def replicate(tree: Any, mesh: jax.sharding.Mesh) -> Any:
  """Every leaf on every device of the mesh."""
  return jax.device_put(tree, replicated(mesh))


def by_shape(tree: Any, mesh: jax.sharding.Mesh, threshold: int = 1 << 20) -> Any:
  """A sharding for every leaf: large ones along their largest axis that `fsdp` divides.

  Leaves below `threshold` elements, or without such an axis, are replicated: gathering them
  costs more than it saves. Optimiser moments have their parameter's shape, hence its sharding.
  """
  parts = mesh.shape["fsdp"]

  def rule(x):
    shape = np.shape(x)
    axes = [a for a, n in enumerate(shape) if n % parts == 0 and n >= parts]
    if parts == 1 or not axes or math.prod(shape) < threshold: return replicated(mesh)
    axis = max(axes, key=lambda a: shape[a])
    return NamedSharding(mesh, P(*(None,) * axis, "fsdp"))

  return jax.tree.map(rule, tree)
