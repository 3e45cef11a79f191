"""Fits a morphable model to one photo's landmarks, and joins one person's shape with another's pose and expression.

    marks = scale * flip(R landmarks(s, e))_xy + shift              weak perspective; flip turns y down, once
    minimise |marks - photo's|^2 / sigma^2 + a |s|^2 + b |e|^2      over s, e, R, scale, shift

Levenberg-Marquardt steps over all unknowns at once, starting from the pose of the mean face: about ten steps of
a few milliseconds. sigma is NOISE times the face's size.
"""

from typing import NamedTuple

import cv2
import numpy as np

from idejax.errors import UserError
from idejax.faces.morphable import Morphable

NOISE = 0.01  # expected error of a landmark, as a share of the face's size (`size`)
LIMIT = 0.06  # a fit whose landmarks are further off than this, root mean square, is refused
_FLIP = np.array([1.0, -1.0])


class Fit(NamedTuple):
  shape: np.ndarray  # [S]
  expression: np.ndarray  # [E]
  rotation: np.ndarray  # [3, 3] of the head
  scale: float  # pixels per unit of the model
  shift: np.ndarray  # [2] pixels
  residual: float  # root mean square distance of the landmarks, as a share of the face's size


def size(marks: np.ndarray) -> float:
  """The size of a face in pixels: the longer side of the box around its landmarks."""
  return float(np.ptp(marks, axis=0).max())


def project(model: Morphable, fit: Fit) -> np.ndarray:
  """The landmarks of a fit, float64 [72, 2] in pixels."""
  points = model.landmarks(fit.shape, fit.expression) @ fit.rotation.T
  return fit.scale * points[:, :2] * _FLIP + fit.shift


def recombine(source: Fit, driver: Fit) -> Fit:
  """The source's shape with the driver's expression, pose and camera, so that the face lies where the driver's does."""
  return driver._replace(shape=source.shape)


def fit(
  model: Morphable, marks: np.ndarray, *, shape_weight: float = 1.0, expression_weight: float = 0.3, steps: int = 100
) -> Fit:
  """The model fitted to landmarks [72, 2] in pixels, y down. ValueError for anything but 72 finite points."""
  marks = np.asarray(marks, np.float64)
  if marks.shape != (72, 2) or not np.isfinite(marks).all() or size(marks) <= 0:
    raise ValueError(f"expected 72 landmarks that do not coincide, got {marks.shape}")
  unit, middle = size(marks), marks.mean(0)
  target = (marks - middle) / unit  # numbers of about 1, so that one damping suits all unknowns
  count, total = len(model.shape), len(model.shape) + len(model.expression)
  basis = np.concatenate([model.shape, model.expression])
  weights = np.sqrt(np.r_[np.full(count, shape_weight), np.full(total - count, expression_weight)])
  coefficients = np.zeros(total)
  rotation, scale, shift = pose(model.mean, target)

  def residuals(coefficients, rotation, scale, shift):
    points = (model.mean + np.tensordot(coefficients, basis, 1)) @ rotation.T
    off = scale * points[:, :2] * _FLIP + shift - target
    return points, np.r_[off.reshape(-1) / NOISE, weights * coefficients]

  points, off = residuals(coefficients, rotation, scale, shift)
  damping = 1e-3
  for _ in range(steps):
    j = _jacobian(points, basis, rotation, scale) / NOISE
    j = np.concatenate([j, np.c_[np.zeros((total, 6)), np.diag(weights)]])
    square, slope = j.T @ j, j.T @ off
    step = np.linalg.solve(square + damping * np.diag(np.diag(square) + 1e-9), -slope)
    new = (coefficients + step[6:], rotate(step[:3]) @ rotation, scale * np.exp(step[3]), shift + step[4:6])
    new_points, new_off = residuals(*new)
    gain = off @ off - new_off @ new_off
    if gain < 0:
      damping *= 10
      if damping > 1e8:
        break
      continue
    coefficients, rotation, scale, shift = new
    points, off, damping = new_points, new_off, max(damping / 10, 1e-9)
    if gain <= 1e-10 * (off @ off) + 1e-14:
      break
  error = np.sqrt(np.square(NOISE * off[:144]).sum() / 72)
  return Fit(
    coefficients[:count], coefficients[count:], rotation, float(scale * unit), shift * unit + middle, float(error)
  )


def require_fit(model: Morphable, marks: np.ndarray, whose: str) -> Fit:
  """The result of `fit`. UserError if the model does not come near the landmarks."""
  out = fit(model, marks)
  if out.residual > LIMIT:
    raise UserError(
      f"{whose}: the morphable model misses the landmarks by {out.residual:.1%} of the face's size, more than "
      f"{LIMIT:.0%}; the photo's landmarks may be wrong, or the model's table of landmarks"
    )
  return out


def pose(points: np.ndarray, marks: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
  """A nearly optimal (rotation [3, 3], scale, shift [2]) that brings points [N, 3] onto marks [N, 2]."""
  middle, centre = points.mean(0), marks.mean(0)
  affine = np.linalg.lstsq(points - middle, (marks - centre) * _FLIP, rcond=None)[0].T
  u, stretch, v = np.linalg.svd(affine, full_matrices=False)
  first, second = u @ v
  rotation = np.stack([first, second, np.cross(first, second)])
  scale = max(float(stretch.mean()), 1e-9)
  return rotation, scale, centre - scale * (rotation @ middle)[:2] * _FLIP


def rotate(vector: np.ndarray) -> np.ndarray:
  """The rotation about a vector by its length in radians (Rodrigues), [3] -> [3, 3]."""
  angle = np.linalg.norm(vector)
  if angle < 1e-12:
    return np.eye(3)
  k = np.cross(vector / angle, np.eye(3)).T  # k @ x = axis x x
  return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def vector(rotation: np.ndarray) -> np.ndarray:
  """The vector [3] about which `rotate` makes a rotation [3, 3]."""
  return cv2.Rodrigues(rotation)[0][:, 0]


def _jacobian(points: np.ndarray, basis: np.ndarray, rotation: np.ndarray, scale: float) -> np.ndarray:
  """Derivatives [144, 6 + K] of the marks by a further small rotation, the log of the scale, the shift, the coefficients."""
  parts = [scale * np.cross(axis, points)[:, :2] * _FLIP for axis in np.eye(3)]
  parts += [scale * points[:, :2] * _FLIP, np.tile([1.0, 0.0], (72, 1)), np.tile([0.0, 1.0], (72, 1))]
  columns = scale * (basis @ rotation.T)[..., :2] * _FLIP
  return np.concatenate([np.stack(parts), columns]).reshape(6 + len(basis), 144).T
