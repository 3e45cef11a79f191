"""Protocols as data: which people, prompts, seeds and sampler. Those of the papers are built in.

protocols.json beside this file holds them; `--protocol FILE.json` reads one of the user's own. NAME-lite
is a part of a protocol that a laptop can do.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from idejax.errors import UserError
from idejax.storage.files import read_json

_HERE = Path(__file__).parent
_LITE = "-lite"


@dataclasses.dataclass(frozen=True)
class Prompt:
  """One prompt."""

  text: str  # with {} for the person
  category: str
  people: int = 1  # how many it asks for
  named: bool = False  # the paper has it word for word


@dataclasses.dataclass(frozen=True)
class Protocol:
  name: str
  title: str
  after: str  # the paper it follows, and what differs from it
  model: str  # what the paper used; any may be used here
  people: dict[str, Any]  # set, count, rule
  size: int | None  # pixels a side; None: the model's
  sampler: str
  steps: int
  guidance: float | None  # None: the model's
  seeds: tuple[int, ...]
  prompts: tuple[Prompt, ...]
  drivers: int = 0  # photos that give pose and expression, for each person
  table: str = ""  # in published.json

  @property
  def count(self) -> int:
    """Pictures of a method, at the protocol's number of people."""
    return self.people["count"] * len(self.prompts) * len(self.seeds) * max(1, self.drivers)


def names() -> list[str]:
  return [n + end for n in _built_in() for end in ("", _LITE)]


def load(name: str) -> Protocol:
  """A protocol by name, NAME-lite, or of a file. UserError says what is wrong with it."""
  if name.endswith(".json"):
    return _protocol(Path(name).stem, read_json(Path(name)), name)
  base = name.removesuffix(_LITE)
  if base not in _built_in():
    raise UserError(f"there is no protocol {name!r}; known are {', '.join(names())}, or a FILE.json")
  full = _protocol(base, _built_in()[base], base)
  return full if base == name else lite(full, **_built_in()[base]["lite"])


def lite(p: Protocol, people: int, each_category: int, seeds: int) -> Protocol:
  """Fewer of everything, the first of each category: nothing is chosen by its result."""
  prompts: list[Prompt] = []
  for a in p.prompts:
    if sum(k.category == a.category for k in prompts) < each_category:
      prompts.append(a)
  return dataclasses.replace(p, name=p.name + _LITE, people={**p.people, "count": min(people, p.people["count"])},
                             prompts=tuple(prompts), seeds=p.seeds[:seeds])  # fmt: skip


@functools.cache
def _built_in() -> dict[str, Any]:
  return read_json(_HERE / "protocols.json")


@functools.cache
def published_tables() -> dict[str, Any]:
  """The papers' tables as printed: {name: source, columns, better, rows}. For columns that say "paper",
  never for a threshold or a goal."""
  return read_json(_HERE / "published.json")


_KINDS: dict[str, Any] = {
  "title": str,
  "after": str,
  "model": str,
  "sampler": str,
  "steps": int,
  "table": str,
  "drivers": int,
}


def _protocol(name: str, d: dict[str, Any], where: str) -> Protocol:
  if odd := set(d) - {*_KINDS, "people", "size", "guidance", "seeds", "first_seed", "prompts", "lite"}:
    raise UserError(f"{where}: a protocol has no field {min(odd)!r}")
  values: dict[str, Any] = {
    "title": name,
    "after": "",
    "model": "any",
    "sampler": "dpmpp_2m",
    "steps": 50,
    "table": "",
    "drivers": 0,
  }
  values |= {k: v for k, v in d.items() if k in _KINDS}
  for key, kind in _KINDS.items():
    if type(values[key]) is not kind:
      raise UserError(f"{where}: {key} is {values[key]!r}; it must be {kind.__name__}")
  if values["steps"] < 1:
    raise UserError(f"{where}: steps is {values['steps']}; it must be at least 1")
  for key in ("size", "guidance"):
    if not isinstance(d.get(key), int | float | None):
      raise UserError(f"{where}: {key} is {d[key]!r}; it must be a number or null")
  people = d.get("people") or {}
  if not isinstance(people, dict) or not _counts(people.get("count", 1)):
    raise UserError(f"{where}: people needs a count of at least 1")
  return Protocol(name, **values, people={"set": "any", "count": 1, "rule": ""} | people, size=d.get("size"),
                  guidance=d.get("guidance"), seeds=_seeds(d, where), prompts=_prompts(d, where))  # fmt: skip


def _counts(x: Any) -> bool:
  return type(x) is int and x >= 1


def _seeds(d: dict[str, Any], where: str) -> tuple[int, ...]:
  seeds, first = d.get("seeds", 1), d.get("first_seed", 0)
  if _counts(seeds) and type(first) is int and first >= 0:
    return tuple(range(first, first + seeds))
  if (
    isinstance(seeds, list) and seeds and all(type(s) is int and s >= 0 for s in seeds) and len({*seeds}) == len(seeds)
  ):
    return tuple(seeds)
  raise UserError(f"{where}: seeds is {seeds!r}; it must be a number of them or a list of different ones")


def _prompts(d: dict[str, Any], where: str) -> tuple[Prompt, ...]:
  rows = d.get("prompts")
  if not isinstance(rows, list) or not rows:
    raise UserError(f"{where}: prompts is to be a list of texts or objects")
  fields = {f.name for f in dataclasses.fields(Prompt)}
  out = []
  for n, row in enumerate(rows, 1):
    row = {"text": row, "category": ""} if isinstance(row, str) else row
    if (
      not isinstance(row, dict) or not isinstance(row.get("text"), str) or "{}" not in row["text"] or set(row) - fields
    ):
      raise UserError(
        f"{where}: prompt {n} is {row!r}; it needs a text with {{}} for the person, and may have {', '.join(sorted(fields))}"
      )
    if not _counts(row.get("people", 1)):
      raise UserError(f"{where}: prompt {n}: people is {row['people']!r}")
    out.append(Prompt(**{"category": ""} | row))
  if twice := next((a.text for i, a in enumerate(out) if a.text in {b.text for b in out[:i]}), None):
    raise UserError(f"{where}: the prompt {twice!r} is there twice")
  return tuple(out)
