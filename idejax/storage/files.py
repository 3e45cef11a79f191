"""Files that are written completely or not at all."""

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from idejax.errors import UserError, one_line


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
  """A temporary name beside `path`, renamed to it if the block succeeds, removed if not."""
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    yield temporary
    os.replace(temporary, path)
  except OSError as e:
    e.filename = e.filename or str(path)  # a full disk does not say which file
    raise
  finally:
    temporary.unlink(missing_ok=True)


def need_space(folder: Path, need: float, what: str):
  """UserError if `need` bytes do not fit on the disk of `folder`. Less than 16 MiB is not checked."""
  place = next(p for p in (folder, *folder.absolute().parents) if p.exists())
  free = shutil.disk_usage(place).free
  if need > 2**24 and free < need:
    raise UserError(f"{folder}: {what} need {need / 2**20:.0f} MiB, and the disk has {free / 2**20:.0f} MiB free")


def cache(name: str) -> Path | None:
  """The path `name` in the cache, which is IDEJAX_CACHE or else ~/.cache/idejax. None: the cache is off."""
  root = os.environ.get("IDEJAX_CACHE") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "idejax"
  )
  return None if root == "off" or root.startswith("~") else Path(root) / name  # "~": an account without a home


def read_text(path: Path) -> str:
  """The text of a UTF-8 file, with or without a byte order mark. UserError if it cannot be read."""
  try:
    return path.read_text("utf-8-sig")
  except FileNotFoundError:
    raise UserError(f"{path} does not exist") from None
  except (OSError, UnicodeDecodeError) as e:
    raise UserError(f"{path} cannot be read as UTF-8 text: {e}") from e


def read_json(path: Path) -> dict[str, Any]:
  """The object in a JSON file. UserError if the file is missing or holds anything else."""
  try:
    value = json.loads(path.read_text("utf-8"))
  except (OSError, ValueError, RecursionError) as e:
    raise UserError(f"{path} cannot be read: {one_line(str(e))[:160]}") from e
  if not isinstance(value, dict):
    raise UserError(f"{path} holds no JSON object")
  return value


def write_json(path: Path, value: Any):
  """Writes indented JSON and makes the folder if needed; NaN, which means not measured, becomes null."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with replacing(path) as temporary:
    temporary.write_text(json.dumps(_without_nan(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def _without_nan(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {k: _without_nan(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [_without_nan(v) for v in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value
