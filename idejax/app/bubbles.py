"""Places captions and bubbles over a picture where no face is.

No text ever covers a face: each text takes the free place that suits it best, with smaller letters if there
is little room, or goes to a band below the picture if there is none. A bubble that the user moved over a
face slips to the nearest free place.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from PIL import ImageDraw

from idejax.app import lettering
from idejax.app.layout import Rect
from idejax.app.script import Bubble

LARGEST, SMALLEST = 30, 18  # pixels of a letter
_PAD = 10  # around the text
_CLEAR = 4  # kept free around a face
_EDGE = 8  # and at the border of the picture
_STEPS = 14  # places tried along each side
_WIDTHS = (0.42, 0.58, 0.32, 0.8, 0.94)  # of a bubble, as shares of the picture's
_INK, _PAPER, _CREAM = (20, 20, 24), (255, 255, 255), (255, 246, 214)


class Placement(NamedTuple):
  """A text with its lines, its letters' size and its rectangle in the picture; `tail` where it points."""

  bubble: Bubble
  lines: tuple[str, ...]
  size: int
  rect: Rect
  tail: tuple[int, int] | None


class PanelText(NamedTuple):
  """Texts of a panel. `band` is the height below the picture that the texts of `below` need."""

  over: tuple[Placement, ...]
  below: tuple[Placement, ...]
  band: int


def place(bubbles: Sequence[Bubble], width: int, height: int, faces_at, direction: str = "ltr") -> PanelText:
  """Places the texts of a panel of `width` x `height` pixels.

  faces_at: function (width, height of the picture) -> (rectangles of all faces, {name: rectangle});
  called again if a band takes part of the height.
  """
  below: list[int] = []
  while True:
    under, band = _band([bubbles[i] for i in below], width, height)
    faces, by_name = faces_at(width, height - band)
    over: list[Placement] = []
    rest: list[int] = []
    for i, b in enumerate(bubbles):
      if i in below or not b.text.strip():
        continue
      spot = _find(b, width, height - band, faces, by_name, over, direction)
      if spot:
        over.append(spot)
      else:
        rest.append(i)
    if not rest:
      return PanelText(tuple(over), tuple(under), band)
    below = sorted([*below, rest[0]])


