"""Where people stand and bubbles lie in a panel: a picture to drag them on, and the same as lines of text.

    Anna Field | 0.00,0.10,0.50,1.00        a person's box, x0,y0,x1,y1
    speech | Ben Stone | Hello! | 0.70,0.15  a bubble, and where its centre was moved

All numbers are shares: a box's of the picture, a bubble's of the panel on the page. The script place.js writes
the lines when something is dragged; who uses no mouse moves marks by arrow keys or edits the lines.
"""

import html
import json
from collections.abc import Sequence

from idejax.app import layout, pages, script
from idejax.app.script import Bubble, Panel, Region, Script
from idejax.errors import UserError


def bubble_lines(p: Panel) -> str:
  at = lambda b: "" if b.at is None else f" | {b.at[0]:.2f},{b.at[1]:.2f}"
  return "\n".join(f"{b.kind} | {b.speaker} | {b.text}{at(b)}" for b in p.bubbles)


def read_bubbles(text: str) -> tuple[Bubble, ...]:
  """The bubbles that such lines describe. UserError for a line that describes none."""
  out = []
  for n, line in enumerate((x for x in text.splitlines() if x.strip()), 1):
    parts = [x.strip() for x in line.split("|")]
    if len(parts) not in (3, 4):
      raise UserError(f"bubble {n} needs kind | speaker | text, and perhaps | x,y")
    if parts[0] not in ("caption", "speech", "thought"):
      raise UserError(f"bubble {n} is {parts[0]!r}; it must be caption, speech or thought")
    at = None
    if len(parts) == 4:
      numbers = _shares(parts[3], 2)
      if not numbers:
        raise UserError(f"bubble {n} has the place {parts[3]!r}; it must be x,y from 0 to 1")
      at = numbers[0], numbers[1]
    out.append(Bubble(parts[2], parts[0], parts[1], at))  # type: ignore[arg-type]
  return tuple(out)


def region_lines(p: Panel) -> str:
  return "\n".join(f"{r.person} | {','.join(f'{v:.2f}' for v in r.box)}" for r in p.regions)


def read_regions(text: str, people: Sequence[str]) -> tuple[Region, ...]:
  """The boxes that such lines describe. UserError for a line that describes none, and for somebody who is not
  among the panel's people, or twice."""
  out: list[Region] = []
  for n, line in enumerate((x for x in text.splitlines() if x.strip()), 1):
    person, bar, place = (x.strip() for x in line.partition("|"))
    box = _shares(place, 4)
    if not bar or not box or not (box[0] < box[2] and box[1] < box[3]):
      raise UserError(f"place {n} needs a name | x0,y0,x1,y1, from 0 to 1, left before right and top before bottom")
    if person not in people:
      raise UserError(f"place {n} is of {person!r}; in this panel there are {', '.join(people) or 'none'}")
    if person in [r.person for r in out]:
      raise UserError(f"{person} has two places")
    out.append(Region(person, (box[0], box[1], box[2], box[3])))
  return tuple(out)


def _shares(text: str, count: int) -> tuple[float, ...]:
  """That many numbers from 0 to 1; none if the text says anything else."""
  try:
    values = tuple(float(v) for v in text.split(","))
  except ValueError:
    return ()
  return values if len(values) == count and all(0 <= v <= 1 for v in values) else ()


def board(token: str, s: Script, p: Panel, size: tuple[int, int] | None) -> str:
  """The panel as it is cut out on the page, in HTML, with a mark for each bubble and a button for each person.
  `size`: of its picture in pixels, None if there is none."""
  version = script.current_version(p)
  cell = _cell(s, p)
  part = (0.0, 0.0, 1.0, 1.0)
  image = ""
  if version and size and not version.reason:
    x0, y0, x1, y1 = pages.crop(size, cell, version.faces)
    part = x0 / size[0], y0 / size[1], x1 / size[0], y1 / size[1]
    source = f"/comic/{token}/{html.escape(version.file, quote=True)}"
    left, top = -100 * part[0] / (part[2] - part[0]), -100 * part[1] / (part[3] - part[1])
    wide, tall = 100 / (part[2] - part[0]), 100 / (part[3] - part[1])
    image = f'<img src="{source}" alt="" draggable="false" style="left:{left:.2f}%;top:{top:.2f}%;width:{wide:.2f}%;height:{tall:.2f}%">'
  people = "".join(
    f'<button type="button" class="who" data-person="{html.escape(n, quote=True)}" aria-pressed="false">{html.escape(n)}</button>'
    for n in p.people
  )
  facts = html.escape(json.dumps({"panel": p.id, "part": part}), quote=True)
  hint = "Drag a bubble, or move it with the arrow keys. " * bool(p.bubbles)
  hint += "To say where somebody stands, press the name and draw a box." * bool(p.people)
  return (
    f'<div class="board" data-facts="{facts}" style="aspect-ratio:{cell[0]} / {cell[1]}">{image}</div>'
    f'<div class="whos">{people}</div><p class="hint">{hint}</p>'
  )


def _cell(s: Script, p: Panel) -> tuple[int, int]:
  """Width and height of a panel on its page."""
  for page in layout.pages(s.layout.kind, s.layout.direction, pages.text_lengths(s)):
    for i, (x0, y0, x1, y1) in page.cells:
      if s.panels[i].id == p.id:
        return x1 - x0, y1 - y0
  return 1, 1
