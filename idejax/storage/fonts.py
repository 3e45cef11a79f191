"""Text on pictures, in any script: with DejaVu Sans, which comes with matplotlib (a free licence), else with the
fonts in `letters/`, else with fonts of the system."""

import functools
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import ImageDraw, ImageFont, features

from idejax.errors import UserError, tell

_LETTERS = Path(__file__).parent / "letters"
# Where systems keep fonts with rare scripts and signs.
_PLACES = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts", "/System/Library/Fonts",
           "/Library/Fonts", "C:/Windows/Fonts")  # fmt: skip
_WIDE = ("NotoSansCJK*", "NotoSans*CJK*", "SourceHanSans*", "wqy-*", "DroidSansFallback*", "unifont*", "NotoSans*",
         "PingFang*", "Hiragino*", "AppleSDGothicNeo*", "msyh*", "YuGoth*", "malgun*", "Nirmala*")  # fmt: skip


class Run(NamedTuple):
  """Consecutive letters that one font draws."""

  text: str
  font: ImageFont.FreeTypeFont


def own() -> Path:
  """The file of DejaVu Sans. UserError if matplotlib does not have it."""
  spec = importlib.util.find_spec("matplotlib")
  places = spec.submodule_search_locations if spec else None
  path = Path(places[0], "mpl-data", "fonts", "ttf", "DejaVuSans.ttf") if places else None
  if path is None or not path.is_file():
    raise UserError("the font DejaVu Sans is missing, which comes with matplotlib: pip install matplotlib")
  return path


def shipped() -> list[Path]:
  """The fonts beside this file, one for each script or two that DejaVu Sans lacks."""
  return sorted(_LETTERS.glob("*.ttf"))


@functools.cache
def chain() -> tuple[Path, ...]:
  """All fonts in order: DejaVu Sans, the shipped ones, the system's; the first with a letter draws it."""
  roots = [p for p in (Path(p).expanduser() for p in _PLACES) if p.is_dir()]
  system = [
    p for name in _WIDE for root in roots for p in sorted(root.rglob(name)) if p.suffix in (".ttf", ".ttc", ".otf")
  ]
  return (own(), *shipped(), *dict.fromkeys(system))


@functools.cache
def _letters(path: Path) -> frozenset[int]:
  from matplotlib.ft2font import FT2Font

  try:
    return frozenset(FT2Font(str(path)).get_charmap())
  except (OSError, RuntimeError):  # a file that is no font after all
    return frozenset()


@functools.cache
def _open(path: Path, size: int) -> ImageFont.FreeTypeFont:
  return ImageFont.truetype(str(path), size)


@functools.cache
def _font_of(letter: str) -> Path:
  """The font of a letter. Combining marks, joiners and spaces use the font of the letter before: see `runs`."""
  for path in (own(),) if ord(letter) in _letters(own()) else chain():
    if ord(letter) in _letters(path):
      return path
  _warn(f"no font here has {letter!r} (U+{ord(letter):04X}); a box stands for it (Debian: fonts-noto, fonts-unifont)")
  return own()


@functools.cache
def _warn(message: str):
  """Warns once, because results are cached."""
  tell(f"warning: {message}")


def runs(text: str, size: int) -> list[Run]:
  """The line, split where the font changes."""
  if any("\u0590" <= x <= "\u08ff" for x in text) and not features.check("raqm"):
    _warn("letters that are written from right to left are not joined: this Pillow is without libraqm or FriBiDi")
  out: list[tuple[str, Path]] = []
  for letter in text:
    here = out[-1][1] if out else None
    path = here if here and ord(letter) in _letters(here) else _font_of(letter)
    if here == path:
      out[-1] = (out[-1][0] + letter, path)
    else:
      out.append((letter, path))
  return [Run(x, _open(path, size)) for x, path in out]


def width(text: str, size: int) -> float:
  """Pixels that a line takes."""
  return sum(r.font.getlength(r.text) for r in runs(text, size))


def height(size: int) -> int:
  """Pixels from line to line."""
  return round(1.25 * size)


def wrap(text: str, most: int, size: int) -> list[str]:
  """Lines of at most `most` pixels in the fonts of `write`."""
  return fold(text, most, lambda line: width(line, size))


def fold(text: str, most: float, measure: Callable[[str], float]) -> list[str]:
  """Lines of at most `most` pixels, broken at spaces, and inside words that are too long (as in Chinese)."""
  lines: list[str] = []
  for paragraph in text.splitlines() or [""]:
    line = ""
    for word in paragraph.split():
      longer = f"{line} {word}" if line else word
      if measure(longer) <= most:
        line = longer
        continue
      if line:
        lines.append(line)
      line = word
      while len(line) > 1 and measure(line) > most:
        fits = next(n for n in range(len(line) - 1, 0, -1) if n == 1 or measure(line[:n]) <= most)
        lines.append(line[:fits])
        line = line[fits:]
    lines.append(line)
  return lines


def write(draw: ImageDraw.ImageDraw, at: tuple[float, float], lines: Sequence[str], size: int, fill: Any = "black"):
  """Lines one below the other, the first one's top left corner at `at`; all letters of a line on one base line."""
  x0, y = at
  for line in lines:
    x = x0
    for run in runs(line, size):
      draw.text((x, y + size), run.text, fill=fill, font=run.font, anchor="ls")
      x += run.font.getlength(run.text)
    y += height(size)
