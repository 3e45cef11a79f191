"""On a CPU, small models get a device per core, because XLA's small convolutions use several cores badly.

Large models keep one device: their convolutions use all cores, and their weights are held once.
"""

import contextlib
import os
from pathlib import Path

from idejax.runtime import distributed
from idejax.storage import hub

SMALL = 200e6  # bytes of UNet weights up to which a model is small
MOST = 8  # devices; each holds the weights and compiles its part


def use(model: str):
  """A device per core if the model, a folder or a built-in one, is small. Call it before jax looks for devices."""
  if small(model):
    spread()


def spread():
  """A device per core, unless the user has set a number of devices or several processes share the job."""
  preset = "JAX_NUM_CPU_DEVICES" in os.environ or "xla_force_host_platform_device_count" in os.environ.get(
    "XLA_FLAGS", ""
  )
  if preset or not distributed.alone() or (count := min(cores(), MOST)) < 2:
    return
  import jax

  with contextlib.suppress(RuntimeError):  # jax has looked already, for a program that calls idejax
    jax.config.update("jax_num_cpu_devices", count)


def small(model: str) -> bool:
  """Whether the UNet of a model, a folder or a built-in one, has less than SMALL bytes; False if it is not here."""
  folder = hub.BUILT_IN.get(model, Path(model)) / "unet"
  sizes = [p.stat().st_size for p in folder.glob("*") if p.is_file()] if folder.is_dir() else []
  return bool(sizes) and sum(sizes) < SMALL


def cores() -> int:
  """The number of cores that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
