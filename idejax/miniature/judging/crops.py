"""Aligned face crops: a similarity maps five points to ArcFace's template, as in insightface."""

from typing import NamedTuple

import cv2
import numpy as np

# ArcFace's template: both eyes, nose tip, mouth corners in a crop of 112 x 112 (facts of the format).
TEMPLATE = np.array(
  [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)


class Cut(NamedTuple):
  """How to crop for a recogniser: pixels a side, and the template's scale (below 1 shows more around the face)."""

  side: int
  zoom: float

  def template(self) -> np.ndarray:
    return ((TEMPLATE - 56) * self.zoom + 56) * (self.side / 112)


RECOGNISER, JUDGE = Cut(112, 1.0), Cut(96, 0.72)  # the judge also sees hair and ears


def similarity(points: np.ndarray, to: np.ndarray) -> np.ndarray:
  """Least-squares rotation, scale and shift of points [.., 5, 2] to a template [5, 2]: [.., 2, 3]."""
  # In the plane a similarity is z -> a z + b over the complex numbers.
  z, w = points[..., 0] + 1j * points[..., 1], to[..., 0] + 1j * to[..., 1]
  zm, wm = z.mean(-1, keepdims=True), w.mean(-1, keepdims=True)
  a = (np.conj(z - zm) * (w - wm)).sum(-1) / np.square(np.abs(z - zm)).sum(-1)
  b = wm[..., 0] - a * zm[..., 0]
  rows = np.stack([np.stack([a.real, -a.imag, b.real], -1), np.stack([a.imag, a.real, b.imag], -1)], -2)
  return rows.astype(np.float64)


def crop(image: np.ndarray, matrix: np.ndarray, side: int) -> np.ndarray:
  """uint8 [H, W, 3] -> [side, side, 3]; what lies outside the picture is black."""
  return cv2.warpAffine(image, matrix, (side, side), borderValue=0.0)


def cut(images, points, how: Cut) -> np.ndarray:
  """Pictures [N, H, W, 3] and their points [N, 5, 2] -> crops uint8 [N, side, side, 3]."""
  matrices = similarity(np.asarray(points, np.float64), how.template())
  cuts = [crop(np.asarray(i), m, how.side) for i, m in zip(images, matrices)]
  return np.stack(cuts) if cuts else np.zeros((0, how.side, how.side, 3), np.uint8)


def shake(rng: np.random.Generator, points: np.ndarray, width: np.ndarray, amount: float = 0.025) -> np.ndarray:
  """Points [N, 5, 2] with errors like a detector's; `amount` is in parts of the faces' `width` [N]."""
  own = rng.normal(0, amount, points.shape)
  common = rng.normal(0, amount / 2, (len(points), 1, 2))
  return points + (own + common) * width[:, None, None]


def spoil(rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
  """Pictures with small changes of light and contrast; some are blurred, as a decoder may leave them."""
  out = np.empty_like(images)
  for i, image in enumerate(images):
    if rng.random() < 0.25:
      image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.0)))
    gain, shift = rng.uniform(0.92, 1.08), rng.uniform(-8, 8)
    out[i] = cv2.convertScaleAbs(image, alpha=gain, beta=128 * (1 - gain) + shift)
  return out
