"""The command `idejax`: one subcommand per job, each a thin call of an entry point."""

import contextlib
import dataclasses
import difflib
import errno
import functools
import importlib
import inspect
import io
import os
import re
import signal
import sys
import textwrap
import threading
import typing
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from idejax import __version__, config
from idejax.errors import UserError, tell

# command: (its config, the entry point's module, what it is for)
COMMANDS = {
  "sample": (config.Sample, "idejax.sample", "prompts -> pictures, with any SD 1.x, 2.x or SDXL folder"),
  "bench": (config.Bench, "idejax.bench", "speed and compile time, against diffusers if asked"),
  "random-model": (config.RandomModel, "idejax.random_model", "a small pipeline with random weights"),
}


def main(argv: Sequence[str] | None = None) -> int:
  """Run a command; the exit code: 0 done, 2 bad input (one sentence on stderr), 130 interrupted."""
  args = list(sys.argv[1:] if argv is None else argv)
  _set_up_process()
  try:
    _dispatch(args)
    sys.stdout.flush()
    return 0
  except UserError as e:
    return _fail(str(e))
  except KeyboardInterrupt as e:
    _stopped.set()
    tell(f"idejax: {e.args[0] if e.args else 'interrupted'}; what was finished stays, "
         "the same command continues")  # fmt: skip
    return 130
  except BrokenPipeError:  # a closed pager: the reader has seen enough
    for stream in (sys.stdout, sys.stderr): os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return 141
  except OSError as e:
    return _fail(f"{e.filename or 'output'}: {_DISK.get(e.errno or 0) or e.strerror or e}")
  except Exception as e:
    if os.environ.get("IDEJAX_TRACEBACK"): raise
    if isinstance(e, MemoryError) or "RESOURCE_EXHAUSTED" in str(e): return _fail(_MEMORY)
    _fail(f"unexpected {type(e).__name__}: {_one_line(str(e))[:300]}; this is a mistake in idejax: "
          "please report it, with what IDEJAX_TRACEBACK=1 before the same command shows")  # fmt: skip
    return 1


_DISK = {
  errno.ENOSPC: "no space left on the disk; what was finished stays, the same command continues",
  errno.EDQUOT: "disk quota exceeded; what was finished stays, the same command continues",
  errno.EFBIG: "the file is larger than this account may write; what was finished stays",
  errno.EACCES: "permission denied",
  errno.EPERM: "permission denied",
  errno.EROFS: "the file system is read-only",
  errno.ENOTDIR: "part of the path is a file, not a folder",
  errno.EISDIR: "is a folder, not a file",
  errno.EEXIST: "exists and is not a folder",
  errno.ENAMETOOLONG: "the name is too long",
}
_MEMORY = ("out of memory; use a smaller --batch, --dtype bfloat16, --tiled or a smaller --height and "
           "--width; what was finished stays")  # fmt: skip


def _fail(message: str) -> int:
  tell(f"idejax: {_one_line(message)}")
  return 2


def _one_line(text: str) -> str:
  return " ".join(text.split())


@functools.cache
def _set_up_process():
  for stream in (sys.stdout, sys.stderr):  # a terminal without UTF-8 shows ? and raises nothing
    if isinstance(stream, io.TextIOWrapper): stream.reconfigure(errors="replace")
  warnings.showwarning = lambda message, *_, **__: tell(f"warning: {_one_line(str(message))}")
  if threading.current_thread() is not threading.main_thread(): return
  for name in _SIGNALS:  # nohup, or a shell's &, have some ignored: they stay so
    if signal.getsignal(name) != signal.SIG_IGN: signal.signal(name, _stop)
  read, write = os.pipe()
  os.set_blocking(write, False)
  signal.set_wakeup_fd(write, warn_on_full_buffer=False)
  threading.Thread(target=_watch_for_haste, args=(read,), daemon=True).start()


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C; a cluster's notice; a lost terminal
_stopped = threading.Event()


def _stop(number, _):
  for name in _SIGNALS: signal.signal(name, lambda *_: None)  # not again while files are closed
  raise KeyboardInterrupt("interrupted" if number == signal.SIGINT else "terminated")


