"""Results as Markdown and HTML. "ours" is what was measured here; "paper" is copied from a paper's table
and stands apart: its people, prompts, networks and warps are others."""

import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from idejax.evaluation import metrics, protocols
from idejax.evaluation.intervals import show


class Table(NamedTuple):
  title: str
  head: list[str]
  rows: list[list[str]]
  notes: list[str]


_ARROW = {"up": " ↑", "down": " ↓", "": ""}


def tables(results: Mapping[str, Any]) -> list[Table]:
  """All tables of a results.json, in the order of its page."""
  out = [main(results)]
  methods = results["methods"]
  if results["differences"]:
    out.append(_differences(results))
  for category in dict.fromkeys(c for m in methods.values() for c in m["categories"]):
    out.append(
      _scores(
        f"Category {category}",
        {n: m["categories"][category] for n, m in methods.items() if category in m["categories"]},
      )
    )
  if any(m["strengths"] for m in methods.values()):
    rows = {f"{n}, strength {s}": x for n, m in methods.items() for s, x in m["strengths"].items()}
    out.append(_scores("Strength of the identity", rows))
  if results["unavailable"]:
    out.append(
      Table(
        "Not measured",
        ["figure", "why"],
        [[metrics.ALL[n].title, why] for n, why in results["unavailable"].items()],
        [],
      )
    )
  judges = [[role, a["network"], a["source"], a["licence"], a["digest"][:12]] for role, a in results["judges"].items()]
  out.append(
    Table(
      "Judges",
      ["role", "network and preprocessing", "source", "licence", "sha256"],
      judges,
      list(results["stepped_down"].values()),
    )
  )
  return out


def main(results: Mapping[str, Any]) -> Table:
  """Every method's figures, "ours", and the columns of the protocol's paper, "paper"."""
  methods = results["methods"]
  scores = _scores("Results", {n: m["scores"] for n, m in methods.items()})
  extra = [n for n in (*metrics.SETS, *metrics.COSTS) if any(n in _extras(m) for m in methods.values())]
  head = [*scores.head, *(_title(n) for n in extra), "people", "pictures"]
  rows = [[*row, *(_number(_extras(m).get(n), metrics.ALL[n].digits) for n in extra), str(m["people"]), str(m["pictures"])]
          for row, m in zip(scores.rows, methods.values())]  # fmt: skip
  paper = protocols.published_tables().get((results.get("protocol") or {}).get("table") or "")
  notes = ["mean of the people's means (95 % interval: bootstrap over people and seeds, 1000 resamples)"]
  if any("fid" in _extras(m) for m in methods.values()):
    n = next(m["sets"]["fid"] for m in methods.values() if m.get("sets"))
    notes.append(
      f"FID and KID: {n['pictures']} pictures a method against {n['references']} photos; below 2048 FID is biased upwards"
    )
  if paper:
    head = [f"{h} (ours)" if i and h not in ("people", "pictures") else h for i, h in enumerate(head)]
    theirs = [f"{c} (paper)" for c in paper["columns"]]
    rows = [[*r, *[""] * len(theirs)] for r in rows] + [
      [f"{n} (paper)", *[""] * (len(head) - 1), *x] for n, x in paper["rows"].items()
    ]
    head += theirs
    notes.append(
      f"paper: as printed in {paper['source']}; other people, prompts and networks: compare ranks, not numbers"
    )
  return Table("Results", head, rows, notes)


def paper_table(name: str) -> Table:
  """One of the published tables alone."""
  p = protocols.published_tables()[name]
  head = ["method", *(f"{c}{_ARROW[b]} (paper)" for c, b in zip(p["columns"], p["better"]))]
  return Table(p["source"], head, [[n, *x] for n, x in p["rows"].items()], ["as printed in the paper"])


def _scores(title: str, scores: Mapping[str, Mapping[str, Any]]) -> Table:
  names = [n for n in metrics.METRICS if any(n in s for s in scores.values())]
  rows = [[m, *(show(s[n], metrics.METRICS[n].digits) if n in s else "-" for n in names)] for m, s in scores.items()]
  return Table(title, ["method", *(_title(n) for n in names)], rows, [])


