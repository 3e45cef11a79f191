"""Neck, shoulders and the six shirts."""

import numpy as np

from idejax.miniature.world import shapes as sh
from idejax.miniature.world.view import CLOTHES, LINE, NECK, Paint, View

# Per shirt, as scene.CLOTHES: cloth, band round the neck, front panel under the vee.
_CLOTH = sh.colour([(196, 48, 46), (62, 112, 196), (58, 140, 84), (48, 50, 60), (126, 132, 146),
                    (244, 243, 240)])  # fmt: skip
_BAND = sh.colour([(160, 32, 36), (178, 208, 244), (38, 104, 62), (28, 29, 36), (250, 204, 58),
                   (214, 216, 222)])  # fmt: skip
_PANEL = sh.colour([(178, 208, 244), (248, 248, 250)])  # inside the blue shirt, inside the suit
# Neckline half width and depth; band half thickness; vee half width at the top; tie (1 or 0).
_CUT = np.array([
  (0.20, 0.105, 0.030, 0.00, 0.0),
  (0.17, 0.150, 0.034, 0.030, 0.0),
  (0.25, 0.130, 0.068, 0.00, 0.0),
  (0.15, 0.100, 0.000, 0.21, 1.0),
  (0.19, 0.060, 0.105, 0.00, 0.0),
  (0.22, 0.190, 0.012, 0.00, 0.0),
], np.float32)  # fmt: skip
_TOP = 0.60  # height of the shoulders' crest


def shoulders(xp, h, v: View):
  """Signed distance to the torso: an ellipse that turns into straight sides."""
  half = 0.78 - 0.10 * h.woman
  return sh.ellipse(xp, v.bx, xp.minimum(v.by - _TOP - 0.62, 0.0), half, 0.62)


def paint_body(xp, canvas, h, v: View, paint: Paint, scene):
  """Canvas with neck and clothes."""
  torso = shoulders(xp, h, v)
  column = sh.box(xp, v.bx, v.by - 0.35, 0.155 - 0.025 * h.woman, 0.45, 0.05)
  neck = sh.smin(xp, column, torso + 0.02, 0.14)
  # The chin's shadow separates head and neck without a line.
  under = 1 - sh.step(xp, 0.0, 0.20, v.face)
  skin = sh.mix(paint.skin * 0.97, paint.shade * 0.95, under[None])
  canvas = sh.paint(xp, canvas, neck, skin, v.hpx, NECK, LINE)

  cut_w, cut_d, band, vee, tie = sh.lookup(xp, _CUT, scene.clothes)
  cloth, edge = (sh.lookup(xp, t, scene.clothes) for t in (_CLOTH, _BAND))
  panel = sh.mix(_PANEL[0], _PANEL[1], tie)
  neckline = sh.ellipse(xp, v.bx, v.by - _TOP - 0.015, cut_w, cut_d)
  light = 1 - 0.16 * sh.step(xp, 0.25, 0.85, xp.abs(v.bx + 0.25 * paint.light))
  light = light + 0.06 * paint.light * v.bx - 0.10 * sh.step(xp, 0.75, 1.3, v.by)
  shirt = sh.smax(xp, torso, -neckline, 0.02)
  canvas = sh.paint(xp, canvas, shirt, cloth * light[None], v.hpx, CLOTHES, LINE)

  down = v.by - _TOP
  opening = xp.abs(v.bx) - vee * (1 - down / 0.52)
  opening = sh.only(xp, xp.maximum(opening * 0.9, shirt), vee > 0)
  canvas = sh.paint(xp, canvas, opening, panel * light[None], v.hpx, CLOTHES)
  lapel = xp.abs(opening) - 0.012
  canvas = sh.paint(xp, canvas, xp.maximum(lapel, shirt), edge, v.hpx, CLOTHES)
  knot = xp.abs(v.bx) - tie * (0.030 + 0.07 * xp.abs(down - 0.16))
  knot = sh.only(xp, xp.maximum(knot, shirt), tie > 0)
  canvas = sh.paint(xp, canvas, knot, sh.colour(186, 40, 52), v.hpx, CLOTHES)

  collar = xp.maximum(xp.abs(neckline) - band, torso - 0.5 * band - 0.01)
  fold = 1 - 0.18 * sh.step(xp, 0.0, 1.0, xp.abs(neckline) / (band + 1e-3))
  return sh.paint(xp, canvas, collar, edge * (light * fold)[None], v.hpx, CLOTHES, LINE * 0.7)