def _band(bubbles: Sequence[Bubble], width: int, height: int) -> tuple[list[Placement], int]:
  """Texts one below the other with their speakers' names; smaller if they would take half the panel."""
  if not bubbles:
    return [], 0
  texts = [f"{b.speaker}: {b.text}" if b.speaker else b.text for b in bubbles]
  for size in range(26, SMALLEST - 3, -2):
    lines = [lettering.wrap(t, size, width - 4 * _PAD) for t in texts]
    total = sum(len(x) * lettering.leading(size) + _PAD for x in lines) + _PAD
    if total <= height // 2:
      break
  most = max(1, (height // 2 - 2 * _PAD) // lettering.leading(size) // len(texts))
  lines = [x if total <= height // 2 else x[: most - 1] + [x[most - 1] + " ..."] if len(x) > most else x for x in lines]
  total = sum(len(x) * lettering.leading(size) + _PAD for x in lines) + _PAD
  out, y = [], height - total + _PAD
  for b, x in zip(bubbles, lines):
    tall = len(x) * lettering.leading(size)
    out.append(Placement(b, tuple(x), size, (0, y, width, y + tall), None))
    y += tall + _PAD
  return out, total


def _find(
  b: Bubble,
  width: int,
  height: int,
  faces: Sequence[Rect],
  by_name: Mapping[str, Rect],
  others: Sequence[Placement],
  direction: str,
) -> Placement | None:
  """The best free place for a text, with letters as large as possible; None if there is none."""
  obstacles = [_grow(f, _CLEAR) for f in faces] + [_grow(p.rect, 6) for p in others]
  speaker = by_name.get(b.speaker)
  for size in range(LARGEST, SMALLEST - 1, -3):
    best: tuple[float, Placement] | None = None
    for share in _WIDTHS:
      lines = lettering.wrap(b.text, size, share * width - 2 * _PAD)
      w, h = lettering.extent(lines, size)
      w, h = w + 2 * _PAD, h + 2 * _PAD
      if b.kind != "caption":
        w, h = w + _PAD, h + _PAD  # round corners take room
      if w > width - 2 * _EDGE or h > height - 2 * _EDGE:
        continue
      for x, y in _places(b, width, height, w, h):
        rect = (x, y, x + w, y + h)
        if any(_meet(rect, t) for t in obstacles):
          continue
        cost = _cost(b, rect, width, height, speaker, others, direction)
        if best is None or cost < best[0]:
          best = cost, Placement(b, tuple(lines), size, rect, _tail(b, rect, speaker, faces))
    if best:
      return best[1]
  return None


def _places(b: Bubble, width: int, height: int, w: int, h: int):
  """Upper left corners to try: the place somebody chose, then all over the picture."""
  right, bottom = width - _EDGE - w, height - _EDGE - h
  if b.at:
    yield (
      min(max(round(b.at[0] * width - w / 2), _EDGE), right),
      min(max(round(b.at[1] * height - h / 2), _EDGE), bottom),
    )
  for i in range(_STEPS + 1):
    for j in range(_STEPS + 1):
      yield (_EDGE + (right - _EDGE) * j // _STEPS, _EDGE + (bottom - _EDGE) * i // _STEPS)


def _cost(
  b: Bubble, rect: Rect, width: int, height: int, speaker: Rect | None, others: Sequence[Placement], direction: str
) -> float:
  """How badly a place suits a text. Captions prefer the corner where reading begins, or the lower edge; speech
  prefers to be high up and near its speaker. A later text should stand lower or further along the line."""
  x, y = (rect[0] + rect[2]) / 2 / width, (rect[1] + rect[3]) / 2 / height
  if direction == "rtl":
    x = 1 - x
  area = (rect[2] - rect[0]) * (rect[3] - rect[1]) / (width * height)
  if b.at:
    return abs(b.at[0] - (rect[0] + rect[2]) / 2 / width) + abs(b.at[1] - y)
  cost = area
  if b.kind == "caption":
    cost += min(y + 0.5 * x, 0.35 + abs(0.9 - y) + 0.2 * x)
  else:
    cost += 0.6 * y
    if speaker:
      cost += _gap(rect, speaker) / width
  for p in others:
    lower = rect[1] >= p.rect[1] - 2
    further = rect[0] >= p.rect[2] - 2 if direction == "ltr" else rect[2] <= p.rect[0] + 2
    if not lower and not further:
      cost += 2.0
  return cost


def _tail(b: Bubble, rect: Rect, speaker: Rect | None, faces: Sequence[Rect]) -> tuple[int, int] | None:
  """The point just outside the speaker's face that the tail points at; None if another face is in the way."""
  if b.kind == "caption" or not speaker:
    return None
  box = _grow(speaker, _CLEAR)
  mouth = (box[0] + box[2]) / 2, box[1] + 0.75 * (box[3] - box[1])
  cx, cy = (rect[0] + rect[2]) / 2, (rect[1] + rect[3]) / 2
  end = mouth
  for k in range(101):  # from the bubble to the mouth, as far as the face
    x, y = cx + (mouth[0] - cx) * k / 100, cy + (mouth[1] - cy) * k / 100
    if box[0] <= x <= box[2] and box[1] <= y <= box[3]:
      break
    if any(f != speaker and f[0] <= x <= f[2] and f[1] <= y <= f[3] for f in faces):
      return None
    end = x, y
  return round(end[0]), round(end[1])


def _grow(r: Rect, by: int) -> Rect:
  return r[0] - by, r[1] - by, r[2] + by, r[3] + by


def _meet(a: Rect, b: Rect) -> bool:
  return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _gap(a: Rect, b: Rect) -> float:
  dx, dy = max(a[0] - b[2], b[0] - a[2], 0), max(a[1] - b[3], b[1] - a[3], 0)
  return (dx**2 + dy**2) ** 0.5


# Drawing.


def draw(canvas: ImageDraw.ImageDraw, texts: PanelText, left: int, top: int):
  """Draws the texts on a page; the panel's upper left corner is at (left, top)."""
  for p in texts.over:
    rect = (p.rect[0] + left, p.rect[1] + top, p.rect[2] + left, p.rect[3] + top)
    if p.bubble.kind == "caption":
      canvas.rectangle(rect, _CREAM, _INK, 2)
    else:
      _balloon(canvas, p, rect, left, top)
    inset = _PAD if p.bubble.kind == "caption" else _PAD + _PAD // 2
    _write(canvas, p, rect[0] + inset, rect[1] + inset, rect[2] - rect[0] - 2 * inset, p.bubble.kind != "caption")
  for p in texts.below:
    _write(canvas, p, left + 2 * _PAD, top + p.rect[1], p.rect[2] - 4 * _PAD, False)


def _balloon(canvas: ImageDraw.ImageDraw, p: Placement, rect: Rect, left: int, top: int):
  radius = min((rect[3] - rect[1]) // 2, 28)
  tail = p.tail and (p.tail[0] + left, p.tail[1] + top)
  cx, cy = (rect[0] + rect[2]) // 2, (rect[1] + rect[3]) // 2
  if tail and p.bubble.kind == "thought":
    for k, r in ((0.45, 9), (0.7, 6), (0.9, 4)):
      edge = _border(rect, tail)
      x, y = edge[0] + (tail[0] - edge[0]) * k, edge[1] + (tail[1] - edge[1]) * k
      canvas.ellipse((x - r, y - r, x + r, y + r), _PAPER, _INK, 2)
  canvas.rounded_rectangle(rect, radius, _PAPER, _INK, 2)
  if not tail or p.bubble.kind == "thought":
    return
  edge = _border(rect, tail)
  dx, dy = tail[0] - cx, tail[1] - cy
  length = max((dx**2 + dy**2) ** 0.5, 1)
  nx, ny = -dy / length * 9, dx / length * 9  # half the tail's width
  inner = edge[0] - dx / length * 6, edge[1] - dy / length * 6
  sides = [(inner[0] + nx, inner[1] + ny), tail, (inner[0] - nx, inner[1] - ny)]
  canvas.polygon(sides, _PAPER)
  canvas.line(sides, _INK, 2)
  cover = [
    (inner[0] + nx * 0.8 - dx / length * 4, inner[1] + ny * 0.8 - dy / length * 4),
    (inner[0] + nx * 0.8, inner[1] + ny * 0.8),
    (inner[0] - nx * 0.8, inner[1] - ny * 0.8),
    (inner[0] - nx * 0.8 - dx / length * 4, inner[1] - ny * 0.8 - dy / length * 4),
  ]
  canvas.polygon(cover, _PAPER)


def _border(rect: Rect, to: tuple[int, int]) -> tuple[float, float]:
  """The point at which the line from a rectangle's middle to another point leaves the rectangle."""
  cx, cy = (rect[0] + rect[2]) / 2, (rect[1] + rect[3]) / 2
  dx, dy = to[0] - cx, to[1] - cy
  k = min((rect[2] - rect[0]) / 2 / abs(dx) if dx else 9e9, (rect[3] - rect[1]) / 2 / abs(dy) if dy else 9e9, 1.0)
  return cx + dx * k, cy + dy * k


def _write(canvas: ImageDraw.ImageDraw, p: Placement, x: int, y: int, width: int, centred: bool):
  letters = lettering.font(" ".join(p.lines), p.size)
  for k, line in enumerate(p.lines):
    indent = (width - letters.getlength(line)) / 2 if centred else 0
    canvas.text((x + indent, y + k * lettering.leading(p.size)), line, _INK, letters)
