"""A folder of results: results.json, pictures.csv, table.md, table.html, curves and sheets."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from idejax.evaluation import metrics, plots, tables
from idejax.evaluation.rows import Row
from idejax.storage.files import replacing, write_json

_COLUMNS = ("file", "method", "person", "text", "category", "seed", "strength")


def write(results: Mapping[str, Any], rows: Sequence[Row], out: Path, title: str) -> str:
  """Writes all files; returns the Markdown page. The pictures' figures go to pictures.csv, the rest to results.json."""
  out.mkdir(parents=True, exist_ok=True)
  _csv(out / "pictures.csv", results["scores"], out)
  write_json(out / "results.json", plain({k: v for k, v in results.items() if k != "scores"}))
  pictures = []
  for name, draw, words in (("tradeoff.png", plots.tradeoff, "identity against prompt"),
                            ("thresholds.png", plots.thresholds, "ID (P) over its threshold")):  # fmt: skip
    if draw(results, out / name):
      pictures.append((name, words))
  for k, method in enumerate(results["methods"]):
    if not any(r.method == method and r.person is not None and r.strength is None for r in rows):
      continue
    plots.sheet(rows, method, out / f"sheet-{k}.png")
    pictures.append((f"sheet-{k}.png", f"{method}: first people, first seed, nothing chosen"))
  contents = tables.tables(results)
  text = tables.markdown(contents, title)
  with replacing(out / "table.md") as temporary:
    temporary.write_text(text, "utf-8")
  with replacing(out / "table.html") as temporary:
    temporary.write_text(tables.page(contents, title, pictures), "utf-8")
  return text


def _csv(path: Path, scores: Sequence[Mapping[str, Any]], root: Path):
  """One row per picture, an empty cell where it has no figure. A text that a spreadsheet would compute is quoted."""
  several = ["training"] if any("training" in s for s in scores) else []
  names = [*_COLUMNS, *several, *(n for n in metrics.METRICS if any(n in s for s in scores))]
  with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(names)
    for s in scores:
      writer.writerow(
        [_cell(_relative(s[n], root) if n == "file" else s.get(n, 0 if n == "training" else None)) for n in names]
      )


def _cell(x: Any) -> Any:
  if isinstance(x, str) and x[:1] in "=+-@\t\r":
    return f"'{x}"
  return "" if x is None else x


def _relative(file: str, root: Path) -> str:
  path, root = Path(file), root.resolve()
  return str(path.relative_to(root)) if path.is_relative_to(root) else file


def plain(x: Any) -> Any:
  """The value with what JSON cannot hold replaced: nan by null, paths by text."""
  if isinstance(x, Mapping):
    return {str(k): plain(v) for k, v in x.items()}
  if isinstance(x, list | tuple):
    return [plain(v) for v in x]
  if isinstance(x, float) and not math.isfinite(x):
    return None
  return json.loads(json.dumps(x, default=str))
