"""The command `idejax`: one subcommand per job, each a thin call of an entry point."""

import errno
import functools
import gc
import importlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from typing import Any

from idejax import __version__, config
from idejax.cli import options
from idejax.errors import UserError, one_line, tell
from idejax.runtime import cluster, distributed
from idejax.storage import files

# command: (its config, the entry point's module, what it is for)
COMMANDS = {
  "personalize": (config.Personalize, "idejax.jobs.personalize", "a photo of a person -> that person in new pictures"),
  "sample": (config.Sample, "idejax.jobs.sample", "prompts -> pictures, with any SD 1.x, 2.x or SDXL folder"),
  "pose": (config.Pose, "idejax.jobs.pose", "source and driver -> the source's landmarks in the driver's pose"),
  "pretrain": (
    config.Pretrain,
    "idejax.jobs.pretrain",
    "many people's faces -> FaceSnap, which needs no training for a new one",
  ),
  "train-shared": (
    config.TrainShared,
    "idejax.jobs.train_shared",
    "many people's faces -> ID-EA's modules, from which a new one starts",
  ),
  "export": (config.Export, "idejax.jobs.export", "a person -> files that diffusers opens, with a certificate"),
  "convert": (config.Convert, "idejax.jobs.convert", "models to other layouts; identities from elsewhere"),
  "rename": (config.Rename, "idejax.jobs.rename", "another word for a learned person"),
  "identity": (config.Identity, "idejax.jobs.identity", "photos -> face records: faces found, aligned, embedded"),
  "prepare": (config.Prepare, "idejax.jobs.prepare", "photos of many people -> training shards, dropped ones reported"),
  "evaluate": (config.Evaluate, "idejax.jobs.evaluate", "people, methods, pictures by the same judges -> tables"),
  "comic": (config.Comic, "idejax.app.comic", "a story -> a comic whose people keep their faces"),
  "app": (config.App, "idejax.app.serve", "the same in a browser, on this machine"),
  "plan": (config.Plan, "idejax.jobs.plan", "what a run needs on chips that are not there yet"),
  "bench": (config.Bench, "idejax.bench.run", "speed and compile time, against diffusers if asked"),
  "random-model": (config.RandomModel, "idejax.jobs.random_model", "a small pipeline with random weights"),
  "train-miniature": (
    config.TrainMiniature,
    "idejax.jobs.train_miniature",
    "train the pipeline that ships in the package",
  ),
}


# Commands whose options depend on more than their config: `parse(args, prog)` of these modules.
_PARSERS = {
  "personalize": "idejax.cli.method_options",
  "plan": "idejax.jobs.plan",
  "train-shared": "idejax.jobs.train_shared",
}
_SHARED = ("personalize", "sample", "evaluate", "pretrain")  # commands that several processes can do together
_DIVIDED = ("prepare",)  # and those whose processes know one another by the disk alone


def main(argv: Sequence[str] | None = None) -> int:
  """Run a command; the exit code: 0 done, 2 bad input (one sentence on stderr), 130 interrupted."""
  return distributed.leave(_run(list(sys.argv[1:] if argv is None else argv)))


def _run(args: list[str]) -> int:
  _set_up_process()
  try:
    _dispatch(args)
    sys.stdout.flush()
    return 0
  except UserError as e:
    return _fail(str(e))
  except KeyboardInterrupt as e:
    _stopped.set()
    tell(f"idejax: {e.args[0] if e.args else 'interrupted'}; what was finished stays, the same command continues")
    return 130
  except BrokenPipeError:  # a closed pager: the reader has seen enough
    for stream in (sys.stdout, sys.stderr):
      os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return 141
  except OSError as e:
    return _fail(f"{e.filename or 'output'}: {_DISK.get(e.errno or 0) or e.strerror or e}")
  except Exception as e:
    if os.environ.get("IDEJAX_TRACEBACK"):
      raise
    if trouble := _disk_trouble(e):
      return _fail(f"output: {trouble}")
    if distributed.is_loss_of_process(e):
      return _fail(distributed.LOST)
    if isinstance(e, MemoryError) or "RESOURCE_EXHAUSTED" in str(e):
      return _fail(_MEMORY)
    _fail(
      f"unexpected {type(e).__name__}: {one_line(str(e))[:300]}; this is a mistake in idejax: "
      "please report it, with what IDEJAX_TRACEBACK=1 before the same command shows"
    )
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
_MEMORY = (
  "out of memory; use a smaller --batch, --dtype bfloat16, --tiled or a smaller --height and "
  "--width; what was finished stays"
)


def _disk_trouble(e: BaseException) -> str | None:
  """The trouble with the disk behind a library's exception, which may wrap the system's error; else None."""
  cause: BaseException | None = e
  while cause is not None:
    if isinstance(cause, OSError) and cause.errno in _DISK:
      return _DISK[cause.errno]
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
      if os.strerror(number).lower() in str(cause).lower() or f"os error {number}" in str(cause).lower():
        return _DISK[number]
    cause = cause.__cause__ or cause.__context__
  return None


