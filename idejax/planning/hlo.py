"""Collectives in a compiled program's text: the number and the bytes of each kind."""

import math
import re
from typing import Any

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
# name = type kind(operands): the type is one array or, in parentheses, several.
_LINE = re.compile(rf"= (\(.*?\)|\S+) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b(pred|bf16|f8\w+|[fsuc]\d+)\[([\d,]*)\]")
_BYTES = {"pred": 1, "bf16": 2}


def collectives(text: str) -> dict[str, dict[str, int]]:
  """{kind: {"count", "bytes"}} of a program's text; bytes are of the results, on one device.

  A collective in a loop's body is counted once. An asynchronous pair counts where it starts.
  """
  out: dict[str, dict[str, int]] = {}
  for m in _LINE.finditer(text):
    arrays = [_size(*a) for a in _ARRAY.findall(m[1])]
    # An asynchronous collective's type is (operands, results), but an all-reduce's is its results alone.
    size = max(arrays, default=0) if m[3] and m[2] != "all-reduce" else sum(arrays)
    entry = out.setdefault(m[2], {"count": 0, "bytes": 0})
    entry["count"] += 1
    entry["bytes"] += size
  return dict(sorted(out.items()))


def link_bytes(kinds: dict[str, dict[str, int]]) -> int:
  """Bytes through a device's links: a ring sends an all-reduce's data twice, other collectives' data once."""
  return sum(v["bytes"] * (2 if kind == "all-reduce" else 1) for kind, v in kinds.items())


def _size(dtype: str, shape: str) -> int:
  bits = 8 if dtype.startswith("f8") else int(re.sub(r"\D", "", dtype) or 0)
  return (_BYTES.get(dtype) or max(1, bits // 8)) * math.prod(int(n) for n in shape.split(",") if n)


def donated(compiled: Any) -> int:
  """Bytes of donated arguments: the results take over their memory."""
  return int(compiled.memory_analysis().alias_size_in_bytes)
