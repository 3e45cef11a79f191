"""The judges of the built-in model's own exam: a second recogniser and a classifier of attributes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from idejax import faces
from idejax.miniature.judging import crops, face_metrics, judges
from idejax.storage import hub

_FOLDER = hub.BUILT_IN["miniature"].parent / "judges"


class Judges:
  """The miniature's: a second recogniser, a classifier of attributes."""

  def __init__(self, folder: Path = _FOLDER, pack: faces.Pack | None = None):
    self.folder, self.pack = folder, pack or faces.open_pack("miniature", notify=lambda _: None)

  def embed(self, images: Sequence[np.ndarray]) -> list[np.ndarray | None]:
    """The judge's unit embedding of the largest face in each picture, None where none is found."""
    seen = [self.pack.detect(i) for i in images]
    area = lambda b: (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    where = [i for i, f in enumerate(seen) if len(f.boxes)]
    points = [seen[i].points[int(area(seen[i].boxes).argmax())] for i in where]
    out: list[np.ndarray | None] = [None] * len(images)
    if where:
      cut = crops.cut([images[i] for i in where], np.stack(points), crops.JUDGE)
      for i, e in zip(where, face_metrics.embed(self.folder / "recogniser.onnx", cut)):
        out[i] = e
    return out

  def attributes(self, images: Sequence[np.ndarray]) -> dict[str, list[str]]:
    """{attribute: its class for each picture}, e.g. {"background": ["beach", ...]}."""
    made = face_metrics.run(self.folder / "attributes.onnx", np.stack([_pixels(i, 64) for i in images]))
    names = judges.smallface.ATTRIBUTES
    return {n: [judges.CLASSES[n][k] for k in np.asarray(x).argmax(-1)] for n, x in zip(names, made)}


def _pixels(image: np.ndarray, side: int) -> np.ndarray:
  if image.shape[0] == image.shape[1] == side:
    return image
  import cv2

  return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
