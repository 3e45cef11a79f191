"""Means of scores with 95 % intervals over people."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

RESAMPLES = 1000


def summary(rows: Sequence[Mapping[str, Any]], people: Sequence[int]) -> dict[str, dict[str, float]]:
  """Means with 95 % intervals over people. Pictures without a face are left out of `identity` and
  count as 0 in `identity_zero`."""
  zero = [0.0 if r["identity"] is None else r["identity"] for r in rows]
  columns = {
    "identity": [r["identity"] for r in rows],
    "identity_zero": zero,
    "asked": [r["asked"] for r in rows],
    "prompt": [r["prompt"] for r in rows],
    "face_found": [float(r["face"]) for r in rows],
  }
  return {name: interval(values, people) for name, values in columns.items()}


def interval(values: Sequence[float | None], groups: Sequence[int], seed: int = 0) -> dict[str, float]:
  """Mean of the groups' means, and the 95 % interval of a bootstrap over groups; None is left out."""
  kept = [(g, v) for g, v in zip(groups, values) if v is not None]
  by = {g: [v for h, v in kept if h == g] for g in dict.fromkeys(g for g, _ in kept)}
  means = np.array([np.mean(v) for v in by.values()])
  if not len(means):
    return {"mean": float("nan"), "low": float("nan"), "high": float("nan"), "n": 0}
  rng = np.random.default_rng(seed)
  draws = rng.choice(means, (RESAMPLES, len(means))).mean(1)
  low, high = np.percentile(draws, [2.5, 97.5])
  return {"mean": float(means.mean()), "low": float(low), "high": float(high), "n": len(means)}


def show(x: Mapping[str, float]) -> str:
  """An interval in words; one person has none, and what no prompt asks for is not measured."""
  if not x["n"]:
    return "not measured"
  return f"{x['mean']:.3f}" if x["n"] < 2 else f"{x['mean']:.3f} ({x['low']:.3f} to {x['high']:.3f})"
