"""Accessories: glasses, sunglasses, a woollen hat, headphones."""

from idejax.miniature.world import shapes as sh
from idejax.miniature.world.view import ACCESSORY, LINE, View

_FRAME, _DARK, _CLEAR = sh.colour(34, 30, 36), sh.colour(30, 32, 44), sh.colour(210, 232, 246)
_WOOL, _FOLD = sh.colour(20, 140, 148), sh.colour(240, 232, 214)
_SHELL, _PAD, _RING = sh.colour(50, 52, 60), sh.colour(226, 78, 58), sh.colour(250, 240, 232)


def paint_accessory(xp, canvas, h, v: View, hair, scene):
  """Paints the scene's accessory; hat and headphones follow the outline of the hair."""
  plain = lambda c: c
  frames = lambda c: _frames(xp, c, h, v, _CLEAR, 0.22, 0.098, 0.080)
  shades = lambda c: _frames(xp, c, h, v, _DARK, 0.95, 0.112, 0.088)
  hat = lambda c: _hat(xp, c, h, v, hair)
  phones = lambda c: _headphones(xp, c, h, v, hair)
  return sh.choose(xp, scene.accessory, (plain, frames, shades, hat, phones), canvas)


def _frames(xp, canvas, h, v, glass, alpha, a, b):
  x = xp.abs(v.fx) - h.eye_x - 0.006
  y = v.hy - h.eye_y - 0.012
  lens = sh.box(xp, x, y, a, b, 0.055)
  label = ACCESSORY if alpha > 0.5 else None  # behind clear glass the label stays the eye's
  canvas = sh.paint(xp, canvas, lens, glass, v.hpx, label, alpha=alpha)
  shine = xp.maximum(lens + 0.02, xp.abs(x + 0.8 * y + 0.02) - 0.018)
  canvas = sh.paint(xp, canvas, shine, sh.colour(255, 255, 255), v.hpx, alpha=0.28)
  rim = xp.abs(lens) - 0.013
  inner = h.eye_x + 0.006 - a
  bridge = xp.maximum(xp.abs(y + 0.030 - 0.4 * v.fx * v.fx) - 0.011, xp.abs(v.fx) - inner)
  temple = xp.maximum(xp.abs(y + 0.028) - 0.012, -x + a)
  temple = xp.maximum(temple, v.face - 0.02)
  d = xp.minimum(rim, xp.minimum(bridge, temple))
  return sh.paint(xp, canvas, d, _FRAME, v.hpx, ACCESSORY, LINE * 0.5)


def _hat(xp, canvas, h, v, hair):
  brim = -0.245 + 0.10 * v.fx * v.fx
  dome = sh.smax(xp, hair.cap - 0.035, v.hy - brim, 0.03)
  light = 1 - 0.30 * sh.step(xp, -0.16, 0.02, dome)
  pompom = sh.circle(xp, v.hx, v.hy + h.top + 0.115, 0.085)
  soft = 1 - 0.25 * sh.step(xp, -0.07, 0.0, pompom)
  canvas = sh.paint(xp, canvas, pompom, _FOLD * soft[None], v.hpx, ACCESSORY, LINE)
  canvas = sh.paint(xp, canvas, dome, _WOOL * light[None], v.hpx, ACCESSORY, LINE)
  fold = sh.smax(xp, hair.cap - 0.055, xp.abs(v.hy - brim + 0.045) - 0.062, 0.03)
  light = 1 - 0.25 * sh.step(xp, -0.16, 0.02, fold)
  return sh.paint(xp, canvas, fold, _FOLD * light[None], v.hpx, ACCESSORY, LINE)


def _headphones(xp, canvas, h, v, hair):
  arc = xp.maximum(xp.abs(hair.cap - 0.030) - 0.032, v.hy - 0.02)
  canvas = sh.paint(xp, canvas, arc, _SHELL, v.hpx, ACCESSORY, LINE)
  x = xp.abs(v.hx + 0.08 * h.sin) - h.width - 0.045
  pad = sh.box(xp, x, v.hy - 0.045, 0.078, 0.135, 0.07)
  light = 1 - 0.35 * sh.step(xp, -0.05, 0.01, pad)
  canvas = sh.paint(xp, canvas, pad, _PAD * light[None], v.hpx, ACCESSORY, LINE)
  ring = sh.box(xp, x - 0.012, v.hy - 0.045, 0.030, 0.070, 0.03)
  return sh.paint(xp, canvas, ring, _RING, v.hpx, ACCESSORY)
