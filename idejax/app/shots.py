"""A panel's picture: the shots to draw for it, how they are joined and enlarged, and how it is read from disk."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageFilter

from idejax.app import names, pages
from idejax.app.script import Box, Panel, Version
from idejax.sampling.regions import Part

SMALLEST = 512  # pixels a side that a picture is enlarged to: the mark and the letters need them


class Shot(NamedTuple):
  """A picture to draw, part of a panel: one of its candidates, and one of its regions."""

  panel: str
  candidate: int
  part: int
  prompt: str
  box: Box | None  # where in the panel; None: all of it
  person: str  # whose portrait it is compared with, "" for nobody
  inside: tuple[Part, ...] = ()  # prompts with boxes that share this picture,
  people: tuple[str, ...] = ()  # and the person of each


def named(p: Panel) -> tuple[str, ...]:
  """The people whom a panel's picture shows: those of its own prompt, where it has one."""
  return p.people if p.prompt is None else names.present(p.prompt, p.people)


def prompts_of(group: Sequence[Shot]) -> list[str]:
  """All prompts of a picture."""
  return [t for x in group for t in (*(p.prompt for p in x.inside), x.prompt)]


def columns(count: int) -> list[Box]:
  """A picture's parts from left to right."""
  return [(j / count, 0.0, (j + 1) / count, 1.0) for j in range(count)]


def opener(folder: Path) -> Callable[[Version], Image.Image | None]:
  """A function that opens a version's picture, or returns None if its file is gone."""

  def get(v: Version) -> Image.Image | None:
    path = folder / v.file
    if not path.is_file():
      return None
    with Image.open(path) as image:
      return image.convert("RGB")

  return get


def enlarge(image: np.ndarray) -> np.ndarray:
  """The image with at least SMALLEST pixels a side; the drawn world's 64 pixels get smooth edges."""
  side = min(image.shape[:2])
  if side >= SMALLEST:
    return image
  factor = -(-SMALLEST // side)
  big = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
  if factor < 4:
    return big
  smooth = cv2.bilateralFilter(big, 9, 28, 5)
  soft = cv2.GaussianBlur(smooth, (0, 0), factor * 0.45)
  return cv2.addWeighted(smooth, 1.9, soft, -0.9, 0)


def join(
  group: Sequence[Shot], images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]
) -> tuple[np.ndarray, list[Box]]:
  """A panel's picture of its parts, and the faces in it as shares of its sides, from left to right.

  A part fills its box with as much of its picture as fits around the face. What no box covers is their colours
  out of focus, so that no face stands there.
  """
  big = [enlarge(i) for i in images]
  shares = [[tuple(float(v) for v in b / np.tile(i.shape[1::-1], 2)) for b in own] for i, own in zip(images, boxes)]
  if group[0].box is None:
    return big[0], [_clip(f) for f in shares[0]]  # type: ignore[arg-type]
  height, width = big[0].shape[:2]
  wide = round(width * (1.0 if len(group) == 1 else 0.62 * len(group)))
  canvas = Image.fromarray(big[0]).resize((wide, height)).filter(ImageFilter.GaussianBlur(height / 10))
  faces: list[Box] = []
  for x, image, own in zip(group, big, shares):
    assert x.box is not None
    left, top, right, bottom = (round(v * s) for v, s in zip(x.box, (wide, height, wide, height)))
    largest = sorted(own, key=lambda f: (f[2] - f[0]) * (f[3] - f[1]))[-1:]
    part = pages.crop((width, height), (right - left, bottom - top), largest)  # type: ignore[arg-type]
    canvas.paste(pages.fill(Image.fromarray(image), part, (right - left, bottom - top)), (left, top))
    for f in own:
      r = pages.inside(f, (width, height), part, (right - left, bottom - top))  # type: ignore[arg-type]
      faces.append(_clip(((r[0] + left) / wide, (r[1] + top) / height, (r[2] + left) / wide, (r[3] + top) / height)))
    for line, shown in (
      ((left - 3, top, left + 3, bottom), left > 0),
      ((right - 3, top, right + 3, bottom), right < wide),
      ((left - 3, top - 3, right + 3, top + 3), top > 0),
      ((left - 3, bottom - 3, right + 3, bottom + 3), bottom < height),
    ):
      if shown:
        canvas.paste((250, 250, 250), line)
  return np.asarray(canvas), sorted(faces)


def views_of(x: Shot, image: np.ndarray) -> list[tuple[np.ndarray, str, str]]:
  """What a judge looks at: (part of the picture, the person there or "", the prompt) for each box, else the whole."""
  if not x.inside:
    return [(image, x.person, x.prompt)]
  height, width = image.shape[:2]
  out = []
  for part, who in zip(x.inside, x.people):
    x0, y0, x1, y1 = (round(v * side) for v, side in zip(part.box, (width, height, width, height)))
    out.append((image[y0:y1, x0:x1], who, part.prompt))
  return out


def _clip(f: Sequence[float]) -> Box:
  a, b, c, d = (round(min(max(v, 0.0), 1.0), 4) for v in f)
  return a, b, c, d
