"""Checkpoints of a run: written in the background, verified when read, the last two kept.

A state is stored as {dotted path: array}, so it can be read back onto any number of devices and
compared leaf by leaf with what the program expects. Beside each step lies `STEP.sha256`, the
digests of its files: storage formats notice a truncated file, but not every flipped bit.
"""

import errno
import fcntl
import hashlib
import json
import logging
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint import v1 as ocp

from idejax import tree
from idejax.errors import UserError, tell
from idejax.runtime import distributed


class Restored(NamedTuple):
  step: int
  state: Any
  facts: dict[str, Any]


class Checkpoints:
  """The checkpoints of one run folder. A context manager: leaving it waits for the last write."""

  def __init__(self, folder: Path, keep: int = 2):
    self.folder = Path(folder).absolute()
    self._pending: _Digest | None = None
    self.folder.mkdir(parents=True, exist_ok=True)
    self._lock = _lock(self.folder) if jax.process_index() == 0 else None
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax reports every save at INFO
    policy = ocp.training.preservation_policies.LatestN(keep)
    self._orbax = ocp.training.Checkpointer(self.folder, preservation_policy=policy, cleanup_tmp_directories=True)

  def __enter__(self):
    return self

  def __exit__(self, kind, *_):
    # A failed process does not wait for the others of its job, which would not come.
    if kind in (None, GeneratorExit) or jax.process_count() == 1:
      self.close()

  def steps(self) -> list[int]:
    """The steps of all checkpoints, ascending."""
    return sorted(c.step for c in self._orbax.checkpoints)

  def save(self, step: int, state: Any, facts: Mapping[str, Any]):
    """Start writing; the state may be donated right after. `facts` is JSON: config, data position.

    Waits for the previous save, so at most one is under way.
    """
    self.wait()
    leaves = tree.flatten(state)
    # On a CPU the writer would read the very buffers that the next step overwrites.
    if jax.default_backend() == "cpu":
      leaves = jax.jit(_copies)(leaves)
    response = self._orbax.save_checkpointables_async(step, {"state": leaves}, force=True, custom_metadata=dict(facts))
    if response is None:
      raise RuntimeError(f"orbax refused to save step {step}")
    self._pending = _Digest(response, self.folder, step)

  def wait(self):
    """Wait until everything is on disk. Raises what the background writer raised."""
    pending, self._pending = self._pending, None
    if pending is not None:
      pending.finish()

  def close(self):
    try:
      self.wait()
    finally:
      self._orbax.close()
      if self._lock is not None:
        self._lock.close()

  def restore(self, like: Any, rows: int | None = None) -> Restored | None:
    """The newest undamaged checkpoint, or None if there is none at all.

    `like` has the state's structure, shapes and dtypes; where its leaves are on a mesh (arrays or
    ShapeDtypeStructs with a sharding), so will be the state's. Damaged checkpoints are reported and
    moved to damaged/.

    rows: the number of people in a crowd without the padding, which repeats the last person and may be
      longer or shorter than in the checkpoint.

    Raises UserError if all checkpoints are damaged, or if the newest good one is of another model.
    """
    self.wait()
    steps = json.loads(distributed.from_first(json.dumps(self.steps())))
    for step in reversed(steps):
      reason = distributed.from_first(damage(self.folder, step))
      if not reason:
        try:
          return self._load(step, like, rows)
        except UserError:
          raise
        except Exception as e:  # orbax, tensorstore and zarr raise nearly anything for bad files
          if _digests(self.folder, step).exists():
            raise  # the files are intact, so the fault is elsewhere
          reason = f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"
      tell(f"checkpoint {self.folder / str(step)} is damaged ({reason}); trying the one before")
      self._set_aside(step)
    if steps:
      raise UserError(
        f"{self.folder}: every checkpoint is damaged (set aside in damaged/); remove "
        "the run folder to start afresh, or copy a good checkpoint back"
      )
    return None

  def _load(self, step: int, like: Any, rows: int | None) -> Restored:
    expected = tree.flatten(like)
    meta = self._orbax.checkpointables_metadata(step)
    stored = {k: tuple(v.shape) for k, v in meta.metadata["state"].items()}
    shapes = {k: tuple(np.shape(v)) for k, v in expected.items()}
    has_padding = rows is not None and all(a[0] >= rows for a in (*stored.values(), *shapes.values()) if a)
    comparable = (lambda shape: shape[1:]) if has_padding else (lambda shape: shape)
    if odd := sorted(
      k
      for k in stored.keys() | shapes.keys()
      if k not in stored or k not in shapes or comparable(stored[k]) != comparable(shapes[k])
    ):
      lines = [f"{k}: {stored.get(k, 'absent')} there, {shapes.get(k, 'absent')} here" for k in odd[:4]]
      raise UserError(
        f"checkpoint {self.folder / str(step)} is of another model; {len(odd)} leaves differ: {'; '.join(lines)}"
      )
    places = jax.tree.map(_abstract, expected)
    context = ocp.Context()
    context.array.loading.enable_padding_and_truncation = stored != shapes
    with context:
      leaves = self._orbax.load_checkpointables(step, {"state": places})["state"]
    if rows is not None and stored != shapes:
      leaves = _repeat_last(leaves, places, rows)
    return Restored(step, tree.unflatten(like, leaves), dict(meta.custom_metadata or {}))

  def _set_aside(self, step: int):
    if jax.process_index() == 0:
      target = self.folder / "damaged" / str(step)
      shutil.rmtree(target, ignore_errors=True)
      target.parent.mkdir(exist_ok=True)
      (self.folder / str(step)).rename(target)
      _digests(self.folder, step).unlink(missing_ok=True)
    distributed.meet("set aside")
    self._orbax.reload()


