"""The people of a run. Photos that cannot be used are skipped, counted and listed."""

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

  stem: str  # with which the person's files begin
  word: str  # in prompts
  photos: tuple[faces.FaceRecord, ...]
  alone: bool = True

  @property
  def digest(self) -> str:
    """sha256 over the photos' digests: names the person, whatever the files are called."""
    text = " ".join(p.meta["photo_sha256"] for p in self.photos)
    return hashlib.sha256(text.encode()).hexdigest()


def everybody(people: Sequence[Person]) -> str:
  """A digest of several people, in their order; of one it is theirs."""
  digests = [p.digest for p in people]
  return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


def crowd(
  place: Path, sources: Sequence[tuple[str, Sequence[Any]]], look: Callable[[Any], faces.FaceRecord]
) -> list[Person]:
  """The people of `sources`, each (name, photos); `look` reads a photo.

  Photos for which `look` raises UserError are skipped and reported. UserError if none is left, or if two
  people would have one name.
  """
  people: dict[str, Person] = {}
  reasons: list[str] = []
  bar = counting(sum(len(photos) for _, photos in sources), "photo", True)
  for name, photos in sources:
    records = []
    for photo in photos:
      try:
        records.append(look(photo))
      except UserError as e:
        reasons.append(str(e))
      bar.update(1)
    short = stem(name)
    if records and short in people:
      raise UserError(f"{place}: two people are called {short}; rename one of them")
    if records:
      people[short] = Person(short, f"<{short}>", tuple(records), alone=False)
    elif not photos:
      reasons.append(f"{place / name}: no pictures in it")
  bar.close()
  for reason in reasons:
    tell(f"skipped: {reason}")
  if reasons:
    tell(f"{len(reasons)} photo(s) skipped, {len(people)} people are left")
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
