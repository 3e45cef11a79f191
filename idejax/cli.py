"""The command `idejax`: one subcommand per job, each a thin call of an entry point."""

import errno
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from idejax import __version__, config
from idejax.errors import UserError

# command: (its config, the entry point's module, what it is for)
COMMANDS = {
  "sample": (config.Sample, "idejax.sample", "prompts -> pictures, with any SD 1.x, 2.x or SDXL folder"),
  "bench": (config.Bench, "idejax.bench", "speed and compile time, against diffusers if asked"),
  "random-model": (config.RandomModel, "idejax.random_model", "a small pipeline with random weights"),
}


def main(argv: Sequence[str] | None = None) -> int:
  """Run a command; the exit code: 0 done, 2 bad input (one sentence on stderr), 130 interrupted."""
  args = list(sys.argv[1:] if argv is None else argv)
  signal.signal(signal.SIGTERM, _terminated)
  try:
    return _dispatch(args)
  except UserError as e:
    return _fail(str(e))
  except KeyboardInterrupt as e:
    print(f"idejax: {e.args[0] if e.args else 'interrupted'}; what was finished stays, "
          "the same command continues", file=sys.stderr)  # fmt: skip
    return 130
  except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # a closed pager is no error
    return 0
  except OSError as e:
    if e.errno not in _DISK: raise
    return _fail(f"{e.filename or 'output'}: {_DISK[e.errno]}")


_DISK = {
  errno.ENOSPC: "no space left on the disk; what was finished stays, the same command continues",
  errno.EDQUOT: "disk quota exceeded; what was finished stays, the same command continues",
  errno.EACCES: "permission denied",
  errno.EPERM: "permission denied",
  errno.EROFS: "the file system is read-only",
  errno.ENOTDIR: "part of the path is a file, not a folder",
  errno.EISDIR: "is a folder, not a file",
  errno.EEXIST: "exists and is not a folder",
  errno.ENAMETOOLONG: "the name is too long",
}


def _fail(message: str) -> int:
  print(f"idejax: {message}", file=sys.stderr)
  return 2


def _terminated(*_):
  raise KeyboardInterrupt("terminated")


def _dispatch(args: list[str]) -> int:
  if not args or args[0] in ("-h", "--help"):
    print(_usage())
    return 0 if args else 2
  if args[0] in ("-V", "--version"):
    print(f"idejax {__version__}")
    return 0
  name, *rest = args
  if name not in COMMANDS:
    raise UserError(f"unknown command {name!r}; known: {', '.join(COMMANDS)} (idejax --help)")
  kind, module, _ = COMMANDS[name]
  settings = parse(kind, rest, prog=f"idejax {name}")
  _set_up_jax()
  importlib.import_module(module).main(settings)
  return 0


def parse(kind: type, args: list[str], prog: str):
  """Flags into a config; `--config FILE` first, if given, as their defaults."""
  import tyro

  default = None
  for i, arg in enumerate(args):
    if arg == "--config" or arg.startswith("--config="):
      inline = arg.removeprefix("--config=")
      file = inline if inline != arg else args[i + 1] if i + 1 < len(args) else ""
      default = config.load(Path(file), kind)
      args = args[:i] + args[i + (1 if inline != arg else 2) :]
      break
  description = (kind.__doc__ or "") + "\n\n--config FILE: a Python file that sets `config`; flags override it."
  extra = {} if default is None else {"default": default}
  return tyro.cli(kind, args=args, prog=prog, description=description,
                  config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff,), **extra)  # fmt: skip


def _usage() -> str:
  lines = [f"  {name:13} {what}" for name, (_, _, what) in COMMANDS.items()]
  return "\n".join([
    "usage: idejax COMMAND [options]    (idejax COMMAND --help shows every option)", "",
    "Identity-preserving portraits with Stable Diffusion in JAX.", "", "commands:", *lines, "",
    "  idejax sample --model FOLDER --prompt \"a photo of a cat\" --out pictures",
    "", "IDEJAX_CACHE: folder of compiled programs (default ~/.cache/idejax/xla; `off` for none)."])  # fmt: skip


def _set_up_jax():
  """Compiled programs are kept between runs, so the second start skips compilation."""
  cache = os.environ.get("IDEJAX_CACHE") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "idejax", "xla")  # fmt: skip
  import jax

  if cache == "off" or jax.config.jax_compilation_cache_dir: return
  jax.config.update("jax_compilation_cache_dir", cache)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
