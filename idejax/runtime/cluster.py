"""Which processes make up a job, and where process 0 is.

In this order: flags (--coordinator HOST:PORT --processes N --process I), the environment variables
IDEJAX_COORDINATOR, IDEJAX_PROCESSES and IDEJAX_PROCESS (launch/local.sh), Slurm, Open MPI, a TPU pod.
On a single host nothing is found, and nothing is needed.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from idejax.errors import UserError

PORT = 61440  # Slurm and Open MPI: this plus the job's number modulo 4096
NAMES = ("coordinator", "processes", "process")


class Cluster(NamedTuple):
  """This process among all. On a TPU pod only `how` is set: JAX finds out the rest."""

  how: str  # where this was read: flags, environment, Slurm, Open MPI, TPU
  coordinator: str | None = None  # host:port of process 0
  processes: int | None = None
  process: int | None = None
  gpus: tuple[int, ...] | None = None  # this process's own; None: all that it sees


def detect(
  flags: Mapping[str, str] | None = None, environ: Mapping[str, str] | None = None, sys: Path = Path("/sys")
) -> Cluster | None:
  """The cluster that this process belongs to; None: it is alone. UserError for half a description."""
  env = os.environ if environ is None else environ
  if flags:
    return _from_values(flags, "flags", {n: f"--{n}" for n in NAMES})
  names = {n: f"IDEJAX_{n.upper()}" for n in NAMES}
  if values := {n: env[v] for n, v in names.items() if env.get(v)}:
    return _from_values(values, "environment", names)
  return _slurm(env) or _open_mpi(env) or _tpu(env, sys)


def _from_values(values: Mapping[str, str], how: str, names: Mapping[str, str]) -> Cluster:
  """A cluster from three values. UserError if one is missing or out of range."""
  if missing := [names[n] for n in NAMES if not values.get(n)]:
    raise UserError(f"{', '.join(missing)} missing: {', '.join(names.values())} belong together")
  count, i = (_number(values[n], names[n]) for n in ("processes", "process"))
  if count < 1:
    raise UserError(f"{names['processes']} is {count}; it must be at least 1")
  if i >= count:
    raise UserError(f"{names['process']} is {i}; of {count} processes it must be from 0 to {count - 1}")
  host, _, port = values["coordinator"].rpartition(":")
  if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
    raise UserError(f"{names['coordinator']} is {values['coordinator']!r}; it must be HOST:PORT of process 0")
  return Cluster(how, values["coordinator"], count, i)


def _number(text: str, name: str) -> int:
  if not text.isdecimal():
    raise UserError(f"{name} is {text!r}; it must be a whole number")
  return int(text)


# Slurm.


def _slurm(env: Mapping[str, str]) -> Cluster | None:
  """A process that srun started; a batch script, or a shell under salloc, is alone."""
  names = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID")
  if not all(env.get(v) for v in names):
    return None
  job, nodes, count, i = (env[v] for v in names)
  count = env.get("SLURM_STEP_NUM_TASKS") or count  # srun -n in a larger allocation
  if _number(count, "SLURM_NTASKS") == 1:
    return None
  port = PORT + _number(job, "SLURM_JOB_ID") % 4096
  return Cluster(
    "Slurm",
    f"{first_host(nodes)}:{port}",
    int(count),
    _number(i, "SLURM_PROCID"),
    _own_gpus(
      env,
      tasks_here(env.get("SLURM_STEP_TASKS_PER_NODE", "1"), int(env.get("SLURM_NODEID", "0"))),
      env.get("SLURM_LOCALID"),
    ),
  )


def first_host(nodes: str) -> str:
  """node[003-007,9],gpu1 -> node003."""
  m = re.match(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\]([^,]*))?", nodes)
  if not m:
    raise UserError(f"SLURM_STEP_NODELIST is {nodes!r}, which names no host")
  return m[1] + (m[2] or "") + (m[3] or "")


def tasks_here(layout: str, node: int) -> int:
  """Slurm's 2(x3),1: the number of processes on node 0, 1, ..."""
  counts = []
  for part in layout.split(","):
    m = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
    if not m:
      raise UserError(f"SLURM_STEP_TASKS_PER_NODE is {layout!r}; it should be like 8(x4)")
    counts += [int(m[1])] * int(m[2] or 1)
  return counts[min(node, len(counts) - 1)]


def _own_gpus(env: Mapping[str, str], tasks: int, local: str | None) -> tuple[int, ...] | None:
  """Several processes on a node that see the same GPUs take one each."""
  one_visible = len(env.get("CUDA_VISIBLE_DEVICES", ",").split(",")) == 1
  return None if tasks == 1 or local is None or one_visible else (int(local),)


# Open MPI and TPU pods.


def _open_mpi(env: Mapping[str, str]) -> Cluster | None:
  if not env.get("OMPI_COMM_WORLD_SIZE"):
    return None
  count, i = (_number(env.get(f"OMPI_COMM_WORLD_{n}", "?"), f"OMPI_COMM_WORLD_{n}") for n in ("SIZE", "RANK"))
  if count == 1:
    return None
  here = env.get("OMPI_COMM_WORLD_LOCAL_SIZE", "1")
  # Version 4 names the host of mpirun, version 5 no longer does; on one host there is no question.
  uri = env.get("OMPI_MCA_orte_hnp_uri", "")
  m = re.match(r"(\d+)\.\d+;tcp6?://\[?([^,\]:]+)", uri)
  if int(here) == count:
    host = "localhost"
  elif m:
    host = m[2]
  else:
    raise UserError(
      "this Open MPI does not say where process 0 is: set IDEJAX_COORDINATOR=HOST:PORT, "
      "IDEJAX_PROCESSES and IDEJAX_PROCESS for each process, or use launch/slurm.sh"
    )
  job = int(m[1]) // 4096 if m else os.getppid()
  gpus = _own_gpus(env, int(here), env.get("OMPI_COMM_WORLD_LOCAL_RANK"))
  return Cluster("Open MPI", f"{host}:{PORT + job % 4096}", count, i, gpus)


def _tpu(env: Mapping[str, str], sys: Path) -> Cluster | None:
  """A TPU host, recognised by GKE's variables or by its chips; JAX asks Google's metadata for other hosts."""
  if env.get("JAX_PLATFORMS", "tpu").split(",")[0] not in ("", "tpu"):
    return None
  if len(env.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1 or env.get("MEGASCALE_COORDINATOR_ADDRESS"):
    return Cluster("TPU")
  if env.get("TPU_SKIP_MDS_QUERY"):
    return None
  return Cluster("TPU") if tpu_chips(sys) else None


def tpu_chips(sys: Path) -> int:
  """The number of TPUs among the PCI devices.

  They are recognised by device number: every machine of Google's cloud has some device of its vendor.
  """
  ids = [(_line(d / "vendor"), _line(d / "device")) for d in sys.glob("bus/pci/devices/*")]
  return sum(vendor == "0x1ae0" and device in _TPUS for vendor, device in ids)


_TPUS = {"0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"}  # v2 or v3, v4, v5p, v5e, v6e, 7x


def _line(path: Path) -> str:
  try:
    return path.read_text().strip()
  except OSError:
    return ""
