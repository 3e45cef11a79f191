"""Pictures of a class ("a photo of a person") that the model itself makes, for prior preservation.

They are sampled once for a model and then read from the cache.
"""

import contextlib
import hashlib

import numpy as np

from idejax.faces import npz
from idejax.sampling.pipeline import Pipeline
from idejax.storage import files

_VERSION = 1


def make(pipe: Pipeline, prompt: str, count: int) -> np.ndarray:
  """Pictures uint8 [count, H, W, 3] of seeds 0, 1, ..., sampled by DDIM in 50 steps."""
  file = _file(pipe, prompt, count)
  if file is not None and file.exists():
    with contextlib.suppress(OSError, ValueError, KeyError):  # a damaged file is replaced
      images = npz.read(file)["images"]
      if images.dtype == np.uint8 and images.ndim == 4 and len(images) == count:
        return images
  images = pipe.sample([prompt] * count, seeds=list(range(count)), sampler="ddim", steps=50, progress=True)
  if file is not None:
    with contextlib.suppress(OSError):  # a full disk costs the next run time, this one nothing
      file.parent.mkdir(parents=True, exist_ok=True)
      npz.write(file, {"images": images})
  return images


def _file(pipe: Pipeline, prompt: str, count: int):
  folder = files.cache("class_pictures")
  key = repr((_VERSION, pipe.digest, str(pipe.backbone.nets.dtype), prompt, count))
  return folder and folder / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.npz"
