"""A cache of the networks' answers about a photo, keyed by digests, so that they run once per photo.

It holds what takes time to compute (boxes, points, embedding, landmarks, parsed classes), but no picture.
"""

import contextlib
import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from idejax.faces import npz
from idejax.storage.files import cache

_VERSION = 1


class Answers(NamedTuple):
  """All faces from left to right, and the networks' other outputs for the chosen one."""

  boxes: np.ndarray  # float32 [N, 4]
  scores: np.ndarray  # float32 [N]
  points: np.ndarray  # float32 [N, 5, 2]
  chosen: np.ndarray  # int64 []
  embedding: np.ndarray  # float32 [512], L2-normalised
  marks: np.ndarray | None  # float32 [106, 2]
  labels: np.ndarray | None  # uint8 [512, 512], classes of the portrait


def path(photo: str, pack: str, parsing: str | None, face: int | None) -> Path | None:
  """The file for the answers with these digests, which need not exist; None if the cache is off."""
  key = hashlib.sha256(repr((_VERSION, photo, pack, parsing, face)).encode()).hexdigest()
  root = cache("faces")
  return root and root / f"{key[:40]}.npz"


def get(file: Path | None) -> Answers | None:
  """The answers in a file; None if it does not exist or is damaged."""
  if file is None or not file.exists():
    return None
  try:
    arrays = npz.read(file)
    answers = Answers(*(arrays.get(name) for name in Answers._fields))  # type: ignore[arg-type]
    ok = (
      answers.boxes.shape == (len(answers.scores), 4)
      and answers.points.shape == (len(answers.scores), 5, 2)
      and 0 <= int(answers.chosen) < len(answers.scores)
      and answers.embedding.shape == (512,)
      and (answers.marks is None or answers.marks.shape == (106, 2))
      and (answers.labels is None or answers.labels.shape == (512, 512))
    )
    return answers if ok else None
  except (OSError, ValueError, TypeError, AttributeError):
    return None


def put(file: Path | None, answers: Answers):
  """Write the answers if possible: a full or read-only disk is no error, it only costs the next run time."""
  if file is None:
    return
  with contextlib.suppress(OSError):
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # faces are private
    npz.write(file, {k: v for k, v in answers._asdict().items() if v is not None})
