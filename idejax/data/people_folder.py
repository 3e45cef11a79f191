"""The photos of a run: one portrait, a folder with a file or a sub-folder per person, or a data set."""

from collections.abc import Callable
from pathlib import Path

from idejax import faces
from idejax.data.people import Person, crowd, pictures_in, stem
from idejax.errors import UserError
from idejax.faces.photo import SUFFIXES


def read(
  photo: Path, pack: faces.Pack, word: str, *, face: int | None = None, parsing: Path | None = None
) -> list[Person]:
  """The people of `photo`: a portrait, a folder or a data set.

  In a folder, photos that cannot be used are skipped, counted and listed; UserError if none is left,
  or if two people would have one name.
  """
  look: Callable[[Path], faces.FaceRecord] = lambda path: faces.read([path], pack, face, parsing)[0]
  if photo.is_file():
    return [Person(stem(photo.stem), word, (look(photo),))]
  if (photo / "dataset_info.json").is_file():
    from idejax.data import face_folder  # TFDS takes a while to import

    return face_folder.people(photo, pack, face, parsing)
  entries = sorted(p for p in photo.iterdir() if not p.name.startswith("."))
  sources = [
    (p.stem if p.is_file() else p.name, pictures_in(p)) for p in entries if p.is_dir() or p.suffix.lower() in SUFFIXES
  ]
  if not sources:
    raise UserError(f"{photo}: no pictures here (.png, .jpg, .webp and others), and no sub-folders with any")
  return crowd(photo, sources, look)