def _watch_for_haste(pipe: int):
  """A second Ctrl-C leaves at once. Python sees the first only when a compilation or step is over,
  minutes later on a large model; files are renamed when whole, so leaving loses none."""
  os.read(pipe, 1)
  if not _stopped.wait(1.0): tell("stopping after this step; Ctrl-C again stops at once")
  os.read(pipe, 1)
  tell("idejax: interrupted; what was finished stays, the same command continues")
  os._exit(130)


def _dispatch(args: list[str]):
  if not args: raise UserError(f"which command? One of {', '.join(COMMANDS)} (see idejax --help)")
  if args[0] in ("-h", "--help"): return print(_usage())
  if args[0] in ("-V", "--version"): return print(f"idejax {__version__}")
  name, *rest = args
  if name not in COMMANDS:
    raise UserError(f"unknown command {name!r}{_nearest(name, COMMANDS)}; known: "
                    f"{', '.join(COMMANDS)} (see idejax --help)")  # fmt: skip
  kind, module, _ = COMMANDS[name]
  settings = parse(kind, rest, prog=f"idejax {name}")
  if settings is None: return
  _set_up_jax()
  importlib.import_module(module).main(settings)


def _nearest(word: str, known) -> str:
  near = difflib.get_close_matches(word, list(known), 1)
  return f" (did you mean {near[0]}?)" if near else ""


def parse(kind: type, args: list[str], prog: str) -> Any:
  """Flags into a config, None after --help; `--config FILE`, if given, sets their defaults."""
  default, args = _config_file(kind, args)
  fields = {"--" + f.name.replace("_", "-"): f for f in dataclasses.fields(kind)}
  args = _merge_repeats([a.replace("_", "-") if a.startswith("--") and "=" not in a else a for a in args],
                        {o for o, f in fields.items() if typing.get_origin(f.type) is tuple})  # fmt: skip
  if "-h" not in args and "--help" not in args:
    known = {*fields, *("--no-" + o[2:] for o, f in fields.items() if bool in (f.type, *typing.get_args(f.type)))}
    for flag in (a.partition("=")[0] for a in args if a.startswith("--")):
      if flag not in known: raise UserError(f"unknown option {flag}{_nearest(flag, known)}; see {prog} --help")
    needed = [o for o, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING]
    for flag in needed:
      if default is None and not any(a.partition("=")[0] == flag for a in args):
        raise UserError(f"{flag} is missing; see {prog} --help")

  # Plain text in place of tyro's boxes: it can be copied, piped and read aloud.
  os.environ |= {"PYTHON_TYRO_UTF8_BOXES": "False", "PYTHON_TYRO_ANSI_CODES": "False"}
  import tyro

  # None, nothing and off explain themselves in the option's own words.
  hint = lambda text: "" if text in ("None", "", "''", "False") else f"(default: {text})"
  mark = lambda t: tyro.conf.arg(help_behavior_hint=hint, metavar="TEXT [TEXT ...]" if t == tuple[str, ...] else None)
  shown = dict(__annotations__={f.name: Annotated[f.type, mark(f.type)] for f in fields.values()},
               __doc__=kind.__doc__, __module__=kind.__module__)  # fmt: skip
  twin: Any = dataclasses.dataclass(frozen=True)(type(kind.__name__, (kind,), shown))
  values = lambda c: {f.name: getattr(c, f.name) for f in fields.values()}
  description = (f"{inspect.cleandoc(kind.__doc__ or '')}\n\nDefaults can come from a Python file that "
                 f"says config = {kind.__name__}(...): --config FILE; other options override it.")
  said = io.StringIO()
  try:
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
      return kind(**values(tyro.cli(
        twin, args=args, prog=prog, description=description,
        config=(tyro.conf.AvoidSubcommands, tyro.conf.DisallowNone),
        **({} if default is None else {"default": twin(**values(default))}))))  # fmt: skip
  except SystemExit as e:
    if not e.code: return print(_wrapped(said.getvalue()))
    raise UserError(f"{_sentence(said.getvalue(), fields)}; see {prog} --help") from e


