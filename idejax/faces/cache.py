"""What the networks said about a photo, kept by digests, so that the same photo needs no network.

Only what costs time is kept, no picture: boxes, points, embedding, landmarks, parsed classes.
"""

import contextlib
import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from idejax.faces import npz
from idejax.storage.files import cache

_VERSION = 1


class Seen(NamedTuple):
  """Faces from left to right, and of the chosen one what else the networks gave."""

  boxes: np.ndarray  # float32 [N, 4]
  scores: np.ndarray  # float32 [N]
  points: np.ndarray  # float32 [N, 5, 2]
  chosen: np.ndarray  # int64 []
  embedding: np.ndarray  # float32 [512], L2-normalised
  marks: np.ndarray | None  # float32 [106, 2]
  labels: np.ndarray | None  # uint8 [512, 512], classes of the portrait


def path(photo: str, pack: str, parsing: str | None, face: int | None) -> Path | None:
  """Where the answer for these digests lies, or would."""
  key = hashlib.sha256(repr((_VERSION, photo, pack, parsing, face)).encode()).hexdigest()
  root = cache("faces")
  return root and root / f"{key[:40]}.npz"


def get(file: Path | None) -> Seen | None:
  """None if it is not there, or damaged."""
  if file is None or not file.exists():
    return None
  try:
    arrays = npz.read(file)
    seen = Seen(*(arrays.get(name) for name in Seen._fields))  # type: ignore[arg-type]
    ok = (
      seen.boxes.shape == (len(seen.scores), 4)
      and seen.points.shape == (len(seen.scores), 5, 2)
      and 0 <= int(seen.chosen) < len(seen.scores)
      and seen.embedding.shape == (512,)
      and (seen.marks is None or seen.marks.shape == (106, 2))
      and (seen.labels is None or seen.labels.shape == (512, 512))
    )
    return seen if ok else None
  except (OSError, ValueError, TypeError, AttributeError):
    return None


def put(file: Path | None, seen: Seen):
  """Kept if it can be: a full or read-only disk costs the next run time, this one nothing."""
  if file is None:
    return
  with contextlib.suppress(OSError):
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # faces are nobody else's business
    npz.write(file, {k: v for k, v in seen._asdict().items() if v is not None})
