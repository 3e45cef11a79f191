"""Photo, sketch and pop art: three ways to finish a canvas."""

from idejax.miniature.world import shapes as sh
from idejax.miniature.world.view import View

_PAPER, _PENCIL, _INK = sh.colour(250, 246, 236), sh.colour(52, 50, 58), sh.colour(24, 16, 40)
# Ambient light of each background on the sitter, as scene.BACKGROUNDS.
_AMBIENT = sh.colour([(255, 252, 244), (246, 250, 255), (246, 255, 244), (255, 250, 244),
                      (222, 224, 248), (255, 232, 212), (255, 246, 230), (248, 251, 255),
                      (255, 252, 242), (255, 248, 250), (255, 255, 255)])  # fmt: skip


def finish(xp, canvas, v: View, scene):
  """Canvas to an image [S, S, 3] in 0..1."""
  branches = [lambda c, f=f: f(xp, c, v, scene) for f in (_photo, _sketch, _pop)]
  rgb = sh.choose(xp, scene.style, branches, canvas)
  return xp.moveaxis(xp.clip(rgb, 0.0, 1.0), 0, -1)


def _photo(xp, canvas, v, scene):
  light = 1 + canvas.sitter[None] * (sh.lookup(xp, _AMBIENT, scene.background) - 1)
  vignette = 1 - 0.10 * sh.step(xp, 0.7, 1.5, xp.sqrt(v.x * v.x + v.y * v.y))
  return canvas.rgb * light * (scene.exposure * vignette)[None]


def _luma(rgb):
  return 0.30 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2]


def _sketch(xp, canvas, v, scene):
  """Soft tone and outlines on paper; the background is faint."""
  ground = 1 - canvas.sitter
  tone = 1 - (1 - _luma(canvas.rgb)) * (0.66 - 0.46 * ground)
  rgb = _PAPER * tone[None]
  ink = canvas.ink * (0.85 - 0.40 * ground)
  return rgb + (_PENCIL - rgb) * ink[None]


def _pop(xp, canvas, v, scene):
  """Saturated flat tones and heavy outlines."""
  luma = _luma(canvas.rgb)[None]
  vivid = xp.clip(luma + (canvas.rgb - luma) * 2.1 + 0.03, 0.0, 1.0) * 3
  # Soft steps: hard ones would alias on gradients.
  floor = xp.floor(vivid)
  rgb = (floor + sh.step(xp, 0.32, 0.68, vivid - floor)) / 3
  return rgb + (_INK - rgb) * canvas.ink[None]
