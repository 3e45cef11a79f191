"""Files that are written completely or not at all."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


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


def cache(name: str) -> Path | None:
  """The path `name` in the cache, which is IDEJAX_CACHE or else ~/.cache/idejax. None: the cache is off."""
  root = os.environ.get("IDEJAX_CACHE") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "idejax"
  )
  return None if root == "off" or root.startswith("~") else Path(root) / name  # "~": an account without a home


def write_json(path: Path, value: Any):
  """Write a value as indented JSON; its folder is created if need be."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with replacing(path) as temporary:
    temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
