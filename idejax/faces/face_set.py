"""Many people's faces as arrays: what a method that is trained once for everybody learns from.

Faces, not pictures: of every picture one face, as the front end or a drawn world's truth has it.
"""

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray


class FaceSet(NamedTuple):
  """N pictures with a face each; arrays may be memory-mapped."""

  images: Any  # uint8 [N, S, S, 3], squares about the face at the model's size; None where latents are known
  captions: list[str]
  person: Array  # int32 [N], 0, 1, ...
  embedding: Array  # float32 [N, 512], the recogniser's, L2-normalised
  portraits: Any  # uint8 [N, P, P, 3], aligned as FFHQ; None where CLIP's tokens are known
  marks: Array  # float32 [N, 72, 2] in pixels of `images`; NaN where the front end knows none
  masks: Array  # bool [N, S, S], the face
  clear: Array  # bool [N], whether the face is good enough to be learned from as a reference
  digest: str  # of all that went in
  latents: tuple[Array, Array] | None = None  # float16 [N, h, w, C], mean and log-variance, unscaled, computed before
  clip: Array | None = None  # float16 [N, T, D], the vision tower's tokens, computed before
  sizes: Array | None = None  # float32 [N, 4]: the photo's height and width, the picture's top and left in it, enlarged
  inside: Array | None = None  # float32 [N, S, S], how far the picture covers each pixel; None: all, wholly