def words(results: Mapping[str, Any]) -> str:
  """A table for a terminal: a line per figure, a column per method, and last what is not measured."""
  methods = results["methods"]
  names = [n for n in metrics.METRICS if any(n in m["scores"] for m in methods.values())]
  head = ["", *methods]
  rows = [
    [
      _title(n),
      *(show(m["scores"][n], metrics.METRICS[n].digits) if n in m["scores"] else "-" for m in methods.values()),
    ]
    for n in names
  ]
  rows += [[_title(n), *(_number(_extras(m).get(n), metrics.ALL[n].digits) for m in methods.values())]
           for n in (*metrics.SETS, *metrics.COSTS) if any(n in _extras(m) for m in methods.values())]  # fmt: skip
  rows += [[n, *(str(m[n]) for m in methods.values())] for n in ("people", "pictures")]
  wide = [max(len(r[k]) for r in (head, *rows)) for k in range(len(head))]
  lines = ["  ".join(x.ljust(w) for x, w in zip(r, wide)).rstrip() for r in (head, *rows)]
  reasons = [f"not measured: {metrics.ALL[n].title}: {why}" for n, why in results["unavailable"].items()]
  return "\n".join([*lines, *reasons, *results["stepped_down"].values()])


def _differences(results: Mapping[str, Any]) -> Table:
  rows = [[f"{d['a']} minus {d['b']}", metrics.ALL[d["metric"]].title, show(d, metrics.ALL[d["metric"]].digits),
           str(d["n"]), f"{100 * d['above']:.0f} %"] for d in results["differences"]]  # fmt: skip
  return Table("Differences, on the same people, prompts and seeds", ["methods", "figure", "difference", "people", "resamples above 0"], rows,
               ["paired bootstrap; an interval that holds 0 tells no difference"])  # fmt: skip


def _extras(m: Mapping[str, Any]) -> dict[str, float]:
  return {k: v["mean"] for k, v in (m.get("sets") or {}).items()} | (m.get("costs") or {})


def _title(name: str) -> str:
  m = metrics.ALL[name]
  return m.title + _ARROW[m.better]


def _number(x: float | None, digits: int) -> str:
  return "-" if x is None else f"{x:.{digits}f}"


def markdown(contents: Sequence[Table], title: str) -> str:
  """A page; bars in cells are escaped."""
  cell = lambda x: x.replace("|", "\\|").replace("\n", " ")
  line = lambda row: f"| {' | '.join(map(cell, row))} |"
  parts = [f"# {title}", ""]
  for t in contents:
    parts += [f"## {t.title}", "", line(t.head), line(["---"] * len(t.head)), *map(line, t.rows), ""]
    for n in t.notes:
      parts += [f"{n[:1].upper()}{n[1:]}.", ""]
  return "\n".join(parts)


_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:72em;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:.5em 0;font-variant-numeric:tabular-nums}th,td{padding:.3em .7em;text-align:left;
border-bottom:1px solid #ddd}th{border-bottom:2px solid #888}.wide{overflow-x:auto}img{max-width:100%}
td.paper,th.paper{background:#f4f0e4}p.note{color:#555;font-size:90%}"""


def page(contents: Sequence[Table], title: str, pictures: Sequence[tuple[str, str]]) -> str:
  """A page of HTML without scripts or links to elsewhere; pictures (file, words) lie beside it."""
  kind = lambda h: ' class="paper"' if h.endswith("(paper)") else ""
  out = ["<!doctype html><html lang=en><meta charset=utf-8>", f"<title>{html.escape(title)}</title><style>{_STYLE}</style>",
         f"<h1>{html.escape(title)}</h1>"]  # fmt: skip
  for i, t in enumerate(contents):
    out += [
      f"<h2>{html.escape(t.title)}</h2><div class=wide><table><tr>",
      *(f"<th{kind(h)}>{html.escape(h)}</th>" for h in t.head),
      "</tr>",
    ]
    for row in t.rows:
      out += ["<tr>", *(f"<td{kind(h)}>{html.escape(x)}</td>" for h, x in zip(t.head, row)), "</tr>"]
    out += ["</table></div>", *(f"<p class=note>{html.escape(n)}.</p>" for n in t.notes)]
    if i == 0:
      out += [
        f'<figure><img src="{html.escape(f)}" alt="{html.escape(w)}"><figcaption>{html.escape(w)}</figcaption></figure>'
        for f, w in pictures
      ]
  return "\n".join(out) + "</html>\n"
