"""On a CPU, small models get a device per core: XLA's small convolutions use one core well and several
badly. Large ones keep one device: their convolutions use all cores, and weights are held once."""

import contextlib
import os
from pathlib import Path

from idejax.runtime import distributed
from idejax.storage import hub

SMALL = 200e6  # bytes of UNet weights up to which a model is small
MOST = 8  # devices; each holds the weights and compiles its part


def use(model: str):
  """A device per core if the model, a folder or a built-in one, is small. Before jax has looked for devices."""
  if small(model):
    spread()


def spread():
  """A device per core; what the user has set stays, and so does the launcher of several processes."""
  asked = "JAX_NUM_CPU_DEVICES" in os.environ or "xla_force_host_platform_device_count" in os.environ.get(
    "XLA_FLAGS", ""
  )
  if asked or not distributed.alone() or (count := min(cores(), MOST)) < 2:
    return
  import jax

  with contextlib.suppress(RuntimeError):  # jax has looked already, for a program that calls idejax
    jax.config.update("jax_num_cpu_devices", count)


def small(model: str) -> bool:
  folder = hub.BUILT_IN.get(model, Path(model)) / "unet"
  found = [p.stat().st_size for p in folder.glob("*") if p.is_file()] if folder.is_dir() else []
  return bool(found) and sum(found) < SMALL


def cores() -> int:
  """Those that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
