"""Eight hair styles as rows of one table: a cap over the skull, a curtain beside it, a bun."""

from typing import Any, NamedTuple

import numpy as np

from idejax.miniature.world import shapes as sh
from idejax.miniature.world.people import HAIR_STYLES
from idejax.miniature.world.view import BACK_HAIR, HAIR, LINE, Paint, View

# top, side: volume over the skull; lobes, lobe: waves of the outline and their height; spike: the
# same, upward only; hem: where the front sides end; drop, spread: curtain's lower end, half width;
# ripple: waves of the curtain's edge; bun: radius.
_STYLES = np.array([
  (0.000, 0.000, 0.0, 0.000, 0.000, -0.60, -0.20, 0.10, 0.000, 0.00),  # bald
  (0.070, 0.030, 0.0, 0.000, 0.000, -0.02, -0.20, 0.10, 0.000, 0.00),  # short
  (0.150, 0.015, 13., 0.000, 0.085, -0.08, -0.20, 0.10, 0.000, 0.00),  # spiky
  (0.165, 0.150, 15., 0.026, 0.000, 0.10, -0.20, 0.10, 0.000, 0.00),  # curly
  (0.090, 0.085, 0.0, 0.000, 0.000, 0.38, 0.36, 0.47, 0.000, 0.00),  # bob
  (0.085, 0.070, 0.0, 0.000, 0.000, 0.95, 0.86, 0.47, 0.000, 0.00),  # long
  (0.120, 0.110, 11., 0.020, 0.000, 0.95, 0.80, 0.54, 0.030, 0.00),  # wavy
  (0.055, 0.020, 0.0, 0.000, 0.000, 0.00, -0.20, 0.10, 0.000, 0.17),  # bun
], np.float32)  # fmt: skip
# Per fringe: height of the hairline in the middle, its slope to the side, its bow.
_FRINGES = np.array([(-0.335, 0.0, 0.0), (-0.315, 0.30, 0.0), (-0.205, 0.0, 0.10)], np.float32)


class Hair(NamedTuple):
  """Signed distances [S, S]: smooth cap (for hats and headphones), the whole mass, the front."""

  cap: Any
  mass: Any
  front: Any


def hair(xp, h, v: View, person, scene) -> Hair:
  style = sh.lookup(xp, _STYLES, person.hair_style)
  top, side, lobes, lobe, spike, hem, drop, spread, ripple, bun = style
  bald = xp.asarray(person.hair_style == HAIR_STYLES.index("bald"))
  hat = xp.asarray(scene.accessory == 3, np.float32)  # a hat presses hair down
  puff = (1 + 0.45 * person.hair_volume) * (1 - 0.65 * hat)
  top, side = top * puff, side * (1 + 0.35 * person.hair_volume)
  lobe, spike, bun = lobe * (1 - 0.5 * hat), spike * (1 - hat), bun * (1 - hat)

  a, b = h.width + side + 0.012, h.top + top
  r = xp.sqrt(v.hx * v.hx + v.hy * v.hy) + 1e-4
  sx, sy = v.hx / r, v.hy / r
  oval = 1 / xp.sqrt((sx / a) ** 2 + (sy / xp.where(sy < 0, b, h.bottom * 0.9 + side)) ** 2)
  cap = r - oval
  # Direction as an angle from straight up; the waves meet below the chin, out of sight.
  angle = xp.arctan2(v.hx, -v.hy)
  wave = xp.cos(angle * lobes)
  tuft = xp.maximum(-sy, 0.0) * (1 - xp.abs(xp.sin(angle * lobes * 0.5)))
  mass = cap - lobe * wave - spike * tuft
  edge = spread * (1 + 0.12 * person.hair_volume) + ripple * xp.sin(v.hy * 15.0)
  edge = edge + 0.05 * sh.step(xp, 0.0, 0.8, v.hy)
  middle = drop / 2 - 0.05
  curtain = sh.box(xp, v.hx, v.hy - middle, edge, xp.maximum(drop - middle, 0.05), 0.10)
  mass = sh.smin(xp, mass, curtain, 0.08)
  mass = sh.smax(xp, mass, v.hy - hem - 0.10, 0.05)
  knot = sh.circle(xp, v.hx, v.hy + b + bun * 0.45, bun)
  mass = xp.minimum(mass, sh.only(xp, knot, bun > 0))

  base, slope, bow = sh.lookup(xp, _FRINGES, person.fringe)
  # The face looks out of an oval window; the fringe closes the top of it. Both turn with the head.
  x = 0.45 * v.hx + 0.55 * v.fx  # less than the features: hair has thickness
  window = sh.ellipse(xp, x, v.hy - 0.06, h.width * 0.90, 0.52)
  parting = v.hy - base - slope * (xp.abs(v.fx + 0.16) + 0.22) + 4 * bow * v.fx * v.fx
  throat = sh.box(xp, v.hx, v.hy - 0.72, 0.215 - 0.1 * (v.hy - 0.5), 0.5, 0.1)
  window = sh.smax(xp, window, -parting / (1 + slope * slope) ** 0.5, 0.06)
  window = sh.smin(xp, window, throat, 0.05)
  front = sh.smax(xp, mass, -window, 0.02)
  front = sh.smax(xp, front, v.hy - hem, 0.05)
  return Hair(cap, sh.only(xp, mass, ~bald), sh.only(xp, front, ~bald))


def _lit(xp, v: View, paint: Paint, hair: Hair):
  """Hair's colour [3, S, S]: darker to the edge, one soft band of gloss. No strands."""
  dark = 1 - 0.30 * sh.step(xp, -0.10, 0.02, hair.mass) - 0.16 * sh.step(xp, -0.1, 0.8, v.hy)
  gloss = sh.glow(xp, v.hx - 0.22 * paint.light, v.hy + 0.47, 0.34, 0.13)
  return paint.hair * dark[None] + 0.16 * gloss[None]


def paint_back(xp, canvas, v: View, paint: Paint, hair: Hair):
  """The mass behind head and neck."""
  return sh.paint(xp, canvas, hair.mass, paint.hair * 0.62, v.hpx, BACK_HAIR, LINE)


def paint_front(xp, canvas, v: View, paint: Paint, hair: Hair):
  return sh.paint(xp, canvas, hair.front, _lit(xp, v, paint, hair), v.hpx, HAIR, LINE)
