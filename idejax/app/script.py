"""The comic as one JSON document, which both the command line and the page read and write (docs/comic-script.md).

All that decides a panel's pixels has one digest, `inputs`, and every version of a panel records the digest it
was drawn from. So only panels whose inputs changed are drawn again, and every earlier version stays.
"""

import dataclasses
import hashlib
import json
import re
import types
import typing
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from idejax.cli.options import nearest
from idejax.errors import UserError
from idejax.storage.files import write_json

SCHEMA = 1
FILE = "comic.json"
MOST_PANELS = 200
MOST_CANDIDATES = 8
MOST_STEPS = 128  # of the sampler
_MOST_BYTES = 8 << 20
_LONGEST = 2000  # characters of a text

Box = tuple[float, float, float, float]  # x0 y0 x1 y1, as shares of width and height


@dataclasses.dataclass(frozen=True)
class Model:
  """The pipeline that draws, by name and digest ("" before anything was drawn)."""

  name: str = "miniature"
  digest: str = ""


@dataclasses.dataclass(frozen=True)
class Person:
  """Somebody of the story. `digest` is that of their stored embeddings."""

  name: str
  digest: str = ""
  pronouns: Literal["", "she", "he", "they"] = ""


@dataclasses.dataclass(frozen=True)
class Layout:
  """How panels lie on pages."""

  kind: str = "grid"  # see layout.LAYOUTS
  direction: Literal["ltr", "rtl"] = "ltr"  # reading order within a row


@dataclasses.dataclass(frozen=True)
class Bubble:
  """Text over a picture. `at`: its centre, where somebody moved it; null: placed beside the faces."""

  text: str
  kind: Literal["caption", "speech", "thought"] = "caption"
  speaker: str = ""
  at: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Region:
  """The part of the picture where a person stands."""

  person: str
  box: Box


@dataclasses.dataclass(frozen=True)
class Version:
  """A picture of a panel. `reason` says why it is blank, "" where it is not."""

  file: str  # beside comic.json
  inputs: str
  candidate: int = 0
  faces: tuple[Box, ...] = ()
  identity: float | None = None  # cosine to the people's portraits, their mean
  prompt: float | None = None  # CLIP's cosine to the prompt
  cut: int = 0  # faces that the picture's border cuts off or another face hides
  reason: str = ""


@dataclasses.dataclass(frozen=True)
class Panel:
  """One moment of the story. A field that is null takes the comic's value."""

  id: str
  sentence: str
  prompt: str | None = None  # null: made of sentence, pose and style
  people: tuple[str, ...] = ()
  pose: str = ""
  seed: int | None = None  # null: made of the comic's seed and the id
  style: tuple[str, ...] | None = None
  candidates: int = 1
  regions: tuple[Region, ...] = ()
  bubbles: tuple[Bubble, ...] = ()
  versions: tuple[Version, ...] = ()
  chosen: int | None = None  # a place in versions; null: the best of the newest
  alt: str = ""  # "": the sentence


@dataclasses.dataclass(frozen=True)
class Script:
  """The whole comic."""

  schema: int = SCHEMA
  title: str = "Untitled"
  model: Model = Model()
  people: tuple[Person, ...] = ()
  panels: tuple[Panel, ...] = ()
  layout: Layout = Layout()
  style: tuple[str, ...] = ()
  negative: str = ""
  seed: int = 0
  steps: int = 25
  guidance: float | None = None

  def panel(self, name: str) -> Panel:
    """The panel with that id. UserError if there is none."""
    for p in self.panels:
      if p.id == name:
        return p
    raise UserError(f"the comic has no panel {name!r}; it has {', '.join(p.id for p in self.panels) or 'none'}")

  def with_panel(self, panel: Panel) -> "Script":
    """The script with this panel in the place of the one with its id."""
    self.panel(panel.id)
    return dataclasses.replace(self, panels=tuple(panel if p.id == panel.id else p for p in self.panels))


# Reading and writing.


