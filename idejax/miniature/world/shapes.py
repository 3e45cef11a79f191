"""Signed distances (negative inside, y down) and the canvas that they are painted on.

Every function takes the array module `xp` (numpy or jax.numpy) first, so that one source renders on
the host and inside `jit`. Planes are [S, S], colours [3, 1, 1] or [3, S, S], scalars 0-d.
"""

from typing import Any, NamedTuple

import numpy as np


class Canvas(NamedTuple):
  """What has been painted so far: rgb [3, S, S]; ink (outlines), sitter (the person's share of a pixel)
  and labels (int32, the front-most layer), all [S, S].
  """

  rgb: Any
  ink: Any
  sitter: Any
  labels: Any


def blank(xp, rgb) -> Canvas:
  """A canvas with only a background, rgb [3, S, S]."""
  plane = 0.0 * rgb[0]
  return Canvas(rgb, plane, plane, xp.zeros(plane.shape, np.int32))


def colour(*rgb) -> np.ndarray:
  """0..255 numbers, or rows of them, to float32 [..., 3, 1, 1] in 0..1."""
  flat = np.asarray(rgb[0] if len(rgb) == 1 else rgb, np.float32) / 255
  return flat[..., None, None]


def lookup(xp, table, index):
  """Row `index` of a constant table; the index may be traced."""
  return xp.asarray(table)[index]


def cover(xp, d, px):
  """Share of a pixel inside the shape: the anti-aliased edge is one pixel wide."""
  return xp.clip(0.5 - d / px, 0.0, 1.0)


def step(xp, lo, hi, v):
  """Smoothstep from 0 at lo to 1 at hi."""
  t = xp.clip((v - lo) / (hi - lo), 0.0, 1.0)
  return t * t * (3 - 2 * t)


def glow(xp, x, y, a, b):
  """A soft spot: 1 in the centre, 0 beyond the ellipse (a, b). No exp: it is the slow function."""
  t = xp.maximum(1 - (x / a) ** 2 - (y / b) ** 2, 0.0)
  return t * t


def mix(a, b, t):
  return a + (b - a) * t


def smin(xp, a, b, k):
  """Union with a fillet of radius about k."""
  h = xp.maximum(k - xp.abs(a - b), 0.0)
  return xp.minimum(a, b) - h * h / (4 * k)


def smax(xp, a, b, k):
  """Intersection with a rounded corner."""
  return -smin(xp, -a, -b, k)


def circle(xp, x, y, r):
  return xp.sqrt(x * x + y * y) - r


def ellipse(xp, x, y, a, b):
  """First-order distance: exact on the outline, which is all that an edge needs."""
  k0 = xp.sqrt((x / a) ** 2 + (y / b) ** 2)
  k1 = xp.sqrt((x / (a * a)) ** 2 + (y / (b * b)) ** 2)
  return k0 * (k0 - 1) / xp.maximum(k1, 1e-3)


def box(xp, x, y, a, b, r=0.0):
  """Rectangle of half sizes (a, b) with corner radius r."""
  qx, qy = xp.abs(x) - a + r, xp.abs(y) - b + r
  outside = xp.sqrt(xp.maximum(qx, 0.0) ** 2 + xp.maximum(qy, 0.0) ** 2)
  return outside + xp.minimum(xp.maximum(qx, qy), 0.0) - r


def peak(xp, x, y, slope):
  """A triangle with its tip at the origin, open below; slope = height over half width."""
  return (xp.abs(x) * slope - y) / (1 + slope * slope) ** 0.5


def segment(xp, x, y, ax, ay, bx, by):
  """Distance to the line from a to b."""
  ux, uy = bx - ax, by - ay
  t = xp.clip(((x - ax) * ux + (y - ay) * uy) / (ux * ux + uy * uy), 0.0, 1.0)
  return xp.sqrt((x - ax - t * ux) ** 2 + (y - ay - t * uy) ** 2)


def only(xp, d, condition):
  """The shape if the condition holds; else it is moved out of sight."""
  return d + (1 - xp.asarray(condition, np.float32))


def paint(xp, canvas, d, rgb, px, label=None, line=0.0, alpha=1.0):
  """The canvas with a shape on top; line > 0 outlines it for the drawn styles."""
  a = cover(xp, d, px) * alpha
  ink = canvas.ink * (1 - a)
  if line:
    ink = xp.maximum(ink, cover(xp, xp.abs(d) - line / 2, px))
  rgb = canvas.rgb + (rgb - canvas.rgb) * a[None]
  if label is None:
    return canvas._replace(rgb=rgb, ink=ink)
  sitter = canvas.sitter + (1 - canvas.sitter) * a
  return Canvas(rgb, ink, sitter, xp.where(d < 0, label, canvas.labels).astype(np.int32))


def tint(xp, canvas, amount, rgb):
  """The canvas mixed with a colour by amount [S, S]; outlines and labels stay."""
  return canvas._replace(rgb=canvas.rgb + (rgb - canvas.rgb) * amount[None])


def choose(xp, index, branches, *operands):
  """Calls one branch, by an index that may be traced; the others do not run, except under vmap."""
  if xp is np:
    return branches[int(index)](*operands)
  import jax

  return jax.lax.switch(index, branches, *operands)
