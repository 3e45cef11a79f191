"""Where a person's landmarks shall lie: as in the photo, in a pose that ships, or as a driver's do.

`Poser` is what asks; `ByLandmarks` answers for packs that find landmarks, by a predictor of `faces.predictor`.
A drawn world answers by its own geometry.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from idejax.errors import UserError
from idejax.faces import predictor
from idejax.faces.predictor import Prediction, Predictor
from idejax.faces.record import FaceRecord


class Kept(NamedTuple):
  """What is left of a face record in an identity."""

  landmarks: np.ndarray | None  # float32 [72, 2] in the photo's pixels
  meta: Mapping[str, Any]


Source = Any  # a face record, or a face as `kept` returns it


class Poser(Protocol):
  """All landmarks are float32 [72, 2]."""

  def own(self, record: FaceRecord) -> np.ndarray | None:
    """A photo's own, in its pixels; None where nothing finds them."""

  def keep(self, record: FaceRecord) -> dict[str, np.ndarray]:
    """What poses need of a source's face, as float32 arrays that an identity keeps."""

  def kept(self, arrays: Mapping[str, np.ndarray]) -> Source:
    """The source whose face `keep` kept. UserError if another poser did."""

  def driven(self, source: Source, driver: FaceRecord) -> Prediction:
    """The source's face in the driver's pose and mood, in the driver's pixels. UserError where it cannot tell."""

  def by_name(self, source: Source, pose: str, height: int, width: int) -> np.ndarray:
    """The source's face in a pose that ships, in a picture's pixels. UserError for a name that there is not."""


class ByLandmarks:
  """By the landmarks that the pack found in the photos."""

  def __init__(self, predict: Predictor = predictor.drivers_own):
    self.predict = predict

  def own(self, record: FaceRecord) -> np.ndarray | None:
    return record.landmarks

  def keep(self, record: FaceRecord) -> dict[str, np.ndarray]:
    return {} if record.landmarks is None else {"landmarks": record.landmarks}

  def kept(self, arrays: Mapping[str, np.ndarray]) -> Source:
    if arrays.keys() - {"landmarks"}:
      raise UserError(f"what is kept of this face is of another pack: {', '.join(sorted(arrays))}")
    return Kept(arrays.get("landmarks"), {})

  def driven(self, source: Source, driver: FaceRecord) -> Prediction:
    return predictor.of_records(self.predict, source, driver)

  def by_name(self, source: Source, pose: str, height: int, width: int) -> np.ndarray:
    marks = predictor.pose(pose, height, width)
    # Without landmarks of its own the source's shape is not known: the pose's mean face stands in for it.
    return marks if source.landmarks is None else self.predict(source.landmarks, marks).landmarks