def read(path: Path) -> Script:
  """A comic.json, or the folder that holds one. UserError in one sentence, with the place in the document."""
  path = path / FILE if path.is_dir() else path
  try:
    if path.stat().st_size > _MOST_BYTES:
      raise UserError(f"{path} is larger than {_MOST_BYTES >> 20} MB: it is no comic")
    value = json.loads(path.read_text("utf-8"))
  except FileNotFoundError:
    raise UserError(f"{path} does not exist") from None
  except (OSError, ValueError, RecursionError) as e:
    raise UserError(f"{path} is not JSON: {e}") from e
  return from_json(value, str(path))


def write(path: Path, script: Script):
  """`path` is a folder or the file itself; a folder's file is comic.json."""
  write_json(path / FILE if path.suffix != ".json" else path, dataclasses.asdict(script))


def from_json(value: Any, where: str = "the comic") -> Script:
  """The script of a decoded document. UserError for wrong types, ranges, unknown fields or broken references."""
  if isinstance(value, dict) and value.get("schema") != SCHEMA:
    raise UserError(f"{where} has schema {value.get('schema')!r}; this idejax reads schema {SCHEMA}")
  script: Script = _decode(Script, value, where)
  _check(script, where)
  return script


def validate(script: Script) -> Script:
  """The script, checked as a file would be. UserError if it breaks a rule."""
  return from_json(json.loads(json.dumps(dataclasses.asdict(script))))


def _check(s: Script, where: str):
  def refuse(place: str, what: str):
    raise UserError(f"{where}: {place} {what}")

  if len(s.panels) > MOST_PANELS:
    refuse("panels", f"has {len(s.panels)}; at most {MOST_PANELS}")
  if not 1 <= s.steps <= MOST_STEPS:
    refuse("steps", f"is {s.steps}; it must be from 1 to {MOST_STEPS}")
  names = [p.name for p in s.people]
  ids = [p.id for p in s.panels]
  for kind, values in (("people", names), ("panels", ids)):
    for v in values:
      if values.count(v) > 1:
        refuse(kind, f"has {v!r} twice")
  for i, p in enumerate(s.panels):
    at = f"panels[{i}]"
    if not p.id or not p.id.isascii() or not p.id.replace("-", "").isalnum() or len(p.id) > 40:
      refuse(f"{at}.id", f"is {p.id!r}; it must be letters, digits and -, at most 40")
    if not 1 <= p.candidates <= MOST_CANDIDATES:
      refuse(f"{at}.candidates", f"is {p.candidates}; it must be from 1 to {MOST_CANDIDATES}")
    for name in [*p.people, *(r.person for r in p.regions), *(b.speaker for b in p.bubbles if b.speaker)]:
      if name not in names:
        refuse(at, f"names {name!r}, who is not among the people")
    if p.chosen is not None and not 0 <= p.chosen < len(p.versions):
      refuse(f"{at}.chosen", f"is {p.chosen}, but there are {len(p.versions)} versions")
    for seed in (s.seed, p.seed):
      if seed is not None and not 0 <= seed < 2**64:
        refuse(f"{at}.seed", f"is {seed}; it must be from 0 to 2^64 - 1")
    for k, version in enumerate(p.versions):
      file = Path(version.file)
      if file.is_absolute() or ".." in file.parts or "\\" in version.file or not version.file or "\0" in version.file:
        refuse(f"{at}.versions[{k}].file", f"is {version.file!r}; it must lie beside the comic")
    for r in p.regions:
      if not (0 <= r.box[0] < r.box[2] <= 1 and 0 <= r.box[1] < r.box[3] <= 1):
        refuse(f"{at}.regions", f"has the box {list(r.box)}; it must be x0 y0 x1 y1 within 0 and 1")


