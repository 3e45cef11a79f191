"""Output folders: one writer at a time, and no empty folder is left behind."""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path

from idejax.errors import UserError


@contextlib.contextmanager
def claim(out: Path) -> Iterator[None]:
  """Makes `out` a folder that only this run writes to; a new folder that stays empty is removed at the end."""
  if out.exists() and not out.is_dir():
    raise UserError(f"--out {out} is a file, not a folder")
  new = not out.exists()
  out.mkdir(parents=True, exist_ok=True)
  if not os.access(out, os.W_OK | os.X_OK):
    readonly = os.statvfs(out).f_flag & os.ST_RDONLY
    raise UserError(
      f"--out {out} cannot be written: {'the file system is read-only' if readonly else 'permission denied'}"
    )
  handle = os.open(out, os.O_RDONLY)
  try:
    try:
      fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise UserError(f"another idejax is writing to {out}; wait for it or choose another --out") from None
    except OSError:
      pass  # a network disk without locks
    ours = re.compile(r"\.(\d{5,}\.png|manifest\.jsonl|sheet\.png)\.\d+\.tmp")
    for p in out.glob(".*.tmp"):
      if ours.fullmatch(p.name):
        p.unlink()  # left by a killed run
    yield
  finally:
    os.close(handle)
    if new:
      with contextlib.suppress(OSError):
        out.rmdir()
