"""Progress on stderr while a person waits: a bar where work can be counted, a clock elsewhere."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

_labels = [""]  # of bars, the innermost last


@contextlib.contextmanager
def label(what: str) -> Iterator[None]:
  """Bars inside say what they count for, such as the class pictures."""
  _labels.append(what)
  try:
    yield
  finally:
    _labels.pop()


def counting(total: int, unit: str, show: bool = True):
  """A tqdm bar that appears after a second and leaves nothing behind; in a log, a line now and then."""
  if show and not sys.stderr.isatty():
    return Lines(total, unit, _labels[-1])
  from tqdm import tqdm

  return tqdm(
    total=total,
    desc=_labels[-1] or None,
    disable=not show,
    unit=unit,
    delay=1.0,
    leave=False,
    dynamic_ncols=True,
    mininterval=0.1,
    maxinterval=1.0,
    file=sys.stderr,
    bar_format="{desc}{percentage:3.0f}% |{bar}| {elapsed} elapsed, {remaining} left",
  )


class Lines:
  """A bar for logs: a line of its own every half minute, none for short work."""

  def __init__(self, total: int, unit: str, what: str = "", every: float = 30.0):
    self.total, self.n, self._what, self._every = total, 0, what or f"{unit}s", every
    self._began = self._said = time.monotonic()

  def update(self, n: int = 1):
    self.n += n
    now = time.monotonic()
    if now - self._said < self._every or self.n >= self.total:
      return
    self._said = now
    left = (now - self._began) / max(self.n, 1) * (self.total - self.n)
    print(f"{self._what}: {100 * self.n // max(self.total, 1)} %, {left:.0f} s left", file=sys.stderr, flush=True)

  def close(self):
    pass


@contextlib.contextmanager
def waiting(what: str, show: bool = True) -> Iterator[None]:
  """Say what is going on if it takes longer than two seconds: with a clock on a terminal, else once."""
  if not show:
    yield
    return
  over, live, start = threading.Event(), sys.stderr.isatty(), time.monotonic()

  def tick():
    if over.wait(2.0):
      return
    if not live:
      print(f"{what} ...", file=sys.stderr, flush=True)
    while live and not over.wait(0.5):
      print(f"\r{what} ... {time.monotonic() - start:.0f} s ", end="", file=sys.stderr, flush=True)
    if live:
      print("\r\033[K", end="", file=sys.stderr, flush=True)

  clock = threading.Thread(target=tick, daemon=True)
  clock.start()
  try:
    yield
  finally:
    over.set()
    clock.join()
