"""Ears, skin, marks, age, beard, mouth, nose, eyes and brows."""

import numpy as np

from idejax.miniature.world import head as hd
from idejax.miniature.world import shapes as sh
from idejax.miniature.world.view import BEARD, BROWS, EARS, EYES, FACE, LINE, MOUTH, NOSE, Paint, View

_FINE = LINE * 0.6
_WHITE, _TEETH = sh.colour(250, 250, 252), sh.colour(252, 250, 244)
_FRECKLES = ((0.11, 0.115), (0.155, 0.095), (0.20, 0.12), (0.135, 0.155), (0.185, 0.165),
             (0.23, 0.15))  # fmt: skip


def paint_skin(xp, canvas, h, v: View, paint: Paint, person):
  """Ears and the bare face with its shading, marks and lines of age."""
  out = h.width + 0.022
  for side in (-1, 1):
    x = v.hx - side * out + 0.10 * h.sin
    ear = sh.ellipse(xp, x, v.hy - 0.045, 0.062, h.ear)
    inner = sh.glow(xp, x - side * 0.006, v.hy - 0.045, 0.050, h.ear * 0.8)
    tone = sh.mix(paint.skin * 0.96, paint.shade * 0.9, inner[None])
    canvas = sh.paint(xp, canvas, ear, tone, v.hpx, EARS, LINE)

  rim = sh.step(xp, -0.20, 0.03, v.face)
  side = sh.step(xp, -0.05, 0.40, -paint.light * v.fx) * xp.abs(paint.light)
  shadow = xp.clip(0.42 * rim + 0.50 * side + 0.22 * sh.step(xp, 0.2, 0.6, v.hy), 0.0, 0.85)
  skin = sh.mix(paint.skin * 1.02, paint.shade, shadow[None])
  canvas = sh.paint(xp, canvas, v.face, skin, v.hpx, FACE, LINE)

  inside = sh.cover(xp, v.face, v.hpx)
  shine = sh.glow(xp, v.hx - 0.14 * paint.light, v.hy + 0.30, 0.20, 0.13)
  canvas = sh.tint(xp, canvas, 0.22 * shine, sh.mix(paint.skin, 1.0, 0.7))
  ax = xp.abs(v.fx)
  rosy = xp.asarray(person.mark == 3, np.float32)
  cheek = sh.glow(xp, ax - 0.225, v.hy - 0.155, 0.13 + 0.02 * rosy, 0.11) * inside
  canvas = sh.tint(xp, canvas, cheek * (0.16 + 0.50 * rosy), sh.colour(232, 84, 84))
  freckles = sh.circle(xp, ax - _FRECKLES[0][0], v.hy - _FRECKLES[0][1], 0.011)
  for x, y in _FRECKLES[1:]:
    freckles = xp.minimum(freckles, sh.circle(xp, ax - x, v.hy - y, 0.011))
  freckled = xp.asarray(person.mark == 1, np.float32)
  veil = 0.35 * sh.glow(xp, ax - 0.165, v.hy - 0.13, 0.14, 0.09)
  dots = xp.maximum(sh.cover(xp, freckles, v.hpx), veil) * inside * freckled
  canvas = sh.tint(xp, canvas, 0.66 * dots, paint.line * sh.colour(255, 200, 150))
  mole = sh.circle(xp, v.fx - 0.20, v.hy - 0.245, 0.028)
  canvas = sh.paint(xp, canvas, sh.only(xp, mole, person.mark == 2), sh.colour(58, 32, 28), v.hpx)

  # Age: folds from nose to mouth from the middle on, bags and a lined forehead later.
  middle = xp.asarray(person.age >= 1, np.float32)
  old = xp.asarray(person.age == 2, np.float32)
  s = xp.clip((v.hy - h.nose_y + 0.01) / 0.15, 0.0, 1.0)
  fold = xp.abs(ax - h.nose_w - 0.03 - 0.085 * s * (1.8 - s)) - 0.011 * (1 - 0.6 * s)
  fold = xp.maximum(fold, xp.abs(v.hy - h.nose_y - 0.06) - 0.07)
  bag_y = h.eye_y + 0.082 - 0.03 * ((ax - h.eye_x) / h.eye_w) ** 2
  bag = xp.maximum(xp.abs(v.hy - bag_y) - 0.010, xp.abs(ax - h.eye_x) - h.eye_w * 0.9)
  brow_line = xp.abs(xp.abs(v.hy + 0.245 - 0.3 * v.fx * v.fx) - 0.026) - 0.009
  brow_line = xp.maximum(brow_line, ax - 0.17)
  soft = 2.5 * v.hpx
  canvas = sh.paint(xp, canvas, fold, paint.line, soft, alpha=(0.45 + 0.20 * old) * middle)
  return sh.paint(xp, canvas, xp.minimum(bag, brow_line), paint.line, soft, alpha=0.50 * old)


