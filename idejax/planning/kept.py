"""What earlier plans found out, kept by content: by a digest of all that an answer follows from."""

import hashlib
import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from idejax import __version__
from idejax.planning import gpus
from idejax.storage import files
from idejax.storage.files import write_json

STEP = (".", "nets", "model", "person", "methods", "training", "planning")  # whose sources define a step


def place(kind: str, question: Any) -> Path | None:
  """The file of an answer of a kind; None where the cache is off."""
  folder = files.cache(kind)
  digest = hashlib.sha256(json.dumps(question, sort_keys=True, default=str).encode()).hexdigest()
  return folder / f"{digest[:32]}.json" if folder else None


def read(path: Path | None) -> dict[str, Any] | None:
  """The answer in a file; None where there is none, or a damaged one."""
  try:
    return json.loads(path.read_text("utf-8")) if path else None
  except (OSError, ValueError):
    return None


def write(path: Path | None, answer: dict[str, Any]):
  if path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, answer)


def sources(rooms: Sequence[str] = STEP) -> str:
  """The digest of all sources of some rooms."""
  root = Path(__file__).parents[1]
  digest = hashlib.sha256()
  for file in sorted(f for room in rooms for f in (root / room).glob("*.py")):
    digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
  return digest.hexdigest()


def versions(platform: str) -> dict[str, str]:
  """Of what compiles for a platform."""
  out = {"idejax": __version__, "jax": jax.__version__}
  if platform in ("cuda", "gpu"):
    out["cuda"] = gpus.plugin() or ""
  if platform == "tpu":
    try:
      out["libtpu"] = metadata.version("libtpu")
    except metadata.PackageNotFoundError:
      pass
  return out
