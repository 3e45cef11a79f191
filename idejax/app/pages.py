"""The comic's pages and files: a PNG strip, a PDF, a CBZ, and a page of HTML with alternative texts."""

import html
import io
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from idejax.app import bubbles, layout, lettering, script, watermark
from idejax.app.layout import Rect
from idejax.app.script import Panel, Script, Version
from idejax.storage.files import replacing

FORMATS = ("png", "pdf", "cbz", "html")
_INK, _PAPER, _EMPTY = (20, 20, 24), (255, 255, 255), (226, 226, 230)
_TITLE = 110  # pixels above the first row
_NOTE = "AI-generated pictures"
_LONGEST_STRIP = 30_000  # pixels: what viewers open


class Sheet(NamedTuple):
  """A finished page and its alternative text."""

  image: np.ndarray  # uint8 [H, W, 3], marked
  alt: str


def compose(s: Script, picture: Callable[[Version], Image.Image | None]) -> list[Sheet]:
  """Composes every page. `picture` opens a version's file; it returns None if the file is gone."""
  if not s.panels:
    return []
  out = []
  for n, page in enumerate(layout.pages(s.layout.kind, s.layout.direction, text_lengths(s), _TITLE)):
    canvas = Image.new("RGB", page.size, _PAPER)
    draw = ImageDraw.Draw(canvas)
    if n == 0:
      _headline(draw, s.title, page.size[0])
    for i, rect in page.cells:
      _cell(canvas, draw, s, s.panels[i], rect, picture)
    small = lettering.font(_NOTE, 16)
    draw.text(
      (page.size[0] - layout.MARGIN - small.getlength(_NOTE), page.size[1] - layout.MARGIN + 10),
      _NOTE,
      (130, 130, 136),
      small,
    )
    text = " ".join(f"{k + 1}. {alt(s, s.panels[i])}" for k, (i, _) in enumerate(page.cells))
    out.append(Sheet(watermark.embed(np.asarray(canvas)), text))
  return out


def text_lengths(s: Script) -> list[int]:
  """For each panel the characters of its texts, which some layouts go by."""
  return [sum(len(b.text) for b in p.bubbles) or len(p.sentence) for p in s.panels]


def alt(s: Script, p: Panel) -> str:
  """A panel's alternative text: its sentence and what people say."""
  if p.alt:
    return p.alt
  speech = [f'{b.speaker or "A bubble"}: "{b.text}"' for b in p.bubbles if b.kind != "caption"]
  return " ".join([p.sentence, *(t for t in speech if t.split('"')[1] not in p.sentence)])


def _headline(draw: ImageDraw.ImageDraw, title: str, width: int):
  size = next(
    (k for k in range(64, 26, -4) if lettering.font(title, k).getlength(title) <= width - 2 * layout.MARGIN), 26
  )
  line = lettering.wrap(title, size, width - 2 * layout.MARGIN)[:1]
  if line:
    draw.text((layout.MARGIN, layout.MARGIN - 8), line[0], _INK, lettering.font(title, size))


def _cell(canvas: Image.Image, draw: ImageDraw.ImageDraw, s: Script, p: Panel, rect: Rect, picture):
  left, top, width, height = rect[0], rect[1], rect[2] - rect[0], rect[3] - rect[1]
  version = script.current_version(p)
  image = picture(version) if version and not version.reason else None
  faces = version.faces if version and image else ()
  size = image.size if image else (1, 1)
  part = lambda w, h: crop(size, (w, h), faces)
  owners = [r.person for r in sorted(p.regions, key=lambda r: r.box[0])] or list(p.people)

  def faces_at(w: int, h: int):
    places = [inside(f, size, part(w, h), (w, h)) for f in faces]
    return places, dict(zip(owners, places)) if len(owners) == len(places) else {}

  texts = bubbles.place(p.bubbles, width, height, faces_at, s.layout.direction)
  tall = height - texts.band
  if image:
    canvas.paste(fill(image, part(width, tall), (width, tall)), (left, top))
  else:
    draw.rectangle((left, top, rect[2], top + tall), _EMPTY)
    why = version.reason if version else "not drawn yet"
    lines = lettering.wrap(why, 22, width * 0.8)
    for k, line in enumerate(lines):
      draw.text((left + width * 0.1, top + tall / 2 + k * 26), line, (90, 90, 96), lettering.font(why, 22))
  if texts.band:
    draw.line((left, top + tall, rect[2], top + tall), _INK, 3)
  draw.rectangle(rect, outline=_INK, width=4)
  bubbles.draw(draw, texts, left, top)


def crop(
  size: tuple[int, int], target: tuple[int, int], faces: Sequence[script.Box]
) -> tuple[float, float, float, float]:
  """The part of a picture of `size`, in its pixels, that fills a rectangle of size `target`: as large as
  possible, moved so that the faces stay in it. If they do not fit, it exceeds the picture: there will be borders."""
  w, h = size
  scale = min(w / target[0], h / target[1])
  cw, ch = target[0] * scale, target[1] * scale
  if faces:
    x0, y0 = min(f[0] for f in faces) * w, min(f[1] for f in faces) * h
    x1, y1 = max(f[2] for f in faces) * w, max(f[3] for f in faces) * h
    if x1 - x0 > cw or y1 - y0 > ch:
      grow = max((x1 - x0) / cw, (y1 - y0) / ch) * 1.04
      cw, ch = cw * grow, ch * grow
    cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
  else:
    cx, cy = w / 2, h / 2
  settle = lambda c, part, side: side / 2 - part / 2 if part >= side else min(max(c - part / 2, 0), side - part)
  left, top = settle(cx, cw, w), settle(cy, ch, h)
  return left, top, left + cw, top + ch