def paint_beard(xp, canvas, h, v: View, paint: Paint, person):
  """Stubble, moustache, goatee or full beard: unions of three shapes, by number."""
  kind = person.beard
  lip = h.mouth_y - 0.02 - h.mood.open_up
  cheeks = sh.ellipse(xp, v.fx, v.hy, h.width * 0.86, lip - 0.055)
  jaw = sh.smax(xp, v.face - 0.025, -cheeks, 0.04)
  jaw = sh.smax(xp, jaw, 0.02 - v.hy, 0.02)
  t = v.fx / (hd.mouth_half(h) * 1.12)
  over = xp.abs(v.hy - lip + 0.030 * (1 - t * t)) - 0.036 * (1.1 - 0.5 * t * t)
  over = sh.smax(xp, over, xp.abs(v.fx) - 0.145, 0.02)
  round_mouth = sh.smax(xp, jaw, xp.abs(v.fx) - 0.155, 0.06)
  full = sh.only(xp, jaw, (kind == 1) | (kind == 4))
  partial, goatee = sh.only(xp, over, kind == 2), sh.only(xp, round_mouth, kind == 3)
  d = xp.minimum(full, xp.minimum(partial, goatee))
  stubble = xp.asarray(kind == 1, np.float32)
  tone = paint.hair * (0.86 - 0.20 * sh.step(xp, 0.2, 0.6, v.hy))[None]
  edge = v.hpx * (1 + 5 * stubble)
  return sh.paint(xp, canvas, d, tone, edge, BEARD, _FINE, alpha=1 - 0.66 * stubble)


def paint_mouth(xp, canvas, h, v: View, paint: Paint):
  half = hd.mouth_half(h)
  t = v.fx / half
  inside = xp.clip(t, -1.0, 1.0)
  top, upper, lower, bottom = hd.mouth(xp, h, inside)
  ends = xp.abs(v.fx) - half
  # Heights overstate distance where the curve is steep; 0.8 is their mean correction.
  lips = xp.maximum(xp.maximum(top - v.hy, v.hy - bottom) * 0.8, ends)
  below = v.hy - (lower + bottom) / 2
  sheen = 0.10 * sh.glow(xp, v.fx - 0.03 * paint.light, below, half * 0.5, 0.02)
  middle = (upper + lower) / 2
  tone = paint.lips * (0.90 + 0.10 * sh.step(xp, -0.01, 0.01, v.hy - middle))[None] + sheen[None]
  canvas = sh.paint(xp, canvas, lips, tone, v.hpx, MOUTH)
  gap = xp.maximum(xp.maximum(upper - v.hy, v.hy - lower) * 0.85, ends + 0.012)
  canvas = sh.paint(xp, canvas, gap - 0.008, sh.colour(92, 26, 32), v.hpx, MOUTH, _FINE)
  tongue = sh.smax(xp, gap, sh.ellipse(xp, v.fx, v.hy - lower - 0.02, half * 0.62, 0.062), 0.02)
  canvas = sh.paint(xp, canvas, tongue, sh.colour(222, 104, 108), v.hpx)
  # Only wide mouths bare teeth: surprise is a dark hole, which is what sets it apart.
  teeth = sh.smax(xp, gap + 0.006, v.hy - upper - 0.052, 0.015)
  canvas = sh.paint(xp, canvas, sh.only(xp, teeth, h.mood.stretch > 1), _TEETH, v.hpx)
  # One tear for the sad: the mouth alone is four pixels at size 64.
  tear_x, tear_y = v.fx + h.eye_x + 0.01, v.hy - h.eye_y - 0.145
  tip = sh.smax(xp, tear_y, sh.peak(xp, tear_x, tear_y + 0.085, 2.4), 0.01)
  tear = sh.only(xp, xp.minimum(sh.circle(xp, tear_x, tear_y, 0.032), tip), h.mood.tear > 0)
  return sh.paint(xp, canvas, tear, sh.colour(122, 196, 250), v.hpx, line=_FINE)


