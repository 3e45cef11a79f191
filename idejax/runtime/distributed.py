"""Several processes, one job, on JAX's own runtime: how they meet, agree, speak and end.

In the usual case of one process these functions do nothing and do not import jax.
"""

import collections
import contextlib
import ctypes
import io
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from idejax.errors import UserError, one_line, tell
from idejax.runtime.cluster import NAMES, Cluster, detect

TIMEOUT = 300  # seconds until all processes must have met
SILENCE = 30  # seconds after which a process that says nothing counts as dead


def take_flags(args: Sequence[str]) -> tuple[list[str], dict[str, str]]:
  """(other arguments, the values of --coordinator, --processes and --process)."""
  rest, values = [], {}
  todo = iter(args)
  for arg in todo:
    flag, equals, value = arg.partition("=")
    name = flag.removeprefix("--")
    if not flag.startswith("--") or name not in NAMES:
      rest.append(arg)
      continue
    text = value if equals else next(todo, None)
    if text is None:
      raise UserError(f"{flag} is without its value")
    values[name] = text
  return rest, values


def start(flags: Mapping[str, str] | None = None, *, timeout: int = TIMEOUT) -> Cluster | None:
  """Join the other processes, before any device is used; None where this process is alone.

  Raises UserError, one sentence, if they do not meet within `timeout` seconds.
  """
  cluster = detect(flags)
  if cluster is None or cluster.processes == 1:
    return None
  if not alone():
    return cluster  # this process has joined already
  if cluster.coordinator and cluster.process:
    _wait_for_first(cluster, cluster.coordinator, timeout)
  import jax

  # That service would take over SIGTERM; the training loop itself agrees on where to stop.
  jax.config.update("jax_enable_preemption_service", False)
  limits: Any = dict(
    initialization_timeout=timeout + 30, heartbeat_timeout_seconds=SILENCE, shutdown_timeout_seconds=7 * 86400
  )
  # JAX aborts with a stack trace if processes stay away: say it in a sentence before that.
  watch = threading.Timer(timeout, _give_up, (_unmet(cluster, timeout),))
  watch.daemon = True
  watch.start()
  try:
    if cluster.how == "TPU":
      jax.distributed.initialize(**limits)
    else:
      jax.distributed.initialize(
        cluster.coordinator,
        cluster.processes,
        cluster.process,
        cluster.gpus,
        cluster_detection_method="deactivate",
        **limits,
      )
  except (RuntimeError, ValueError, OSError) as e:
    raise UserError(f"{_unmet(cluster, timeout)} ({one_line(str(e))[:200]})") from e
  finally:
    watch.cancel()
  if cluster.how == "TPU":
    hush(cluster._replace(process=jax.process_index()))  # now it is known
  if jax.process_count() > 1:
    ctypes.CDLL(None).signal(int(signal.SIGABRT), _aborted)
  return cluster


# Among the processes of a job.


def alone() -> bool:
  """Whether this process has joined no others."""
  return _client() is None


def first() -> bool:
  """Whether this process writes what all share."""
  if alone():
    return True
  import jax

  return jax.process_index() == 0


def meet(name: str):
  """Wait until every process is here."""
  if alone():
    return
  from jax.experimental import multihost_utils

  multihost_utils.sync_global_devices(name)


def mine(things: Sequence[Any]) -> Sequence[Any]:
  """The part of `things` that this process writes; each thing is one process's."""
  if alone():
    return things
  import jax

  return things[jax.process_index() :: jax.process_count()]


@contextlib.contextmanager
def by_first(claim: Callable[[], contextlib.AbstractContextManager[Any]]) -> Iterator[None]:
  """A block inside `claim()`, which the first process enters for all."""
  with claim() if first() else contextlib.nullcontext():
    meet("claimed")
    yield


def agree(*requests: bool) -> tuple[bool, ...]:
  """For each request, whether any process makes it. Every process must call this."""
  if alone():
    return requests
  import numpy as np
  from jax.experimental import multihost_utils

  answers = multihost_utils.process_allgather(np.array([requests]), tiled=True)
  return tuple(bool(x) for x in answers.any(0))


