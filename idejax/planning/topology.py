"""Devices by name, `v5e:4x4` or `h200:8` without a TPU or GPU, `cpu:8` as virtual devices; and figures of chips."""

import contextlib
import importlib.util
import math
import os
import re
from typing import Any, NamedTuple

import jax

from idejax.errors import UserError, one_line
from idejax.planning import gpus


class Chip(NamedTuple):
  """Published figures of one chip: dense bfloat16 FLOP/s, bytes, bytes/s, bytes/s between chips."""

  flops: float
  memory: float
  bandwidth: float
  links: float
  devices: int = 1  # how many jax sees in a chip; they share the figures


_GB, _TERA = 2.0**30, 1e12
CHIPS = {
  "v2": Chip(45 * _TERA, 16 * _GB, 0.70e12, 248e9, 2),
  "v3": Chip(123 * _TERA, 32 * _GB, 0.90e12, 328e9, 2),
  "v4": Chip(275 * _TERA, 32 * _GB, 1.23e12, 300e9, 2),
  "v5e": Chip(197 * _TERA, 16 * _GB, 0.82e12, 200e9),
  "v5p": Chip(459 * _TERA, 95 * _GB, 2.77e12, 600e9),
  "v6e": Chip(918 * _TERA, 32 * _GB, 1.64e12, 448e9),
  "tpu7x": Chip(2307 * _TERA, 192 * _GB, 7.38e12, 1200e9, 2),
  "cpu": Chip(0.05 * _TERA, 4 * _GB, 10e9, 10e9),  # a core, roughly: for trying the command
}
GPUS = {  # per GPU of a node joined by NVLink: dense bfloat16 FLOP/s, bytes, bytes/s, bytes/s to the others
  "a100": Chip(312e12, 80e9, 2.039e12, 300e9),
  "h100": Chip(989e12, 80e9, 3.35e12, 450e9),
  "h200": Chip(989e12, 141e9, 4.8e12, 450e9),
  "b200": Chip(2250e12, 180e9, 7.7e12, 900e9),
}
NODE = 8  # GPUs joined by NVLink
# How jax calls devices: the first words that fit, longer ones before shorter.
_KINDS = {
  "tpu v2": "v2", "tpu v3": "v3", "tpu v4": "v4", "tpu v5 lite": "v5e", "tpu v5e": "v5e", "tpu v5": "v5p",
  "tpu v6 lite": "v6e", "tpu v6e": "v6e", "tpu7x": "tpu7x", "nvidia h100 80gb hbm3": "h100", "nvidia h200": "h200",
  "nvidia a100": "a100", "nvidia b200": "b200",
}  # fmt: skip
# v5e-16 and the like: chips -> the grid that is rented under that name.
_GRIDS = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}


def peak(device_kind: str) -> float | None:
  """Dense bfloat16 FLOP/s of a device as jax names its kind; None of those that no table here has, such as CPUs."""
  kind = next((k for words, k in _KINDS.items() if device_kind.lower().startswith(words)), None)
  if kind is None:
    return None
  figures = chip(kind)
  return figures.flops / figures.devices


def chip(kind: str) -> Chip:
  """The figures of a kind of TPU or GPU."""
  return CHIPS.get(kind) or GPUS[kind]


class Topology(NamedTuple):
  name: str  # v5e:4x4
  kind: str
  platform: str  # tpu, cuda or cpu
  size: int  # devices


