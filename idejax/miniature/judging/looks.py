"""A look at a model during training: judges measure how near a few pictures are to real ones.

It is cheap enough for every quarter of an hour: few sampling steps, and every time the same captions of people
of the development split and the same noise. Figures are comparable within one run with one framing.
"""

from pathlib import Path

import numpy as np

from idejax.miniature.judging import distances
from idejax.miniature.judging.prompts import parse_factors
from idejax.miniature.judging.scoring import Judges
from idejax.miniature.world import data, people
from idejax.sampling import pipeline

STEPS = 12  # sampler and guidance are those that the folder asks for


class Looks:
  """Judges, `count` captions of photos, and the features of all these photos, computed once a run."""

  def __init__(self, count: int):
    real = data.batch(people.split("development"), max(2, min(10, count // 20)), seed=5)
    photo = np.flatnonzero(real.factors["style"] == 0)
    self.judges = Judges()
    self.captions = [real.captions[i] for i in photo[:: max(1, len(photo) // count)][:count]]
    self.images = real.images[photo]
    self.real = self._features(self.images)

  def pictures(self, folder: Path) -> np.ndarray:
    """Pictures by the pipeline in a folder, uint8 [count, S, S, 3]."""
    pipe = pipeline.load(folder, notify=lambda _: None)
    return pipe.sample(self.captions, seeds=7, steps=STEPS, batch=32)

  def score(self, images: np.ndarray) -> dict[str, float]:
    """Kernel distances x 1000 by CLIP's features of the picture and by the recogniser's of the face; the share
    of pictures with a face; for each attribute the share of pictures that follow their caption."""
    picture, face = self._features(images)
    out = {"clip": 1000 * distances.kernel(picture, self.real[0]), "faces": len(face) / len(images)}
    out["face"] = 1000 * distances.kernel(face, self.real[1]) if len(face) > 1 else float("nan")
    answers = self.judges.attributes(list(images))
    for name, classes in answers.items():
      right = [classes[i] == a[name] for i, a in enumerate(map(parse_factors, self.captions)) if name in a]
      if right:
        out[name] = float(np.mean(right))
    return {k: round(x, 3) for k, x in out.items()}

  def _features(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    face = [e for e in self.judges.embed(list(images)) if e is not None]
    return self.judges.see(list(images)), np.stack(face) if face else np.zeros((0, 512), np.float32)