def paint_nose(xp, canvas, h, v: View, paint: Paint):
  x = v.fx - hd.nose_lean(xp, h, v.hy)
  below = v.hy - h.nose_y
  along = sh.step(xp, h.eye_y - 0.06, h.nose_y, v.hy) * (1 - sh.step(xp, -0.01, 0.03, below))
  w = h.nose_w * (0.45 + 0.55 * along)
  lit = xp.clip(-5 * paint.light, -1.0, 1.0)  # the side in shadow; none when lit from the front
  shadow = sh.glow(xp, x - lit * w * 0.9, 0 * x, w * 0.95, 1.0) * along
  canvas = sh.tint(xp, canvas, 0.50 * shadow, paint.shade * 0.92)
  shine = sh.glow(xp, x + lit * 0.010, below + 0.035, 0.030, 0.055)
  canvas = sh.tint(xp, canvas, 0.40 * shine, sh.mix(paint.skin, 1.0, 0.5))
  # The base: two wings and the tip as one scalloped line, thick in the middle of each arc.
  u = x / h.nose_w
  curve = h.nose_y + 0.024 - 0.030 * u * u
  base = xp.maximum(xp.abs(v.hy - curve) - 0.010 * (1.15 - 0.5 * u * u), xp.abs(x) - h.nose_w)
  canvas = sh.paint(xp, canvas, base, sh.mix(paint.shade, paint.line, 0.7), v.hpx, NOSE, _FINE)
  nostrils = sh.ellipse(xp, xp.abs(x) - 0.48 * h.nose_w, below - 0.008, 0.26 * h.nose_w, 0.010)
  return sh.paint(xp, canvas, nostrils, paint.line * 0.8, v.hpx, NOSE)


def paint_eyes(xp, canvas, h, v: View, paint: Paint):
  left = xp.asarray(v.fx < 0, np.float32)
  x = xp.abs(v.fx) - h.eye_x  # folded: positive is outward on both sides
  t = xp.clip(x / h.eye_w, -1.0, 1.0)
  y = v.hy - h.eye_y + h.eye_tilt * h.eye_w * t
  up, low = hd.lids(xp, h, t, left)
  ends = xp.abs(x) - h.eye_w
  eye = xp.maximum(xp.maximum(up - y, y - low) * 0.85, ends)
  socket = sh.glow(xp, x, y + 0.03, h.eye_w * 1.35, h.eye_h * 2.0)
  canvas = sh.tint(xp, canvas, 0.28 * socket, paint.shade * 0.95)
  white = _WHITE * (1 - 0.22 * sh.step(xp, -0.030, 0.0, up - y))[None]  # the lid's shadow
  canvas = sh.paint(xp, canvas, eye, white, v.hpx, EYES)
  open_l, open_r = h.mood.up_l, h.mood.up_r
  gaze = x - (1 - 2 * left) * 0.03 * h.sin
  iris_y = y + h.eye_h * 0.12 * sh.mix(open_r, open_l, left)
  r = 0.93 * h.eye_h
  iris = sh.circle(xp, gaze, iris_y, r)
  ring = paint.eye * (1 - 0.45 * sh.step(xp, -0.35 * r, 0.0, iris))[None]
  canvas = sh.paint(xp, canvas, xp.maximum(iris, eye), ring, v.hpx, EYES)
  pupil = sh.circle(xp, gaze, iris_y, 0.46 * r)
  canvas = sh.paint(xp, canvas, xp.maximum(pupil, eye), sh.colour(18, 14, 18), v.hpx)
  spark = sh.circle(xp, (1 - 2 * left) * gaze - 0.4 * r * paint.light, iris_y + 0.38 * r, 0.25 * r)
  canvas = sh.paint(xp, canvas, xp.maximum(spark, eye), _WHITE, v.hpx)
  # The upper lid; on women darker, with a stroke beyond the outer corner.
  thick = (0.011 + 0.006 * h.woman) * (1.0 + 0.35 * t)
  lid = xp.maximum(xp.abs(y - up) * 0.85 - thick, ends - 0.004)
  tip = sh.segment(xp, x, y, h.eye_w * 0.85, -0.004, h.eye_w * 1.24, -0.040) - 0.012
  lid = xp.minimum(lid, sh.only(xp, tip, h.woman))
  dark = sh.mix(paint.line * 0.55, sh.colour(26, 18, 20), 0.4 + 0.5 * h.woman)
  canvas = sh.paint(xp, canvas, lid, dark, v.hpx, EYES, _FINE)
  lower = xp.maximum(xp.abs(y - low) * 0.85 - 0.004, ends)
  return sh.paint(xp, canvas, lower, paint.line, v.hpx, alpha=0.6)


def paint_brows(xp, canvas, h, v: View, paint: Paint):
  left = xp.asarray(v.fx < 0, np.float32)
  t = (xp.abs(v.fx) - h.eye_x) / h.brow_w
  y, thick = hd.brow(xp, h, xp.clip(t, -1.0, 1.0), left)
  d = sh.smax(xp, xp.abs(v.hy - y) - thick, (xp.abs(t) - 1) * h.brow_w, 0.02)
  return sh.paint(xp, canvas, d, paint.brow, v.hpx, BROWS, _FINE)