def read(name: str) -> Topology:
  """The topology of a name. UserError tells how it should be written."""
  m = re.fullmatch(r"([a-z0-9]+)([:-])([0-9x]+)", name.strip().lower())
  kinds = ", ".join(k for k in CHIPS if k != "cpu")
  if gpu := re.match(r"(h100|h200|a100|b200|gb200|l4|l40s?|v100|t4|cuda|gpu|nvidia)\b", name.strip().lower()):
    if gpu[1] not in GPUS:
      raise UserError(f"--topology {name}: of GPUs plan knows {', '.join(GPUS)}; write h100:8, the GPUs of one node")
    if not m or not m[3].isdigit() or not 1 <= int(m[3]) <= NODE:
      raise UserError(f"--topology {name}: write {gpu[1]}:8, the GPUs of one node, {NODE} at most")
    return Topology(f"{m[1]}:{int(m[3])}", m[1], "cuda", int(m[3]))
  if not m or m[1] not in CHIPS:
    raise UserError(
      f"--topology is {name!r}; write KIND:GRID such as v5e:4x4, with KIND one of {kinds}; "
      f"GPUs of one node as h100:8 ({', '.join(GPUS)}); or cpu:8"
    )
  kind, grid = m[1], m[3]
  sizes = [int(x) for x in grid.split("x") if x]
  if not sizes or 0 in sizes:
    raise UserError(f"--topology {name}: the grid {grid} holds no chip")
  if kind == "cpu":
    return Topology(f"cpu:{math.prod(sizes)}", kind, "cpu", math.prod(sizes))
  if m[2] == "-":
    if kind not in ("v5e", "v6e") or sizes[0] not in _GRIDS or len(sizes) > 1:
      raise UserError(
        f"--topology {name}: write the grid, such as {kind}:2x2x1; v5e and v6e may have -{', -'.join(map(str, _GRIDS))}"
      )
    grid = _GRIDS[sizes[0]]
    sizes = [int(x) for x in grid.split("x")]
  dimensions = 3 if kind in ("v4", "v5p", "tpu7x") else 2
  if len(sizes) != dimensions:
    raise UserError(
      f"--topology {name}: {kind} is a grid of {dimensions} sides, such as {kind}:{'x'.join('221'[:dimensions])}"
    )
  return Topology(f"{kind}:{grid}", kind, "tpu", math.prod(sizes) * CHIPS[kind].devices)


def prepare():
  """Make this process run on the CPU and look for no TPU or GPU. Call it before the first device is used."""
  jax.config.update("jax_platforms", "cpu")
  # libtpu would ask Google's metadata server who it is, and refuse a second process.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")  # any will do: topologies go by their own names
  os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
  os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")


def devices(t: Topology) -> list[jax.Device]:
  """The topology's devices; TPUs and GPUs exist for the compiler only. UserError if that compiler is missing."""
  prepare()
  if t.platform == "cpu":
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
      with contextlib.suppress(RuntimeError):  # the process has devices already, perhaps enough
        jax.config.update("jax_num_cpu_devices", t.size)
    available = jax.devices("cpu")
    if len(available) < t.size:
      raise UserError(
        f"--topology {t.name}: this process has {len(available)} CPU devices; set "
        f"XLA_FLAGS=--xla_force_host_platform_device_count={t.size}"
      )
    return available[: t.size]
  if t.platform == "tpu" and importlib.util.find_spec("libtpu") is None:
    raise UserError(f'--topology {t.name} needs the TPU compiler, not a TPU: pip install -e ".[plan]"')
  if t.platform == "cuda" and gpus.plugin() is None:
    raise UserError(
      f'--topology {t.name} needs the CUDA compiler, not a GPU: pip install "jax[cuda12]=={jax.__version__}" (6 GB)'
    )
  from jax.experimental import topologies

  how: dict[str, Any] = {"topology_name": t.name}
  if t.platform == "cuda":
    description = gpus.describe(t.kind, GPUS[t.kind].memory, GPUS[t.kind].bandwidth)
    how = {"topology_name": t.kind, "target_config": description, "topology": f"1x1x{t.size}"}
  try:
    return list(topologies.get_topology_desc(platform=t.platform, **how).devices)
  except Exception as e:
    compiler = f"the {t.platform.upper()} compiler"
    raise UserError(f"--topology {t.name}: {compiler} refuses the topology: {one_line(str(e))[:200]}") from e
