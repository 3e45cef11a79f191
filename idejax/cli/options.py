"""Flags and `--config FILE` into a command's config; every mistake becomes one sentence."""

import contextlib
import dataclasses
import difflib
import inspect
import io
import os
import re
import textwrap
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

from idejax.cli import config_file
from idejax.errors import UserError, one_line


def parse(kind: type, args: list[str], prog: str, default: Any = None) -> Any:
  """Flags into a config, None after --help; `--config FILE`, or else `default`, sets their defaults."""
  if default is None:
    default, args = _config_file(kind, args)
  fields = {"--" + f.name.replace("_", "-"): f for f in dataclasses.fields(kind)}
  args = [a.replace("_", "-") if a.startswith("--") and "=" not in a else a for a in args]
  args = _merge_repeats(_named(args, fields), {o for o, f in fields.items() if typing.get_origin(f.type) is tuple})
  if "-h" not in args and "--help" not in args:
    switch = lambda t: bool in (t, *typing.get_args(t))
    known = {*fields, *("--no-" + o[2:] for o, f in fields.items() if switch(f.type))}
    for flag in (a.partition("=")[0] for a in args if a.startswith("--")):
      if flag not in known:
        raise UserError(f"unknown option {flag}{nearest(flag, known)}; see {prog} --help")
    absent = dataclasses.MISSING
    needed = [o for o, f in fields.items() if f.default is f.default_factory is absent]
    for flag in needed:
      if default is None and not any(a.partition("=")[0] == flag for a in args):
        raise UserError(f"{flag} is missing; see {prog} --help")

  # Plain text in place of tyro's boxes: it can be copied, piped and read aloud.
  os.environ |= {"PYTHON_TYRO_UTF8_BOXES": "False", "PYTHON_TYRO_ANSI_CODES": "False"}
  import tyro

  # None, nothing and off explain themselves in the option's own words.
  hint = lambda text: "" if text in ("None", "", "''", "False") else f"(default: {text})"
  mark = lambda t: tyro.conf.arg(help_behavior_hint=hint, metavar="TEXT [TEXT ...]" if t == tuple[str, ...] else None)
  shown = dict(
    __annotations__={f.name: Annotated[f.type, mark(f.type)] for f in fields.values()},
    __doc__=kind.__doc__,
    __module__=kind.__module__,
  )
  twin: Any = dataclasses.dataclass(frozen=True)(type(kind.__name__, (kind,), shown))
  values = lambda c: {f.name: getattr(c, f.name) for f in fields.values()}
  description = (
    f"{inspect.cleandoc(kind.__doc__ or '')}\n\nDefaults can come from a Python file that "
    f"says config = {kind.__name__}(...): --config FILE; other options override it."
  )
  said = io.StringIO()
  try:
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
      return kind(
        **values(
          tyro.cli(
            twin,
            args=args,
            prog=prog,
            description=description,
            config=(tyro.conf.AvoidSubcommands, tyro.conf.DisallowNone),
            **({} if default is None else {"default": twin(**values(default))}),
          )
        )
      )
  except SystemExit as e:
    if not e.code:
      return print(_wrapped(said.getvalue()))
    raise UserError(f"{_sentence(said.getvalue(), fields)}; see {prog} --help") from e


def _config_file(kind: type, args: list[str]) -> tuple[Any, list[str]]:
  for i, arg in enumerate(args):
    if arg == "--config":
      if i + 1 == len(args):
        raise UserError("--config is without its value; give a Python file")
      return config_file.load(Path(args[i + 1]), kind), args[:i] + args[i + 2 :]
    if arg.startswith("--config="):
      return config_file.load(Path(arg.removeprefix("--config=")), kind), args[:i] + args[i + 1 :]
  return None, args


def _named(args: list[str], fields: dict[str, Any]) -> list[str]:
  """Words before the first option belong to the field that is marked positional, if there is one."""
  flag = next((o for o, f in fields.items() if f.metadata.get("positional")), None)
  words = next((i for i, a in enumerate(args) if a.startswith("-")), len(args))
  return [flag, *args] if flag and words else args


def _merge_repeats(args: list[str], several: set[str]) -> list[str]:
  """`--prompt a --prompt b` means `--prompt a b`; tyro alone would drop the first."""
  first: dict[str, int] = {}
  out: list[str] = []
  into: str | None = None  # the earlier flag whose values these are
  for arg in _opened(args, several):
    if arg.startswith("--"):
      into = arg if arg in first else None
    if arg == into:
      continue
    if into is not None:
      for flag, at in first.items():
        if at > first[into]:
          first[flag] += 1
      out.insert(_end(out, first[into]), arg)
      continue
    if arg in several:
      first[arg] = len(out)
    out.append(arg)
  return out


def _opened(args: list[str], several: set[str]) -> Iterator[str]:
  """`--flag=value` of such options as two words, unless the value looks like an option itself."""
  for arg in args:
    flag, equals, value = arg.partition("=")
    if flag in several and equals and not value.startswith("-"):
      yield from (flag, value)
    else:
      yield arg


def _end(args: list[str], at: int) -> int:
  """Position after the values of the flag at `at`."""
  while at + 1 < len(args) and not args[at + 1].startswith("--"):
    at += 1
  return at + 1


def _sentence(box: str, fields: dict[str, Any]) -> str:
  """What tyro printed in a box, as one sentence in our words."""
  parts = re.split(r"\n\W*-{8,}\W*\n", box)
  text = one_line(parts[1] if len(parts) > 1 else box)
  if m := re.match(r"Missing value for argument '(--[\w-]+)'", text):
    return f"{m[1]} is without its value; it must be {config_file.expected(fields[m[1]].type)}"
  flag = re.search(r"(--[\w-]+)[:']", text)
  value = re.findall(r"'([^']*)'", text)
  if flag and value and flag[1] in fields and text.startswith(("Error parsing", "invalid choice")):
    found = value[0] if text.startswith("invalid choice") else value[-1]
    return f"{flag[1]} is {found!r}; it must be {config_file.expected(fields[flag[1]].type)}"
  if text.startswith("Unrecognized options: -"):
    text += " (a value with a dash in front: --option=-value)"
  return text[:1].lower() + text[1:]


def _wrapped(text: str) -> str:
  lines = [line.rstrip() for line in text.splitlines()]
  lines = [textwrap.fill(line, 80) if line[:1].strip() else line for line in lines]
  return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def nearest(word: str, known: Iterable[str]) -> str:
  near = difflib.get_close_matches(word, list(known), 1)
  return f" (did you mean {near[0]}?)" if near else ""
