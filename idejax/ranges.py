"""What values an option may have, said in its own declaration: `steps: Annotated[int, at_least(1)] = 50`.

Whoever makes a config from outside (flags, a file, a comparison, Python) calls `check`; nobody else repeats a rule.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from idejax.errors import UserError


class Rule(NamedTuple):
  """What holds of every allowed value; of an option that may be given several times, of each. None is always allowed."""

  holds: Callable[[Any], bool]
  words: str  # "it must ..."


def at_least(least: float) -> Rule:
  return Rule(lambda x: x >= least, f"be at least {least}")


def above(limit: float) -> Rule:
  return Rule(lambda x: x > limit, f"be above {limit}")


def between(least: float, most: float) -> Rule:
  return Rule(lambda x: least <= x <= most, f"be from {least} to {most}")


def from_to_below(least: float, limit: float) -> Rule:
  return Rule(lambda x: least <= x < limit, f"be from {least} to below {limit}")


def _is_name(text: str) -> bool:
  return not any(x.isspace() for x in text) and any(x.isalnum() for x in text) and not {*"{}|"} & {*text}


any_seed = Rule(lambda x: 0 <= x < 2**64, "be from 0 to 2^64 - 1")
not_empty = Rule(lambda x: bool(str(x).strip()), "not be empty")
one_word = Rule(lambda x: bool(x) and not any(c.isspace() for c in x), "be one word")
person_word = Rule(_is_name, "be one word of letters or digits, such as <anna>, without braces and bars")
with_person = Rule(lambda x: "{}" in x, "contain {}, which stands for the person")
without_braces = Rule(lambda x: not {*"{}"} & {*x}, "be without braces, which stand for the person")


def plain(kind: Any) -> Any:
  """A field's type without its rules."""
  if typing.get_origin(kind) is typing.Annotated:
    return plain(typing.get_args(kind)[0])
  return kind


def check(config: Any, name: Callable[[str], str] = lambda field: "--" + field.replace("_", "-")):
  """UserError for the first field whose value its declaration does not allow. `name` says how to call a field."""
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    for one in value if isinstance(value, tuple) else (value,):
      if words := broken(one, field.type):
        raise UserError(f"{name(field.name)} is {show(one)}; it must {words}")


def broken(value: Any, kind: Any) -> str | None:
  """What one value must be and is not; None if it is allowed. Every float is finite."""
  if isinstance(value, float) and not math.isfinite(value):
    return "be a finite number"
  if value is None:
    return None
  return next((rule.words for rule in _rules(kind) if not rule.holds(value)), None)


def show(value: Any) -> str:
  """A value in an error message: short, and quoted where it is text."""
  text = value if isinstance(value, str) else str(value)
  short = text if len(text) <= 60 else text[:57] + "..."
  return repr(short) if isinstance(value, str) else short


def _rules(kind: Any) -> Iterator[Rule]:
  if typing.get_origin(kind) is typing.Annotated:
    inner, *rules = typing.get_args(kind)
    yield from (r for r in rules if isinstance(r, Rule))
    yield from _rules(inner)
  elif typing.get_origin(kind) in (typing.Union, types.UnionType, tuple):
    for part in typing.get_args(kind):
      yield from _rules(part)
