"""The training loop: batches in, metrics out, checkpoints on time and on SIGTERM.

`train` is a generator, so that work between steps (validation, pictures) stands in the caller's own
loop. The device never waits: steps are dispatched ahead of it, and metrics are read in windows.
"""

import collections
import contextlib
import dataclasses
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from idejax import sharding
from idejax.errors import UserError, tell
from idejax.runtime import distributed
from idejax.training import plots
from idejax.training.board import Board
from idejax.training.checkpoint import Checkpoints
from idejax.training.step import PATIENCE, Batch, Metrics, State, Step

_AHEAD = 3  # steps that are dispatched before the oldest must have finished
_AGREE = 10  # steps between agreements of several processes on whether to save or stop


@dataclasses.dataclass(frozen=True)
class Run:
  """Where a run is stored and how long it takes."""

  folder: Path  # checkpoints/, metrics.jsonl and loss.png
  steps: int
  minutes: float | None = None  # stop, resumably, after this much time
  save_seconds: float = 240.0
  save_steps: int | None = None  # also after this many steps
  log_steps: int = 50  # metrics leave the device, and the progress line moves, this often
  name: str = "train"
  tensorboard: bool = False  # events too
  title: str = ""  # of loss.png; "": `name`
  people: tuple[str, ...] = ()  # of a crowd, for loss.png, in their order
  progress: Callable[[int, int, dict[str, Any]], None] | None = None  # see `_Log._write`; None: a line on stderr
  pictures: int = 0  # of a step, for the progress line; 0: it names none
  flops: float = 0.0  # of a step on all devices, for the progress line; 0: it names none
  peak: float = 0.0  # FLOP/s of all devices at most; 0: not known, and the line names no share of it


def resume(checkpoints: Checkpoints, state: State, facts: dict[str, Any], rows: int | None = None) -> State:
  """The run's newest state on the devices of `state`, or `state` itself for a new run; `rows` as in
  `Checkpoints.restore`.

  Raises UserError, which names them, if some facts (a JSON config) differ from those that the run was
  started with. A fact that the version of that time did not know counts as equal if it is off.
  """
  last = checkpoints.restore(state, rows)
  if last is None:
    return state
  facts = json.loads(json.dumps(facts))
  current = {k: v for k, v in facts.items() if v or k in last.facts}
  if odd := [k for k in sorted(current.keys() | last.facts.keys()) if current.get(k) != last.facts.get(k)]:
    lines = [f"{k} was {last.facts.get(k)!r} and is now {facts.get(k)!r}" for k in odd[:3]]
    raise UserError(
      f"{checkpoints.folder}: begun with other settings: {'; '.join(lines)}; give the same ones or another --out"
    )
  tell(f"continuing {checkpoints.folder.parent} at step {last.step}")
  return last.state


def resume_and_train(
  step: Step,
  state: State,
  frozen: Any,
  batch: Callable[[int], Batch],
  *,
  key: jax.Array,
  run: Run,
  facts: dict[str, Any],
  people: int | None = None,
) -> Iterator[tuple[int, State]]:
  """`train` from the last checkpoint in the run's folder, if there is one. Yields once if no step is left.

  people: see `resume`.
  """
  with Checkpoints(run.folder / "checkpoints") as checkpoints:
    state = resume(checkpoints, state, facts, people)
    count = steps_done(state)
    if count >= run.steps:
      yield count, state
    else:
      yield from train(step, state, frozen, batch, key=key, run=run, checkpoints=checkpoints, facts=facts)


