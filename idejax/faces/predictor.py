"""The Landmark Predictor: where a person's 72 landmarks lie in a driver's pose, with the driver's expression.

A predictor is a function of two faces' landmarks. Two predictors need no training: the driver's own landmarks,
and a morphable model fitted to both faces. Landmarks of ten poses in the package can replace a driver's photo.
"""

import functools
import json
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from idejax.errors import UserError
from idejax.faces import fitting
from idejax.faces.morphable import Morphable
from idejax.faces.record import FaceRecord


class Prediction(NamedTuple):
  landmarks: np.ndarray  # float32 [72, 2] in the driver's pixels
  residuals: Mapping[str, float]  # the model's error on the source's and the driver's landmarks, shares of a face


Predictor = Callable[[np.ndarray, np.ndarray], Prediction]
"""(source's landmarks [72, 2], driver's landmarks [72, 2]) -> Prediction. UserError if it cannot predict."""


def drivers_own(source: np.ndarray, driver: np.ndarray) -> Prediction:
  """The driver's landmarks unchanged, with the shape of the driver's face: the paper's baseline."""
  return Prediction(np.asarray(driver, np.float32), {})


def by_model(model: Morphable) -> Predictor:
  """The source's shape in the driver's pose and expression, by a morphable model fitted to both."""

  def predict(source: np.ndarray, driver: np.ndarray) -> Prediction:
    theirs, ours = fitting.require_fit(model, driver, "the driver"), fitting.require_fit(model, source, "the source")
    marks = fitting.project(model, fitting.recombine(ours, theirs))
    return Prediction(marks.astype(np.float32), {"source": ours.residual, "driver": theirs.residual})

  return predict


def of_records(predict: Predictor, source: Any, driver: FaceRecord) -> Prediction:
  """The prediction for two face records, of the source only its landmarks. UserError for one without them."""
  return predict(landmarks(source, "the source"), landmarks(driver, "the driver"))


def landmarks(record: Any, whose: str) -> np.ndarray:
  """The landmarks of a record, float32 [72, 2]. UserError if the pack that read the photo has none."""
  if record.landmarks is None:
    pack = record.meta.get("pack", "the face pack")
    raise UserError(f"{whose} has no landmarks: {pack} has no landmark network; take a pack with 2d106det.onnx")
  return record.landmarks


def pose(name: str, height: int, width: int) -> np.ndarray:
  """Landmarks of a pose in the package, float32 [72, 2], in the picture's middle. UserError for another name."""
  if name not in poses():
    raise UserError(f"no pose {name!r}; there are {', '.join(poses())}")
  side = min(height, width)
  return ((poses()[name] - 0.5) * side + np.array([width - 1, height - 1]) / 2).astype(np.float32)


@functools.cache
def poses() -> dict[str, np.ndarray]:
  """{name: [72, 2]} in shares of a square's side, 0 and 1 at its edges, from the built-in world's mean face."""
  table = json.loads(resources.files("idejax.faces").joinpath("poses.json").read_text("utf-8"))
  return {name: np.array(marks).reshape(72, 2) for name, marks in table.items()}
