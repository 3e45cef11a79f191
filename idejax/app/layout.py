"""Lays out panels on pages: rectangles in reading order, mirrored for reading from right to left."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from idejax.cli.options import nearest
from idejax.errors import UserError

MARGIN, GUTTER = 40, 24  # pixels

Rect = tuple[int, int, int, int]  # x0 y0 x1 y1
Row = list[float]  # shares of the width, one a panel


class Page(NamedTuple):
  """A page. `cells` holds (index of the panel, its rectangle) in reading order."""

  size: tuple[int, int]  # width, height
  cells: tuple[tuple[int, Rect], ...]


class Kind(NamedTuple):
  """A layout. `height` of a row is a share of the page's width, `rows` the number of rows on a page; `split`
  divides panels into rows, given the lengths of their texts."""

  about: str
  width: int
  height: Callable[[Row, Sequence[int]], float]
  rows: int
  split: Callable[[Sequence[int]], list[Row]]


def _every(*pattern: Row) -> Callable[[Sequence[int]], list[Row]]:
  """Rows that repeat a pattern; the last row shares its width among the remaining panels."""

  def split(lengths: Sequence[int]) -> list[Row]:
    out: list[Row] = []
    rest = len(lengths)
    while rest:
      row = pattern[len(out) % len(pattern)]
      out.append(row if len(row) <= rest else [1.0] * rest)
      rest -= len(out[-1])
    return out

  return split


def _hero(lengths: Sequence[int]) -> list[Row]:
  return [[1.0], *_every([1, 1])(lengths[1:])] if lengths else []


def _by_text(lengths: Sequence[int]) -> list[Row]:
  """As many panels in a row as have room for their texts; a longer text gets more width."""
  out: list[Row] = []
  row: Row = []
  for n in lengths:
    weight = min(1.0 + n / 60, 2.6)
    if row and (sum(row) + weight > 4.2 or len(row) == 3):
      out.append(row)
      row = []
    row.append(weight)
  return [*out, row] if row else out


def _constant(share: float) -> Callable[[Row, Sequence[int]], float]:
  return lambda row, texts: share


def _by_number(*shares: float) -> Callable[[Row, Sequence[int]], float]:
  """The share for a row of one panel, of two, ...: those that are left over in a last row are wide, so it is higher."""
  return lambda row, texts: shares[len(row) - 1]


LAYOUTS: dict[str, Kind] = {
  "grid": Kind("two columns, three rows a page", 1200, _by_number(0.62, 0.44), 3, _every([1, 1])),
  "strip": Kind("one below the other, for scrolling", 720, _constant(0.92), 4, _every([1])),
  "row": Kind("a newspaper's row of four", 2000, _by_number(0.5, 0.4, 0.3, 0.24), 1, _every([1, 1, 1, 1])),
  "nine": Kind("three by three", 1200, _by_number(0.62, 0.42, 0.31), 3, _every([1, 1, 1])),
  "hero": Kind("a large opening, then pairs", 1200, lambda row, texts: 0.62 if len(row) == 1 else 0.44, 3, _hero),
  "zigzag": Kind("wide and narrow in turn", 1200, _by_number(0.62, 0.42), 3, _every([1.6, 1], [1, 1.6])),
  "cinema": Kind("wide pictures, four a page", 1200, _constant(0.40), 4, _every([1])),
  "splash": Kind("one a page", 1200, _constant(0.96), 1, _every([1])),
  "text": Kind("follows the length of the text", 1200, lambda row, texts: 0.34 + min(max(texts, default=0), 240) / 1500, 4, _by_text),
}  # fmt: skip


def check(kind: str) -> Kind:
  """The layout of that name. UserError if there is none."""
  if kind not in LAYOUTS:
    raise UserError(f"there is no layout {kind!r}{nearest(kind, LAYOUTS)}; there are {', '.join(LAYOUTS)}")
  return LAYOUTS[kind]


def pages(kind: str, direction: str, lengths: Sequence[int], top: int = 0) -> list[Page]:
  """Pages for panels whose texts have these lengths, in characters. `top` pixels of the first page stay free
  for the title. A page is as high as its rows need."""
  k = check(kind)
  out: list[Page] = []
  rows = k.split(lengths)
  first = 0
  for at in range(0, len(rows), k.rows):
    y = MARGIN + (0 if out else top)
    cells: list[tuple[int, Rect]] = []
    for row in rows[at : at + k.rows]:
      height = round(k.width * k.height(row, lengths[first : first + len(row)]))
      for j, (x0, x1) in enumerate(_columns(row, k.width)):
        if direction == "rtl":
          x0, x1 = k.width - x1, k.width - x0
        cells.append((first + j, (x0, y, x1, y + height)))
      first += len(row)
      y += height + GUTTER
    out.append(Page((k.width, y - GUTTER + MARGIN), tuple(cells)))
  return out


def _columns(row: Row, width: int) -> list[tuple[int, int]]:
  """Left and right ends of a row's panels."""
  free = width - 2 * MARGIN - GUTTER * (len(row) - 1)
  ends, x = [], float(MARGIN)
  for share in row:
    wide = free * share / sum(row)
    ends.append((round(x), round(x + wide)))
    x += wide + GUTTER
  return ends
