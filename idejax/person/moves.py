"""The paper's augmentation of many people's pictures: scaled, turned, and set elsewhere in the frame, black round it.

A picture's move is a function of (seed, step, place in the batch). The face stays whole in the frame, and the picture
covers as much of the frame as its scale allows. What moves with it: mask, landmarks, and where the frame lies in the
photo. What does not: the face as recogniser and image encoder read it, which is aligned wherever it lies.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from idejax.faces import align
from idejax.person.augment import resize


class Moves(NamedTuple):
  """What may happen to a picture: to a `share` of them; scale between 1 / zoom and zoom; turn in degrees, either way."""

  share: float
  zoom: float
  turn: float


class Move(NamedTuple):
  """Scale, turn in radians, and where in the room that is left the picture stands, 0 to 1 from left and from top."""

  scale: float
  turn: float
  right: float
  down: float


def draw(how: Moves, seed: int, step: int, batch: int) -> list[Move | None]:
  """The moves of a batch; None for pictures that stay as they are."""
  u = np.random.Generator(np.random.Philox(key=[seed, step], counter=[0, 0, 0, 10])).random((batch, 5))
  angle = math.radians(how.turn)
  moves = [Move(how.zoom ** (2 * x[1] - 1), angle * (2 * x[2] - 1), x[3], x[4]) for x in u]
  return [m if x[0] < how.share else None for m, x in zip(moves, u)]


def matrix(move: Move, face: np.ndarray, side: int) -> np.ndarray:
  """The similarity [2, 3] of pixels of a picture [side, side] -> pixels of the frame, of the same size.

  face: points [N, 2] about the face, which shall all be in the frame; where the scale does not allow it, it is less.
  """
  cos, sin = math.cos(move.turn), math.sin(move.turn)
  about = move.scale * np.array([[cos, -sin], [sin, cos]])
  reach = float(np.ptp(face @ about.T, axis=0).max())
  fit = min(1.0, side / max(reach, 1e-9))
  about, scale = about * fit, move.scale * fit
  turned, middle = face @ about.T, about @ np.full(2, (side - 1) / 2)
  shift = np.zeros(2)
  for axis, part in ((0, move.right), (1, move.down)):  # whole numbers are pixels' centres: the frame begins at -0.5
    edge = middle[axis] - scale * side / 2
    ends = sorted((-0.5 - edge, (1 - scale) * side - 0.5 - edge))  # the picture in the frame, or the frame in it
    low, high = -0.5 - turned[:, axis].min(), side - 0.5 - turned[:, axis].max()
    if max(ends[0], low) <= min(ends[1], high):
      low, high = max(ends[0], low), min(ends[1], high)
    shift[axis] = low + part * (high - low)
  return np.concatenate([about, shift[:, None]], 1)


def apply(
  move: Move | None, picture: np.ndarray, mask: np.ndarray, marks: np.ndarray, sizes: Sequence[float], side: int
) -> dict[str, Any]:
  """A picture uint8 [H, H, 3] and its mask uint8 [H, H], 0 to 255, in a frame of `side` pixels, with what is measured
  in them: marks [72, 2], and sizes (height and width of the photo, top and left of the picture in it), in pixels of a
  picture of that size. "inside": the share of each pixel of the frame that the picture covers."""
  row = {
    "images": resize(picture, side),
    "masks": resize(mask, side) > 127,
    "inside": np.ones((side, side), np.float32),
  }
  if move is None:
    return row | {"marks": marks, "sizes": np.array(sizes, np.float32)}
  m = matrix(move, outline(row["masks"]), side)
  scale = math.hypot(m[0, 0], m[1, 0])
  middle = align.apply(m, np.full((1, 2), (side - 1) / 2))[0]
  beyond = np.maximum(scale * side / 2 - 0.5 - middle, 0)  # of the picture, left of the frame and above it
  height, width, top, left = sizes
  at = np.round([scale * top + beyond[1], scale * left + beyond[0]])
  return {
    "images": _warp(picture, m, scale, side, cv2.INTER_CUBIC),
    "masks": _warp(mask, m, scale, side, cv2.INTER_LINEAR) > 127,
    "inside": cv2.warpAffine(row["inside"], m, (side, side), flags=cv2.INTER_LINEAR),
    "marks": align.apply(m, marks).astype(np.float32),
    "sizes": np.array([height, width, *at], np.float32),
  }


def outline(mask: np.ndarray) -> np.ndarray:
  """Points [N, 2] about a face, of which bool [S, S] holds the pixels: their corners; the middle where it has none."""
  there = cv2.findNonZero(mask.astype(np.uint8))
  if there is None:
    return np.full((1, 2), (len(mask) - 1) / 2)
  hull = cv2.convexHull(there)[:, 0].astype(np.float64)
  return np.concatenate([hull + np.array(corner) for corner in ((-0.5, -0.5), (-0.5, 0.5), (0.5, -0.5), (0.5, 0.5))])


def _warp(x: np.ndarray, m: np.ndarray, scale: float, side: int, flags: int) -> np.ndarray:
  """x uint8 [H, H, ..], of which `m` moves pixels at `side`; made as small first as it shall be, so that no pixel is lost."""
  if (size := max(1, round(scale * side))) < len(x):
    x = resize(x, size)
  back = side / len(x)
  m = np.concatenate([m[:, :2] * back, m[:, 2:] + (m[:, :2] @ np.full((2, 1), 0.5 * back - 0.5))], 1)
  return cv2.warpAffine(np.ascontiguousarray(x), m, (side, side), flags=flags, borderValue=0)
