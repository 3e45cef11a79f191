"""Draws loss.png from a run's metrics.jsonl, as a figure in a paper."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_LINES = 8  # the most people with a line each; more are drawn as a band
_MOST = 4000  # points of a faint line: more are not visible


def loss(path: Path, rows: Sequence[Mapping[str, Any]], title: str, people: Sequence[str] = ()):
  """The loss by step: every step faint, with a running mean over it, on a logarithmic axis if all losses are positive.

  rows: records of steps, {"step": s, "loss": x or None}, of a crowd with "loss_each", a number per person.
  people: names, in that order. Up to eight have a line each; of more, the median and the middle 80 % are drawn.
  Writes nothing where no step has a loss.
  """
  points = [r for r in rows if r.get("loss") is not None]
  if not points:
    return
  from matplotlib import ticker
  from matplotlib.figure import Figure  # no pyplot: it would look for a display

  figure = Figure(figsize=(7, 4.2), layout="constrained")
  axes = figure.subplots()
  x = np.array([r["step"] for r in points]) + 1
  each = _each(points)
  width = window(len(x))
  if each is None or each.shape[1] == 1:
    y = np.array([r["loss"] for r in points], float)
    _line(axes, x, y, width, "mean of {} steps" if width > 1 else "loss", "each step")
  elif each.shape[1] <= _LINES:
    for i, y in enumerate(each.T):
      _line(axes, x, y, width, people[i] if i < len(people) else f"person {i + 1}")
  else:
    _band(axes, x, each, width)
  if min(v for line in axes.lines for v in np.ravel(line.get_ydata()) if np.isfinite(v)) > 0:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5), numticks=12))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:g}"))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())
  axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
  axes.set(xlabel="training step", ylabel="loss", title=title)
  axes.grid(alpha=0.25, lw=0.6)
  axes.spines[["top", "right"]].set_visible(False)
  axes.legend(frameon=False, fontsize="small")
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  figure.savefig(temporary, dpi=150, format="png")
  temporary.replace(path)


def window(count: int) -> int:
  """Steps that the running mean spans: a twentieth of all, an odd number."""
  return max(1, count // 20) | 1


def smooth(y: np.ndarray, width: int) -> np.ndarray:
  """The running mean of y [T] over `width` steps around each; values that are not finite are left out."""
  ones = np.ones(min(width, len(y) - 1 + len(y) % 2))  # odd, and not longer than y
  finite = np.isfinite(y)
  total = np.convolve(np.where(finite, y, 0.0), ones, "same")
  count = np.convolve(finite.astype(float), ones, "same")
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _each(rows: Sequence[Mapping[str, Any]]) -> np.ndarray | None:
  """Everybody's losses [T, N], NaN where there is none; None for a run of one person."""
  lists = [r.get("loss_each") for r in rows]
  if not all(lists) or len({len(x) for x in lists if x}) != 1:
    return None
  return np.array([[np.nan if v is None else v for v in x] for x in lists if x], float)


def _line(axes: Any, x: np.ndarray, y: np.ndarray, width: int, label: str, faint: str = ""):
  """Draws a running mean over its raw values; `faint` names the latter in the legend."""
  every = max(1, len(x) // _MOST)
  (mean,) = axes.plot(x, smooth(y, width), lw=1.6, label=label.format(width), zorder=3)
  if width > 1:
    axes.plot(x[::every], y[::every], lw=0.5, alpha=0.3, color=mean.get_color(), label=faint or None)


def _band(axes: Any, x: np.ndarray, each: np.ndarray, width: int):
  """Draws the people's median, and the band in which the middle 80 % of them lie."""
  means = np.stack([smooth(y, width) for y in each.T])
  low, middle, high = np.nanpercentile(means, [10, 50, 90], axis=0)
  count = each.shape[1]
  (line,) = axes.plot(x, middle, lw=1.6, label=f"median of {count} people", zorder=3)
  axes.fill_between(x, low, high, alpha=0.25, lw=0, color=line.get_color(), label=f"middle 80 % of {count} people")
