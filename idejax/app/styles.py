"""The styles that a comic can have, and which of them contradict one another."""

from collections.abc import Sequence

from idejax.cli.options import nearest
from idejax.errors import UserError

STYLES = (
  "2d minimalistic", "4k", "8k", "cartoon", "chiaroscuro lighting technique", "cinematic", "clipart style", "close-up",
  "comic style", "cyberpunk", "detailed", "digitally enhanced", "disney style", "dramatic", "dreamy", "expressive",
  "fantasy art", "high contrast", "high resolution", "highly detailed", "intimate", "low-res", "medium shot",
  "minimalistic", "oil painting", "photorealistic", "pixel-art", "psychedelic style", "smooth light",
  "studio ghibli style", "surreal", "Van Gogh", "vaporwave style", "vector", "vivid colors", "watercolor painting",
  "wide shot")  # fmt: skip

# Contradictions: (what differs, sides). Styles of one side agree with each other.
_CONFLICTS: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...] = (
  ("resolutions", (("4k",), ("8k",), ("low-res",))),
  ("resolutions", (("low-res", "pixel-art"), ("high resolution", "8k", "4k"))),
  ("distances of the camera", (("close-up",), ("medium shot",), ("wide shot",))),
  ("amounts of detail", (("minimalistic", "2d minimalistic"), ("detailed", "highly detailed"))),
  ("ways to make a picture", (("photorealistic",), ("cartoon", "comic style", "disney style", "studio ghibli style"),
                              ("clipart style", "vector", "pixel-art"), ("oil painting", "Van Gogh"), ("watercolor painting",))),
  ("kinds of light", (("chiaroscuro lighting technique", "high contrast"), ("smooth light",))),
)  # fmt: skip


def check(styles: Sequence[str]) -> tuple[str, ...]:
  """The styles in the list's spelling. UserError for one that is not in it."""
  spellings = {s.casefold(): s for s in STYLES}
  out = []
  for s in styles:
    if s.strip().casefold() not in spellings:
      raise UserError(f"{s!r} is no style{nearest(s.strip().casefold(), spellings)}; there are {', '.join(STYLES)}")
    out.append(spellings[s.strip().casefold()])
  return tuple(dict.fromkeys(out))


def conflicts(styles: Sequence[str]) -> list[str]:
  """A warning for each contradiction; the pictures are drawn all the same."""
  out = []
  for what, sides in _CONFLICTS:
    picks = [[s for s in side if s in styles] for side in sides]
    clash = [p[0] for p in picks if p]
    if len(clash) > 1:
      out.append(f"{' and '.join(clash)} are different {what}: choose one")
  return list(dict.fromkeys(out))
