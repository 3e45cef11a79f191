"""Letters that ship: Comic Neue (SIL Open Font License 1.1, beside this file), and where it has no sign for a
text, DejaVu Sans (free, from Bitstream Vera's licence), which comes with matplotlib."""

import functools
from collections.abc import Sequence
from pathlib import Path

from PIL import ImageFont

_FOLDER = Path(__file__).parent / "fonts"


@functools.cache
def _files() -> tuple[tuple[Path, frozenset[int]], ...]:
  """Fonts in order of preference, with the characters that they have."""
  import matplotlib
  from fontTools.ttLib import TTFont

  paths = (_FOLDER / "ComicNeue-Bold.otf", Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf")
  found = []
  for p in paths:
    with TTFont(str(p), lazy=True) as opened:
      found.append((p, frozenset(opened.getBestCmap())))
  return tuple(found)


def font(text: str, size: int) -> ImageFont.FreeTypeFont:
  """The first font that has every sign of the text, else the one that lacks the fewest."""
  return _font(min(_files(), key=lambda f: len(_lacking(text, f[1])))[0], size)


def lacking(text: str) -> str:
  """The signs of a text that no font here can draw."""
  return "".join(sorted(set.intersection(*(_lacking(text, have) for _, have in _files()))))


def _lacking(text: str, have: frozenset[int]) -> set[str]:
  return {c for c in text if not c.isspace() and ord(c) not in have}


@functools.lru_cache(maxsize=64)
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
  return ImageFont.truetype(str(path), size)


def wrap(text: str, size: int, width: float) -> list[str]:
  """Lines of at most `width` pixels; a word that is wider is cut."""
  letters = font(text, size)
  out: list[str] = []
  line = ""
  for word in text.split():
    while letters.getlength(word) > width and len(word) > 1:
      n = max(1, next((i for i in range(len(word), 0, -1) if letters.getlength(word[:i]) <= width), 1))
      if line:
        out.append(line)
      out.append(word[:n])
      line, word = "", word[n:]
    longer = f"{line} {word}".strip()
    if line and letters.getlength(longer) > width:
      out.append(line)
      line = word
    else:
      line = longer
  return [*out, line] if line else out


def extent(lines: Sequence[str], size: int) -> tuple[int, int]:
  """Width and height in pixels."""
  letters = font(" ".join(lines), size)
  return round(max((letters.getlength(line) for line in lines), default=0)), leading(size) * len(lines)


def leading(size: int) -> int:
  return round(size * 1.18)
