"""Whose photos a run is given: one portrait, a folder with a file or a sub-folder per person, a data set."""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from idejax import faces
from idejax.errors import UserError, tell
from idejax.files import whole
from idejax.progress import counting

KINDS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")


@dataclasses.dataclass(frozen=True)
class Person:
  """One person of a run. `alone`: the run was given one photo, not a folder."""

  stem: str  # of file names
  word: str  # in prompts
  photos: tuple[faces.Identity, ...]
  alone: bool = True

  @property
  def digest(self) -> str:
    """sha256 over the photos' digests: names the person, whatever the files are called."""
    text = " ".join(p.meta["photo_sha256"] for p in self.photos)
    return hashlib.sha256(text.encode()).hexdigest()


def read(photo: Path | None, out: Path, pack: faces.Pack, word: str, *, face: int | None = None,
         parsing: Path | None = None, split: str = "heldout", count: int = 1) -> list[Person]:  # fmt: skip
  """The people of `photo`; None draws `count` portraits of a split of the drawn world into `out`.

  In a folder, photos that cannot be used are skipped, counted and listed; UserError if none is left,
  or if two people would have one name.
  """
  look: Callable[[Path], faces.Identity] = lambda path: faces.read([path], pack, face, parsing)[0]
  if photo is None: photo = draw(out / "photos", split, count) if count > 1 else draw_portrait(out / "portrait.png")
  if photo.is_file(): return [Person(stem(photo.stem), word, (look(photo),))]
  if (photo / "dataset_info.json").is_file():
    from idejax import face_folder  # TFDS takes a while to import

    return face_folder.people(photo, pack, face, parsing)
  inside = sorted(p for p in photo.iterdir() if not p.name.startswith("."))
  sources = [(p.stem if p.is_file() else p.name, pictures_in(p)) for p in inside if p.is_dir() or p.suffix.lower() in KINDS]
  if not sources: raise UserError(f"{photo}: no pictures here ({', '.join(KINDS)}), and no sub-folders with any")
  return crowd(photo, sources, look)


def crowd(place: Path, sources: Sequence[tuple[str, Sequence[Any]]], look: Callable[[Any], faces.Identity]) -> list[Person]:
  """The people of `sources`, (name, photos) each; `look` reads a photo. See `read` for what is skipped."""
  people: dict[str, Person] = {}
  skipped: list[str] = []
  bar = counting(sum(len(photos) for _, photos in sources), "photo", True)
  for name, photos in sources:
    found = []
    for photo in photos:
      try:
        found.append(look(photo))
      except UserError as e:
        skipped.append(str(e))
      bar.update(1)
    short = stem(name)
    if found and short in people: raise UserError(f"{place}: two people are called {short}; rename one of them")
    if found: people[short] = Person(short, f"<{short}>", tuple(found), alone=False)
    elif not photos: skipped.append(f"{place / name}: no pictures in it")
  bar.close()
  for reason in skipped: tell(f"skipped: {reason}")
  if skipped: tell(f"{len(skipped)} photo(s) skipped, {len(people)} people are left")
  if not people: raise UserError(f"{place}: no photo here can be used")
  return list(people.values())


def pictures_in(path: Path) -> list[Path]:
  """A file itself, or the picture files directly in a folder."""
  if path.is_file(): return [path]
  return sorted(p for p in path.iterdir() if p.suffix.lower() in KINDS and not p.name.startswith("."))


def stem(name: str) -> str:
  """A person's name for files and prompts, with everything but letters and digits as _."""
  return re.sub(r"\W+", "_", name).strip("_").lower() or "person"


def draw_portrait(path: Path) -> Path:
  """A portrait of a held-out person of the drawn world, as a photo of a stranger."""
  _draw([path], "heldout")
  tell(f"no photo given: {path} is a drawn portrait that no training has seen")
  return path


def draw(folder: Path, split: str, count: int) -> Path:
  """`count` people of a split, a portrait each: drawn_2817.png is person 2817 of the world."""
  from idejax.miniature import people

  ids = people.split(split)
  if not 1 <= count <= len(ids): raise UserError(f"--drawn is {count}; {split} has {len(ids)} people")
  folder.mkdir(parents=True, exist_ok=True)
  _draw([folder / f"drawn_{i}.png" for i in ids[:count]], split)
  tell(f"no photos given: {folder} has portraits of {count} drawn people whom no training has seen")
  return folder


def drawn(person: Person) -> int | None:
  """Whom of the drawn world `draw` portrayed, or None for anybody else."""
  m = re.fullmatch(r"drawn_(\d+)", person.stem)
  return int(m[1]) if m else None


# What `_draw` draws around a face, in the words of captions.
SHOWN = "wearing a red sweater on a gray background"


def _draw(paths: list[Path], split: str):
  from idejax.miniature import data, people, scene

  who = people.people(people.split(split)[: len(paths)])
  images, _ = data.draw(who, data.stack([scene.scene(clothes="red sweater", background="gray")] * len(paths)))
  for path, image in zip(paths, np.asarray(images)):
    with whole(path) as temporary: Image.fromarray(image).save(temporary, "PNG")