def _fail(message: str) -> int:
  tell(f"idejax: {one_line(message)}")
  return 2


@functools.cache
def _set_up_process():
  for stream in (sys.stdout, sys.stderr):  # a terminal without UTF-8 shows ? and raises nothing
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors="replace")
  warnings.showwarning = lambda message, *_, **__: tell(f"warning: {one_line(str(message))}")
  if threading.current_thread() is not threading.main_thread():
    return
  for name in _SIGNALS:  # nohup, or a shell's &, have some ignored: they stay so
    if signal.getsignal(name) != signal.SIG_IGN:
      signal.signal(name, _stop)
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  threading.Thread(target=_watch_for_haste, args=(reader,), daemon=True).start()


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C; a cluster's notice; a lost terminal
_stopped = threading.Event()


def _stop(number, _):
  for name in _SIGNALS:
    signal.signal(name, lambda *_: None)  # not again while files are closed
  raise KeyboardInterrupt("interrupted" if number == signal.SIGINT else "terminated")


def _watch_for_haste(pipe: int):
  """Exits at once on a second Ctrl-C. Python handles the first only after a compilation or a step, minutes later
  on a large model. Files are renamed when they are complete, so exiting loses none."""
  os.read(pipe, 1)
  if not _stopped.wait(1.0):
    tell("stopping after this step; Ctrl-C again stops at once")
  os.read(pipe, 1)
  tell("idejax: interrupted; what was finished stays, the same command continues")
  os._exit(130)


def _dispatch(args: list[str]):
  args, flags = distributed.take_flags(args)
  if not args:
    raise UserError(f"which command? One of {', '.join(COMMANDS)} (see idejax --help)")
  if args[0] in ("-h", "--help"):
    return print(_usage())
  if args[0] in ("-V", "--version"):
    return print(f"idejax {__version__}")
  name, *rest = args
  if name not in COMMANDS:
    raise UserError(
      f"unknown command {name!r}{options.nearest(name, COMMANDS)}; known: {', '.join(COMMANDS)} (see idejax --help)"
    )
  job = cluster.detect(flags)
  if name not in _DIVIDED:  # whose processes each have work of their own to tell of
    distributed.hush(job)
  if job and (job.processes or 1) > 1 and name not in (*_SHARED, *_DIVIDED):
    raise UserError(
      f"idejax {name} runs in one process, and this is one of {job.processes} ({job.how}); "
      f"together they can {' and '.join((*_SHARED, *_DIVIDED))}"
    )
  kind, module, _ = COMMANDS[name]
  settings = _parse(name, kind, rest)
  if settings is None:
    return
  _set_up_jax()
  if name in _SHARED:
    distributed.start(flags)
  importlib.import_module(module).main(settings)


def _parse(name: str, kind: type, args: list[str]) -> Any:
  prog = f"idejax {name}"
  if name not in _PARSERS:
    return options.parse(kind, args, prog)
  _set_up_jax()
  return importlib.import_module(_PARSERS[name]).parse(args, prog)


def _usage() -> str:
  lines = [f"  {name:15} {what}" for name, (_, _, what) in COMMANDS.items()]
  return "\n".join(
    [
      "usage: idejax COMMAND [options]    (idejax COMMAND --help shows every option)",
      "",
      "Identity-preserving portraits with Stable Diffusion in JAX.",
      "",
      "commands:",
      *lines,
      "",
      '  idejax sample --prompt "a photo of a woman with red hair on the beach"',
      "",
      "exit code: 0 done, 2 something to put right (one sentence says what), 130 interrupted,",
      "1 a mistake in idejax itself, 141 the reader of its output (a pager) has gone.",
      "IDEJAX_CACHE: folder of compiled programs (default ~/.cache/idejax/xla; `off` for none).",
      "IDEJAX_TRACEBACK=1: show where an unexpected error arose.",
      "Several processes, one job: --coordinator HOST:PORT --processes N --process I (launch/README.md).",
    ]
  )


def _set_up_jax():
  """Keeps compiled programs between runs, so that the second start skips compilation.

  It sets environment variables, which jax reads on import: mistakes in a command are reported before that.
  """
  gc.set_threshold(100_000)  # tracing makes millions of objects that stay: a tenth of a start was spent looking at them
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's notices are for its developers
  cache = os.environ.get("IDEJAX_CACHE") or str(files.cache("xla") or "off")
  if cache == "off":
    return
  try:
    os.makedirs(cache, exist_ok=True)
    if not os.access(cache, os.W_OK | os.X_OK):
      raise PermissionError(errno.EACCES, "permission denied")
  except OSError as e:
    tell(f"warning: compiled programs are not kept: {cache}: {e.strerror} (IDEJAX_CACHE names a folder)")
    return
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
