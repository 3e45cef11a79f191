"""Figures of pictures -> figures of methods: means with intervals, by category and person, differences."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from idejax.evaluation import distributions, likeness, metrics, scoring
from idejax.evaluation.intervals import difference, interval
from idejax.evaluation.judges import Findings, Judges
from idejax.evaluation.rows import Row
from idejax.evaluation.scoring import Scores

POINTS = 21  # of the ID (P) curve
SCHEMA = 1


def results(
  judges: Judges, rows: Sequence[Row], findings: Sequence[Findings], photos: Mapping[Path, Findings]
) -> dict[str, Any]:
  """Everything that a table shows, as JSON: see docs/evaluation.md. `scores` holds a row per picture."""
  judges, reasons = scoring.usable(judges, rows)
  findings, photos = [_step_down(s, judges) for s in findings], {p: _step_down(s, judges) for p, s in photos.items()}
  scores = scoring.score(judges, rows, findings, photos)
  unavailable = scoring.why_not(judges, rows)
  top = max([0.4, *(p for s in scores if (p := s.get("prompt")) is not None)])  # CLIPs differ in their scale
  thresholds = tuple(float(t) for t in np.round(np.linspace(0, np.ceil(20 * top) / 20, POINTS), 4))
  method = lambda name: _method(name, rows, scores, thresholds)
  methods = {name: method(name) for name in dict.fromkeys(r.method for r in rows)}
  if "inception" in judges.about():
    for name, m in methods.items():
      m["sets"] = _sets(_at_own_strength(name, rows, people=True), rows, findings, photos)
  for name, metric in metrics.METRICS.items():
    if name not in unavailable and not any(name in x["scores"] for x in methods.values()):
      unavailable[name] = "the judges gave no figure" if metric.needs else "not recorded"
  return {
    "schema": SCHEMA,
    "judges": {role: a._asdict() | _threshold(judges, role) for role, a in judges.about().items()}, "stepped_down": reasons,
    "unavailable": unavailable, "methods": methods,
    "differences": differences(rows, scores), "pictures": len(rows),
    "scores": [_picture(r, s) for r, s in zip(rows, scores)],
  }  # fmt: skip


def _threshold(judges: Judges, role: str) -> dict[str, float | None]:
  return {"threshold": judges.recognisers[role].threshold} if role in judges.recognisers else {}


def _step_down(s: Findings, judges: Judges) -> Findings:
  """The findings with embeddings under the roles that recognisers have after one stepped down."""
  names = {id(x): n for n, x in judges.recognisers.items() if n != "arcface"}
  first = judges.recognisers.get("arcface")
  own = names.get(id(first), "arcface")
  return s if own == "arcface" else s._replace(faces={**s.faces, "arcface": s.faces[own]})


def _at_own_strength(name: str, rows: Sequence[Row], people: bool = False) -> list[int]:
  """Indices of a method's pictures at the strength it was trained at, or of all if there are none."""
  mine = [i for i, r in enumerate(rows) if r.method == name and (r.person is not None or not people)]
  return [i for i in mine if rows[i].strength is None] or mine


def _method(name: str, rows: Sequence[Row], scores: Sequence[Scores], thresholds: Sequence[float]) -> dict[str, Any]:
  """The figures of a method at its trained strength; those of other strengths are in `strengths`."""
  where = _at_own_strength(name, rows)
  out: dict[str, Any] = {
    "people": len({rows[i].person for i in where} - {None}),
    "pictures": len(where),
    "scores": means(rows, scores, where),
  }
  categories = dict.fromkeys(rows[i].category for i in where if rows[i].category)
  out["categories"] = {c: means(rows, scores, [i for i in where if rows[i].category == c]) for c in categories}
  people = dict.fromkeys(rows[i].person for i in where if rows[i].person is not None)
  out["each"] = {str(p): _plain_means(scores, [i for i in where if rows[i].person == p]) for p in people}
  mine = [i for i, r in enumerate(rows) if r.method == name]
  strengths = sorted({s for i in mine if (s := rows[i].strength) is not None})
  out["strengths"] = {f"{s:g}": means(rows, scores, [i for i in mine if rows[i].strength == s]) for s in strengths}
  if picks := [i for i in where if "identity_prompt" in scores[i]]:
    own, text = ([scores[i][n] for i in picks] for n in ("identity", "prompt"))
    out["identity_prompt_curve"] = {
      "thresholds": thresholds,
      "values": likeness.gate_curve(own, [t or 0.0 for t in text], thresholds),
    }
  return out


def means(rows: Sequence[Row], scores: Sequence[Scores], where: Sequence[int]) -> dict[str, dict[str, float]]:
  """{metric: mean, interval, people, seeds, pictures} of some of the pictures."""
  people, seeds = [rows[i].person for i in where], [(rows[i].training, rows[i].seed) for i in where]
  columns = scoring.columns([scores[i] for i in where])
  return {n: x for n, v in columns.items() if (x := interval(v, people, seeds))["n"]}


def _plain_means(scores: Sequence[Scores], where: Sequence[int]) -> dict[str, float]:
  columns = scoring.columns([scores[i] for i in where])
  return {n: float(np.mean(numbers)) for n, v in columns.items() if (numbers := [x for x in v if x is not None])}


def _sets(
  where: Sequence[int], rows: Sequence[Row], findings: Sequence[Findings], photos: Mapping[Path, Findings]
) -> dict[str, Any]:
  """FID and KID of a method's pictures against the references, each photo once, with both numbers of pictures."""
  references = dict.fromkeys(r for i in where if (r := rows[i].reference) is not None)
  ours, real = (
    [s.features for s in x if s.features is not None]
    for x in ([findings[i] for i in where], [photos[r] for r in references])
  )
  if min(len(ours), len(real)) < 2:
    return {}
  a, b = np.stack(ours), np.stack(real)
  n = {"pictures": len(a), "references": len(b)}
  return {"fid": {"mean": distributions.fid(a, b)} | n, "kid": distributions.kid(a, b)._asdict() | n}


def differences(rows: Sequence[Row], scores: Sequence[Scores]) -> list[dict[str, Any]]:
  """The difference of every two methods in every metric, on the same people, prompts and seeds."""
  names = list(dict.fromkeys(r.method for r in rows))
  values: dict[str, dict[str, dict[Any, float | None]]] = {n: {} for n in names}
  for r, s in zip(rows, scores):
    if r.strength is not None:
      continue
    for metric, v in s.items():
      if metrics.METRICS[metric].better:
        values[r.method].setdefault(metric, {})[r.person, r.prompt, r.driver, (r.training, r.seed)] = v
  out = []
  for i, a in enumerate(names):
    for b in names[i + 1 :]:
      for metric in metrics.METRICS:
        if metric not in values[a] or metric not in values[b]:
          continue
        gap = difference(values[a][metric], values[b][metric])
        if gap["n"]:
          out.append({"a": a, "b": b, "metric": metric} | gap)
  return out


def _picture(r: Row, s: Scores) -> dict[str, Any]:
  return {"file": str(r.file), "method": r.method, "person": r.person, "text": r.prompt, "category": r.category,
          "seed": r.seed, "strength": r.strength} | ({"training": r.training} if r.training else {}) | s  # fmt: skip
