"""A log of what was asked for and what was decided, one line of JSON each: words and digests, never pictures."""

import datetime
import json
import os
from pathlib import Path
from typing import Any

FILE = "audit.jsonl"
_LONGEST = 4000  # bytes of a line: one write of that much is not torn by another process


class Audit:
  """An append-only log in a folder. Values are texts, numbers and lists of these."""

  def __init__(self, folder: Path):
    self.path = folder / FILE

  def write(self, event: str, **facts: Any):
    line = json.dumps({"time": now(), "event": event} | {k: _short(v) for k, v in facts.items()}, ensure_ascii=False)
    self.path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
      os.write(handle, line.encode()[:_LONGEST] + b"\n")
    finally:
      os.close(handle)

  def lines(self) -> list[dict[str, Any]]:
    if not self.path.exists():
      return []
    return [json.loads(line) for line in self.path.read_text("utf-8").splitlines()]


def _short(value: Any) -> Any:
  """A value with long texts and lists shortened. TypeError for anything else, such as a picture or an array."""
  if isinstance(value, str):
    return value[:1000]
  if isinstance(value, list | tuple):
    return [_short(v) for v in value[:20]]
  if isinstance(value, bool | int | float) or value is None:
    return value
  raise TypeError(f"the audit log keeps words and numbers, not {type(value).__name__}")


def now() -> str:
  """The time in UTC, to the second."""
  return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
