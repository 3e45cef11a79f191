"""Many faces as the nets read them: latents, CLIP's tokens, regions, captions; computed once, ahead of training."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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


class Pictures(NamedTuple):
  """What a training reads of pictures; arrays [N, ...]."""

  mean: np.ndarray  # float16 [N, h, w, C], moments of the latents, unscaled
  logvar: np.ndarray
  mask: np.ndarray  # float16 [N, h, w] in [0, 1]
  marks: np.ndarray  # float32 [N, 72, 2]
  prompts: Prompts
  inside: np.ndarray | None = None  # float16 [N, h, w], how far the picture covers the frame; None: wholly
  sizes: np.ndarray | None = None  # float32 [N, 6], SDXL's time ids, where they are known


class Looks(NamedTuple):
  """What a training reads of the faces that pictures shall show."""

  identity: np.ndarray  # float32 [N, 512]
  clip: np.ndarray  # float16 [N, T, D]


class Encoded(NamedTuple):
  """A FaceSet as the nets read it."""

  pictures: Pictures
  looks: Looks
  references: Sequence[np.ndarray]  # of each person, the pictures that may show who it is
  person: np.ndarray  # int32 [N]
  digest: str

  def take(self, at: np.ndarray, who: np.ndarray) -> dict[str, Any]:
    """Rows of a batch: the pictures `at`, with the looks of the faces `who`."""
    p, looks = self.pictures, self.looks
    some = lambda xs: tuple(np.asarray(x)[at] for x in xs)
    prompts = Prompts(some(p.prompts.ids), some(p.prompts.eos), ())
    sizes = None if p.sizes is None else p.sizes[at]
    part = Pictures(p.mean[at], p.logvar[at], p.mask[at], p.marks[at], prompts, None, sizes)
    return batch(part, Looks(looks.identity[who], looks.clip[who]))

  def shows(self, who: np.ndarray) -> dict[str, Any]:
    """The looks alone, of the faces `who`."""
    return shown(Looks(self.looks.identity[who], self.looks.clip[who]))


def batch(p: Pictures, looks: Looks) -> dict[str, Any]:
  """Rows as FaceSnap's loss reads them."""
  f32 = lambda x: np.asarray(x, np.float32)
  more = {"inside": p.inside, "time_ids": p.sizes}
  return {
    "mean": f32(p.mean),
    "logvar": f32(p.logvar),
    "mask": f32(p.mask),
    "marks": p.marks,
    "ids": p.prompts.ids,
    "eos": p.prompts.eos,
    **shown(looks),
    **{name: f32(x) for name, x in more.items() if x is not None},
  }


def shown(looks: Looks) -> dict[str, Any]:
  """The part of a batch that says who its pictures shall show."""
  return {"identity": looks.identity, "clip": np.asarray(looks.clip, np.float32)}


def encode(b: Backbone, tokenizers: Sequence[Tokenizer], tower: Tower, data: FaceSet) -> Encoded:
  """What training reads of each face. UserError for a caption that cannot be tokenised."""
  return Encoded(
    pictures(b, tokenizers, data, tell), looks(tower, data), references(data), np.asarray(data.person), data.digest
  )


def references(data: FaceSet) -> tuple[np.ndarray, ...]:
  """The pictures of each person that may show who it is."""
  person, clear = np.asarray(data.person), np.asarray(data.clear)
  every = [np.flatnonzero(person == n) for n in range(int(person.max()) + 1)]
  return tuple(own[clear[own]] for own in every)


def pictures(b: Backbone, tokenizers: Sequence[Tokenizer], data: FaceSet, notify: Any = lambda _: None) -> Pictures:
  """The pictures of a FaceSet: its latents where it has them, else the VAE's, rounded to float16."""
  count, grow = len(data.masks), max(1, round(_GROW * data.masks.shape[1]))
  if data.latents is None:
    assert data.images is not None
    moments = [np.concatenate(x) for x in zip(*_moments(b, data.images, notify))]
  else:
    moments = [np.asarray(x) for x in data.latents]
  size = moments[0].shape[1:3]
  region = np.stack([mask.at_latent_size(np.asarray(data.masks[i]), size, grow) for i in range(count)])
  prompts = conditioning.tokenise(tokenizers, data.captions, {})
  side, inside, sizes = data.masks.shape[1], None, None
  if data.inside is not None:
    inside = np.stack([mask.averaged(x, size) for x in data.inside]).astype(np.float16)
  if b.nets.xl and data.sizes is not None:
    sizes = np.concatenate([data.sizes, np.full((count, 2), side)], 1).astype(np.float32)
  marks = np.asarray(data.marks, np.float32)
  return Pictures(moments[0], moments[1], region.astype(np.float16), marks, prompts, inside, sizes)


def looks(tower: Tower, data: FaceSet) -> Looks:
  """The faces of a FaceSet: CLIP's tokens where it has them, else the tower's, rounded to float16."""
  clip = data.clip
  if clip is None:
    assert data.portraits is not None
    starts = range(0, len(data.portraits), _AT_A_TIME)
    parts = [tower.tokens(data.portraits[at : at + _AT_A_TIME]).astype(np.float16) for at in starts]
    clip = np.concatenate(parts)
  return Looks(np.asarray(data.embedding, np.float32), np.asarray(clip))


def moments(images: np.ndarray, encode: Callable[[np.ndarray], Any]) -> tuple[np.ndarray, np.ndarray]:
  """Mean and log-variance of the latents of uint8 [N, S, S, 3], unscaled, float16 [N, h, w, C].

  encode: images float32 in [-1, 1] -> both, float32.
  """
  mean, logvar = encode(images.astype(np.float32) / 127.5 - 1)
  return mean.astype(np.float16), logvar.astype(np.float16)


def _moments(b: Backbone, images: Any, notify: Any):
  for at in range(0, len(images), _AT_A_TIME):
    yield moments(np.asarray(images[at : at + _AT_A_TIME]), lambda x: subjects.encode(b, x))
    if at % (16 * _AT_A_TIME) == 0:
      notify(f"encoded {min(at + _AT_A_TIME, len(images))}/{len(images)} faces")
