"""The people of a run, and how the photos of many are read: bad ones are skipped, counted and listed."""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from idejax import faces
from idejax.errors import UserError, tell
from idejax.faces.photo import SUFFIXES
from idejax.runtime.progress import counting


@dataclasses.dataclass(frozen=True)
class Person:
  """One person of a run. `alone`: the run was given one photo, not a folder."""

  stem: str  # of file names
  word: str  # in prompts
  photos: tuple[faces.FaceRecord, ...]
  alone: bool = True

  @property
  def digest(self) -> str:
    """sha256 over the photos' digests: names the person, whatever the files are called."""
    text = " ".join(p.meta["photo_sha256"] for p in self.photos)
    return hashlib.sha256(text.encode()).hexdigest()


def crowd(
  place: Path, sources: Sequence[tuple[str, Sequence[Any]]], look: Callable[[Any], faces.FaceRecord]
) -> list[Person]:
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
    if found and short in people:
      raise UserError(f"{place}: two people are called {short}; rename one of them")
    if found:
      people[short] = Person(short, f"<{short}>", tuple(found), alone=False)
    elif not photos:
      skipped.append(f"{place / name}: no pictures in it")
  bar.close()
  for reason in skipped:
    tell(f"skipped: {reason}")
  if skipped:
    tell(f"{len(skipped)} photo(s) skipped, {len(people)} people are left")
  if not people:
    raise UserError(f"{place}: no photo here can be used")
  return list(people.values())


def pictures_in(path: Path) -> list[Path]:
  """A file itself, or the picture files directly in a folder."""
  if path.is_file():
    return [path]
  return sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def stem(name: str) -> str:
  """A person's name for files and prompts, with everything but letters and digits as _."""
  return re.sub(r"\W+", "_", name).strip("_").lower() or "person"