def _decode(kind: Any, value: Any, where: str) -> Any:
  """A JSON value as an object of type `kind`."""
  error = lambda what: UserError(
    f"{where} is {json.dumps(value, ensure_ascii=False, default=str)[:60]}; it must be {what}"
  )
  origin, args = typing.get_origin(kind), typing.get_args(kind)
  if origin is types.UnionType:
    if value is None:
      return None
    return _decode(args[0], value, where)
  if origin is Literal:
    if value not in args:
      raise error("one of " + ", ".join(repr(a) for a in args))
    return value
  if origin is tuple:
    if not isinstance(value, list):
      raise error("a list")
    if args[-1] is ...:
      return tuple(_decode(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if len(value) != len(args):
      raise error(f"{len(args)} numbers")
    return tuple(_decode(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(args, value)))
  if dataclasses.is_dataclass(kind):
    if not isinstance(value, dict):
      raise error("an object")
    hints = typing.get_type_hints(kind)
    for key in value:
      if key not in hints:
        raise UserError(f"{where} has an unknown field {key!r}{nearest(key, hints)}")
    for f in dataclasses.fields(kind):
      if f.name not in value and f.default is dataclasses.MISSING:
        raise UserError(f"{where} is without {f.name}")
    return typing.cast(Any, kind)(**{k: _decode(hints[k], v, f"{where}.{k}") for k, v in value.items()})
  if kind is str:
    if not isinstance(value, str) or len(value) > _LONGEST:
      raise error(f"a text of at most {_LONGEST} characters")
    if any(0xD800 <= ord(c) < 0xE000 for c in value):
      raise error("valid Unicode text")
    return value
  if kind is int:
    if type(value) is not int:
      raise error("a whole number")
    return value
  if type(value) not in (int, float) or not -1e300 < value < 1e300:
    raise error("a finite number")
  return float(value)


# What has changed.


def seed_of(script: Script, panel: Panel) -> int:
  """The panel's own seed, else the comic's seed plus a number made of the panel's id (p1: 0, p2: 1), so that a
  panel which comes between others changes none of them."""
  if panel.seed is not None:
    return panel.seed
  number = re.fullmatch(r"p([1-9]\d{0,8})", panel.id)
  return (script.seed + (int(number[1]) - 1 if number else zlib.crc32(panel.id.encode()))) % 2**64


def inputs(script: Script, panel: Panel, prompt: str, negative: str, size: tuple[int, int]) -> str:
  """The digest of all that decides the panel's pixels, such as the final texts, seed, people and model."""
  digests = {p.name: p.digest for p in script.people}
  facts = {
    "model": script.model.digest,
    "prompt": prompt,
    "negative": negative,
    "seed": seed_of(script, panel),
    "people": {n: digests[n] for n in sorted(panel.people)},
    "steps": script.steps,
    "guidance": script.guidance,
    "regions": [dataclasses.asdict(r) for r in panel.regions],
    "size": list(size),
  }
  return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def todo(panel: Panel, digest: str) -> list[int]:
  """The candidates with these inputs that no version has yet."""
  there = {v.candidate for v in panel.versions if v.inputs == digest}
  return [k for k in range(panel.candidates) if k not in there]


def add(panel: Panel, versions: Sequence[Version]) -> Panel:
  """The panel with new versions after the old ones; if there are any, the user's choice is reset."""
  if not versions:
    return panel
  return dataclasses.replace(panel, versions=(*panel.versions, *versions), chosen=None)


def current_version(panel: Panel) -> Version | None:
  """The version to look at: the chosen one, else the best candidate of the newest inputs."""
  if not panel.versions:
    return None
  if panel.chosen is not None:
    return panel.versions[panel.chosen]
  newest = panel.versions[-1].inputs
  return max((v for v in panel.versions if v.inputs == newest), key=rank)


def shown(panel: Panel, digest: str) -> Panel:
  """The panel with its versions of these inputs last, where the user has chosen none: whoever goes back to an earlier
  text sees the earlier picture."""
  own = [v for v in panel.versions if v.inputs == digest]
  if not own or panel.chosen is not None:
    return panel
  others = [v for v in panel.versions if v.inputs != digest]
  return dataclasses.replace(panel, versions=(*others, *own))


def rank(v: Version) -> tuple[bool, int, float]:
  """A sort key: a picture before a blank one, whole faces before cut ones, then the sum of both judges' scores."""
  return not v.reason, -v.cut, (v.identity or 0.0) + (v.prompt or 0.0)


def without(script: Script, name: str) -> tuple[Script, list[str]]:
  """The comic without the pictures of a person, and the files of those pictures."""
  panels, files = [], []
  for p in script.panels:
    if name in p.people and p.versions:
      files += [v.file for v in p.versions]
      p = dataclasses.replace(p, versions=(), chosen=None)
    panels.append(p)
  people = tuple(dataclasses.replace(x, digest="") if x.name == name else x for x in script.people)
  return dataclasses.replace(script, panels=tuple(panels), people=people), files
