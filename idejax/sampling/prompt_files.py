"""Files of prompts: .txt (one a line), .jsonl and .csv (columns prompt, negative, seed, guidance, face, pose, control)."""

import csv
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

from idejax.errors import UserError
from idejax.storage.files import read_text


class Prompt(NamedTuple):
  """One prompt; None means the command line's value."""

  text: str
  negative: str | None = None
  seed: int | None = None
  guidance: float | None = None
  face: str | None = None  # a photo, with an add-on
  pose: str | None = None
  control: str | None = None  # a control picture, with a stock ControlNet


_FIELDS = {"prompt": str, "negative": str, "seed": int, "guidance": float, "face": str, "pose": str, "control": str}


def read(path: Path) -> list[Prompt]:
  """The prompts of a file. UserError names the file and the line."""
  if path.suffix not in (".txt", ".jsonl", ".csv"):
    raise UserError(f"{path}: prompt files end in .txt, .jsonl or .csv, not {path.suffix or 'nothing'!r}")
  text = read_text(path)
  if path.suffix == ".txt":
    prompts = [Prompt(line.strip()) for line in text.split("\n") if line.strip()]
  elif path.suffix == ".jsonl":
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    prompts = [_row(_json(line, f"{path}:{n}"), f"{path}:{n}") for n, line in lines]
  else:
    rows = csv.DictReader(io.StringIO(text), strict=True)
    try:
      prompts = [_row(row, f"{path}:{rows.line_num}") for row in rows]
    except csv.Error as e:
      raise UserError(f"{path}:{rows.line_num} is not CSV: {e}") from e
  if not prompts:
    raise UserError(f"{path} holds no prompt")
  return prompts


def _json(line: str, where: str) -> dict[str, Any]:
  try:
    row = json.loads(line)
  except (ValueError, RecursionError) as e:
    raise UserError(f"{where} is not JSON: {e}") from e
  return row if isinstance(row, dict) else {"prompt": row}


def _row(row: dict[str, Any], where: str) -> Prompt:
  if None in row:
    raise UserError(f"{where}: more fields than the first line names; quote commas")
  if unknown := {k for k in row if k not in _FIELDS}:
    raise UserError(f"{where}: unknown field {min(map(str, unknown))!r}; known: {', '.join(_FIELDS)}")
  if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
    raise UserError(f"{where}: the field prompt is missing or empty")
  values = {}
  for key, kind in _FIELDS.items():
    if row.get(key) in (None, ""):
      continue
    try:
      values[key] = kind(row[key])
      if type(row[key]) not in (kind, str) and values[key] != row[key]:
        raise ValueError  # 1.5 for a seed
    except (TypeError, ValueError, OverflowError):
      raise UserError(f"{where}: {key} is {row[key]!r}, not {kind.__name__}") from None
  return Prompt(values.pop("prompt").strip(), **values)
