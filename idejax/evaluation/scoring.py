"""Pictures and what the judges saw in them -> figures, picture by picture. Everything is numpy here."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from idejax.errors import UserError
from idejax.evaluation import agreement, geometry, likeness, metrics
from idejax.evaluation.judges import Findings, Judges
from idejax.evaluation.rows import Row

Scores = dict[str, float | None]  # by metric; None: this picture has none (no face, nothing asked)


def usable(judges: Judges, rows: Sequence[Row]) -> tuple[Judges, dict[str, str]]:
  """The judges without the recognisers that a method here was trained with, and {role: why} of these.

  All methods of a table need the same judge, so it steps down for all of them. If ArcFace steps down,
  another recogniser takes its place.
  """
  methods = {d: r.method for r in rows for d in r.trained_with}
  out = {n: f"{n} trained {methods[x.about.digest]}: it cannot judge it" for n, x in judges.recognisers.items()
         if x.about.digest in methods}  # fmt: skip
  recognisers = {n: x for n, x in judges.recognisers.items() if n not in out}
  if "arcface" in out and "adaface" in recognisers:
    recognisers = {"arcface": recognisers["adaface"]} | recognisers
  elif "arcface" in out and "facenet" in recognisers:
    recognisers = {"arcface": recognisers["facenet"]} | recognisers
  return dataclasses.replace(judges, recognisers=recognisers, absent={**judges.absent, **out}), out


def score(
  judges: Judges, rows: Sequence[Row], findings: Sequence[Findings], photos: Mapping[Path, Findings]
) -> list[Scores]:
  """For each row the metrics whose judges and data are there; other metrics are left out.

  photos: the findings in references, second photos, drivers and base pictures.
  """
  missing = metrics.unavailable(judges.absent, judges.about())
  texts = _texts(judges, rows)
  out = [_one(judges, row, s, photos, texts, missing) for row, s in zip(rows, findings, strict=True)]
  if "variety" not in missing:
    groups = collections.defaultdict(list)
    for i, r in enumerate(rows):
      if r.person is not None:
        groups[r.method, r.person, r.prompt, r.strength].append(i)
    for members in groups.values():
      faces = [_face(rows[i], findings[i], photos, "arcface") for i in members]
      for i, v in zip(members, likeness.variety(faces)):
        out[i]["variety"] = v
  return out


def _one(judges: Judges, row: Row, s: Findings, photos: Mapping[Path, Findings], texts: Mapping[tuple[str, str], np.ndarray],
         missing: Mapping[str, str]) -> Scores:  # fmt: skip
  out: Scores = {}
  ok = lambda *names: all(n not in missing for n in names)
  cosine = None
  if ok("prompt"):
    cosine = agreement.prompt_score(s.picture["clip"], texts["clip", _text(judges, row)])
    out |= {"prompt": cosine, "clip_t": agreement.clip_t(cosine), "clip_score": agreement.clip_score(cosine)}
    if row.base:
      out["drift"] = agreement.drift(
        cosine, float(photos[row.base].picture["clip"] @ texts["clip", _text(judges, row)])
      )
  if ok("quality"):
    good, bad = (texts["clip_rn50", t] for t in agreement.QUALITY_TEXTS)
    out["quality"] = agreement.quality(s.picture["clip_rn50"], good, bad)
  if ok("asked"):
    classes = judges.attributes.parse_prompt(row.prompt)  # type: ignore[union-attr]
    out["asked"] = float(np.mean([s.attributes[n] == c for n, c in classes.items()])) if classes else None
  for name in ("train_seconds", "sample_seconds"):
    if getattr(row, name) is not None:
      out[name] = getattr(row, name)
  if row.person is None or row.reference is None:
    return out
  return out | _likeness(judges, row, s, photos, cosine, ok)


def _likeness(
  judges: Judges, row: Row, s: Findings, photos: Mapping[Path, Findings], cosine: float | None, ok
) -> Scores:
  """The metrics of a picture of a person that are about the face."""
  out: Scores = {}
  assert row.reference is not None
  reference = photos[row.reference]
  portrait = agreement.asks_for_the_face(row.prompt)
  if ok("detect"):
    out["detect"] = float(len(s.areas) > 0)
    if portrait:
      out["detect_face"] = out["detect"]
  if ok("identity"):
    face, own = _face(row, s, photos, "arcface"), _reference(reference, "arcface", row)
    identity = likeness.cosine(face, own)
    out |= {"identity": identity, "identity_zero": likeness.zero(identity)}
    if portrait:
      out["identity_face"] = identity
    if cosine is not None:
      out["identity_prompt"] = likeness.gate(identity, cosine)
    threshold = judges.recognisers["arcface"].threshold
    if threshold is not None:
      out["accepted"] = likeness.accept(identity, threshold)
    if row.second:
      out["copied"] = likeness.copy_score(face, own, _reference(photos[row.second], "arcface", row))
    if row.others:
      people = np.stack([own, *(_reference(photos[p], "arcface", row) for _, p in row.others)])
      out["assigned"] = float(np.mean(likeness.assign(s.faces["arcface"], people).right))
  for metric, role, scale in (("face_sim", "facenet", 100), ("adaface", "adaface", 1)):
    if ok(metric):
      out[metric] = _scale(likeness.cosine(_face(row, s, photos, role), _reference(reference, role, row)), scale)
  if ok("clip_full"):
    out["clip_full"] = _scale(likeness.cosine(s.picture["clip_large"], reference.picture["clip_large"]), 100)
  if ok("clip_face"):
    out["clip_face"] = _scale(likeness.cosine(s.crop.get("clip_large"), reference.crop.get("clip_large")), 100)
  if row.driver and ok("pose_error"):
    driver, k = photos[row.driver], _index(row, s, photos)
    j = driver.largest
    out["pose_error"] = geometry.pose_error(None if k is None else s.points[k], None if j is None else driver.points[j])
    if s.marks is not None and driver.marks is not None and k is not None and j is not None:
      out["expression_error"] = geometry.expression_error(s.marks[k], driver.marks[j])
  return out


def _index(row: Row, s: Findings, photos: Mapping[Path, Findings], role: str = "arcface") -> int | None:
  """Which face of a picture is compared with the reference."""
  if row.people == 1 or role not in s.faces or row.reference is None:
    return s.largest
  return likeness.best(s.faces[role], _reference(photos[row.reference], role, row), s.areas, True)


def _face(row: Row, s: Findings, photos: Mapping[Path, Findings], role: str) -> np.ndarray | None:
  k = _index(row, s, photos, role)
  return None if k is None else s.faces[role][k]


def _reference(photo: Findings, role: str, row: Row) -> np.ndarray:
  """The largest face of a photo. UserError if it shows none."""
  if photo.largest is None:
    raise UserError(f"the judges' detector finds no face in a photo of {row.person} ({row.reference})")
  return photo.faces[role][photo.largest]


def _scale(x: float | None, scale: float) -> float | None:
  return None if x is None else scale * x


def _text(judges: Judges, row: Row) -> str:
  return agreement.scored_text(row.prompt, "{}", judges.clips["clip"].person)


def _texts(judges: Judges, rows: Sequence[Row]) -> dict[tuple[str, str], np.ndarray]:
  """Embeddings of every text, each computed once."""
  per_role: dict[str, list[str]] = {}
  if "clip" in judges.clips:
    per_role["clip"] = list(dict.fromkeys(_text(judges, r) for r in rows))
  if "clip_rn50" in judges.clips:
    per_role["clip_rn50"] = list(agreement.QUALITY_TEXTS)
  return {(role, t): e for role, texts in per_role.items() for t, e in zip(texts, judges.clips[role].texts(texts))}


def columns(scores: Sequence[Scores]) -> dict[str, list[float | None]]:
  """{metric: a value per picture}, of the metrics that any picture has, in the table's order."""
  names = [n for n in metrics.METRICS if any(n in s for s in scores)]
  return {n: [s.get(n) for s in scores] for n in names}


def why_not(judges: Judges, rows: Sequence[Row]) -> dict[str, str]:
  """{metric: why it has no figure}: a judge, data or a threshold is missing."""
  out: dict[str, Any] = metrics.unavailable(judges.absent, judges.about())
  for name, m in metrics.METRICS.items():
    if name in out or not m.data:
      continue
    if not any(getattr(r, m.data) for r in rows):
      out[name] = f"no picture comes with {m.data!r}"
  arcface = judges.recognisers.get("arcface")
  if "accepted" not in out and arcface and arcface.threshold is None:
    out["accepted"] = "its recogniser has no threshold: give far_1e-3 in judges.json"
  if "identity_face" not in out and not any(agreement.asks_for_the_face(r.prompt) for r in rows):
    out |= dict.fromkeys(("identity_face", "detect_face"), "no prompt is 'a photo of the face of' the person")
  return out
