"""What embeddings of faces say: likeness, copies, variety, who is who in a picture of several.

Embeddings are unit rows; None stands for a picture in which no face was found.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Face = np.ndarray | None
PREFERRED = 0.23  # mean CLIP score of the pictures that SeFi-IDE's raters preferred


def unit(x: np.ndarray) -> np.ndarray:
  """Rows of length one, float32 [..., D]. ValueError for a row of zeros or of what is not finite."""
  x = np.asarray(x, np.float32)
  norm = np.linalg.norm(x, axis=-1, keepdims=True)
  if not np.isfinite(norm).all() or (norm == 0).any():
    raise ValueError("an embedding is zero or not finite")
  return x / norm


def cosine(a: Face, b: Face) -> float | None:
  """Cosine of two unit embeddings, in [-1, 1]; None where one is missing."""
  if a is None or b is None:
    return None
  return float(np.clip(np.dot(a, b), -1.0, 1.0))


def best(faces: np.ndarray, reference: np.ndarray, areas: np.ndarray, several: bool) -> int | None:
  """The index of the face [F, D] that is compared with the reference: the largest, or in a picture of
  several people the most similar; None without a face."""
  if not len(faces):
    return None
  return int(np.argmax(faces @ reference if several else areas))


def zero(identity: float | None) -> float:
  """Identity in which a picture without a face counts as 0."""
  return 0.0 if identity is None else identity


def gate(identity: float | None, prompt: float, threshold: float = PREFERRED) -> float:
  """SeFi-IDE's ID (P): identity where the prompt is followed, else 0."""
  return zero(identity) if prompt >= threshold else 0.0


def gate_curve(identity: Sequence[float | None], prompt: Sequence[float],
               thresholds: Sequence[float]) -> list[float]:  # fmt: skip
  """Mean ID (P) at each threshold. The threshold can decide which method wins, so the table shows them all."""
  return [float(np.mean([gate(i, p, t) for i, p in zip(identity, prompt, strict=True)])) for t in thresholds]


def threshold_at(impostors: Sequence[float], far: float = 1e-3) -> float:
  """The similarity above which at most the share `far` of strangers' pairs lie.

  ValueError if there are too few pairs to tell, fewer than 1 / far.
  """
  scores = np.sort(np.asarray(impostors, np.float64))
  if len(scores) < 1 / far:
    raise ValueError(f"{len(scores)} pairs cannot tell a false accept rate of {far:g}")
  return float(scores[min(len(scores) - 1, int(np.ceil((1 - far) * len(scores))))])


def accept(identity: float | None, threshold: float) -> float:
  """1 if a recogniser that lets one stranger in a thousand through would let this face through."""
  return float(identity is not None and identity > threshold)


def angle(a: np.ndarray, b: np.ndarray) -> float:
  """Between two unit embeddings, radians."""
  return float(np.arccos(np.clip(np.dot(a, b), -1.0, 1.0)))


def copy_score(generated: Face, reference: np.ndarray, second: np.ndarray, least: float = 1e-3) -> float | None:
  """How much nearer a face is to the photo it was made from than to another photo of the same person:

      (angle(generated, second) - angle(generated, reference)) / angle(second, reference)

  1: a copy of the reference; 0: as near to both; -1: a copy of the other. None without a face.
  """
  if generated is None:
    return None
  return (angle(generated, second) - angle(generated, reference)) / max(angle(second, reference), least)


def variety(faces: Sequence[Face]) -> list[float | None]:
  """Each face's mean distance 1 - cosine to the others, in pictures of one person for one prompt.

  The mean of all is the mean over pairs. None for a picture without a face, or if there is only one face.
  """
  where = [i for i, f in enumerate(faces) if f is not None]
  out: list[float | None] = [None] * len(faces)
  if len(where) < 2:
    return out
  rows = np.stack([f for f in faces if f is not None])
  near = rows @ rows.T
  total = near.sum(1) - np.diag(near)
  for i, t in zip(where, total):
    out[i] = float(1 - t / (len(where) - 1))
  return out


class Assignment(NamedTuple):
  """By person: the index of their face or None, its similarity to them, and whether it fits them best."""

  face: list[int | None]
  similarity: list[float | None]
  right: list[bool]  # there is a face, and it resembles its person more than any other of them


def assign(faces: np.ndarray, people: np.ndarray) -> Assignment:
  """Faces [F, D] to people [P, D], so that the sum of similarities is greatest (Hungarian method)."""
  from scipy.optimize import linear_sum_assignment

  out = Assignment([None] * len(people), [None] * len(people), [False] * len(people))
  if not len(faces) or not len(people):
    return out
  near = np.asarray(faces, np.float64) @ np.asarray(people, np.float64).T
  for f, p in zip(*linear_sum_assignment(near, maximize=True)):
    out.face[p], out.similarity[p] = int(f), float(near[f, p])
    out.right[p] = bool(near[f, p] >= near[f].max())
  return out
