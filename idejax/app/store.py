"""People who were learned, a folder each: what sampling needs, the portrait, and what is known of both.

    STORE/anna_field/identity.safetensors   embeddings, method, model
    STORE/anna_field/person.json            name, consent, photo's digest, settings, date, comics they are in
    STORE/anna_field/portrait.png           the aligned face, to be recognised and compared with

Deleting removes the folder, what the face networks said of the photo, and every picture of the person in
the comics that were made from this store.
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
_RECORD, _PORTRAIT = "person.json", "portrait.png"


@dataclasses.dataclass(frozen=True)
class Consent:
  """Who agreed that the photo be used, and when. There is no learning without."""

  by: str
  date: str = ""

  def checked(self) -> "Consent":
    """With a date. UserError where nobody is named."""
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
    """Where a person is or would be: never outside the store, whatever the name."""
    return self.root / nm.slug(nm.check(name))

  def records(self) -> list[Record]:
    """Everybody, in the order in which they came; folders of something else are passed over."""
    if not self.root.is_dir():
      return []
    found = [_read(p) for p in sorted(self.root.glob(f"*/{_RECORD}")) if not p.parent.name.startswith(".")]
    return sorted(found, key=lambda r: (r.created, r.name))

  def names(self) -> list[str]:
    return [r.name for r in self.records()]

  def has(self, name: str) -> bool:
    return (self.folder(name) / _RECORD).exists()

  def record(self, name: str) -> Record:
    """UserError if there is nobody of that name."""
    path = self.folder(name) / _RECORD
    if not path.exists():
      raise UserError(f"{name} is not in the store {self.root}; there are {', '.join(self.names()) or 'none'}")
    return _read(path)

  def digest(self, name: str) -> str:
    """Of the embeddings: what a panel's inputs depend on."""
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
    """For sampling on a model. UserError, with both models' names, for somebody who was learned on another."""
    r = self.record(name)
    if r.model_digest != model_digest:
      raise UserError(
        f"{name} was learned on {r.model} ({r.model_digest[:12]}), and the comic is drawn with {model} "
        f"({model_digest[:12]}): learn {name} on {model}, or draw with {r.model}"
      )
    return learned.load(self.folder(name))

  def check_free(self, names: Sequence[str], overwrite: bool = False):
    """UserError for somebody who is there already, unless it was said that they may be replaced."""
    if overwrite:
      return
    for name in names:
      if self.has(name):
        raise UserError(
          f"{self.record(name).name} is in the store already: choose another name, or say that they be replaced"
        )

  def add(self, person: Learned, record: Record, portrait: np.ndarray, overwrite: bool = False):
    """Keep somebody: written beside the store's folders and moved into place whole."""
    self.check_free([record.name], overwrite)
    record = dataclasses.replace(record, consent=record.consent.checked())
    place = self.folder(record.name)
    fresh = self.root / f".new-{place.name}"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True, mode=0o700)
    learned.save(fresh, person)
    with replacing(fresh / _PORTRAIT) as temporary:
      Image.fromarray(portrait).save(temporary, "PNG")
    write_json(fresh / _RECORD, dataclasses.asdict(record))
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

  def drawn_in(self, names: Sequence[str], comic: Path):
    """Remember that a comic has these people, so that deleting them reaches it."""
    place = str(comic.resolve())
    for name in names:
      r = self.record(name)
      if place not in r.comics:
        write_json(self.folder(name) / _RECORD, dataclasses.asdict(dataclasses.replace(r, comics=(*r.comics, place))))

  def delete(self, name: str, why: str = "asked for") -> int:
    """Remove a person and everything derived; how many files went."""
    r = self.record(name)
    gone = 0
    for comic in r.comics:
      gone += _forget_in(Path(comic), r.name)
    if (seen := cache.path(r.photo_sha256, r.pack_digest, None, None)) and seen.exists():
      seen.unlink()
      gone += 1
    place = self.folder(name)
    gone += sum(p.is_file() for p in place.rglob("*"))
    shutil.rmtree(place)
    self.audit.write("deleted", name=r.name, why=why, files=gone)
    return gone


def _forget_in(comic: Path, name: str) -> int:
  """A comic without the pictures of a person, and without the pages that showed them."""
  if not (comic / script.FILE).exists():
    return 0
  s, files = script.without(script.read(comic), name)
  pages = [p.name for p in comic.glob("comic.*") if p.name != script.FILE]
  gone = 0
  for f in [*files, *pages]:
    with contextlib.suppress(FileNotFoundError):
      (comic / f).unlink()
      gone += 1
  script.write(comic, s)
  return gone


def _read(path: Path) -> Record:
  """UserError for a file that is not ours or not whole."""
  try:
    value = json.loads(path.read_text("utf-8"))
    if value.get("schema") != SCHEMA:
      raise ValueError(f"its schema is {value.get('schema')!r}, not {SCHEMA}")
    return Record(**{**value, "consent": Consent(**value["consent"]), "comics": tuple(value["comics"])})
  except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
    raise UserError(f"{path} is no person of this idejax: {one_line(str(e))[:120]}") from e
