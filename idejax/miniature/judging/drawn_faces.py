"""The part of the exam about faces: are they regular and sharp, and are all together like real ones?"""

from typing import Any

import numpy as np

from idejax.miniature.judging import distances, regularity
from idejax.miniature.judging.scoring import Judges
from idejax.miniature.world import data, people
from idejax.sampling.pipeline import Pipeline


def captions_and_photos(count: int) -> tuple[list[str], np.ndarray, np.ndarray]:
  """(captions of photos of held-out people, these photos, other photos), `count` each."""
  ids = people.split("heldout")
  batch = data.batch(ids, 2 + 3 * count // len(ids), seed=81)
  photo = np.random.default_rng(0).permutation(np.flatnonzero(batch.factors["style"] == 0))
  first, second = photo[:count], photo[count : 2 * count]
  return [batch.captions[i] for i in first], batch.images[first], batch.images[second]


def faces(pipe: Pipeline, judges: Judges, count: int, reconstruct, **settings: Any) -> dict[str, float]:
  """Figures of `count` pictures for real photos' captions, beside the photos' own.

  level: share with level eyes (`regularity`). sharpness: Laplacian variance in the face, divided by that of the
  VAE's reconstructions of real photos (`reconstruct`: [N, S, S, 3] -> [N, S, S, 3]). frechet: distance to as many
  other photos in CLIP's features; times_real: the same divided by the distance of the captions' own photos to the
  other photos. kernel: the kernel distance of the recogniser's embeddings of faces, x 1000; kernel_real: that of
  the photos. The recogniser tells smears from faces where CLIP does not.
  """
  texts, photos, others = captions_and_photos(count)
  images = pipe.sample(texts, seeds=list(range(9000, 9000 + count)), **settings)
  layout, real = (regularity.layout(judges.pack, x) for x in (images, photos))
  sharp = regularity.sharpness(layout, images) if layout.found.any() else 0.0
  a, b, c = (judges.see(list(x)) for x in (images, photos, others))
  far, floor = distances.frechet(a, c), distances.frechet(b, c)  # to others: a's captions are b's
  who = [
    np.stack([e for e in judges.embed(list(x)) if e is not None] or [np.zeros(512)] * 2)
    for x in (images, photos, others)
  ]
  return {
    "level": regularity.level(judges.pack, layout, images),
    "level_real": regularity.level(judges.pack, real, photos),
    "sharpness": sharp / regularity.sharpness(real, reconstruct(photos)),
    "frechet": far,
    "frechet_real": floor,
    "times_real": far / floor,
    "kernel": 1000 * distances.kernel(who[0], who[2]),
    "kernel_real": 1000 * distances.kernel(who[1], who[2]),
    "found": float(layout.found.mean()),
    "pictures": count,
  }
