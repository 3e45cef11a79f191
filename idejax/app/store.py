"""A store of learned people, one folder each: the identity for sampling, the portrait, and a record of both.

    STORE/anna_field/identity.safetensors   embeddings, method, model
    STORE/anna_field/person.json            name, consent, photo's digest, settings, date, comics they are in
    STORE/anna_field/portrait.png           the aligned face, to be recognised and compared with

Deleting a person removes the folder, the cached face features of the photo, and every picture of the person
in comics that were made from this store.
"""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from idejax.app import names as nm
from idejax.app import script
from idejax.app.audit import Audit, now
from idejax.errors import UserError, one_line
from idejax.faces import cache
from idejax.sampling import learned
from idejax.sampling.learned import Learned
from idejax.storage import tensorfiles
from idejax.storage.files import replacing, write_json

SCHEMA = 1
RECORD, _PORTRAIT = "person.json", "portrait.png"


@dataclasses.dataclass(frozen=True)
class Consent:
  """Who consented to the use of the photo, and when. Nobody is learned without consent."""

  by: str
  date: str = ""

  def validate(self) -> "Consent":
    """The consent with a date. UserError if it names nobody."""
    if not self.by.strip():
      raise UserError("nobody has agreed to the use of this photo: without consent nothing is learned")
    return Consent(self.by.strip()[:200], self.date or now())


@dataclasses.dataclass(frozen=True)
class Record:
  """person.json."""

  name: str
  photo_sha256: str
  consent: Consent
  method: str
  model: str
  model_digest: str
  settings: dict[str, Any]
  seed: int
  pack: str
  pack_digest: str
  licence: str
  created: str
  pronouns: str = ""
  age: str = "not estimated"
  sample: bool = False  # drawn, of nobody
  comics: tuple[str, ...] = ()  # folders
  schema: int = SCHEMA

  @property
  def word(self) -> str:
    return nm.word(self.name)


class Store:
  """A folder of people. Every method reads the disk: several programs may share it."""

  def __init__(self, root: Path):
    self.root = Path(root)
    self.audit = Audit(self.root)

  def folder(self, name: str) -> Path:
    """The folder of a person, existing or not. It is inside the store whatever the name."""
    return self.root / nm.slug(nm.check(name))

  def records(self) -> list[Record]:
    """The records of everybody, in the order in which they were added; other folders are skipped."""
    if not self.root.is_dir():
      return []
    out = [read_record(p) for p in sorted(self.root.glob(f"*/{RECORD}")) if not p.parent.name.startswith(".")]
    return sorted(out, key=lambda r: (r.created, r.name))

  def names(self) -> list[str]:
    return [r.name for r in self.records()]

  def has(self, name: str) -> bool:
    return (self.folder(name) / RECORD).exists()

  def record(self, name: str) -> Record:
    """UserError if there is nobody of that name."""
    path = self.folder(name) / RECORD
    if not path.exists():
      raise UserError(f"{name} is not in the store {self.root}; there are {', '.join(self.names()) or 'none'}")
    return read_record(path)

  def digest(self, name: str) -> str:
    """The digest of a person's embeddings, on which a panel's inputs depend."""
    self.record(name)
    return tensorfiles.digest(self.folder(name) / learned.FILE)[:32]

  def portrait(self, name: str) -> np.ndarray:
    """uint8 [S, S, 3]."""
    self.record(name)
    with Image.open(self.folder(name) / _PORTRAIT) as image:
      return np.asarray(image.convert("RGB"))

  def portrait_file(self, name: str) -> Path:
    return self.folder(name) / _PORTRAIT

  def load(self, name: str, model: str, model_digest: str) -> Learned:
    """A person for sampling on a model. UserError, with both models' names, if they were learned on another."""
    r = self.record(name)
    if r.model_digest != model_digest:
      raise UserError(
        f"{name} was learned on {r.model} ({r.model_digest[:12]}), and the comic is drawn with {model} "
        f"({model_digest[:12]}): learn {name} on {model}, or draw with {r.model}"
      )
    return learned.load(self.folder(name))

  def check_free(self, names: Sequence[str], overwrite: bool = False):
    """UserError for somebody who is in the store already, unless `overwrite` allows replacing them."""
    if overwrite:
      return
    for name in names:
      if self.has(name):
        raise UserError(
          f"{self.record(name).name} is in the store already: choose another name, or say that they be replaced"
        )

  def add(self, person: Learned, record: Record, portrait: np.ndarray, overwrite: bool = False):
    """Adds a person. The folder is written under a temporary name and moved into place when it is complete."""
    self.check_free([record.name], overwrite)
    record = dataclasses.replace(record, consent=record.consent.validate())
    place = self.folder(record.name)
    fresh = self.root / f".new-{place.name}"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True, mode=0o700)
    learned.save(fresh, person)
    with replacing(fresh / _PORTRAIT) as temporary:
      Image.fromarray(portrait).save(temporary, "PNG")
    write_json(fresh / RECORD, dataclasses.asdict(record))
    if place.exists():
      self.delete(record.name, why="replaced")
    fresh.rename(place)
    self.audit.write(
      "learned",
      name=record.name,
      photo=record.photo_sha256,
      method=record.method,
      model=record.model,
      consent=record.consent.by,
      age=record.age,
    )

  def note_comic(self, names: Sequence[str], comic: Path):
    """Records that a comic shows these people, so that deleting them also deletes their pictures there."""
    place = str(comic.resolve())
    for name in names:
      r = self.record(name)
      if place not in r.comics:
        write_json(self.folder(name) / RECORD, dataclasses.asdict(dataclasses.replace(r, comics=(*r.comics, place))))

  def delete(self, name: str, why: str = "asked for") -> int:
    """Deletes a person and everything derived from the photo; returns the number of deleted files."""
    r = self.record(name)
    count = 0
    for comic in r.comics:
      count += _forget_in(Path(comic), r.name)
    if (analysis := cache.path(r.photo_sha256, r.pack_digest, None, None)) and analysis.exists():
      analysis.unlink()
      count += 1
    place = self.folder(name)
    count += sum(p.is_file() for p in place.rglob("*"))
    shutil.rmtree(place)
    self.audit.write("deleted", name=r.name, why=why, files=count)
    return count


def _forget_in(comic: Path, name: str) -> int:
  """Deletes a person's pictures from a comic, and all its pages; returns the number of deleted files."""
  if not (comic / script.FILE).exists():
    return 0
  s, files = script.without(script.read(comic), name)
  pages = [p.name for p in comic.glob("comic.*") if p.name != script.FILE]
  count = 0
  for f in [*files, *pages]:
    with contextlib.suppress(FileNotFoundError):
      (comic / f).unlink()
      count += 1
  script.write(comic, s)
  return count


def read_record(path: Path) -> Record:
  """The record in a file. UserError if it is damaged or not one of this idejax."""
  try:
    value = json.loads(path.read_text("utf-8"))
    if value.get("schema") != SCHEMA:
      raise ValueError(f"its schema is {value.get('schema')!r}, not {SCHEMA}")
    return Record(**{**value, "consent": Consent(**value["consent"]), "comics": tuple(value["comics"])})
  except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
    raise UserError(f"{path} is no person of this idejax: {one_line(str(e))[:120]}") from e
