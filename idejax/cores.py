"""On a CPU, small models get a device per core: XLA's small convolutions use one core well and several
badly. Large ones keep one device: their convolutions use all cores, and weights are held once. And
what a small step computes in is memory that the step before used."""

import contextlib
import ctypes
import os
import platform
from pathlib import Path

from idejax import distributed, hub

SMALL = 200e6  # bytes of UNet weights up to which a model is small
MOST = 8  # devices; each holds the weights and compiles its part


def use(model: str):
  """A device per core if the model, a folder or a built-in one, is small. Before jax has looked for devices."""
  if not small(model): return
  keep_memory()
  spread()


def spread():
  """A device per core; what the user has set stays, and so does the launcher of several processes."""
  asked = "JAX_NUM_CPU_DEVICES" in os.environ or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
  if asked or not distributed.alone() or (count := min(cores(), MOST)) < 2: return
  import jax

  with contextlib.suppress(RuntimeError):  # jax has looked already, for a program that calls idejax
    jax.config.update("jax_num_cpu_devices", count)


_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # glibc's mallopt


def keep_memory():
  """The buffers of one step are reused by the next. On Linux each of some hundred MB would be taken
  from the system and given back every step, and every page of it zeroed: a fifth of a small step's time.

  Large models are left alone: their steps take seconds, and memory given back may be what fits them in.
  """
  if platform.libc_ver()[0] != "glibc": return
  libc = ctypes.CDLL(None)
  libc.mallopt(_ARENA_MAX, 1)  # the other threads' arenas hold no large buffer
  libc.mallopt(_MMAP_MAX, 0)
  libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def small(model: str) -> bool:
  folder = hub.BUILT_IN.get(model, Path(model)) / "unet"
  found = [p.stat().st_size for p in folder.glob("*") if p.is_file()] if folder.is_dir() else []
  return bool(found) and sum(found) < SMALL


def cores() -> int:
  """Those that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
