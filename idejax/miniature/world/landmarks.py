"""72 landmarks in FaceSnap's order, five key points in insightface's, and the face box."""

from typing import Any, NamedTuple

import numpy as np

from idejax.miniature.world import head as hd

# The landmark at the mirrored place: contour, brows, nose, eyes, mouth.
MIRROR = np.array(
  [9, 10, 11, 12, 13, 14, 15, 16, 8, 0, 1, 2, 3, 4, 5, 6, 7]
  + [26, 25, 24, 23, 22, 21, 20, 19, 18, 17]
  + [27, 28, 29, 30, 35, 34, 33, 32, 31]
  + [48, 47, 46, 45, 44, 51, 50, 49, 40, 39, 38, 37, 36, 43, 42, 41]
  + [57, 58, 59, 60, 61, 52, 53, 54, 55, 56, 62, 63, 67, 68, 69, 64, 65, 66, 70, 71]
)
_GAP = 0.006  # a closed lid or lip still has two sides


class Geometry(NamedTuple):
  """Box [4] x0 y0 x1 y1, points [5, 2] as insightface's, landmarks [72, 2] as FaceSnap's; in pixels, whole
  numbers at their centres.
  """

  box: Any
  points: Any
  landmarks: Any


def geometry(xp, person, scene, size: int) -> Geometry:
  """The ground truth of a picture. Points: eye on the image's left, other eye, nose tip, mouth corners."""
  h = hd.head(xp, person, scene)
  marks = _pixels(xp, scene, size, *_landmarks(xp, h))
  eyes = [marks[36:44].mean(0), marks[44:52].mean(0)]
  points = xp.stack([*eyes, marks[30], marks[52], marks[57]])
  around = np.linspace(0, 2 * np.pi, 64, endpoint=False)
  sx, sy = np.cos(around).astype(np.float32), np.sin(around).astype(np.float32)
  r = hd.radius(xp, h, sx, sy)
  hull = xp.concatenate([_pixels(xp, scene, size, r * sx, r * sy), marks])
  return Geometry(xp.concatenate([hull.min(0), hull.max(0)]), points, marks)


def _pixels(xp, scene, size, x, y):
  x, y = hd.from_head(xp, x, y, scene)
  return xp.stack([x, y], -1) * (size / 2) + (size - 1) / 2


def _landmarks(xp, h):
  """Head coordinates x [72], y [72]."""
  parts = [_contour(xp, h), _brow(xp, h, 1), _brow(xp, h, 0), _nose(xp, h)]
  parts += [_eye(xp, h, 1), _eye(xp, h, 0), _mouth(xp, h)]
  return (xp.concatenate(axis) for axis in zip(*parts))


def _contour(xp, h):
  """From beside the eye down to the chin (8), then from the other side's top (9) down."""
  angle = np.linspace(np.deg2rad(186), np.deg2rad(90), 9).astype(np.float32)
  sx = np.concatenate([np.cos(angle), -np.cos(angle[:8])])
  sy = np.concatenate([np.sin(angle), np.sin(angle[:8])])
  r = hd.radius(xp, h, sx, sy)
  # The silhouette does not turn, but points on it slide a little, as DECA's static ones do.
  x = r * sx * h.cos + 0.25 * h.sin * h.width * (1 - (sx * sx))
  return x, r * sy


def _brow(xp, h, left):
  """17..21 run outward to inward on the image's left, 22..26 inward to outward on its right."""
  t = np.linspace(1, -1, 5, dtype=np.float32) if left else np.linspace(-1, 1, 5, dtype=np.float32)
  y, _ = hd.brow(xp, h, t, left)
  side = -1 if left else 1
  return hd.turn(xp, h, side * (h.eye_x + h.brow_w * t)), y


def _nose(xp, h):
  t = np.linspace(0, 1, 4, dtype=np.float32)
  bridge_y = h.eye_y + 0.01 + (h.nose_y - 0.02 - h.eye_y) * t
  base = np.array([-1.0, -0.5, 0.0, 0.5, 1.0], np.float32)
  base_y = h.nose_y + 0.006 + 0.022 * (1 - base * base)
  x = xp.concatenate([0 * bridge_y, h.nose_w * base])
  y = xp.concatenate([bridge_y, base_y])
  return hd.turn(xp, h, x) + hd.nose_lean(xp, h, y), y


def _eye(xp, h, left):
  """Outer corner, upper lid, inner corner, lower lid on the left; the right starts inside."""
  t = np.array([1.0, 0.5, 0.0, -0.5, -1.0, -0.5, 0.0, 0.5], np.float32)
  if not left:
    t = -t
  up, low = hd.lids(xp, h, t, left)
  gap = xp.maximum(_GAP - (low - up) / 2, 0.0)
  rim = np.array([0, 1, 1, 1, 0, 0, 0, 0], bool)
  under = np.array([0, 0, 0, 0, 0, 1, 1, 1], bool)
  y = xp.where(rim, up - gap, xp.where(under, low + gap, 0.0)) + h.eye_y - h.eye_tilt * h.eye_w * t
  side = -1 if left else 1
  return hd.turn(xp, h, side * (h.eye_x + h.eye_w * t)), y


# 52..71: position along the mouth, and which curve (0 outer upper .. 3 outer lower).
_MOUTH_T = np.array([-1, -0.34, -0.67, -0.86, -0.5, 1, 0.34, 0.67, 0.86, 0.5,
                     0, 0, 0.5, 0.67, 0.34, -0.5, -0.67, -0.34, 0, 0], np.float32)  # fmt: skip
_MOUTH_CURVE = np.array([0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 1, 2, 3, 3, 2, 3, 3, 2, 3])


def _mouth(xp, h):
  curves = hd.mouth(xp, h, _MOUTH_T)
  gap = xp.maximum(_GAP - (curves[2] - curves[1]) / 2, 0.0)
  edges = (curves[0] - gap, curves[1] - gap, curves[2] + gap, curves[3] + gap)
  y = xp.select([_MOUTH_CURVE == n for n in range(4)], edges)
  corner = np.abs(_MOUTH_T) == 1
  y = xp.where(corner, curves[1], y)
  return hd.turn(xp, h, hd.mouth_half(h) * _MOUTH_T), y
