"""Progress on stderr while a person waits: a bar where work can be counted, a clock elsewhere."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator


def counting(total: int, unit: str, show: bool = True):
  """A tqdm bar that appears after a second and leaves nothing behind; in a log, a line now and then."""
  from tqdm import tqdm

  live = sys.stderr.isatty()
  return tqdm(
    total=total,
    disable=not show,
    unit=unit,
    delay=1.0,
    leave=False,
    dynamic_ncols=True,
    mininterval=0.1 if live else 30.0,
    maxinterval=1.0 if live else 60.0,
    file=sys.stderr,
    bar_format="{percentage:3.0f}% |{bar}| {elapsed} elapsed, {remaining} left",
  )


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
