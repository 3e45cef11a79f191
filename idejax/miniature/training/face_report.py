"""Measures the trained face nets on people whom neither training nor tuning has seen, and writes the cards.

Thresholds come from the development split, figures from the held-out one.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from idejax.errors import UserError, tell
from idejax.miniature.judging import crops, face_metrics, judges
from idejax.miniature.training import face_data
from idejax.miniature.training.face_data import Faces
from idejax.nets import smallface
from idejax.storage.files import write_json

WEIGHTS = Path(__file__).parents[1] / "weights"
_FILES = {
  "faces": ("det.onnx", "rec.onnx", "pack.json"),
  "judges": ("recogniser.onnx", "attributes.onnx", "attributes.json", "card.json", "clip"),
}


class Split(NamedTuple):
  """A split's pictures and what the detector finds in them."""

  faces: Faces
  detections: face_metrics.Detections


def write_pack(out: Path, development: Faces, heldout: Faces):
  """Writes faces/pack.json: thresholds, figures, and how detector and recogniser were trained."""
  folder = out / "faces"
  pack: dict[str, Any] = {
    "name": "miniature",
    "licence": "Apache-2.0",
    "licence_url": "",
    "det_size": [128, 128],
    "det_threshold": 0.5,
  }
  detector, development_split, heldout_split = folder / "det.onnx", *_both(out, development, heldout)
  pack["thresholds"], metrics = _verify(folder / "rec.onnx", crops.RECOGNISER, development_split, heldout_split)
  metrics["detector"] = face_metrics.detector(heldout_split.detections, heldout.boxes, heldout.points)
  empties = face_data.empty(500, 99, heldout.images.shape[1])
  alarms = face_metrics.detect(detector, empties).found.mean()
  metrics["detector"]["false_alarms_on_empty_scenes"] = float(alarms)
  pack["metrics"] = _round(metrics)
  pack["training"] = _training(out, ("detector", "recogniser"), folder, _FILES["faces"][:2]) | {
    "method": "ArcFace on aligned crops of the celebrity and train people, and, because the time on one core was "
    "short, heads that read the world's own parameters off the embedding (thrown away afterwards)"
  }
  write_json(folder / "pack.json", pack)
  tell(f"{folder / 'pack.json'}: {json.dumps(pack['metrics'])}")


def write_card(out: Path, development: Faces, heldout: Faces):
  """Writes judges/card.json: the input of each judge and how good it is."""
  folder = out / "judges"
  splits = _both(out, development, heldout)
  thresholds, recogniser = _verify(folder / "recogniser.onnx", crops.JUDGE, *splits)
  photos = heldout.factors["style"] == 0
  outputs = face_metrics.run(folder / "attributes.onnx", np.asarray(heldout.images))
  truth = judges.labels(heldout.factors)
  right = lambda where: face_metrics.classification(outputs, smallface.ATTRIBUTES, truth, where)
  clip = _round(judges.measure(folder / "clip", heldout))
  card = {
    "recogniser": {
      "file": "recogniser.onnx",
      "side": crops.JUDGE.side,
      "zoom": crops.JUDGE.zoom,
      "input": "RGB in [-1, 1], N x 3 x side x side: five points to ArcFace's template, scaled by zoom about "
      "its centre",
      "thresholds": thresholds,
      "metrics": _round(recogniser),
    },
    "attributes": {
      "file": "attributes.onnx",
      "side": 64,
      "input": "RGB in [-1, 1], N x 3 x 64 x 64: the whole picture",
      "outputs": list(smallface.ATTRIBUTES),
      "accuracy": _round({"photo": right(photos), "all_styles": right(photos | True)}),
    },
    "clip": {
      "folder": "clip",
      "metrics": clip,
      "reads": [n for n in smallface.ATTRIBUTES if clip[n] > 0.85],
      "training_note": "contrast of pictures with captions and with prompts that differ in one factor, and "
      "attribute heads that were thrown away; what is not among `reads` its scores do not tell apart",
    },
    "licence": "Apache-2.0",
    "training": _training(
      out,
      ("judge_recogniser", "judge_attributes", "judge_clip"),
      folder,
      ("recogniser.onnx", "attributes.onnx", "clip/model.safetensors"),
    ),
  }
  write_json(folder / "card.json", card)
  tell(f"{folder / 'card.json'}: {json.dumps({k: v for k, v in card.items() if k != 'training'})}")


def _both(out: Path, development: Faces, heldout: Faces) -> tuple[Split, Split]:
  return _open_split(out, "development", development), _open_split(out, "heldout", heldout)


def ship(out: Path, kind: str, target: Path = WEIGHTS):
  """Copies a finished folder, `faces` or `judges`, to where the package looks for it."""
  for name in _FILES[kind]:
    source, to = out / kind / name, target / kind / name
    if not source.exists():
      raise UserError(f"{source} is missing: train it first")
    to.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
      shutil.copytree(source, to, dirs_exist_ok=True)
    else:
      shutil.copyfile(source, to)


def crop_faces(detector: Path, faces: Faces, cut: crops.Cut, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Crops by the detector's points of the pictures `where` bool [N], and the ids of the people in them.

  Pictures in which it finds no face are left out.
  """
  images = np.asarray(faces.images[where])
  detections = face_metrics.detect(detector, images)
  return crops.cut(images[detections.found], detections.points[detections.found], cut), faces.factors["id"][where][
    detections.found
  ]


def _verify(recogniser: Path, cut: crops.Cut, development: Split, heldout: Split):
  """(thresholds by the development photos, figures of held-out people: photos and all styles)."""

  def embed(split: Split, where):
    where = where & split.detections.found
    images = crops.cut(split.faces.images[where], split.detections.points[where], cut)
    return face_metrics.embed(recogniser, images), split.faces.factors["id"][where]

  photos = lambda split: split.faces.factors["style"] == 0
  development_figures = face_metrics.verification(*embed(development, photos(development)))
  thresholds = {
    "equal_error": development_figures["threshold_equal_error"],
    "far_1e-3": development_figures["threshold_far1e-3"],
  }
  vectors, ids = embed(heldout, photos(heldout))
  figures = {
    "photo": face_metrics.verification(vectors, ids),
    "all_styles": face_metrics.verification(*embed(heldout, photos(heldout) | True)),
  }
  figures["photo"] |= face_metrics.at_threshold(vectors, ids, thresholds["far_1e-3"])
  return _round(thresholds), figures


def _open_split(out: Path, split: str, faces: Faces) -> Split:
  """A split with its detections. These are cached for each detector: they take as long as all the rest."""
  detector = out / "faces" / "det.onnx"
  path = out / split / f"found-{hashlib.sha256(detector.read_bytes()).hexdigest()[:16]}-{faces.digest[:16]}.npz"
  if not path.exists():
    detections = face_metrics.detect(detector, np.asarray(faces.images))
    path.parent.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Any] = detections._asdict()
    np.savez(path, **columns)
  with np.load(path) as saved:
    return Split(faces, face_metrics.Detections(**saved))


def _training(out: Path, stages, folder: Path, files) -> dict[str, Any]:
  files_of = {s: out / s / "result.json" for s in stages}
  results = {s: json.loads(p.read_text()) for s, p in files_of.items() if p.exists()}
  digests = {f: hashlib.sha256((folder / f).read_bytes()).hexdigest() for f in files}
  return {**_round(results), "sha256": digests}


def _round(x):
  """A JSON value with all its floats rounded to four digits."""
  if isinstance(x, dict):
    return {k: _round(v) for k, v in x.items()}
  return round(x, 4) if isinstance(x, float) else x
