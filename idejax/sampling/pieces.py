"""A sampler's run in pieces of about a second, so that a bar moves and Ctrl-C works."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from idejax.runtime.progress import counting, waiting
from idejax.sampling import sampler

Progress = Callable[[int, int, dict[str, Any]], None]  # (done, of how many, figures)


class Pieces:
  """Runs batches in a few calls of one program, by masking rows of the table, and shows a bar."""

  def __init__(self, progress: bool | Progress, pictures: int, rows: int):
    self.rows, self.piece, self.show = rows, 1, progress is True
    self.tell = progress if callable(progress) else None
    self.done, self.all = 0, pictures * rows
    self.bar = counting(self.all, "step", self.show)

  def run(self, program, state: sampler.State, table: sampler.Table, real: int) -> jax.Array:
    """Latents after all rows of `table`; `real` is the number of pictures without padding."""
    at = 0
    while at < self.rows:
      end = min(at + self.piece, self.rows)
      index = np.arange(table.active.size)
      start = time.perf_counter()
      with waiting("compiling, or a long first step", self.show and not self.bar.n):
        state = program(state, table._replace(active=table.active & (at <= index) & (index < end)))
        jax.block_until_ready(state.x)
      if at and time.perf_counter() - start < 1.0:
        self.piece *= 2
      elif not at:
        self.piece = 2  # the first call may have compiled
      self.bar.update((end - at) * real)
      self.done += (end - at) * real
      if self.tell:
        self.tell(self.done, self.all, {})
      at = end
    return state.x

  def close(self):
    self.bar.close()
