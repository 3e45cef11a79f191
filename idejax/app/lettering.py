"""Fonts for letters: Comic Neue (SIL Open Font License 1.1, beside this file). For texts with characters that it
lacks, DejaVu Sans, which comes with matplotlib (Bitstream Vera's free licence), or a font of other scripts."""

import functools
from collections.abc import Sequence
from pathlib import Path

from PIL import ImageFont

from idejax.storage import fonts

_FOLDER = Path(__file__).parent / "fonts"


@functools.cache
def _files() -> tuple[tuple[Path, frozenset[int]], ...]:
  """Fonts in order of preference, with the characters that they have."""
  import matplotlib
  from fontTools.ttLib import TTFont

  wide = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
  paths = (_FOLDER / "ComicNeue-Bold.otf", wide, *fonts.shipped())
  out = []
  for p in paths:
    with TTFont(str(p), lazy=True) as file:
      out.append((p, frozenset(file.getBestCmap())))
  return tuple(out)


def font(text: str, size: int) -> ImageFont.FreeTypeFont:
  """The first font that has every character of the text, else the one that lacks the fewest."""
  return _font(min(_files(), key=lambda f: len(_lacking(text, f[1])))[0], size)


def lacking(text: str) -> str:
  """The characters of a text that no font here can draw."""
  return "".join(sorted(set.intersection(*(_lacking(text, have) for _, have in _files()))))


def _lacking(text: str, have: frozenset[int]) -> set[str]:
  return {c for c in text if not c.isspace() and ord(c) not in have}


@functools.lru_cache(maxsize=64)
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
  return ImageFont.truetype(str(path), size)


def wrap(text: str, size: int, width: float) -> list[str]:
  """Lines of at most `width` pixels; a word that is wider is cut. No lines for an empty text."""
  words = " ".join(text.split())
  return fonts.fold(words, width, font(text, size).getlength) if words else []


def extent(lines: Sequence[str], size: int) -> tuple[int, int]:
  """Width and height in pixels."""
  letters = font(" ".join(lines), size)
  return round(max((letters.getlength(line) for line in lines), default=0)), leading(size) * len(lines)


def leading(size: int) -> int:
  return round(size * 1.18)
