"""Eleven backgrounds, each a few large smooth shapes."""

import numpy as np

from idejax.miniature.world import shapes as sh
from idejax.miniature.world.view import View

_LINE = 0.012  # thinner than the sitter's
_BLUR = 0.035  # a lens focused on the sitter; it also spares the networks fine texture


def paint_background(xp, v: View, scene):
  """A fresh canvas [3, S, S] with labels 0."""
  x, y = v.x + 0.22 * scene.drift, v.y
  blur = v.px + _BLUR * xp.asarray(scene.style == 0, np.float32)
  scenes = (_beach, _snow, _forest, _city, _night, _sunset, _home, *map(_wall, _WALLS))
  branches = [lambda x, y, blur, f=f: f(xp, x, y, blur) for f in scenes]
  return sh.choose(xp, scene.background, branches, x, y, blur)


def _fade(xp, y, top, bottom, lo=-1.0, hi=1.0):
  """A vertical gradient as a canvas."""
  t = sh.step(xp, lo, hi, y)
  rgb = sh.colour(top) * (1 - t)[None] + sh.colour(bottom) * t[None]
  return sh.blank(xp, rgb)


def _add(xp, c, d, rgb, blur, alpha=1.0):
  return sh.paint(xp, c, d, sh.colour(rgb), blur, line=_LINE, alpha=alpha)


def _hills(xp, x, y, height, bumps):
  """Ground below `height` with (x, width, rise) bumps."""
  for at, width, rise in bumps:
    height = height - rise * sh.glow(xp, x - at, 0 * x, width, 1.0)
  return (height - y) * 0.9


def _beach(xp, x, y, blur):
  c = _fade(xp, y, (86, 178, 236), (206, 238, 250), -1.0, 0.0)
  c = _add(xp, c, sh.circle(xp, x - 0.66, y + 0.66, 0.17), (255, 240, 150), blur)
  puffs = sh.ellipse(xp, x + 0.66, y + 0.62, 0.24, 0.075), sh.circle(xp, x + 0.62, y + 0.68, 0.11)
  c = _add(xp, c, xp.minimum(*puffs), (250, 253, 255), blur)
  c = _add(xp, c, 0.02 - y, (32, 142, 182), blur)
  shore = 0.36 - 0.10 * x - y
  c = _add(xp, c, shore, (238, 250, 250), blur)
  return _add(xp, c, shore + 0.05, (240, 212, 150), blur)


def _snow(xp, x, y, blur):
  c = _fade(xp, y, (150, 194, 232), (232, 242, 250), -1.0, 0.3)
  peaks = ((-0.62, -0.72, 1.1, (110, 128, 156)), (0.62, -0.50, 1.0, (134, 150, 176)))
  for at, tip, slope, rock in peaks:
    d = sh.peak(xp, x - at, y - tip, slope)
    c = _add(xp, c, d, rock, blur)
    cap = xp.maximum(d, y - tip - 0.30 + 0.10 * xp.cos((x - at) * 16))
    c = _add(xp, c, cap, (250, 252, 255), blur)
  return _add(xp, c, _hills(xp, x, y, 0.30, ((-0.7, 0.8, 0.10),)), (244, 248, 254), blur)


def _tree(xp, x, y, at, foot, half, height):
  """A rounded conifer of two tiers."""
  low = sh.peak(xp, x - at, y - foot + height * 0.72, height * 0.72 / half)
  high = sh.peak(xp, x - at, y - foot + height, height * 0.8 / half)
  high = xp.maximum(high, y - foot + height * 0.42)
  return xp.minimum(xp.maximum(low, y - foot), high) - 0.02


def _forest(xp, x, y, blur):
  c = _fade(xp, y, (196, 226, 190), (150, 196, 140), -1.0, 0.4)
  far = xp.minimum(_tree(xp, x, y, -0.36, 0.5, 0.30, 1.20), _tree(xp, x, y, 0.40, 0.5, 0.32, 1.30))
  c = _add(xp, c, far, (98, 158, 104), blur)
  near = xp.minimum(_tree(xp, x, y, -0.86, 0.6, 0.36, 1.42), _tree(xp, x, y, 0.92, 0.6, 0.38, 1.28))
  c = _add(xp, c, near, (34, 102, 62), blur)
  return _add(xp, c, _hills(xp, x, y, 0.50, ((0.5, 0.8, 0.08),)), (74, 128, 66), blur)


_BLOCKS = ((-0.98, 0.20, -0.30), (-0.58, 0.19, -0.62), (-0.18, 0.18, -0.20), (0.24, 0.18, -0.42),
           (0.64, 0.18, -0.70), (1.02, 0.19, -0.26))  # fmt: skip


