"""The judges of the drawn world: a second recogniser, a classifier of attributes, a small CLIP."""

import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from idejax import faces
from idejax.miniature.judging import crops, face_metrics, judges
from idejax.model import tokens
from idejax.storage import hub

CHUNK = 32  # pictures per call of the CLIP
_FOLDER = hub.BUILT_IN["miniature"].parent / "judges"


class Judges:
  """The miniature's judges; no training uses them."""

  def __init__(self, folder: Path = _FOLDER, pack: faces.Pack | None = None):
    self.folder, self.pack = folder, pack or faces.open_pack("miniature", notify=lambda _: None)
    config, self.params = judges.read_clip(folder / "clip")
    self.words = tokens.load(folder / "clip")
    self._embed = jax.jit(functools.partial(judges.embeddings, config))

  def embed(self, images: Sequence[np.ndarray]) -> list[np.ndarray | None]:
    """The judge's unit embedding of the largest face in each picture, None where none is found."""
    detections = [self.pack.detect(i) for i in images]
    area = lambda b: (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    where = [i for i, f in enumerate(detections) if len(f.boxes)]
    points = [detections[i].points[int(area(detections[i].boxes).argmax())] for i in where]
    out: list[np.ndarray | None] = [None] * len(images)
    if where:
      cuts = crops.cut([images[i] for i in where], np.stack(points), crops.JUDGE)
      for i, e in zip(where, face_metrics.embed(self.folder / "recogniser.onnx", cuts)):
        out[i] = e
    return out

  def see(self, images: Sequence[np.ndarray]) -> np.ndarray:
    """CLIP's unit embedding of each picture, float32 [N, P]."""
    blank, out = self.words.encode([""]).ids, []
    for at in range(0, len(images), CHUNK):
      rows = np.resize(np.arange(at, min(at + CHUNK, len(images))), CHUNK)
      embeddings, _ = self._embed(self.params, np.stack([_pixels(images[int(i)], 64) for i in rows]), blank)
      out.append(np.asarray(embeddings)[: min(CHUNK, len(images) - at)])
    return np.concatenate(out)

  def prompt(self, images: Sequence[np.ndarray], texts: Sequence[str]) -> np.ndarray:
    """CLIP's cosine between picture and text, float32 [N]."""
    ids = self.words.encode(list(texts)).ids
    cosines = []
    for at in range(0, len(images), CHUNK):
      rows = np.resize(np.arange(at, min(at + CHUNK, len(images))), CHUNK)
      pictures, captions = self._embed(self.params, np.stack([_pixels(images[int(i)], 64) for i in rows]), ids[rows])
      cosines.append(np.asarray((pictures * captions).sum(-1))[: min(CHUNK, len(images) - at)])
    return np.concatenate(cosines)

  def attributes(self, images: Sequence[np.ndarray]) -> dict[str, list[str]]:
    """{attribute: its class for each picture}, e.g. {"background": ["beach", ...]}."""
    outputs = face_metrics.run(self.folder / "attributes.onnx", np.stack([_pixels(i, 64) for i in images]))
    names = judges.smallface.ATTRIBUTES
    return {n: [judges.CLASSES[n][k] for k in np.asarray(x).argmax(-1)] for n, x in zip(names, outputs)}


def _pixels(image: np.ndarray, side: int) -> np.ndarray:
  if image.shape[0] == image.shape[1] == side:
    return image
  import cv2

  return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
