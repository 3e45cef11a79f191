"""pictures.jsonl: pictures from anywhere, a line each, and what they were to show.

    {"file": "ours/0001.png", "method": "ours", "person": "anna", "reference": "anna.jpg",
     "prompt": "a photo of {} on the beach", "category": "background", "seed": 0}

`file`, `method`, `person` and `prompt` are needed (`person` null: a prompt without anyone, then `base`
is the base model's picture of the same noise). The file comes from strangers: paths lead to pictures
inside its folder and nowhere else, and every line is checked before a picture is read.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from idejax.errors import UserError
from idejax.storage.files import read_text

MOST = 1_000_000
_LONGEST = 1 << 16  # characters of a line


@dataclasses.dataclass(frozen=True)
class Row:
  """One picture and what it was to show; paths are absolute."""

  file: Path
  method: str
  person: str | None
  prompt: str  # with {} for the person
  category: str = ""
  seed: int = 0
  reference: Path | None = None
  second: Path | None = None  # another photo of the person, for copied
  driver: Path | None = None  # whose pose and expression were asked for
  base: Path | None = None  # the base model's picture of the same prompt and noise, for drift
  others: tuple[tuple[str, Path], ...] = ()  # further people who were asked for, with a photo each
  people: int = 1  # how many the prompt asks for
  strength: float | None = None  # of the identity; None: as it was trained
  train_seconds: float | None = None
  sample_seconds: float | None = None
  trained_with: tuple[str, ...] = ()  # sha256 of recognisers that the method was trained with
  training: int = 0  # the seed of the person's training, where there are several

  @property
  def key(self) -> tuple[Any, ...]:
    """What no two rows may share."""
    return self.method, self.person, self.prompt, self.driver, self.strength, self.training, self.seed


_PATHS = ("file", "reference", "second", "driver", "base")
_TEXTS = ("method", "person", "prompt", "category")
_NUMBERS = ("strength", "train_seconds", "sample_seconds")
_INTEGERS = ("seed", "people", "training")
FIELDS = tuple(f.name for f in dataclasses.fields(Row)) + ("word",)


def read(path: Path) -> list[Row]:
  """Every row, checked; UserError names the line, and the first picture that is missing."""
  text = read_text(path)
  lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
  if not lines:
    raise UserError(f"{path} holds no row")
  if len(lines) > MOST:
    raise UserError(f"{path} has {len(lines)} rows; at most {MOST} are read")
  root = path.parent.resolve()
  out, seen = [], dict[tuple[Any, ...], int]()
  for n, line in lines:
    row = _row(line, f"{path}:{n}", root)
    if (first := seen.setdefault(row.key, n)) != n:
      raise UserError(f"{path}:{n} repeats line {first}: the same method, person, prompt and seeds")
    out.append(row)
  check_files(out)
  return out


def check_files(rows: Sequence[Row]):
  """UserError, with the first picture that is missing and the number of others, unless all pictures exist."""
  files = dict.fromkeys(p for r in rows for p in (*(getattr(r, n) for n in _PATHS), *(o for _, o in r.others)) if p)
  missing = [p for p in files if not p.is_file()]
  if missing:
    more = f", and {len(missing) - 1} more are missing" if missing[1:] else ""
    raise UserError(f"{missing[0]} does not exist{more}")


def _row(line: str, where: str, root: Path) -> Row:
  try:
    if len(line) > _LONGEST:
      raise ValueError(f"{len(line)} characters")
    entry = json.loads(line)
  except (ValueError, RecursionError) as e:
    raise UserError(f"{where} is not JSON: {str(e)[:120]}") from e
  if not isinstance(entry, dict):
    raise UserError(f"{where} is no JSON object")
  if odd := set(entry) - set(FIELDS):
    raise UserError(f"{where}: unknown field {min(odd)!r}; known: {', '.join(FIELDS)}")
  values: dict[str, Any] = {k: v for k, v in entry.items() if k != "word" and v is not None}
  for name in ("file", "method", "prompt"):
    if name not in values:
      raise UserError(f"{where}: the field {name} is missing")
  if "person" not in entry:
    raise UserError(f"{where}: the field person is missing (null: the prompt names nobody)")
  for name in _TEXTS:
    if name in values and not (isinstance(values[name], str) and (values[name].strip() or name == "category")):
      raise UserError(f"{where}: {name} is {values[name]!r}; it must be text")
  for name in _PATHS:
    if name in values:
      values[name] = inside(root, values[name], f"{where}: {name}")
  for name in _NUMBERS + _INTEGERS:
    if name in values:
      values[name] = _number(values[name], name in _INTEGERS, f"{where}: {name}")
  if values.get("people", 1) < 1:
    raise UserError(f"{where}: people is {values['people']}; it must be at least 1")
  if "others" in values:
    values["others"] = _others(values["others"], root, where)
  if "trained_with" in values:
    if not (isinstance(values["trained_with"], list) and all(isinstance(x, str) for x in values["trained_with"])):
      raise UserError(f"{where}: trained_with is to be a list of sha256")
    values["trained_with"] = tuple(values["trained_with"])
  person = values.setdefault("person", None)
  word = entry.get("word", "{}")
  if not isinstance(word, str) or not word.strip():
    raise UserError(f"{where}: word is {word!r}; it must be text")
  values["prompt"] = values["prompt"].replace(word, "{}")
  if person is not None and "{}" not in values["prompt"]:
    raise UserError(f"{where}: the prompt has no {word} for the person")
  if person is None and "{}" in values["prompt"]:
    raise UserError(f"{where}: the prompt has a person, the row has none")
  if person is not None and "reference" not in values:
    raise UserError(f"{where}: the field reference is missing: a photo of {person}")
  return Row(**values)


def inside(root: Path, text: Any, where: str) -> Path:
  """A path of the file, made absolute. UserError if it leads out of the file's folder, also by a link."""
  if not isinstance(text, str) or not text or "\0" in text:
    raise UserError(f"{where} is {text!r}; it must be a path")
  path = (root / text).resolve()
  if Path(text).is_absolute() or not path.is_relative_to(root):
    raise UserError(f"{where} is {text!r}, which leads out of {root}; paths are relative to the file's folder")
  return path


def _number(x: Any, integer: bool, where: str) -> float | int:
  right = isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) and (not integer or x == int(x))
  if not right:
    raise UserError(f"{where} is {x!r}; it must be a {'whole ' if integer else ''}number")
  return int(x) if integer else float(x)


def _others(x: Any, root: Path, where: str) -> tuple[tuple[str, Path], ...]:
  if not isinstance(x, dict):
    raise UserError(f"{where}: others is to be an object of names and photos")
  return tuple((str(name), inside(root, photo, f"{where}: others")) for name, photo in x.items())