def inside(
  face: script.Box, size: tuple[int, int], part: tuple[float, float, float, float], target: tuple[int, int]
) -> Rect:
  """A face's rectangle after the part of a picture of `size` was resized to `target`."""
  x = lambda v: round((v * size[0] - part[0]) / (part[2] - part[0]) * target[0])
  y = lambda v: round((v * size[1] - part[1]) / (part[3] - part[1]) * target[1])
  return x(face[0]), y(face[1]), x(face[2]), y(face[3])


def fill(image: Image.Image, part: tuple[float, float, float, float], target: tuple[int, int]) -> Image.Image:
  """The part resized to `target`; a border outside the picture shows its colours out of focus."""
  w, h = image.size
  full = image.convert("RGB")
  if part[0] >= -0.5 and part[1] >= -0.5 and part[2] <= w + 0.5 and part[3] <= h + 0.5:
    box = (max(part[0], 0), max(part[1], 0), min(part[2], w), min(part[3], h))
    return full.resize(target, Image.Resampling.LANCZOS, box=box)
  scale = target[0] / (part[2] - part[0])
  back = full.resize(target, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(24))
  source = (max(part[0], 0), max(part[1], 0), min(part[2], w), min(part[3], h))
  small = full.resize(
    (max(1, round((source[2] - source[0]) * scale)), max(1, round((source[3] - source[1]) * scale))),
    Image.Resampling.LANCZOS,
    box=source,
  )
  back.paste(small, (round(max(-part[0], 0) * scale), round(max(-part[1], 0) * scale)))
  return back


# Files.


def export(folder: Path, s: Script, sheets: Sequence[Sheet], formats: Sequence[str] = FORMATS) -> list[Path]:
  """Writes comic.png (a strip of all pages), comic.pdf, comic.cbz and comic.html, or those named in `formats`."""
  record = {"title": s.title, "model": s.model.name, "model_digest": s.model.digest, "ai_generated": True}
  writers = {"png": _strip, "pdf": _pdf, "cbz": _cbz, "html": _html}
  out = []
  for kind in formats:
    path = folder / f"comic.{kind}"
    writers[kind](path, s, sheets, record)
    out.append(path)
  return out


def _strip(path: Path, s: Script, sheets: Sequence[Sheet], record: dict):
  """All pages below one another, halved in size until viewers can open it."""
  width = max(p.image.shape[1] for p in sheets)
  tall = sum(p.image.shape[0] for p in sheets)
  canvas = Image.new("RGB", (width, tall), _PAPER)
  y = 0
  for p in sheets:
    canvas.paste(Image.fromarray(p.image), ((width - p.image.shape[1]) // 2, y))
    y += p.image.shape[0]
  while canvas.height > _LONGEST_STRIP:
    canvas = canvas.resize((canvas.width // 2, canvas.height // 2), Image.Resampling.LANCZOS)
  watermark.save(path, np.asarray(canvas), record | {"alt": " ".join(p.alt for p in sheets)})


def _pdf(path: Path, s: Script, sheets: Sequence[Sheet], record: dict):
  """One page per sheet, at 150 dots per inch."""
  first, *rest = [Image.fromarray(p.image) for p in sheets]
  with replacing(path) as temporary:
    first.save(
      temporary,
      "PDF",
      save_all=True,
      append_images=rest,
      resolution=150.0,
      quality=92,
      title=s.title,
      creator="idejax comic",
      keywords="AI-generated",
      subject=" ".join(p.alt for p in sheets)[:4000],
    )


def _cbz(path: Path, s: Script, sheets: Sequence[Sheet], record: dict):
  """PNG pages in order, and ComicInfo.xml, which comic readers use: title, number of pages, reading order."""
  manga = "YesAndRightToLeft" if s.layout.direction == "rtl" else "No"
  info = (
    f'<?xml version="1.0" encoding="utf-8"?>\n<ComicInfo xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
    f"<Title>{escape(s.title)}</Title><Summary>{escape(' '.join(p.alt for p in sheets))}</Summary>"
    f"<Notes>AI-generated</Notes><PageCount>{len(sheets)}</PageCount><Manga>{manga}</Manga></ComicInfo>\n"
  )
  with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as z:
    z.writestr("ComicInfo.xml", info)
    for n, p in enumerate(sheets, 1):
      data = io.BytesIO()
      Image.fromarray(p.image).save(data, "PNG", pnginfo=watermark.chunks(record | {"alt": p.alt}))
      z.writestr(f"{n:03d}.png", data.getvalue())


def _html(path: Path, s: Script, sheets: Sequence[Sheet], record: dict):
  """The strip, and below it the text of every panel in reading order."""
  lines = "\n".join(f"<li>{html.escape(alt(s, p))}</li>" for p in s.panels)
  order = "right to left" if s.layout.direction == "rtl" else "left to right"
  text = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(s.title)}</title>
<style>body {{ font: 18px/1.5 sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem }} img {{ width: 100% }}</style>
<h1>{html.escape(s.title)}</h1>
<img src="comic.png" alt="{html.escape(" ".join(p.alt for p in sheets), quote=True)}">
<h2>The story in words</h2>
<p>Panels are read {order}, then down. The pictures are AI-generated.</p>
<ol>
{lines}
</ol>
</html>
"""
  with replacing(path) as temporary:
    temporary.write_text(text, "utf-8")
