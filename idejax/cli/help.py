"""The text of `--help`: usage, purpose, options in groups. The words are the strings below a config's fields.

A config's `GROUPS`, {heading: fields}, says which fields belong together, and `COMMON` which fields are shown
without --help-all; without `COMMON` all are. Fields that are in no group stand under "options".
"""

import ast
import dataclasses
import inspect
import os
import shutil
import textwrap
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from idejax.cli.fields import Option, purpose

_INDENT = 24
_OFF = "(default: off)"


def text(
  kind: type, all_options: list[Option], prog: str, default: Any, hints: Mapping[str, str], everything: bool
) -> str:
  """Help for a command, with the defaults of `default` if it is not None."""
  words = texts(kind)
  common = getattr(kind, "COMMON", ())
  hidden = [o for o in all_options if common and o.name not in common and not everything]
  lines = [_usage(all_options, prog), "", *_flow(purpose(kind))]
  for heading, options in _groups(kind, all_options).items():
    if visible := [o for o in options if o not in hidden]:
      lines += ["", f"{heading}:"]
      for o in visible:
        lines += _entry(o, words.get(o.name, ""), _default(kind, o, default), hints)
  lines += ["", "help and defaults:"]
  if hidden:
    lines += _row("--help-all", f"Show the {len(hidden)} other options too.")
  lines += _row(
    "--config FILE", f"Take defaults from a Python file that says config = {kind.__name__}(...); options override it."
  )
  return "\n".join(lines)


def texts(kind: type) -> dict[str, str]:
  """{field: the string below it} of a dataclass and its base classes."""
  out: dict[str, str] = {}
  for base in reversed(kind.__mro__):
    if dataclasses.is_dataclass(base) and "__dataclass_fields__" in vars(base) and base.__module__ != "builtins":
      out |= _texts(base)
  return out


def _texts(kind: type) -> dict[str, str]:
  try:
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
  except (OSError, TypeError):  # a class that a program made has no source: its bases have
    return {}
  body = typing.cast(ast.ClassDef, tree.body[0]).body
  out = {}
  for field, below in zip(body, body[1:]):
    if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
      if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str):
        out[field.target.id] = " ".join(below.value.value.split())
  return out


def _groups(kind: type, all_options: list[Option]) -> dict[str, list[Option]]:
  out: dict[str, list[Option]] = {}
  table: dict[str, tuple[str, ...]] = getattr(kind, "GROUPS", {})
  names = {o.name: o for o in all_options}
  for heading, fields in table.items():
    out[heading] = [names[f] for f in fields if f in names]
  in_groups = {f for fields in table.values() for f in fields}
  if rest := [o for o in all_options if o.name not in in_groups]:
    out[getattr(kind, "REST", "options")] = rest
  return out


def _usage(all_options: list[Option], prog: str) -> str:
  words = (f"{_metavar(o)}{' ...' * o.several}" for o in all_options if o.positional)
  word = "".join(f" {w}" if o.required else f" [{w}]" for w, o in zip(words, (o for o in all_options if o.positional)))
  flags = "".join(f" {o.flag} {_metavar(o)}" for o in all_options if o.required and not o.positional)
  return f"usage: {prog}{word}{flags} [options]"


def _choices(o: Option) -> str:
  return "{" + ",".join(map(str, typing.get_args(o.kind))) + "}"


def _metavar(o: Option) -> str:
  if o.positional:
    return o.name.upper()
  return {int: "N", float: "X", Path: "PATH"}.get(o.kind, "TEXT")


def _entry(o: Option, words: str, default: str, hints: Mapping[str, str]) -> list[str]:
  if o.kind is bool:
    flag = f"{o.flag}, --no-{o.flag[2:]}" if default != _OFF else o.flag
    default = default if default != _OFF else ""
  elif typing.get_origin(o.kind) is Literal:
    flag = f"{o.flag} {_choices(o)}{' ...' * o.several}"
  else:
    flag = f"{o.flag} {_metavar(o)}{f' [{_metavar(o)} ...]' * o.several}"
  if o.positional:
    flag = f"{_metavar(o)}, {flag}"
  for name, hint in hints.items():
    words = words.replace("{" + name + "}", hint)
  return _row(flag, f"{words} {default}".strip())


def _default(kind: type, o: Option, default: Any) -> str:
  """The default in brackets, such as "(default: 50)"; "" if the option's own text explains it."""
  if default is None:
    field = next(f for f in dataclasses.fields(kind) if f.name == o.name)
    value = field.default
  else:
    value = getattr(default, o.name)
  if value is False:
    return _OFF
  if value is None or value is dataclasses.MISSING or value in ("", ()):
    return "(required)" if o.required else ""
  if value is True:
    return "(default: on)"
  several = isinstance(value, tuple)
  words = " ".join(repr(x) if isinstance(x, str) and " " in x else str(x) for x in value) if several else f"{value}"
  return f"(default: {words if len(words) <= 80 else f'{len(value)} of them'})" if several else f"(default: {words})"


def _row(flag: str, words: str) -> list[str]:
  """A flag with its text beside it, or below it if the flag is long."""
  width = _width() - _INDENT
  lines = textwrap.wrap(words, width, break_on_hyphens=False) or [""]
  head = f"  {flag}"
  if len(head) > _INDENT - 2:
    choices = textwrap.wrap(head, _width(), subsequent_indent="      ", break_on_hyphens=False, break_long_words=False)
    if len(head) > _width():
      choices = _fold(head)
    return [*choices, *(" " * _INDENT + line for line in lines)]
  return [head.ljust(_INDENT) + lines[0], *(" " * _INDENT + line for line in lines[1:])]


def _fold(head: str) -> list[str]:
  """Lines of a long list of choices, broken after commas."""
  lines, rest = [], head
  while len(rest) > _width() and (end := rest.rfind(",", 0, _width())) > 0:
    lines.append(rest[: end + 1])
    rest = "      " + rest[end + 1 :]
  return [*lines, rest]


def _flow(purpose: str) -> list[str]:
  """Wraps paragraphs; indented lines are examples and stay as they are."""
  out: list[str] = []
  paragraph: list[str] = []
  for line in [*purpose.splitlines(), ""]:
    if line and not line.startswith(" "):
      paragraph.append(line)
      continue
    out += textwrap.wrap(" ".join(paragraph), _width(), break_on_hyphens=False)
    out.append(line)
    paragraph = []
  return out[:-1]


def _width() -> int:
  """The terminal's width, within 60 to 100; 80 in a pipe."""
  return min(max(shutil.get_terminal_size((80, 24)).columns if "COLUMNS" in os.environ else 80, 60), 100)
