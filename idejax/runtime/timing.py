"""Two sides of a benchmark in turn, so that a busy machine slows both; durations in words."""

import time
from collections.abc import Callable, Mapping
from typing import Any


def alternate(sides: Mapping[str, Callable[[], Any] | None], repeats: int, runs: int = 1) -> dict[str, list[float]]:
  """Seconds per run of each side: `repeats` numbers, each the mean of `runs` runs; none for a side of None."""
  times: dict[str, list[float]] = {name: [] for name in sides}
  for _ in range(repeats):
    for name, run in sides.items():
      if run is None:
        continue
      start = time.perf_counter()
      for _ in range(runs):
        run()
      times[name].append((time.perf_counter() - start) / runs)
  return times


def words(seconds: float) -> str:
  """A duration to three digits: "12.8 s", "90.1 ms", "7 us"."""
  return (
    f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.3g} us"
  )
