"""Variants of a photo: mirrored, jittered in colour, cropped, shrunk onto a black canvas.

All variants are encoded before training begins, so a step only picks one. The papers draw a new
variant at every step; a pool has the same distribution and costs one pass of the VAE per variant.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Augment:
  """What may happen to a photo."""

  flip: bool = True  # with probability one half
  jitter: float = 0.0  # brightness, contrast and saturation times U(1 - j, 1 + j); hue by U(-j, j) / 20
  crop: float = 1.0  # side of a random square that is cut out and enlarged
  scale: tuple[float, float] | None = None  # height on a black canvas; width is that times U(.9, 1.1)
  variants: int = 64

  @property
  def count(self) -> int:
    """How many variants there are: a photo and its mirror image if nothing else happens."""
    still = self.jitter == 0 and self.crop == 1.0 and self.scale is None
    return (2 if self.flip else 1) if still else self.variants


class Variants(NamedTuple):
  images: np.ndarray  # float32 [V, S, S, 3] in [-1, 1]; variant 0 is the photo itself
  face: np.ndarray  # float32 [V, S, S], 1 in the face
  hair: np.ndarray  # float32 [V, S, S]
  flips: np.ndarray  # bool [V]
  colours: np.ndarray  # float32 [V, 4]: brightness, contrast, saturation, hue


def make(
  photo: np.ndarray, face: np.ndarray, hair: np.ndarray, size: int, how: Augment, rng: np.random.Generator
) -> Variants:
  """Variants of a square photo uint8 [H, H, 3] with masks bool [H, H], at `size` pixels."""
  picture = resize(photo, size)
  masks = [resize(255 * m.astype(np.uint8), size) for m in (face, hair)]
  images, faces, hairs, flips, colours = [], [], [], [], []
  for i in range(how.count):
    flip = how.flip and (i == 1 if how.count == 2 else i > 0 and bool(rng.random() < 0.5))
    colour = np.ones(4, np.float32) * [1, 1, 1, 0]
    parts = [picture, *masks]
    if i and how.jitter:
      colour[:3] = rng.uniform(1 - how.jitter, 1 + how.jitter, 3)
      colour[3] = rng.uniform(-how.jitter, how.jitter) / 20
      parts[0] = tint(parts[0], colour)
    if flip:
      parts = [p[:, ::-1] for p in parts]
    if i and how.crop < 1:
      parts = _crop(parts, how.crop, rng)
    if i and how.scale:
      parts = _paste(parts, how.scale, rng)
    images.append(parts[0].astype(np.float32) / 127.5 - 1)
    faces.append(parts[1] > 127)
    hairs.append((parts[2] > 127) & (parts[1] <= 127))
    flips.append(flip)
    colours.append(colour)
  as_float = lambda x: np.stack(x).astype(np.float32)
  return Variants(np.stack(images), as_float(faces), as_float(hairs), np.array(flips), as_float(colours))


def tint(image: np.ndarray, colour: np.ndarray) -> np.ndarray:
  """uint8 [.., 3] with brightness, contrast, saturation (factors) and hue (turns) changed."""
  brightness, contrast, saturation, hue = colour
  x = image.astype(np.float32) * brightness
  middle = _grey(x).mean()
  x = (x - middle) * contrast + middle
  g = _grey(x)[..., None]
  x = (x - g) * saturation + g
  # A small turn about the grey axis (Rodrigues); the axis, and so all greys, stays.
  angle, axis = 2 * np.pi * hue, np.ones(3, np.float32) / np.sqrt(3)
  x = x * np.cos(angle) + np.cross(axis, x) * np.sin(angle) + (x @ axis)[..., None] * axis * (1 - np.cos(angle))
  return np.clip(np.round(x), 0, 255).astype(np.uint8)


def _grey(rgb: np.ndarray) -> np.ndarray:
  """Luma of RGB [.., 3] -> [..] (ITU-R BT.601)."""
  return rgb @ np.array([0.299, 0.587, 0.114], np.float32)


def resize(image: np.ndarray, height: int, width: int | None = None) -> np.ndarray:
  """uint8 [H, W] or [H, W, 3] resized bicubically to `height` x `width`, which is `height` by default."""
  size = (width or height, height)
  return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def square(shape: Sequence[int], box: np.ndarray, most: float = np.inf) -> tuple[int, int, int]:
  """(top, left, side) of the largest square in a photo [H, W, ..], of at most `most` pixels a side, centred on the
  face's box as far as the edges allow."""
  height, width = shape[:2]
  side = int(min(height, width, most))
  x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
  clamp = lambda centre, extent: int(np.clip(round(centre - side / 2), 0, extent - side))
  return clamp(y, height), clamp(x, width), side


def _crop(parts: list[np.ndarray], share: float, rng: np.random.Generator) -> list[np.ndarray]:
  size = parts[0].shape[0]
  side = round(share * size)
  y, x = rng.integers(0, size - side + 1, 2)
  return [resize(np.ascontiguousarray(p[y : y + side, x : x + side]), size) for p in parts]


def _paste(parts: list[np.ndarray], scale: tuple[float, float], rng: np.random.Generator) -> list[np.ndarray]:
  size = parts[0].shape[0]
  height = max(1, round(rng.uniform(*scale) * size))
  width = int(np.clip(round(height * rng.uniform(0.9, 1.1)), 1, size))
  y, x = rng.integers(0, size - height + 1), rng.integers(0, size - width + 1)
  out = []
  for p in parts:
    canvas = np.zeros_like(p)
    canvas[y : y + height, x : x + width] = resize(np.ascontiguousarray(p), height, width)
    out.append(canvas)
  return out
