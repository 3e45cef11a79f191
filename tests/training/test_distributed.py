"""Who this process is among many: flags, environment, Slurm, Open MPI, TPU; and two that meet."""

import os
import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idejax.errors import UserError
from idejax.runtime import cluster as d
from idejax.runtime import distributed

FLAGS = {"coordinator": "host:1234", "processes": "4", "process": "3"}
SLURM = {
  "SLURM_JOB_ID": "4097",
  "SLURM_STEP_NODELIST": "node[003-004,9]",
  "SLURM_NTASKS": "6",
  "SLURM_PROCID": "4",
  "SLURM_LOCALID": "1",
  "SLURM_NODEID": "2",
  "SLURM_STEP_TASKS_PER_NODE": "3,1,2",
}
OMPI = {
  "OMPI_COMM_WORLD_SIZE": "4",
  "OMPI_COMM_WORLD_RANK": "2",
  "OMPI_COMM_WORLD_LOCAL_RANK": "0",
  "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}


def test_alone_where_nothing_says_otherwise(tmp_path):
  assert d.detect({}, {}, tmp_path) is None
  assert d.detect({}, {k: v for k, v in SLURM.items() if k != "SLURM_STEP_NODELIST"}, tmp_path) is None  # sbatch
  assert d.detect({}, SLURM | {"SLURM_NTASKS": "1"}, tmp_path) is None
  assert d.detect({}, OMPI | {"OMPI_COMM_WORLD_SIZE": "1"}, tmp_path) is None


def test_flags_come_before_environment_and_that_before_slurm(tmp_path):
  env = {"IDEJAX_COORDINATOR": "other:1", "IDEJAX_PROCESSES": "2", "IDEJAX_PROCESS": "0"} | SLURM
  assert d.detect(FLAGS, env, tmp_path) == d.Cluster("flags", "host:1234", 4, 3)
  assert d.detect({}, env, tmp_path) == d.Cluster("environment", "other:1", 2, 0)
  assert d.detect({}, SLURM, tmp_path).how == "Slurm"


def test_flags_are_taken_out_of_the_arguments():
  args = ["sample", "--processes=4", "--prompt", "a", "--process", "3", "--coordinator", "host:1234"]
  assert distributed.take_flags(args) == (["sample", "--prompt", "a"], FLAGS)
  with pytest.raises(UserError, match="--process is without its value"):
    distributed.take_flags(["--process"])


@pytest.mark.parametrize(
  "change, says",
  [
    ({"process": "4"}, "--process is 4; of 4 processes it must be from 0 to 3"),
    ({"processes": "0"}, "--processes is 0"),
    ({"processes": "-1"}, "whole number"),
    ({"coordinator": "host"}, "HOST:PORT"),
    ({"coordinator": "host:70000"}, "HOST:PORT"),
    ({"process": ""}, "--process missing"),
  ],
)
def test_half_a_description_is_one_sentence(change, says):
  with pytest.raises(UserError, match=says):
    d.detect(FLAGS | change, {})


def test_slurm(tmp_path):
  # Several processes on the node take a GPU each, unless Slurm has given each its own.
  want = d.Cluster("Slurm", "node003:61441", 6, 4, (1,))
  assert d.detect({}, SLURM, tmp_path) == want
  assert d.detect({}, SLURM | {"CUDA_VISIBLE_DEVICES": "0"}, tmp_path) == want._replace(gpus=None)
  assert d.detect({}, SLURM | {"CUDA_VISIBLE_DEVICES": "0,1"}, tmp_path) == want
  assert d.detect({}, SLURM | {"SLURM_NODEID": "1"}, tmp_path) == want._replace(gpus=None)  # alone there
  assert d.detect({}, SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8"}, tmp_path) is None


@pytest.mark.parametrize(
  "nodes, first", [("a", "a"), ("a,b", "a"), ("n[1-4]", "n1"), ("n[007,9],m", "n007"), ("n-1-[02-03]-ib", "n-1-02-ib")]
)
def test_the_first_host_of_a_node_list(nodes, first):
  assert d.first_host(nodes) == first


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.data())
def test_tasks_of_a_node_are_read_from_slurms_short_form(counts, data):
  runs: list[list[int]] = []
  for c in counts:
    if runs and runs[-1][0] == c:
      runs[-1][1] += 1
    else:
      runs.append([c, 1])
  layout = ",".join(f"{c}(x{n})" if n > 1 else str(c) for c, n in runs)
  node = data.render_all(st.integers(0, len(counts) - 1))
  assert d.tasks_here(layout, node) == counts[node]


def test_open_mpi(tmp_path):
  with pytest.raises(UserError, match="IDEJAX_COORDINATOR"):
    d.detect({}, OMPI, tmp_path)
  uri = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"}
  assert d.detect({}, OMPI | uri, tmp_path) == d.Cluster("Open MPI", f"10.96.0.1:{61440 + 373920 % 4096}", 4, 2, (0,))
  here = d.detect({}, OMPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, tmp_path)
  assert here and here.coordinator.startswith("localhost:")


def test_tpu_hosts(tmp_path):
  pod = {"TPU_WORKER_HOSTNAMES": "a,b"}
  assert d.detect({}, pod, tmp_path) == d.Cluster("TPU")
  assert d.detect({}, {"TPU_WORKER_HOSTNAMES": "a"}, tmp_path) is None
  assert d.detect({}, pod | {"JAX_PLATFORMS": "cpu"}, tmp_path) is None
  for name, device in (("0000:00:04.0", "0x0042"), ("0000:00:05.0", "0x0063")):  # a network card; a v5e chip
    assert d.detect({}, {}, tmp_path) is None
    folder = tmp_path / "bus/pci/devices" / name
    folder.mkdir(parents=True)
    (folder / "vendor").write_text("0x1ae0\n")
    (folder / "device").write_text(device + "\n")
  assert d.detect({}, {}, tmp_path) == d.Cluster("TPU")


# Real processes.

MEET = """
import sys, warnings
from idejax.runtime import distributed
from idejax.errors import UserError
rest, flags = distributed.take_flags(sys.argv[1:])
try: distributed.start(flags, timeout=int(rest[0]))
except UserError as e: sys.exit(f"idejax: {e}")
import jax
print(jax.process_index(), jax.process_count(), jax.local_device_count(), jax.device_count())
"""


def free_port() -> int:
  with socket.socket() as s:
    s.bind(("", 0))
    return s.getsockname()[1]


def process(i, count, port, timeout):
  flags = "--xla_force_host_platform_device_count=2"
  return subprocess.Popen(
    [
      sys.executable,
      "-c",
      MEET,
      "--coordinator",
      f"localhost:{port}",
      f"--processes={count}",
      "--process",
      str(i),
      str(timeout),
    ],
    env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )


def test_two_processes_meet_and_see_each_others_devices():
  port = free_port()
  both = [process(i, 2, port, 120) for i in range(2)]
  out = [p.communicate(timeout=180) for p in both]
  assert [o[0].split() for o in out] == [["0", "2", "2", "4"], ["1", "2", "2", "4"]], out


@pytest.mark.parametrize(
  "i, says",
  [
    (0, "process 0 of 2 (flags) waited at localhost:"),
    (1, "process 1 of 2 (flags) did not reach process 0 at localhost:"),
  ],
)
def test_a_process_that_finds_no_other_says_so_in_a_sentence(i, says):
  p = process(i, 2, free_port(), 3)
  _, err = p.communicate(timeout=120)
  assert p.returncode
  assert says in err and len(err.splitlines()) == 1, err
