"""pack.json, the description of a face pack that this project made, checked field by field."""

import json
import math
from pathlib import Path
from typing import Any

from idejax.errors import UserError, one_line


def _number(x: Any) -> bool:
  return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)


def _sizes(x: Any) -> bool:
  """A detector's strides end at 32."""
  fits = lambda n: type(n) is int and 32 <= n <= 4096 and n % 32 == 0
  return isinstance(x, list) and len(x) == 2 and all(map(fits, x))


def _text(x: Any) -> bool:
  return isinstance(x, str)


# field: (what it must be, the same in words)
_RULES = {
  "name": (_text, "a text"),
  "licence": (_text, "a text"),
  "licence_url": (_text, "a text"),
  "det_size": (_sizes, "[width, height] in multiples of 32"),
  "det_threshold": (lambda x: _number(x) and 0 < x < 1, "a number between 0 and 1"),
  "thresholds": (lambda x: isinstance(x, dict) and all(map(_number, x.values())), "numbers by name"),
}


def read(folder: Path) -> dict[str, Any]:
  """The fields of FOLDER/pack.json, {} if there is none; unknown fields pass unchecked. UserError."""
  path = folder / "pack.json"
  if not path.exists():
    return {}
  try:
    about = json.loads(path.read_text("utf-8"))
  except (OSError, ValueError, RecursionError) as e:
    raise UserError(f"{path} is not JSON: {one_line(str(e))[:120]}") from e
  if not isinstance(about, dict):
    raise UserError(f"{path} holds no JSON object")
  for key, (fits, what) in _RULES.items():
    if key in about and not fits(about[key]):
      raise UserError(f"{path}: {key} is {about[key]!r}; it must be {what}")
  return about
