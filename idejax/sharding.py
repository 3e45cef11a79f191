"""One mesh for every program: axes `replica` and `fsdp`, batches over both."""

from typing import Any

import jax
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
