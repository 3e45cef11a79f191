"""Contact sheets: pictures in groups under their captions, which wrap as words in a paragraph do."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from idejax.errors import UserError
from idejax.storage import fonts
from idejax.storage.files import replacing

WIDTH = 1200  # pixels, of a sheet at most
TEXT, HEAD = 12, 17  # sizes of captions and headings
GAP, EDGE = 10, 8  # pixels between groups; around all


class Group(NamedTuple):
  """Pictures, side by side, under one caption."""

  caption: str
  pictures: Sequence[Any]  # arrays uint8 [H, W, 3], PIL images or files


class Section(NamedTuple):
  """Groups under a heading, such as a person's name; "" means no heading."""

  heading: str
  groups: Sequence[Group]


class _Block(NamedTuple):
  """The layout of a group: its caption's lines, its columns and rows."""

  group: Group
  lines: list[str]
  columns: int
  rows: int


def compose(sections: Sequence[Section], side: int = 128, width: int = WIDTH) -> Image.Image:
  """The sheet, RGB on white: as wide as its longest row and never wider than `width`, groups in reading order.

  A picture is put into a square of `side` pixels, top left; miniature ones grow by whole pixels.
  """
  room = max(width - 2 * EDGE, side)
  plans = [(s.heading, _rows([_block(g, side, room) for g in s.groups], side, room)) for s in sections]
  parts = [(heading, rows, _head(heading, room)) for heading, rows in plans]
  across = [_across(row, side) for _, rows, _ in parts for row in rows]
  across += [math.ceil(fonts.width(line, HEAD)) for _, _, lines in parts for line in lines]
  down = sum(_down_head(lines) + sum(_down(row, side) for row in rows) for _, rows, lines in parts)
  canvas = Image.new("RGB", (2 * EDGE + max([side, *across]), 2 * EDGE + down), "white")
  draw, y = ImageDraw.Draw(canvas), EDGE
  for _, rows, lines in parts:
    fonts.write(draw, (EDGE, y), lines, HEAD)
    y += _down_head(lines)
    for row in rows:
      x, top = EDGE, y + _captions(row)
      for block in row:
        fonts.write(draw, (x, top - len(block.lines) * fonts.height(TEXT)), block.lines, TEXT)
        for n, picture in enumerate(block.group.pictures):
          canvas.paste(_thumbnail(picture, side), (x + n % block.columns * side, top + n // block.columns * side))
        x += block.columns * side + GAP
      y += _down(row, side)
  return canvas


def write(path: Path, sections: Sequence[Section], side: int = 128, width: int = WIDTH):
  """Writes the sheet of `compose` as a PNG file."""
  sheet = compose(sections, side, width)
  with replacing(path) as temporary:
    sheet.save(temporary, format="PNG")


def of(images: Any, captions: str | Sequence[str], side: int, width: int) -> Image.Image:
  """A sheet of single pictures, each under its caption; one caption for all of them is the heading."""
  single = isinstance(images, Image.Image | str | os.PathLike) or getattr(images, "ndim", 4) == 3
  pictures = [_picture(x) for x in ([images] if single else images)]
  if not pictures:
    raise UserError("a sheet without pictures: give at least one")
  if side < 1:
    raise UserError(f"side is {side}; it must be at least 1")
  heading = captions if isinstance(captions, str) else ""
  each = [""] * len(pictures) if isinstance(captions, str) else [str(c) for c in captions]
  if len(each) != len(pictures):
    raise UserError(f"{len(pictures)} pictures, but {len(each)} captions")
  return compose([Section(heading, [Group(c, [x]) for c, x in zip(each, pictures)])], side, width)


def _picture(x: Any) -> Any:
  """The argument as a picture of a sheet; a path must exist. UserError for anything else."""
  if isinstance(x, str | os.PathLike):
    if not Path(x).is_file():
      raise UserError(f"{os.fspath(x)} does not exist")
    return Path(x)
  if isinstance(x, Image.Image):
    return x
  array = np.asarray(x)
  if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.ndim == 3 and array.shape[-1] not in (3, 4):
    raise UserError(f"a picture of a sheet is uint8 [height, width, 3], not {array.dtype} {list(array.shape)}")
  return array


def stack(path: Path, parts: Sequence[tuple[str, Path]]):
  """Writes a PNG file of pictures at their size, one below the other, each under its heading."""
  images = []
  for _, file in parts:
    with Image.open(file) as source:
      images.append(source.convert("RGB"))
  across = max(i.width for i in images)
  heads = [fonts.wrap(heading, across - 2 * EDGE, HEAD) for heading, _ in parts]
  canvas = Image.new("RGB", (across, sum(i.height + EDGE + _down_head(h) for i, h in zip(images, heads))), "white")
  draw, y = ImageDraw.Draw(canvas), 0
  for image, lines in zip(images, heads):
    fonts.write(draw, (EDGE, y + EDGE), lines, HEAD, "#666")
    y += EDGE + _down_head(lines)
    canvas.paste(image, (0, y))
    y += image.height
  with replacing(path) as temporary:
    canvas.save(temporary, format="PNG")


def _block(group: Group, side: int, room: int) -> _Block:
  count = max(len(group.pictures), 1)
  columns = min(count, max(room // side, 1))
  lines = fonts.wrap(group.caption, columns * side - 4, TEXT) if group.caption else []
  return _Block(group, lines, columns, -(-count // columns))


def _rows(blocks: Sequence[_Block], side: int, room: int) -> list[list[_Block]]:
  """Rows of groups, each as full as possible."""
  rows: list[list[_Block]] = []
  for block in blocks:
    if rows and _across([*rows[-1], block], side) <= room:
      rows[-1].append(block)
    else:
      rows.append([block])
  return rows


def _head(heading: str, room: int) -> list[str]:
  return fonts.wrap(heading, room, HEAD) if heading else []


def _down_head(lines: Sequence[str]) -> int:
  return len(lines) * fonts.height(HEAD) + 4 * bool(lines)


def _across(row: Sequence[_Block], side: int) -> int:
  return sum(b.columns * side for b in row) + GAP * (len(row) - 1)


def _captions(row: Sequence[_Block]) -> int:
  lines = max(len(b.lines) for b in row)
  return lines * fonts.height(TEXT) + 3 * bool(lines)


def _down(row: Sequence[_Block], side: int) -> int:
  return _captions(row) + max(b.rows for b in row) * side + GAP


def _thumbnail(picture: Any, side: int) -> Image.Image:
  """Miniature pictures grow by whole pixels, photographs shrink smoothly."""
  if isinstance(picture, Path):
    with Image.open(picture) as file:
      return _thumbnail(file, side)
  image = picture if isinstance(picture, Image.Image) else Image.fromarray(np.asarray(picture))
  scale = side / max(image.size)
  size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
  how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
  return image.convert("RGB").resize(size, how)