class _Digest:
  """Waits for one save in a thread, then writes the digests of its files."""

  def __init__(self, response, folder: Path, step: int):
    self._error: BaseException | None = None
    self._work = response, folder, step
    self._thread = threading.Thread(target=self._run, name=f"checkpoint-{step}")
    self._thread.start()

  def _run(self):
    response, folder, step = self._work
    try:
      response.result()
      if jax.process_index():
        return
      text = json.dumps(_hash(folder / str(step)), indent=1)
      temporary = _digests(folder, step).with_suffix(".tmp")
      temporary.write_text(text)
      temporary.replace(_digests(folder, step))
      for file in folder.glob("*.sha256"):  # digests of checkpoints that orbax has removed
        if not (folder / file.stem).exists():
          file.unlink(missing_ok=True)
    except BaseException as e:  # raised again by the main thread, in finish
      self._error = e

  def finish(self):
    self._thread.join()
    if self._error is not None:
      raise self._error


def _lock(folder: Path):
  """A lock that is held while a run is open; the kernel releases it however the process ends."""
  file = (folder / "lock").open("w")
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as e:
    file.close()
    if e.errno not in (errno.EAGAIN, errno.EACCES):
      return None  # no locks on this file system
    raise UserError(f"{folder.parent} is in use by another process; wait for it or stop it") from None
  return file


def _copies(leaves):
  return jax.tree.map(jnp.copy, leaves)


def _repeat_last(leaves, places, rows: int):
  """A crowd's leaves in which the last of `rows` people replaces the padding behind it."""
  pick = lambda x: x[np.minimum(np.arange(len(x)), rows - 1)]
  out = jax.tree.map(lambda p: p.sharding, places)
  return jax.jit(lambda t: jax.tree.map(pick, t), out_shardings=out, donate_argnums=0)(leaves)


def _abstract(x):
  # Never left to orbax: it would ask for the devices that the checkpoint was saved from.
  sharding = getattr(x, "sharding", None) or SingleDeviceSharding(jax.local_devices()[0])
  return jax.ShapeDtypeStruct(np.shape(x), jnp.result_type(x), sharding=sharding)


def _digests(folder: Path, step: int) -> Path:
  return folder / f"{step}.sha256"


def _hash(folder: Path) -> dict[str, str]:
  files = sorted(p for p in folder.rglob("*") if p.is_file())
  return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def damage(folder: Path, step: int) -> str:
  """A sentence on the damage to a step's files; empty if there is none, or if a kill left no digests."""
  if jax.process_index() or not _digests(folder, step).exists():
    return ""
  try:
    digests = json.loads(_digests(folder, step).read_text())
  except ValueError:
    return ""  # the digests themselves are broken: the loader will look at the data
  actual = _hash(folder / str(step))
  odd = [k for k in digests if actual.get(k) != digests[k]]
  return f"{len(odd)} of {len(digests)} files differ, such as {odd[0]}" if odd else ""