def _skyline(xp, x, y, shift, lower):
  d = 0 * x + 2.0
  for at, half, top in _BLOCKS:
    d = xp.minimum(d, xp.maximum(xp.abs(x - at - shift) - half, top + lower - y))
  return d


def _windows(xp, x, y, skyline):
  """Few and large, on a grid of cells."""
  u, w = x / 0.41, y / 0.46
  u, w = (u + 0.91 - xp.floor(u + 0.91) - 0.5) * 0.41, (w - xp.floor(w) - 0.5) * 0.46
  return xp.maximum(sh.box(xp, xp.abs(u) - 0.075, w, 0.048, 0.085, 0.01), skyline + 0.03)


def _city(xp, x, y, blur):
  c = _fade(xp, y, (168, 204, 230), (244, 236, 222), -1.0, 0.4)
  c = _add(xp, c, _skyline(xp, x, y, 0.20, -0.08), (176, 190, 206), blur)
  near = _skyline(xp, x, y, 0.0, 0.14)
  c = _add(xp, c, near, (178, 112, 92), blur)
  c = sh.paint(xp, c, _windows(xp, x, y, near), sh.colour(250, 226, 176), blur, alpha=0.6)
  return _add(xp, c, 0.72 - y, (112, 116, 124), blur)


def _night(xp, x, y, blur):
  c = _fade(xp, y, (12, 18, 54), (44, 54, 112), -1.0, 0.5)
  halo = sh.glow(xp, x - 0.62, y + 0.62, 0.5, 0.5)
  c = sh.tint(xp, c, 0.35 * halo, sh.colour(180, 190, 230))
  c = _add(xp, c, sh.circle(xp, x - 0.62, y + 0.62, 0.16), (250, 246, 214), blur)
  far = _skyline(xp, x, y, 0.0, 0.22)
  c = _add(xp, c, far, (20, 22, 50), blur)
  return sh.paint(xp, c, _windows(xp, x, y, far), sh.colour(255, 208, 96), blur, alpha=0.85)


def _sunset(xp, x, y, blur):
  c = _fade(xp, y, (104, 60, 136), (255, 158, 84), -1.0, 0.25)
  sun = sh.circle(xp, x + 0.58, y - 0.02, 0.34)
  c = sh.tint(xp, c, 0.5 * sh.glow(xp, x + 0.58, y - 0.02, 0.9, 0.7), sh.colour(255, 214, 110))
  c = _add(xp, c, sun, (255, 232, 140), blur)
  c = _add(xp, c, _hills(xp, x, y, 0.10, ((0.75, 0.6, 0.26),)), (120, 52, 106), blur)
  c = _add(xp, c, 0.22 - y, (78, 40, 98), blur)
  gleam = 0.6 * sh.glow(xp, x + 0.58, y - 0.22, 0.30, 0.6) * sh.step(xp, 0.20, 0.25, y)
  return sh.tint(xp, c, gleam, sh.colour(255, 150, 96))


def _home(xp, x, y, blur):
  c = _fade(xp, y, (236, 216, 184), (222, 196, 160), -1.0, 0.7)
  frame = sh.box(xp, x + 0.66, y + 0.42, 0.30, 0.36, 0.02)
  c = _add(xp, c, frame, (250, 248, 240), blur)
  c = _add(xp, c, frame + 0.06, (150, 206, 232), blur)
  cross = xp.maximum(xp.minimum(xp.abs(x + 0.66), xp.abs(y + 0.42)) - 0.025, frame)
  c = _add(xp, c, cross, (250, 248, 240), blur)
  stem = xp.maximum(xp.abs(x - 0.72) - 0.022, -0.2 - y)
  c = _add(xp, c, stem, (104, 70, 50), blur)
  flare = (xp.abs(x - 0.72) - 0.24 - 0.34 * (y + 0.30)) * 0.95
  shade = xp.maximum(flare, xp.abs(y + 0.36) - 0.17)
  c = sh.tint(xp, c, 0.7 * sh.glow(xp, x - 0.72, y + 0.30, 0.7, 0.7), sh.colour(255, 240, 190))
  c = _add(xp, c, shade, (224, 104, 72), blur)
  return _add(xp, c, 0.62 - y, (140, 88, 60), blur)


_WALLS = (((120, 176, 236), (56, 110, 188)), ((255, 226, 110), (238, 178, 40)),
          ((252, 178, 200), (226, 112, 150)), ((206, 208, 212), (138, 142, 150)))  # fmt: skip


def _wall(tones):
  """A studio wall with a soft spot of light."""

  def paint(xp, x, y, blur):
    del blur
    t = 1 - sh.glow(xp, x, y + 0.25, 1.6, 1.7)
    rgb = sh.colour(tones[0]) * (1 - t)[None] + sh.colour(tones[1]) * t[None]
    return sh.blank(xp, rgb)

  return paint
