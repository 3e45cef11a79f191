"""People's photos -> the data of their training: encoded variants, masks, face features."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from idejax.faces import align
from idejax.faces.face_set import FaceSet
from idejax.faces.pack import Pack
from idejax.faces.record import FaceRecord
from idejax.model import backbone
from idejax.model.backbone import Backbone
from idejax.person import augment, face_vit
from idejax.person.augment import Augment, Variants
from idejax.person.subject import Subject

CHUNK = 8  # pictures per call of the VAE
_FACES = 512  # pictures that are float32 at once
Crop = Literal["head", "square"]


def build(
  b: Backbone,
  photos: Sequence[FaceRecord],
  pack: Pack,
  how: Augment,
  seed: int,
  prior: tuple[np.ndarray, np.ndarray] | None = None,
  vit: face_vit.Embed | None = None,
  crop: Crop = "square",
) -> Subject:
  """The subject of one person from one or more photos; numpy, deterministic in (seed, photos). crop: see `frame`.

  Raises UserError from the pack if a crop cannot be read.
  """
  side = b.nets.unet.sample_size * b.nets.factor
  variants, faces, features = [], [], []
  for photo in photos:
    rng = np.random.Generator(np.random.Philox(key=[seed, int(photo.meta["photo_sha256"][:15], 16)]))
    v = augment.make(*frame(photo, side, crop), side, how, rng)
    variants.append(v)
    faces.append(_embed(pack, photo, v))
    if vit:  # it sees variants mirrored, but not changed otherwise
      plain = vit([photo.portrait, photo.portrait[:, ::-1]])
      features.append(plain[v.flips.astype(int)])
  pool = Variants(*(np.concatenate(x) for x in zip(*variants)))
  mean, logvar = encode(b, pool.images)
  face = np.mean([p.embedding for p in photos], axis=0)
  small = functools.partial(_shrink, side=mean.shape[1])
  prior_mean, prior_logvar = prior or (None, None)
  return Subject(
    mean,
    logvar,
    (face / np.linalg.norm(face)).astype(np.float32),
    np.concatenate(faces),
    small(pool.face),
    small(pool.hair),
    np.concatenate(features) if vit else None,
    prior_mean,
    prior_logvar,
  )


def of_faces(b: Backbone, data: FaceSet, order: np.ndarray, each: int) -> Subject:
  """Many people's faces as subjects [N, V = each, ...]; `order` [N V] has each person's faces side by side.

  Who wears something before eyes or hair is seen as in a clear picture of theirs. Hair has no mask there.
  """
  assert data.images is not None
  shape = lambda x: x.reshape(-1, each, *x.shape[1:])
  parts = [order[at : at + _FACES] for at in range(0, len(order), _FACES)]
  read = [encode(b, np.asarray(data.images[p]).astype(np.float32) / 127.5 - 1) for p in parts]
  mean, logvar = (shape(np.concatenate(x)) for x in zip(*read))
  own, clear = shape(np.asarray(data.embedding, np.float32)[order]), shape(np.asarray(data.clear)[order])
  seen = np.stack([np.where(c[:, None], e, np.resize(e[c] if c.any() else e, e.shape)) for e, c in zip(own, clear)])
  face = seen.mean(1)
  masks = shape(_shrink(np.asarray(data.masks)[order], mean.shape[2]))
  return Subject(mean, logvar, face / np.linalg.norm(face, axis=-1, keepdims=True), seen, masks, np.zeros_like(masks))


def usual_crop(pack: Pack) -> Crop:
  """What of a photo trains unless it is said: the head, as the papers' data sets have it; drawn portraits are framed
  as the built-in models draw."""
  return "square" if pack.bundled else "head"


def frame(photo: FaceRecord, side: int, crop: Crop) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """A square of the photo, uint8 [S, S, 3], with the masks of face and hair, bool [S, S].

  head: as FFHQ frames it, upright, `side` pixels; beyond the photo's edges it is mirrored and no mask goes on.
  square: the largest round the face.
  """
  if crop == "head":
    mask = lambda m: align.portrait(255 * m.astype(np.uint8), photo.points, side, mirror=False) > 127
    return align.portrait(photo.photo, photo.points, side), mask(photo.face), mask(photo.hair)
  top, left, size = augment.square(photo.photo.shape, photo.box)
  window = np.s_[top : top + size, left : left + size]
  return photo.photo[window], photo.face[window], photo.hair[window]


def encode(b: Backbone, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Mean and log-variance of latents of images float32 [N, H, W, 3], in calls of one shape."""
  return in_chunks(lambda chunk: _encode(b, chunk), images)


def in_chunks(encode: Callable[[np.ndarray], Any], images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Both results of `encode` for images float32 [N, H, W, 3], CHUNK at a time, the last filled up with black."""
  parts = []
  for at in range(0, len(images), CHUNK):
    part = images[at : at + CHUNK]
    chunk = np.concatenate([part, np.zeros((CHUNK - len(part), *part.shape[1:]), np.float32)])
    parts.append([np.asarray(x, np.float32)[: len(part)] for x in encode(chunk)])
  mean, logvar = zip(*parts)
  return np.concatenate(mean), np.concatenate(logvar)


@jax.jit
def _encode(b: Backbone, images: jax.Array) -> Any:
  return backbone.encode_image(b, images.astype(b.nets.vae_dtype))


def _embed(pack: Pack, photo: FaceRecord, v: Variants) -> np.ndarray:
  """The recogniser's embedding [V, 512] of each variant's face before it was cropped or pasted."""
  crop = pack.crop(photo.photo, photo.points)
  mirror = lambda x, flip: np.ascontiguousarray(x[:, ::-1]) if flip else x
  return pack.embed([mirror(augment.tint(crop, c), f) for c, f in zip(v.colours, v.flips)])


def _shrink(masks: np.ndarray, side: int) -> np.ndarray:
  """Masks [V, S, S] at the latents' size: 1 where at least half of the pixels are."""
  n, size = masks.shape[:2]
  return (masks.reshape(n, side, size // side, side, size // side).mean((2, 4)) >= 0.5).astype(np.float32)


def stack(subjects: Sequence[Subject]) -> Subject:
  """The subjects of one method stacked to [N, ...]; people with fewer photos repeat their variants."""
  most = max(s.mean.shape[0] for s in subjects)

  def repeat(name: str, x: Any) -> Any:
    if name in ("face", "prior_mean", "prior_logvar"):
      return x
    return np.resize(x, (most, *x.shape[1:]))

  rows = [s._replace(**{f: repeat(f, x) for f, x in s._asdict().items() if x is not None}) for s in subjects]
  return jax.tree.map(lambda *xs: jnp.stack(xs), *rows)
