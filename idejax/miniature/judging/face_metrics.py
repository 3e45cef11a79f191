"""How good detectors, recognisers and classifiers are, measured on the files that users run."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Detections(NamedTuple):
  """The best face of each picture: found bool [N], scores [N], boxes [N, 4], points [N, 5, 2]; and the
  number of faces in each picture [N].
  """

  found: np.ndarray
  scores: np.ndarray
  boxes: np.ndarray
  points: np.ndarray
  faces: np.ndarray


def detect(path: Path, images: np.ndarray, side: int = 128, threshold: float = 0.5) -> Detections:
  """Detections by insightface's own SCRFD, as its FaceAnalysis runs it; images uint8 RGB [N, H, W, 3]."""
  from insightface.model_zoo.scrfd import SCRFD

  net = SCRFD(str(path))
  net.prepare(-1, input_size=(side, side), det_thresh=threshold)
  n = len(images)
  out = Detections(np.zeros(n, bool), np.zeros(n), np.zeros((n, 4)), np.zeros((n, 5, 2)), np.zeros(n, int))
  for i, image in enumerate(images):
    boxes, points = net.detect(np.ascontiguousarray(image[..., ::-1]), input_size=(side, side))
    out.faces[i] = len(boxes)
    if not len(boxes):
      continue
    best = boxes[:, 4].argmax()
    out.found[i], out.scores[i] = True, boxes[best, 4]
    out.boxes[i], out.points[i] = boxes[best, :4], points[best]
  return out


def detector(detections: Detections, boxes: np.ndarray, points: np.ndarray) -> dict[str, float]:
  """Recall (faces found with an overlap of half), mean error of the points in parts of the face's width, ..."""
  overlap = iou(detections.boxes, boxes)
  right = detections.found & (overlap > 0.5)
  width = boxes[:, 2] - boxes[:, 0]
  error = np.linalg.norm(detections.points - points, axis=-1)[right] / width[right, None]
  return {
    "recall": float(right.mean()),
    "point_error": float(error.mean()),
    "point_error_95th": float(np.percentile(error.mean(1), 95)),
    "box_overlap": float(overlap[right].mean()),
    "extra_faces": float((detections.faces > 1).mean()),
  }


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Boxes [N, 4] and [N, 4] -> overlap over union [N]."""
  low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])
  both = np.prod(np.maximum(high - low, 0), -1)
  area = lambda x: np.prod(x[:, 2:] - x[:, :2], -1)
  return both / np.maximum(area(a) + area(b) - both, 1e-9)


def verification(embeddings: np.ndarray, ids: np.ndarray) -> dict[str, float]:
  """Over all pairs of unit embeddings [N, D]: TAR at two FARs, equal error rate, and the thresholds.

  A threshold at FAR f lets at most the share f of strangers' pairs through.
  """
  similarity = embeddings @ embeddings.T
  upper = np.triu_indices(len(ids), 1)
  same, scores = (ids[:, None] == ids[None])[upper], similarity[upper]
  genuine, impostor = np.sort(scores[same]), np.sort(scores[~same])
  at = lambda far: float(impostor[min(len(impostor) - 1, int(np.ceil((1 - far) * len(impostor))))])
  tar = lambda t: float((genuine > t).mean())
  grid = np.linspace(-1, 1, 4001)
  misses = np.searchsorted(genuine, grid, "right") / len(genuine)
  passes = 1 - np.searchsorted(impostor, grid, "right") / len(impostor)
  k = int(np.abs(misses - passes).argmin())
  return {
    "tar@far1e-3": tar(at(1e-3)),
    "tar@far1e-2": tar(at(1e-2)),
    "equal_error": float((misses[k] + passes[k]) / 2),
    "threshold_equal_error": float(grid[k]),
    "threshold_far1e-3": at(1e-3),
    "threshold_far1e-2": at(1e-2),
    "mean_same": float(genuine.mean()),
    "mean_other": float(impostor.mean()),
    "pairs_same": len(genuine),
    "pairs_other": len(impostor),
  }


def at_threshold(embeddings: np.ndarray, ids: np.ndarray, threshold: float) -> dict[str, float]:
  """The shares of pairs of one person and of strangers above a threshold from other data."""
  upper = np.triu_indices(len(ids), 1)
  above = (embeddings @ embeddings.T > threshold)[upper]
  same = (ids[:, None] == ids[None])[upper]
  return {"tar_at_pack_threshold": float(above[same].mean()), "far_at_pack_threshold": float(above[~same].mean())}


def embed(path: Path, images: np.ndarray, batch: int = 64) -> np.ndarray:
  """uint8 crops [N, S, S, 3] -> unit embeddings [N, 512], by ONNX Runtime."""
  (out,) = run(path, images, batch)
  return out / np.linalg.norm(out, axis=1, keepdims=True)


def run(path: Path, images: np.ndarray, batch: int = 64) -> list[np.ndarray]:
  """Every output of an ONNX file for uint8 images [N, H, W, 3], which it takes in [-1, 1], NCHW."""
  import onnxruntime

  session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
  parts = []
  for i in range(0, len(images), batch):
    x = images[i : i + batch].astype(np.float32).transpose(0, 3, 1, 2) / 127.5 - 1
    parts.append(session.run(None, {"input": np.ascontiguousarray(x)}))
  return [np.concatenate(p) for p in zip(*parts)]


def classification(
  outputs: list[np.ndarray], names, labels: dict[str, np.ndarray], where: np.ndarray
) -> dict[str, Any]:
  """Share of right answers of each attribute among the pictures `where` bool [N]."""
  return {n: float((o.argmax(1) == labels[n])[where].mean()) for n, o in zip(names, outputs, strict=True)}
