"""Pose and expression of a face, compared with those that were asked for."""

import numpy as np

from idejax.faces import align


def pose(points: np.ndarray) -> np.ndarray:
  """Yaw and roll in degrees of five points [5, 2]: estimates, see `align.yaw`."""
  across = np.asarray(points[1], np.float64) - points[0]
  return np.array([align.yaw(points), np.degrees(np.arctan2(across[1], across[0]))])


def pose_error(points: np.ndarray | None, driver: np.ndarray | None) -> float | None:
  """Mean of the differences of yaw and roll, degrees; None where a face is missing."""
  if points is None or driver is None:
    return None
  return float(np.abs(pose(points) - pose(driver)).mean())


def expression_error(marks: np.ndarray | None, driver: np.ndarray | None) -> float | None:
  """Root mean square distance of landmarks [L, 2] after the best similarity, in parts of the driver's
  spread about its centre: what remains when position, size and roll are taken away. None where a
  face is missing; ValueError if the numbers of landmarks differ.
  """
  if marks is None or driver is None:
    return None
  if marks.shape != driver.shape:
    raise ValueError(f"{len(marks)} landmarks against {len(driver)}")
  points = align.apply(align.similarity(np.asarray(marks, np.float64), np.asarray(driver, np.float64)), marks)
  spread = np.sqrt(np.square(driver - driver.mean(0)).sum(1).mean())
  return float(np.sqrt(np.square(points - driver).sum(1).mean()) / spread)
