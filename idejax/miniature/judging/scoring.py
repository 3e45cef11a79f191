"""Scores of pictures by judges that no training listens to: identity, prompt, faces found, attributes.

Every figure names its judge. What cannot be measured is said to be so; it is never a zero.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from idejax import faces
from idejax.miniature.judging import crops, face_metrics, judges
from idejax.miniature.world import captions
from idejax.model import tokens
from idejax.storage import hub, tensorfiles

CHUNK = 32  # pictures per call of a judge
_FOLDER = hub.BUILT_IN["miniature"].parent / "judges"


class Judges:
  """The miniature's: a second recogniser, a small CLIP, a classifier of attributes."""

  def __init__(self, folder: Path = _FOLDER, pack: faces.Pack | None = None):
    self.folder, self.pack = folder, pack or faces.open_pack("miniature", notify=lambda _: None)
    config, self.params = judges.read_clip(folder / "clip")
    self.words = tokens.load(folder / "clip")
    self._embed = jax.jit(functools.partial(judges.embeddings, config))
    self.about = {
      "identity": f"second recogniser, sha256 {tensorfiles.digest(folder / 'recogniser.onnx')[:12]}",
      "prompt": f"small CLIP, sha256 {tensorfiles.digest(folder / 'clip' / 'model.safetensors')[:12]}",
      "faces": f"detector of the pack {self.pack.name}",
    }

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

  def see(self, images: Sequence[np.ndarray]) -> np.ndarray:
    """CLIP's unit embedding of each picture, float32 [N, P]."""
    blank, out = self.words.encode([""]).ids, []
    for at in range(0, len(images), CHUNK):
      rows = np.resize(np.arange(at, min(at + CHUNK, len(images))), CHUNK)
      seen, _ = self._embed(self.params, np.stack([_pixels(images[int(i)], 64) for i in rows]), blank)
      out.append(np.asarray(seen)[: min(CHUNK, len(images) - at)])
    return np.concatenate(out)

  def prompt(self, images: Sequence[np.ndarray], texts: Sequence[str]) -> np.ndarray:
    """CLIP's cosine between picture and text, float32 [N]."""
    ids = self.words.encode(list(texts)).ids
    found = []
    for at in range(0, len(images), CHUNK):
      rows = np.resize(np.arange(at, min(at + CHUNK, len(images))), CHUNK)
      seen, read = self._embed(self.params, np.stack([_pixels(images[int(i)], 64) for i in rows]), ids[rows])
      found.append(np.asarray((seen * read).sum(-1))[: min(CHUNK, len(images) - at)])
    return np.concatenate(found)

  def attributes(self, images: Sequence[np.ndarray]) -> dict[str, list[str]]:
    """{attribute: its class for each picture}, e.g. {"background": ["beach", ...]}."""
    made = face_metrics.run(self.folder / "attributes.onnx", np.stack([_pixels(i, 64) for i in images]))
    names = judges.smallface.ATTRIBUTES
    return {n: [judges.CLASSES[n][k] for k in np.asarray(x).argmax(-1)] for n, x in zip(names, made)}


def judges_for(model: str) -> tuple[Judges | None, str]:
  """The judges that can read a model's pictures, or None and why."""
  if model not in hub.BUILT_IN:
    return None, "the judges in the package read the drawn world only"
  return Judges(), ""


def score(
  j: Judges, images: Sequence[np.ndarray], prompts: Sequence[str], references: Sequence[np.ndarray | None]
) -> list[dict[str, Any]]:
  """Per picture: "identity", the cosine to its reference (None without a face); "prompt", CLIP's
  cosine; "asked", the share of what the prompt asks for that the classifier sees (None if it asks for
  nothing); "face", whether one was found.

  prompts: with {} for the person, whom the text judge knows as "a person".
  """
  found = j.embed(images)
  text = j.prompt(images, [p.replace("{}", "a person") for p in prompts])
  cosine = lambda a, b: None if a is None or b is None else float(a @ b)
  said = j.attributes(images)
  wanted = [asked(p) for p in prompts]
  share = lambda i, w: float(np.mean([said[n][i] == c for n, c in w.items()])) if w else None
  return [
    {"identity": cosine(e, r), "prompt": float(t), "asked": share(i, w), "face": e is not None}
    for i, (e, r, t, w) in enumerate(zip(found, references, text, wanted))
  ]


def asked(prompt: str) -> dict[str, str]:
  """The attributes that a prompt in the world's words asks for: {"background": "beach", ...}."""
  text = f" {' '.join(captions.words(prompt))} "
  tables = {
    "expression": [(e,) for e in captions.EXPRESSIONS],
    "accessory": [(a,) for a in captions.ACCESSORIES],
    "background": captions.BACKGROUNDS,
  }
  hit = lambda phrases: any(p and f" {' '.join(captions.words(p))} " in text for p in phrases)
  return {n: judges.CLASSES[n][k] for n, rows in tables.items() for k, phrases in enumerate(rows) if hit(phrases)}


def _pixels(image: np.ndarray, side: int) -> np.ndarray:
  if image.shape[0] == image.shape[1] == side:
    return image
  import cv2

  return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
