"""The options that a config declares: a field's type, its range, and the words below it."""

import dataclasses
import inspect
import types
import typing
from typing import Any, NamedTuple

from idejax import ranges


class Option(NamedTuple):
  """A field as the parser sees it."""

  name: str  # of the field
  kind: Any  # int, float, str, bool, Path or a Literal: of one value
  several: bool
  required: bool
  positional: bool

  @property
  def flag(self) -> str:
    return "--" + self.name.replace("_", "-")


def options(kind: type) -> list[Option]:
  """The fields of a config and of its base classes, as options."""
  out = []
  for f in dataclasses.fields(kind):
    several = typing.get_origin(ranges.plain(f.type)) is tuple
    required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    out.append(Option(f.name, _single(f.type), several, required, bool(f.metadata.get("positional"))))
  return out


def _single(kind: Any) -> Any:
  """The type of one value; for `tuple[int, ...] | None` it is int."""
  kind = ranges.plain(kind)
  if typing.get_origin(kind) in (typing.Union, types.UnionType, tuple):
    return _single(next(a for a in typing.get_args(kind) if a not in (type(None), ...)))
  return kind


def purpose(kind: type) -> str:
  """The text of a config's docstring."""
  return inspect.cleandoc(kind.__doc__ or "")
