"""Means with 95 % intervals, and differences of methods, by bootstrap over people and seeds.

Pictures are cells of a table person x seed (x prompt): people are drawn again, and so are the seeds
that all people share, because another noise would have given other pictures of the same people. Of people
who were trained several times a seed is a pair, the training's and the picture's: each of the two is drawn
again for itself, as Owen (2007) does for crossed factors, because another training would have given others.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

RESAMPLES = 1000


def interval(values: Sequence[float | None], people: Sequence[Hashable], seeds: Sequence[Hashable] | None = None,
             seed: int = 0) -> dict[str, float]:  # fmt: skip
  """Mean of the people's means, 95 % interval, numbers of people and of seeds; None is left out.

  Without `seeds` over people alone. One person has no interval: low and high are then nan.
  """
  draws, mean, n = _draws(values, people, seeds, seed)
  parts = [_parts(s) for s in seeds or ()]
  count = {"n": n, "seeds": len({p[-1] for p in parts}), "pictures": sum(v is not None for v in values)}
  if (trainings := len({p[:-1] for p in parts})) > 1:
    count["trainings"] = trainings
  if n < 2:
    return {"mean": mean, "low": float("nan"), "high": float("nan")} | count
  low, high = np.nanpercentile(draws, [2.5, 97.5])
  # Percentiles of a skewed few may miss the mean itself; an interval never does.
  return {"mean": mean, "low": min(float(low), mean), "high": max(float(high), mean)} | count


def difference(a: Mapping[Any, float | None], b: Mapping[Any, float | None], seed: int = 0) -> dict[str, float]:
  """The difference a - b of two methods' values by (person, ..., seed or (training, seed)), over the pictures that both
  have.

  As `interval`, with `above`: the share of resamples in which a is the greater.
  """
  both = [k for k in a if a[k] is not None and b.get(k) is not None]
  values = [float(a[k]) - float(b[k]) for k in both]  # type: ignore[arg-type]
  people, seeds = [k[0] for k in both], [k[-1] for k in both]
  draws, *_ = _draws(values, people, seeds, seed)
  above = float((draws > 0).mean()) if len(draws) else float("nan")
  return interval(values, people, seeds, seed) | {"above": above}


def _draws(values: Sequence[float | None], people: Sequence[Hashable], seeds: Sequence[Hashable] | None,
           seed: int) -> tuple[np.ndarray, float, int]:  # fmt: skip
  """(resampled means, the mean, how many people have a value)."""
  seeds = [0] * len(values) if seeds is None else seeds
  cells = [(p, s, v) for p, s, v in zip(people, seeds, values, strict=True) if v is not None]
  who = {p: i for i, p in enumerate(dict.fromkeys(p for p, _, _ in cells))}
  when = {s: i for i, s in enumerate(dict.fromkeys(s for _, s, _ in cells))}
  if not who:
    return np.zeros(0), float("nan"), 0
  total, count = np.zeros((2, len(who), len(when)))
  for p, s, v in cells:
    total[who[p], when[s]] += v
    count[who[p], when[s]] += 1
  rng = np.random.default_rng(seed)
  n, often = len(who), np.ones((len(when), RESAMPLES))
  for level in zip(*map(_parts, when)):  # trainings, seeds
    number = {x: i for i, x in enumerate(dict.fromkeys(level))}
    if (m := len(number)) > 1:
      often *= rng.multinomial(m, [1 / m] * m, RESAMPLES).T[[number[x] for x in level]]
  with np.errstate(invalid="ignore", divide="ignore"):
    means = (total @ often) / (count @ often)  # [people, resamples]; nan: none of the seeds drawn
  rows = rng.integers(n, size=(n, RESAMPLES))
  resample = np.take_along_axis(means, rows, 0)
  there = np.isfinite(resample)
  draws = np.where(there, resample, 0).sum(0) / np.maximum(there.sum(0), 1)
  draws = np.where(there.any(0), draws, np.nan)
  return draws, float((total.sum(1) / count.sum(1)).mean()), n


def _parts(seed: Hashable) -> tuple[Hashable, ...]:
  return seed if isinstance(seed, tuple) else (seed,)


def show(x: Mapping[str, float], digits: int = 3) -> str:
  """An interval in words; one person has none."""
  if not x["n"]:
    return "-"
  mean = f"{x['mean']:.{digits}f}"
  return mean if x["n"] < 2 else f"{mean} ({x['low']:.{digits}f} to {x['high']:.{digits}f})"
