"""Reads config files, and checks whether a value has a field's type."""

import dataclasses
import runpy
import types
import typing
from pathlib import Path
from typing import Any, Literal

from idejax import ranges
from idejax.errors import UserError


def load(path: Path, kind: type) -> Any:
  """The `config` of a Python file, checked to be of the command's kind."""
  value = variables(path).get("config")
  if value is None:
    raise UserError(f"{path} sets no `config`; write config = {kind.__name__}(...)")
  if not isinstance(value, kind):
    raise UserError(f"{path} sets config to {type(value).__name__}; this command takes {kind.__name__}")
  return _with_types(path, value)


def variables(path: Path) -> dict[str, Any]:
  """The variables that a Python config file sets. UserError with the error in it."""
  if not path.is_file():
    what = "is a folder" if path.is_dir() else "does not exist"
    raise UserError(f"--config {path} {what}: give a Python file that sets `config`")
  try:
    return runpy.run_path(str(path))
  except (Exception, SystemExit) as e:
    raise UserError(f"{path}: {type(e).__name__}: {' '.join(str(e).split())}") from e


def _with_types(path: Path, value: Any) -> Any:
  """The config with strings for paths made paths. UserError for a field of another type or out of its range."""
  changes = {}
  for field in dataclasses.fields(value):
    x = getattr(value, field.name)
    if isinstance(x, str) and not fits(x, field.type) and fits(Path(x), field.type):
      x = Path(x)
    if isinstance(x, list):
      x = tuple(x)
    if not fits(x, field.type):
      raise UserError(f"{path}: {field.name} is {x!r}; it must be {describe(field.type)}")
    changes[field.name] = x
  out = dataclasses.replace(value, **changes)
  ranges.check(out, lambda name: f"{path}: {name}")
  return out


def fits(x: Any, kind: Any) -> bool:
  """Whether a value is of a field's type."""
  kind = ranges.plain(kind)
  origin, args = typing.get_origin(kind), typing.get_args(kind)
  if origin is Literal:
    return x in args
  if origin in (typing.Union, types.UnionType):
    return any(fits(x, a) for a in args)
  if origin is tuple:
    return isinstance(x, tuple) and all(fits(y, args[0]) for y in x)
  if kind is float:
    return isinstance(x, int | float) and not isinstance(x, bool)
  return isinstance(x, kind) and (kind is bool or not isinstance(x, bool))


def describe(kind: Any) -> str:
  """A field's type in words, for error messages."""
  kind = ranges.plain(kind)
  args = [a for a in typing.get_args(kind) if a not in (type(None), ...)]
  if typing.get_origin(kind) is Literal:
    return f"one of {', '.join(map(str, args))}"
  if args:
    return describe(args[0]) + (" (several)" if typing.get_origin(kind) is tuple else "")
  words = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", Path: "a path"}
  return words.get(kind) or f"of type {kind.__name__}"
