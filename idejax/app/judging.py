"""Which candidate of a panel is best: whose faces are whole, then by likeness and by prompt.

The drawn world has judges of its own (`miniature.judging`). For a model of photographs the face pack's recogniser
and the CLIP that checks the pictures serve: they rank candidates, but a method that learns from the same recogniser
is praised by it too much, so these cosines are no measurement of methods.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from idejax import faces
from idejax.app.concepts import Checker
from idejax.faces.pack import Faces

_NEAR = 0.08  # of a face's side: eyes and mouth lie deeper than this inside the picture, if the face is whole
_BEYOND = 0.15  # of a face's side: what a box may reach beyond the picture, as those of portraits do at the hair


def cut(found: Faces, size: tuple[int, int]) -> int:
  """How many of the faces in a picture of `size` (width, height) are not whole: the picture's border cuts off some of
  the face, or a larger face lies over it. A hat, a hand or hair over a face is not seen."""
  count = 0
  sides = found.boxes[:, 2:] - found.boxes[:, :2]
  order = np.argsort(-sides.prod(1), kind="stable")  # the largest first
  for rank, i in enumerate(order):
    box, side, points = found.boxes[i], sides[i], found.points[i]
    beyond = np.maximum(-box[:2], box[2:] - size) / side
    near = np.minimum(points, np.subtract(size, points)) / side
    before = found.boxes[order[:rank]]
    hidden = [((o[:2] <= points) & (points <= o[2:])).all(1).sum() for o in before]
    count += bool(beyond.max() > _BEYOND or near.min() < _NEAR or max(hidden, default=0) >= 2)
  return count


class Judges(Protocol):
  """What ranks candidates."""

  def embed(self, images: Sequence[np.ndarray]) -> list[np.ndarray | None]:
    """A unit embedding of the largest face in each picture, uint8 [H, W, 3]; None where there is none."""
    ...

  def prompt(self, images: Sequence[np.ndarray], texts: Sequence[str]) -> np.ndarray:
    """The cosine between each picture and its text, float32 [N]."""
    ...


class PackJudges:
  """The recogniser and the CLIP that a comic of photographs has at hand."""

  def __init__(self, pack: faces.Pack, checker: Checker):
    self.pack, self.checker = pack, checker

  def embed(self, images: Sequence[np.ndarray]) -> list[np.ndarray | None]:
    return [self._largest(i) for i in images]

  def _largest(self, image: np.ndarray) -> np.ndarray | None:
    found = self.pack.detect(image)
    if not len(found.boxes):
      return None
    areas = (found.boxes[:, 2] - found.boxes[:, 0]) * (found.boxes[:, 3] - found.boxes[:, 1])
    out: np.ndarray = self.pack.embed([self.pack.crop(image, found.points[int(areas.argmax())])])[0]
    return out

  def prompt(self, images: Sequence[np.ndarray], texts: Sequence[str]) -> np.ndarray:
    return self.checker.agreement(images, texts)