def train(
  step: Step,
  state: State,
  frozen: Any,
  batch: Callable[[int], Batch],
  *,
  key: jax.Array,
  run: Run,
  checkpoints: Checkpoints,
  facts: dict[str, Any],
) -> Iterator[tuple[int, State]]:
  """Yields (steps done, state) after each step; a yielded state dies with the next step.

  `batch(i)` is the data of step i, a pure function: a resumed run sees what an uninterrupted one
  sees. It is called one step ahead in a thread. The last state is saved however the loop ends.
  Raises KeyboardInterrupt after SIGTERM or Ctrl-C, UserError when the loss stayed not finite.
  """
  count = saved_count = start = steps_done(state)
  log = _Log(run, start)
  begin_time = last_save = time.monotonic()
  in_flight: collections.deque[jax.Array] = collections.deque()
  with _Signals() as signals, ThreadPoolExecutor(1) as pool, contextlib.closing(log):
    ahead = pool.submit(batch, start) if start < run.steps else None
    caught = stop = failed = False
    try:
      while count < run.steps and not (stop or log.lost or log.over):
        assert ahead is not None  # there is one as long as steps are left
        began = time.monotonic()
        data = ahead.result()
        log.waited += time.monotonic() - began
        if count + 1 < run.steps:
          ahead = pool.submit(batch, count + 1)
        state, metrics = step(state, frozen, data, key)
        # A few steps ahead of the device, not more: a stop or a save waits for all of them.
        in_flight.append(metrics["loss"])
        if len(in_flight) > _AHEAD:
          jax.block_until_ready(in_flight.popleft())
        log.add(count, metrics)
        count += 1
        yield count, state
        now = time.monotonic()
        over = run.minutes is not None and now - begin_time > 60 * run.minutes
        caught, over, late = _agree(count, signals.caught, over, now - last_save > run.save_seconds)
        if late or run.save_steps is not None and count % run.save_steps == 0:
          checkpoints.save(count, state, facts)
          saved_count, last_save = count, now
        stop = caught or over
    except (Exception, KeyboardInterrupt):
      failed = jax.process_count() > 1  # then the others do not come to save: they would be waited for
      raise
    finally:
      # Also when the caller breaks off. A step that raised has consumed its state: there is nothing to save.
      if not failed:
        if count > saved_count and not any(x.is_deleted() for x in jax.tree.leaves(state)):
          checkpoints.save(count, state, facts)
        checkpoints.wait()
        log.flush()
  plot(run)
  (caught,) = distributed.agree(caught or signals.caught)
  if caught:
    raise KeyboardInterrupt(f"stopped and saved at step {count}")
  if log.lost:
    raise UserError(
      f"{run.name}: loss or gradient not finite {PATIENCE} times in a row at step "
      f"{count}; the last good state is saved in {checkpoints.folder}"
    )
  if count == run.steps:
    return
  if log.over:
    tell(f"{run.name}: no loss fell any more; done at step {count} of {run.steps}")
  else:
    tell(f"{run.name}: stopped at step {count} of {run.steps}; the same command continues")


def steps_done(state: State) -> int:
  """The steps that a state has done. A crowd's state holds this number for each person, not all on this process."""
  step: Any = state.step
  return int(np.max(step.addressable_data(0) if isinstance(step, jax.Array) else step))


def _agree(count: int, *requests: bool) -> tuple[bool, ...]:
  """For each request, whether any process makes it after `done` steps; several processes ask every _AGREE steps."""
  if jax.process_count() == 1:
    return requests
  return distributed.agree(*requests) if count % _AGREE == 0 else (False,) * len(requests)


class _Signals:
  """SIGTERM and Ctrl-C ask the loop to stop after the step; a second one interrupts at once."""

  def __enter__(self):
    self.caught, self._old = False, {}
    if threading.current_thread() is threading.main_thread():
      for s in (signal.SIGTERM, signal.SIGINT):  # a shell's & has Ctrl-C ignored: it stays so
        if signal.getsignal(s) != signal.SIG_IGN:
          self._old[s] = signal.signal(s, self._catch)
    return self

  def __exit__(self, *_):
    for s, handler in self._old.items():
      signal.signal(s, handler)

  def _catch(self, signum, frame):
    if self.caught:
      raise KeyboardInterrupt("interrupted twice")
    self.caught = True


