"""The part of the exam that looks at faces as such: are they whole and sharp, and all in all like real ones?"""

from typing import Any

import numpy as np

from idejax.miniature.judging import distances, regularity
from idejax.miniature.judging.scoring import Judges
from idejax.miniature.world import data, people
from idejax.sampling.pipeline import Pipeline


def captions_and_photos(count: int) -> tuple[list[str], np.ndarray, np.ndarray]:
  """(captions of photos of people nobody was trained on, these photos, as many others), `count` each."""
  ids = people.split("heldout")
  batch = data.batch(ids, 2 + 3 * count // len(ids), seed=81)
  photo = np.random.default_rng(0).permutation(np.flatnonzero(batch.factors["style"] == 0))
  first, second = photo[:count], photo[count : 2 * count]
  return [batch.captions[i] for i in first], batch.images[first], batch.images[second]


def faces(pipe: Pipeline, judges: Judges, count: int, reconstruct, **settings: Any) -> dict[str, float]:
  """Figures of `count` pictures for real photos' captions, beside the photos' own.

  level: share with level eyes (`regularity`). sharpness: Laplacian variance in the face over that of the VAE's
  reconstructions of real photos, `reconstruct` [N, S, S, 3] -> [N, S, S, 3]. frechet: distance to as many other
  photos in CLIP's features; times_real: in that of the photos whose captions they have. kernel: the same distance of
  faces' embeddings by the recogniser, x 1000, and kernel_real; it tells smears from faces where CLIP does not.
  """
  texts, photos, others = captions_and_photos(count)
  images = pipe.sample(texts, seeds=list(range(9000, 9000 + count)), **settings)
  seen, real = (regularity.layout(judges.pack, x) for x in (images, photos))
  sharp = regularity.sharpness(seen, images) if seen.found.any() else 0.0
  a, b, c = (judges.see(list(x)) for x in (images, photos, others))
  far, floor = distances.frechet(a, c), distances.frechet(b, c)  # to others: a's captions are b's
  who = [
    np.stack([e for e in judges.embed(list(x)) if e is not None] or [np.zeros(512)] * 2)
    for x in (images, photos, others)
  ]
  return {
    "level": regularity.level(judges.pack, seen, images),
    "level_real": regularity.level(judges.pack, real, photos),
    "sharpness": sharp / regularity.sharpness(real, reconstruct(photos)),
    "frechet": far,
    "frechet_real": floor,
    "times_real": far / floor,
    "kernel": 1000 * distances.kernel(who[0], who[2]),
    "kernel_real": 1000 * distances.kernel(who[1], who[2]),
    "found": float(seen.found.mean()),
    "pictures": count,
  }