def from_first(text: str) -> str:
  """The first process's text of up to 1000 bytes, on every process."""
  if alone():
    return text
  import numpy as np
  from jax.experimental import multihost_utils

  buffer = np.frombuffer(text.encode()[:1000].ljust(1000), np.uint8)
  return bytes(np.asarray(multihost_utils.broadcast_one_to_all(buffer))).decode(errors="replace").strip()


# How a job of several processes speaks, and how it ends.


class _Silenced(io.TextIOBase):
  """Stands in for stderr or stdout: prints nothing and remembers the last words, as they may be needed."""

  def __init__(self, real: Any):
    self.real, self.words = real, collections.deque[str](maxlen=50)

  def writable(self):
    return True

  def write(self, text: str) -> int:
    self.words.append(text)
    return len(text)


def hush(cluster: Cluster | None):
  """Silence this process unless it is the first, which speaks for all."""
  if not cluster or not cluster.process or os.environ.get("IDEJAX_TRACEBACK") or isinstance(sys.stderr, _Silenced):
    return
  sys.stderr, sys.stdout = _Silenced(sys.stderr), _Silenced(sys.stdout)


def leave(code: int) -> int:
  """The exit code of a process that is done. One that failed ends here, and with it the whole job.

  Where all fail alike, as over a wrong option, the first process's word is enough.
  """
  client = _client()
  if client is None or not code:
    return code
  import jax

  _leaving.append(code)
  try:
    client.wait_at_barrier("idejax-leaves", 3000)  # ms
    if not first():
      os._exit(code)
    time.sleep(0.3)  # JAX aborts, loudly, those who outlive the first process
  except jax.errors.JaxRuntimeError:
    if isinstance(sys.stderr, _Silenced):
      errors = [line for line in "".join(sys.stderr.words).splitlines() if line.startswith("idejax: ")]
      if errors:
        print(f"{errors[-1]} (process {jax.process_index()})", file=sys.stderr.real, flush=True)
  sys.stderr.flush()
  os._exit(code)


LOST = (
  "another process of this job has ended; what was finished stays, the same command continues, "
  "on any number of processes"
)


def is_loss_of_process(error: Exception) -> bool:
  """Whether an error of JAX says that another process is gone."""
  signs = ("Gloo", "onnection", "heartbeat", "UNAVAILABLE", "Socket closed", "NCCL", "coordination service")
  return not alone() and any(s in str(error) for s in signs)


_leaving: list[int] = []


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _aborted(_: int):
  """Print a sentence before JAX ends this process by abort() because another is gone."""
  if not _leaving:
    print(f"idejax: {LOST}", file=getattr(sys.stderr, "real", sys.stderr), flush=True)
  os._exit(_leaving[0] if _leaving else 2)


def _client() -> Any:
  """JAX's connection to the first process; None if this process is alone."""
  if "jax" not in sys.modules:
    return None
  from jax._src import distributed

  return distributed.global_state.client


def _wait_for_first(c: Cluster, address: str, timeout: int):
  host, _, port = address.rpartition(":")
  end = time.monotonic() + timeout
  while time.monotonic() < end:
    try:
      socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
      return
    except OSError:
      time.sleep(0.2)
  raise UserError(_unmet(c, timeout))


def _give_up(message: str):
  tell(f"idejax: {message}")
  os._exit(2)


def _unmet(c: Cluster, timeout: int) -> str:
  if c.how == "TPU":
    return f"the hosts of this TPU pod did not meet within {timeout} s: start the command on all workers"
  who = f"process {c.process} of {c.processes} ({c.how})"
  if c.process:
    return (
      f"{who} did not reach process 0 at {c.coordinator} within {timeout} s: does it run, and is that port "
      "open between the hosts?"
    )
  return (
    f"{who} waited at {c.coordinator} for the others, {timeout} s: do all run, and is that port "
    "free and open between the hosts?"
  )
