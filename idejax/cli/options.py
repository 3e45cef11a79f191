"""Parses flags and `--config FILE` into a command's config, a frozen dataclass; mistakes become one sentence.

A field is an option: its type says what values it takes, `ranges` which of them are allowed, its default whether
it may be left out, and the string below it is its help. Booleans are `--x` and `--no-x`; tuples take several
values and may be repeated. A field whose metadata say `positional` may also be given without its flag.
"""

import difflib
import re
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from idejax import ranges
from idejax.cli import config_file
from idejax.cli.fields import Option, options
from idejax.errors import UserError

_NUMBER = re.compile(r"-(\d|\.\d|inf|nan)")
HELP = ("-h", "--help", "--help-all")


def parse(kind: type, args: list[str], prog: str, default: Any = None, hints: Mapping[str, str] | None = None) -> Any:
  """The config that flags give, None after --help; `--config FILE`, or else `default`, sets the defaults.

  hints: the text that replaces a name in braces, such as {guidance}, in help. See `help.text`.
  """
  if default is None:
    default, args = _config_file(kind, args)
  all_options = options(kind)
  if any(a in HELP for a in args):
    from idejax.cli import help  # reading sources takes a moment that a run does not need

    return print(help.text(kind, all_options, prog, default, hints or _hints(args), everything="--help-all" in args))
  flags = _read(args, all_options, prog)
  values = flags if default is None else vars(default) | flags
  for o in all_options:
    if o.required and o.name not in values:
      raise UserError(f"{o.flag} is missing; see {prog} --help")
  config = kind(**values)
  ranges.check(config)
  return config


def _read(args: list[str], all_options: list[Option], prog: str) -> dict[str, Any]:
  """{field: value} of the flags. If a flag is repeated the last one counts, except for tuples, which take all."""
  flags = {o.flag: o for o in all_options}
  spellings = {*flags, *("--no-" + o.flag[2:] for o in all_options if o.kind is bool)}
  loose = [o for o in all_options if o.positional]  # words without a flag are their values, in this order
  out: dict[str, Any] = {}
  at = 0
  while at < len(args):
    word, at = args[at], at + 1
    if not word.startswith("--"):
      if not loose or word.startswith("-"):
        hint = " (write a value that begins with a dash as --option=-value)" if word.startswith("-") else ""
        raise UserError(f"{ranges.show(word)} belongs to no option{hint}; see {prog} --help")
      _put(out, loose[0], [word], prog)
      if not loose[0].several:
        del loose[0]
      continue
    flag, inline, value = word.partition("=")
    flag = flag.replace("_", "-")
    if flag not in spellings:
      raise UserError(f"unknown option {flag}{nearest(flag, spellings)}; see {prog} --help")
    if flag not in flags or flags[flag].kind is bool:
      if inline:
        raise UserError(f"{flag} takes no value; write {flag} or its opposite; see {prog} --help")
      name = flag if flag in flags else "--" + flag[5:]
      out[flags[name].name] = flag in flags
      continue
    option, values = flags[flag], [value] if inline else []
    while not inline and at < len(args) and not _is_flag(args[at]) and (option.several or not values):
      values.append(args[at])
      at += 1
    if not values and not option.several:
      raise UserError(f"{flag} is without its value; it must be {config_file.describe(option.kind)}; see {prog} --help")
    _put(out, option, values, prog)
  return out


def _is_flag(word: str) -> bool:
  """Whether a word is an option rather than a value; negative numbers are values."""
  return word.startswith("-") and word != "-" and not _NUMBER.match(word)


def _put(out: dict[str, Any], option: Option, values: list[str], prog: str):
  new = tuple(value(option, v, prog) for v in values)
  out[option.name] = (*out.get(option.name, ()), *new) if option.several else new[0]


def is_given(option: Option, args: list[str]) -> bool:
  """Whether the command line sets an option by its flag."""
  spellings = (option.flag, "--no-" + option.flag[2:])
  return any(a.partition("=")[0].replace("_", "-") in spellings for a in args if a.startswith("--"))


def value(option: Option, text: str, prog: str) -> Any:
  """One word of the command line in the option's type."""
  kind = option.kind
  if typing.get_origin(kind) is Literal:
    for choice in typing.get_args(kind):
      if text == str(choice):
        return choice
  elif kind is Path:
    if text.strip():
      return Path(text)
    raise UserError(f"{option.flag} is empty; give a path; see {prog} --help")
  elif kind is str:
    return text
  else:
    try:
      return kind(text)
    except ValueError:
      pass
  raise UserError(f"{option.flag} is {ranges.show(text)}; it must be {config_file.describe(kind)}; see {prog} --help")


def _hints(args: list[str]) -> Mapping[str, str]:
  from idejax.cli import hints

  return hints.of(take(args, "--model", "see --help")[0] or "miniature")


def _config_file(kind: type, args: list[str]) -> tuple[Any, list[str]]:
  file, rest = take(args, "--config", "give a Python file")
  return (None if file is None else config_file.load(Path(file), kind)), rest


def take(args: list[str], flag: str, what: str) -> tuple[str | None, list[str]]:
  """(the value of a flag or None, the other arguments). UserError if the value is not there."""
  for i, arg in enumerate(args):
    if arg == flag:
      if i + 1 == len(args):
        raise UserError(f"{flag} is without its value; {what}")
      return args[i + 1], args[:i] + args[i + 2 :]
    if arg.startswith(flag + "="):
      return arg.partition("=")[2], args[:i] + args[i + 1 :]
  return None, args


def nearest(word: str, choices: Iterable[str]) -> str:
  near = difflib.get_close_matches(word, list(choices), 1)
  return f" (did you mean {near[0]}?)" if near else ""
