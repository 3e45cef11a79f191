"""The folder that `idejax sample` writes: its choice, and checks of pictures that are there already."""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from idejax.errors import UserError
from idejax.storage import pictures

DEFAULT = Path("pictures")
_FREE = ("idejax_version", "jax_version", "model", "latents_sha256")  # may differ between runs of one command
_LOOK = 16  # pictures that are compared before the model is read; all are compared after


def choose(rows: Sequence[Mapping[str, Any]], model: str) -> Path:
  """The first of pictures, pictures-2, ... that is new, or that the same command began. `rows`: see `refuse_other`."""
  for n in itertools.count(1):
    out = DEFAULT if n == 1 else DEFAULT.with_name(f"{DEFAULT.name}-{n}")
    if not out.exists():
      return out
    try:
      refuse_other(out, rows)
    except UserError:
      continue
    there = _pictures(out) if out.is_dir() else []
    if out.is_dir() and not any(out.iterdir()):
      return out
    if there and (pictures.read_record(there[0])[0] or {}).get("model") == model:
      return out
  raise AssertionError("there are more numbers")


def refuse_other(out: Path, rows: Sequence[Mapping[str, Any]]):
  """UserError for files that this command would overwrite, or pictures that it could not continue.

  rows: what is known of every picture's record before the model is read.
  """
  if not out.is_dir():
    return
  if strange := foreign(out):
    raise UserError(f"{strange} is there and was not made by idejax sample; choose another --out")
  there = _pictures(out)
  if extra := [p for p in there if int(p.stem) >= len(rows)]:
    raise UserError(f"{extra[0]} is there, but this command makes {len(rows)} picture(s); choose another --out")
  for p in there[:_LOOK]:
    complete_record(p, rows[int(p.stem)], known_only=True)


def foreign(out: Path) -> Path | None:
  """A manifest or sheet that idejax did not write, else None. The manifest shows whether both are ours."""
  manifest, sheet = out / "manifest.jsonl", out / "sheet.png"
  ours = manifest.is_file() and _is_ours(manifest)
  if manifest.exists() and not ours:
    return manifest
  return sheet if sheet.exists() and not ours else None


def _is_ours(manifest: Path) -> bool:
  try:
    with manifest.open("rb") as f:
      row = json.loads(f.readline(1 << 20))
    return isinstance(row, dict) and "latents_sha256" in row
  except (OSError, ValueError):
    return False


def _pictures(out: Path) -> list[Path]:
  return sorted(p for p in out.iterdir() if re.fullmatch(r"\d{5,}\.png", p.name))


def complete_record(
  file: Path, record: Mapping[str, Any], known_only: bool = False, by_folder: bool = False
) -> dict[str, Any] | None:
  """The record of a complete picture, None if it is missing or damaged. UserError if another command made it.

  known_only: `record` does not have every field yet. by_folder: the sampler is the one that the model's folder
  names; earlier versions wrote that, not which it is.
  """
  if not file.exists():
    return None
  there, intact = pictures.read_record(file)
  if there is None:
    raise UserError(f"{file} is there and was not made by idejax; move it or choose another --out")
  for key in record if known_only else [*record, *there]:
    if key == "sampler" and by_folder and there.get(key) == "folder":
      continue
    if key not in _FREE and there.get(key) != record.get(key):
      old, new = (json.dumps(x.get(key), ensure_ascii=False)[:80] for x in (there, record))
      raise UserError(f"{file} was made with another {key} ({old}, now {new}); choose another --out")
  return there if intact else None
