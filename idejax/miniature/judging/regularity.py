"""Whether a drawn face is regular: its layout by the detector's five points, and how sharp it is.

The world's faces are symmetric. Whatever a head's tilt and turn, the line through its eyes is perpendicular to
the line from between the eyes to the middle of the mouth. Faces whose halves do not fit together fail.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from idejax.faces.pack import Pack

LEVEL = 0.075  # of the face's width, by which eyes may be off: the detector's own error on real faces

Pictures = Sequence[np.ndarray] | np.ndarray  # uint8 [N, S, S, 3]


class Layout(NamedTuple):
  """The largest face of each picture: found bool [N], boxes [N, 4], points [N, 5, 2] (NaN without a face)."""

  found: np.ndarray
  boxes: np.ndarray
  points: np.ndarray


def layout(pack: Pack, images: Pictures) -> Layout:
  boxes, points = np.full((len(images), 4), np.nan), np.full((len(images), 5, 2), np.nan)
  for i, image in enumerate(images):
    faces = pack.detect(image)
    if not len(faces.boxes):
      continue
    sides = faces.boxes[:, 2:] - faces.boxes[:, :2]
    best = int(sides.prod(1).argmax())
    boxes[i], points[i] = faces.boxes[best], faces.points[best]
  return Layout(np.isfinite(boxes[:, 0]), boxes, points)


def halves(image: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """An upright face made of its left half and that half mirrored, and one made of its right half."""
  side = image.shape[0]
  eyes, mouth = points[:2].mean(0), points[3:].mean(0)
  down = (mouth - eyes) / np.linalg.norm(mouth - eyes)
  turn = np.array([[down[1], -down[0]], [down[0], down[1]]])
  centre = np.array([(side - 1) / 2, 0.42 * side])
  matrix = np.concatenate([turn, (centre - turn @ eyes)[:, None]], 1)
  upright = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
  left, right = upright[:, : side // 2], upright[:, side - side // 2 :]
  return np.concatenate([left, left[:, ::-1]], 1), np.concatenate([right[:, ::-1], right], 1)


def unevenness(pack: Pack, image: np.ndarray, points: np.ndarray, box: np.ndarray) -> float:
  """How far one eye is above the other in the head's own frame, in face widths; infinite if a half has no face.

  The detector learned faces with level eyes, so in a broken face it reports level eyes too. Therefore it
  looks at each half beside its own mirror image.
  """
  heights = []
  for half in halves(image, points):
    own = layout(pack, [half])
    if not own.found[0]:
      return float("inf")
    heights.append(own.points[0, :2, 1].mean())
  return float(abs(heights[1] - heights[0]) / (box[2] - box[0]))


def level(pack: Pack, faces: Layout, images: Pictures) -> float:
  """Share of all pictures whose eyes are level to within LEVEL; pictures without a face count as not level."""
  off = [unevenness(pack, i, p, b) for i, f, p, b in zip(images, faces.found, faces.points, faces.boxes) if f]
  return float((np.array(off) <= LEVEL).sum() / len(images))


def sharpness(faces: Layout, images: Pictures) -> float:
  """Mean variance of the Laplacian of the grey picture inside the face's box, over pictures with a face."""
  variances = []
  for image, box in zip(np.asarray(images)[faces.found], faces.boxes[faces.found]):
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    x0, y0, x1, y1 = (int(round(v)) for v in np.clip(box, 0, image.shape[0]))
    variances.append(cv2.Laplacian(grey, cv2.CV_64F)[y0:y1, x0:x1].var())
  return float(np.mean(variances))