def _config_file(kind: type, args: list[str]) -> tuple[Any, list[str]]:
  for i, arg in enumerate(args):
    if arg == "--config":
      if i + 1 == len(args): raise UserError("--config is without its value; give a Python file")
      return config.load(Path(args[i + 1]), kind), args[:i] + args[i + 2 :]
    if arg.startswith("--config="):
      return config.load(Path(arg.removeprefix("--config=")), kind), args[:i] + args[i + 1 :]
  return None, args


def _merge_repeats(args: list[str], several: set[str]) -> list[str]:
  """`--prompt a --prompt b` means `--prompt a b`; tyro alone would drop the first."""
  first: dict[str, int] = {}
  out: list[str] = []
  into: str | None = None  # the earlier flag whose values these are
  for arg in args:
    if arg.startswith("--"): into = arg if arg in first else None
    if arg == into: continue
    if into is not None:
      for flag, at in first.items():
        if at > first[into]: first[flag] += 1
      out.insert(_end(out, first[into]), arg)
      continue
    if arg in several: first[arg] = len(out)
    out.append(arg)
  return out


def _end(args: list[str], at: int) -> int:
  """Position after the values of the flag at `at`."""
  while at + 1 < len(args) and not args[at + 1].startswith("--"): at += 1
  return at + 1


def _sentence(box: str, fields: dict[str, Any]) -> str:
  """What tyro printed in a box, as one sentence in our words."""
  parts = re.split(r"\n\W*-{8,}\W*\n", box)
  text = _one_line(parts[1] if len(parts) > 1 else box)
  if m := re.match(r"Missing value for argument '(--[\w-]+)'", text):
    return f"{m[1]} is without its value; it must be {config.expected(fields[m[1]].type)}"
  flag = re.search(r"(--[\w-]+)[:']", text)
  value = re.findall(r"'([^']*)'", text)
  if flag and value and flag[1] in fields and text.startswith(("Error parsing", "invalid choice")):
    found = value[0] if text.startswith("invalid choice") else value[-1]
    return f"{flag[1]} is {found!r}; it must be {config.expected(fields[flag[1]].type)}"
  if text.startswith("Unrecognized options: -"): text += " (a value with a dash in front: --option=-value)"
  return text[:1].lower() + text[1:]


def _wrapped(text: str) -> str:
  lines = [line.rstrip() for line in text.splitlines()]
  lines = [textwrap.fill(line, 80) if line[:1].strip() else line for line in lines]
  return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _usage() -> str:
  lines = [f"  {name:13} {what}" for name, (_, _, what) in COMMANDS.items()]
  return "\n".join([
    "usage: idejax COMMAND [options]    (idejax COMMAND --help shows every option)", "",
    "Identity-preserving portraits with Stable Diffusion in JAX.", "", "commands:", *lines, "",
    "  idejax sample --model FOLDER --prompt \"a photo of a cat\" --out pictures", "",
    "exit code: 0 done, 2 something to put right (one sentence says what), 130 interrupted.",
    "IDEJAX_CACHE: folder of compiled programs (default ~/.cache/idejax/xla; `off` for none).",
    "IDEJAX_TRACEBACK=1: show where an unexpected error arose."])  # fmt: skip


def _set_up_jax():
  """Compiled programs are kept between runs, so the second start skips compilation.

  By environment variables, which jax reads when it is imported: mistakes are told before that.
  """
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's notices are for its developers
  cache = os.environ.get("IDEJAX_CACHE") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "idejax", "xla")  # fmt: skip
  if cache == "off" or cache.startswith("~"): return  # "~": an account without a home
  try:
    os.makedirs(cache, exist_ok=True)
    if not os.access(cache, os.W_OK | os.X_OK): raise PermissionError(errno.EACCES, "permission denied")
  except OSError as e:
    tell(f"warning: compiled programs are not kept: {cache}: {e.strerror} (IDEJAX_CACHE names a folder)")
    return
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")


if __name__ == "__main__":
  sys.exit(main())
