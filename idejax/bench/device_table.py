"""The table at the end of `launch/check_device.sh`, from the files of its parts; no jax.

python -m idejax.bench.device_table check attention precision ...
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path


def table(folder: Path, parts: Sequence[str]) -> tuple[str, bool]:
  """(the rows of parts in `folder` as Markdown, whether each is there and as it should be)."""
  lines, good, head = [], True, ""
  for part in parts:
    file = folder / f"{part}.json"
    if not file.exists():
      good = False
      lines.append(f"| {part} | not finished{_reason(folder / f'{part}.log')} | |")
      continue
    row = json.loads(file.read_text("utf-8"))
    head = head or f"{row['device']}; " + ", ".join(f"{k} {v}" for k, v in row["versions"].items())
    for what, figure, right in row["rows"]:
      good &= right is not False
      lines.append(f"| {what} | {figure} | {'' if right is None else 'yes' if right else 'NO'} |")
  return "\n".join([head, "", "| what | measured | right |", "|---|---|---|", *lines]), good


def _reason(log: Path) -> str:
  lines = log.read_text("utf-8", "replace").split("\n") if log.exists() else []
  last = next((line.strip() for line in reversed(lines) if line.strip()), "")
  return f": {last[:200]}" if last else ""


if __name__ == "__main__":
  text, good = table(Path(sys.argv[1]), sys.argv[2:])
  print(text)
  sys.exit(0 if good else 1)
