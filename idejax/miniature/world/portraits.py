"""Portraits of people of the drawn world, as photographs of strangers."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from idejax.errors import UserError, tell
from idejax.miniature.world import data, people, scene, world
from idejax.storage.files import replacing

SMALLEST = 32  # pixels of a portrait's side
# What a portrait shows around the face, in the words of captions.
SURROUNDINGS = "wearing a red sweater on a gray background"


def portray(folder: Path, split: str, count: int) -> Path:
  """Writes one portrait of each of `count` people of a split: drawn_2817.png is person 2817 of the world.

  Returns the folder. UserError if the split has fewer people.
  """
  ids = people.split(split)
  if not 1 <= count <= len(ids):
    raise UserError(f"--drawn is {count}; {split} has {len(ids)} people")
  folder.mkdir(parents=True, exist_ok=True)
  render(ids[:count], [folder / f"drawn_{i}.png" for i in ids[:count]])
  tell(f"no photos given: {folder} has portraits of {count} drawn people whom no training has seen")
  return folder


def portray_one(path: Path) -> Path:
  """Writes a portrait of the first held-out person."""
  render(people.split("heldout")[:1], [path])
  tell(f"no photo given: {path} is a drawn portrait that no training has seen")
  return path


def one(n: int, size: int = 64) -> np.ndarray:
  """The portrait of held-out person n (0: the person of `portray_one`), uint8 [size, size, 3], drawn by numpy.

  UserError if there is no such person.
  """
  ids = people.split("heldout")
  if not 0 <= n < len(ids):
    raise UserError(f"there is no person {n}: those whom no training has seen are 0 to {len(ids) - 1}")
  if size < SMALLEST:
    raise UserError(f"size is {size}; a portrait has at least {SMALLEST} pixels a side")
  who = people.take(people.people(ids[n : n + 1]), 0)
  picture = world.render(np, who, scene.scene(clothes="red sweater", background="gray"), size)
  return (np.asarray(picture) * 255 + 0.5).astype(np.uint8)


def find_person(stem: str) -> int | None:
  """The person whose portrait `portray` writes under this file stem, or None for any other stem."""
  m = re.fullmatch(r"drawn_(\d+)", stem)
  return int(m[1]) if m else None


def render(ids: "np.ndarray | Sequence[int]", paths: Sequence[Path]):
  """Writes the portraits of people as PNG files."""
  plain = scene.scene(clothes="red sweater", background="gray")
  images, _ = data.render_all(people.people(np.asarray(ids)), data.stack([plain] * len(paths)))
  for path, image in zip(paths, np.asarray(images)):
    with replacing(path) as temporary:
      Image.fromarray(image).save(temporary, "PNG")