class _Log:
  """metrics.jsonl, with one record per step, and the progress line. Only process 0 writes."""

  def __init__(self, run: Run, start: int):
    self.run, self.start = run, start
    self.lost = self.over = False  # not finite again and again; everybody's loss has stopped falling
    self._now: list[tuple[int, Any]] = []
    self._before: list[tuple[int, Any]] = []
    self._began = time.monotonic()
    self.waited = 0.0  # seconds in which the next batch was not there yet
    self._compiled: tuple[int, float, float] | None = None  # steps done, when, and waited, once the first has told
    self._file = None
    if jax.process_index() == 0:
      run.folder.mkdir(parents=True, exist_ok=True)
      path = run.folder / "metrics.jsonl"
      earlier = [r for r in records(path) if r["step"] < start]  # a killed run is ahead of its save
      path.write_text("".join(json.dumps(r) + "\n" for r in earlier))
      self._file = path.open("a")
    self._board = Board(run.folder, start) if run.tensorboard and self._file else None

  def add(self, step: int, metrics: Metrics):
    self._now.append((step, metrics))
    first = step == self.start  # so that something is seen at once after the compilation
    if len(self._now) < self.run.log_steps and not first:
      return
    if jax.process_count() == 1:
      for _, m in self._now:
        jax.tree.map(lambda x: x.copy_to_host_async(), m)
    self._write(self._before)
    self._before, self._now = self._now, []
    if first:
      self.flush()

  def flush(self):
    self._write(self._before + self._now)
    self._before, self._now = [], []

  def _write(self, window):
    if not window:
      return
    rows = [{"step": s} | m for (s, _), m in zip(window, map(_record, _fetch([m for _, m in window])))]
    self.lost = self.lost or any(r["in_a_row"] >= PATIENCE for r in rows)
    self.over = self.over or any(r.get("stopped") == 1 for r in rows)
    if self._file is None:
      return
    self._file.write("".join(json.dumps(r) + "\n" for r in rows))
    self._file.flush()
    if self._board:
      self._board.add(rows)
    if self.run.progress:  # (steps done, of how many, the step's record), every step in order, up to two windows late
      for r in rows:
        self.run.progress(r["step"] + 1, self.run.steps, r)
      return
    done, spent = rows[-1]["step"] + 1, time.monotonic() - self._began
    finite = [r["loss"] for r in rows if r["loss"] is not None]
    loss = sum(finite) / len(finite) if finite else math.nan
    skipped = f", {rows[-1]['skipped']} skipped" if rows[-1]["skipped"] else ""
    tell(f"{self.run.name} {done}/{self.run.steps}: loss {loss:.4f}{self._pace(done, spent)}{skipped}")

  def _pace(self, done: int, spent: float) -> str:
    """Speed and time left. The first step is left out: it waited for the compiler."""
    if self._compiled is None:
      self._compiled = done, spent, self.waited
      return f", first step after {spent:.0f} s"
    steps, seconds = done - self._compiled[0], spent - self._compiled[1]
    if steps <= 0:
      return ""
    waits = (self.waited - self._compiled[2]) / max(seconds, 1e-9)
    waiting = f", {100 * waits:.0f} % in wait for input" if waits > 0.01 else ""
    rate = steps / max(seconds, 1e-9)
    left = (self.run.steps - done) / rate
    if self.run.minutes is not None:
      left = min(left, max(0.0, 60 * self.run.minutes - spent))
    work = f", {rate * self.run.pictures:.3g} pictures/s" if self.run.pictures else ""
    work += f", {rate * self.run.flops / 1e12:.3g} TFLOP/s" if self.run.flops else ""
    work += (
      f" ({100 * rate * self.run.flops / self.run.peak:.3g} % of peak)" if self.run.flops and self.run.peak else ""
    )
    return f", {rate:.2f} steps/s{work}, {_clock(left)} left{waiting}"

  def close(self):
    for out in (self._file, self._board):
      if out is not None:
        out.close()


def _fetch(window: list[Metrics]) -> list[Metrics]:
  """The metrics of some steps, with every person's numbers on every process."""
  if jax.process_count() == 1:
    return window
  place = sharding.replicated(jax.tree.leaves(window)[0].sharding.mesh)
  arrays = jax.device_get(jax.jit(_stack, out_shardings=place)(window))
  return [jax.tree.map(lambda x, i=i: x[i], arrays) for i in range(len(window))]


def _stack(window: list[Metrics]) -> Metrics:
  return jax.tree.map(lambda *xs: jnp.stack(xs), *window)


def records(path: Path) -> list[dict[str, Any]]:
  """The lines of a metrics.jsonl; a last line that a kill cut off is left out."""
  if not path.exists():
    return []
  out = []
  for line in path.read_text().splitlines():
    with contextlib.suppress(ValueError):
      out.append(json.loads(line))
  return out


def plot(run: Run):
  """loss.png from metrics.jsonl."""
  if jax.process_index() == 0:
    plots.loss(run.folder / "loss.png", records(run.folder / "metrics.jsonl"), run.title or run.name, run.people)


def _record(metrics: dict[str, Any]) -> dict[str, Any]:
  """A step's metrics for JSON. A crowd's are means, all losses as `loss_each`, the sum of skipped steps, and
  the shortest run of skipped steps, because a crowd is lost only when everybody is."""
  out: dict[str, Any] = {}
  for name, x in metrics.items():
    x = np.asarray(x)
    if x.ndim == 0:
      out[name] = _number(x)
    elif name == "in_a_row":
      out[name] = int(x.min())
    elif name == "skipped":
      out[name] = int(x.sum())
    else:
      finite = x[np.isfinite(x)]
      out[name] = _number(finite.mean()) if finite.size else None
      if name == "loss":
        out["loss_each"] = [_number(v) for v in x]
  return out


def _number(x) -> float | int | None:
  value = np.asarray(x).item()
  return value if math.isfinite(value) else None  # JSON has no NaN


def _clock(seconds: float) -> str:
  minutes, s = divmod(round(seconds), 60)
  hours, m = divmod(minutes, 60)
  return f"{hours}h{m:02d}m" if hours else f"{m}m{s:02d}s"


__all__ = ["Run", "plot", "records", "resume", "steps_done", "train"]
