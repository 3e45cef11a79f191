"""Many faces as the nets read them: latents, CLIP's tokens, regions, captions; computed once, ahead of training."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from idejax.errors import tell
from idejax.faces import mask
from idejax.faces.face_set import FaceSet
from idejax.model import conditioning
from idejax.model.backbone import Backbone
from idejax.model.conditioning import Prompts
from idejax.model.tokens import Tokenizer
from idejax.model.vision import Tower
from idejax.person import subjects

_GROW = 8 / 512  # of a picture's side: how far a face's region reaches beyond the face
_AT_A_TIME = 64


class Encoded(NamedTuple):
  """A FaceSet as the nets read it; arrays [N, ...], float16 where large."""

  mean: np.ndarray  # [N, h, w, C], moments of the latents, unscaled
  logvar: np.ndarray
  clip: np.ndarray  # [N, T, D]
  mask: np.ndarray  # [N, h, w] in [0, 1]
  identity: np.ndarray  # float32 [N, 512]
  marks: np.ndarray  # float32 [N, 72, 2]
  prompts: Prompts
  references: tuple[np.ndarray, ...]  # of each person, the pictures that may show who it is
  person: np.ndarray  # int32 [N]
  digest: str


def encode(b: Backbone, tokenizers: Sequence[Tokenizer], tower: Tower, data: FaceSet) -> Encoded:
  """What training reads of each face. UserError for a caption that cannot be tokenised."""
  mean, logvar, clip, region = [], [], [], []
  for at in range(0, len(data.images), _AT_A_TIME):
    part = np.asarray(data.images[at : at + _AT_A_TIME])
    m, v = subjects.encode(b, part.astype(np.float32) / 127.5 - 1)
    mean.append(m.astype(np.float16))
    logvar.append(v.astype(np.float16))
    clip.append(tower.tokens(data.portraits[at : at + _AT_A_TIME]).astype(np.float16))
    grow = max(1, round(_GROW * part.shape[1]))
    small = [mask.at_latent_size(x, m.shape[1:3], grow) for x in np.asarray(data.masks[at : at + _AT_A_TIME])]
    region.append(np.stack(small).astype(np.float16))
    if at % (16 * _AT_A_TIME) == 0:
      tell(f"encoded {at + len(part)}/{len(data.images)} faces")
  person, clear = np.asarray(data.person), np.asarray(data.clear)
  every = [np.flatnonzero(person == n) for n in range(int(person.max()) + 1)]
  return Encoded(
    np.concatenate(mean),
    np.concatenate(logvar),
    np.concatenate(clip),
    np.concatenate(region),
    np.asarray(data.embedding, np.float32),
    np.asarray(data.marks, np.float32),
    conditioning.tokenise(tokenizers, data.captions, {}),
    tuple(own[clear[own]] for own in every),
    person,
    data.digest,
  )
