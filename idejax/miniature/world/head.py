"""Identity and scene to a head: every measure, and the curves that painter and landmarks share.

Head coordinates: origin between the eyes, y down, 1 = half an image width at scale 1. Features are
laid out on a frontal face and turned by `turn`; the silhouette does not turn.
"""

from typing import Any, NamedTuple

import numpy as np

from idejax.miniature.world.shapes import lookup, mix

CENTRE = -0.03  # of the head in the picture
ZOOM = 1.5  # scale 1 fills the picture like a passport photo
PIVOT = 0.42  # the head tilts about the top of the neck


class Mood(NamedTuple):
  """What an expression does to a face: one row of `_MOODS`, in the order of EXPRESSIONS."""

  stretch: Any  # of the mouth's width
  pout: Any  # of the lips' thickness
  lift: Any  # mouth corners up
  skew: Any  # the image-right corner up, the other down
  open_up: Any  # how far the lips part
  open_down: Any
  round: Any  # mouth from lens (0) to ellipse (1)
  raise_l: Any  # brows, image-left and image-right
  raise_r: Any
  slope: Any  # of the brows, outer end down
  up_l: Any  # lids, as shares of the open eye
  up_r: Any
  low_l: Any
  low_r: Any
  tear: Any  # 0 or 1


_MOODS = np.array([
  (1.00, 1.00, 0.004, 0.00, 0.000, 0.000, 0.0, 0.000, 0.000, 0.00, 1.00, 1.00, 1.00, 1.00, 0),
  (1.38, 1.00, 0.075, 0.00, 0.000, 0.115, 0.0, 0.025, 0.025, 0.00, 0.85, 0.85, 0.30, 0.30, 0),
  (1.00, 1.25, -0.085, 0.00, 0.00, 0.000, 0.0, 0.015, 0.015, 0.46, 0.66, 0.66, 1.10, 1.10, 1),
  (0.72, 1.00, 0.000, 0.00, 0.055, 0.130, 1.0, 0.085, 0.085, 0.04, 1.42, 1.42, 1.45, 1.45, 0),
  (1.12, 1.00, -0.05, 0.00, 0.028, 0.040, 0.6, -0.045, -0.045, -0.60, 0.58, 0.58, 0.85, 0.85, 0),
  (1.14, 1.00, 0.038, 0.05, 0.000, 0.052, 0.0, 0.060, -0.012, 0.00, 1.08, 0.40, 1.00, -0.40, 0),
], np.float32)  # fmt: skip


class Head(NamedTuple):
  """Measures of one person with one expression in one pose; scalars (0-d arrays)."""

  width: Any  # of the face, half
  top: Any  # cranium height above the origin
  bottom: Any  # chin below it, before jaw and chin bumps
  jaw: Any
  chin: Any
  eye_x: Any
  eye_y: Any
  eye_w: Any
  eye_h: Any
  eye_tilt: Any
  brow_y: Any
  brow_h: Any
  brow_angle: Any
  brow_w: Any
  nose_y: Any
  nose_w: Any
  mouth_y: Any
  gape: Any  # share of the full opening that the chin has room for
  mouth_w: Any
  upper_lip: Any
  lower_lip: Any
  ear: Any
  woman: Any
  mood: Mood
  sin: Any  # of yaw
  cos: Any


def head(xp, person, scene) -> Head:
  """Measures from parameters; `person` and `scene` have scalar fields."""
  p = person
  woman = xp.asarray(p.gender == 1, np.float32)
  bottom = 0.475 + 0.040 * p.face_length - 0.015 * woman
  jaw = 0.075 + 0.055 * p.jaw - 0.045 * woman
  chin = 0.02 + 0.050 * p.chin
  nose_y = 0.160 + 0.025 * p.nose_length
  # The mouth sits between nose and chin, and opens as far as a short chin lets it.
  chin_y = bottom * (1 + 0.056 * jaw + chin)
  mouth_y = nose_y + 0.39 * (chin_y - nose_y) + 0.018 * p.mouth_height
  gape = xp.minimum((chin_y - mouth_y) / 0.21, 1.05)
  return Head(
    width=0.385 + 0.04 * p.face_width - 0.008 * woman,
    top=0.49 + 0.0 * woman,
    bottom=bottom,
    jaw=jaw,
    chin=chin,
    eye_x=0.168 + 0.022 * p.eye_spacing,
    eye_y=0.005 + 0.028 * p.eye_height,
    eye_w=0.090 + 0.013 * p.eye_size + 0.006 * woman,
    eye_h=0.050 + 0.010 * p.eye_size + 0.006 * woman,
    eye_tilt=0.16 * p.eye_tilt,
    brow_y=-0.125 + 0.028 * p.eye_height - 0.018 * p.brow_height,
    brow_h=0.024 + 0.011 * p.brow_thickness - 0.004 * woman,
    brow_angle=0.16 * p.brow_angle,
    brow_w=0.112 + 0.008 * p.eye_size,
    nose_y=nose_y,
    nose_w=0.064 + 0.026 * p.nose_width - 0.006 * woman,
    mouth_y=mouth_y,
    gape=gape,
    mouth_w=0.128 + 0.030 * p.mouth_width,
    upper_lip=0.021 + 0.012 * p.lip_fullness + 0.004 * woman,
    lower_lip=(0.031 + 0.017 * p.lip_fullness + 0.005 * woman) * xp.minimum(gape, 1.0),
    ear=0.100 + 0.022 * p.ear_size,
    woman=woman,
    mood=Mood(*lookup(xp, _MOODS, scene.expression)),
    sin=xp.sin(scene.yaw),
    cos=xp.cos(scene.yaw),
  )


def to_head(xp, x, y, scene):
  """Picture coordinates in [-1, 1] to head coordinates."""
  zoom = ZOOM * scene.scale
  dx, dy = (x - scene.shift_x) / zoom, (y - scene.shift_y - CENTRE) / zoom - PIVOT
  c, s = xp.cos(scene.tilt), xp.sin(scene.tilt)
  return c * dx + s * dy, c * dy - s * dx + PIVOT


def from_head(xp, x, y, scene):
  """The inverse of `to_head`."""
  c, s = xp.cos(scene.tilt), xp.sin(scene.tilt)
  dx, dy = c * x - s * (y - PIVOT), s * x + c * (y - PIVOT) + PIVOT
  zoom = ZOOM * scene.scale
  return dx * zoom + scene.shift_x, dy * zoom + scene.shift_y + CENTRE


def turn(xp, h: Head, x):
  """Where the yawed head shows what sits at x on the frontal face: a turn of a cylinder."""
  r = 1.18 * h.width
  return x * h.cos + xp.sqrt(xp.maximum(r * r - x * x, 0.0)) * h.sin


def unturn(xp, h: Head, x):
  """The inverse of `turn` on the visible side; used per pixel."""
  r = 1.18 * h.width
  return x * h.cos - xp.sqrt(xp.maximum(r * r - x * x, 0.0)) * h.sin


def nose_lean(xp, h: Head, y):
  """How far the yawed nose stands out sideways at height y: not at its root, most at the tip."""
  t = xp.clip((y - h.eye_y) / (h.nose_y - h.eye_y), 0.0, 1.0)
  return 0.11 * h.sin * t


def radius(xp, h: Head, sx, sy):
  """Face outline in polar form: distance from the origin along the unit vector (sx, sy)."""
  b = xp.where(sy < 0, h.top, h.bottom)
  oval = 1 / xp.sqrt((sx / h.width) ** 2 + (sy / b) ** 2)
  toward_jaw = xp.maximum(xp.abs(sx) * 0.66 + sy * 0.75, 0.0)
  toward_chin = xp.maximum(sy, 0.0)
  return oval * (1 + h.jaw * toward_jaw**10 + h.chin * toward_chin**24)


def outline(xp, h: Head, x, y):
  """Signed distance to the face, about right near the outline."""
  r = xp.sqrt(x * x + y * y) + 1e-4
  return (r - radius(xp, h, x / r, y / r)) * 0.97


def lids(xp, h: Head, t, left):
  """Heights of the upper and lower lid above the eye's axis (y down) at t in [-1, 1].

  Left is 1 for the eye on the image's left. Both lids meet at t = -1 (nose side) and t = 1.
  """
  bow = (1 - t * t) * (1 - 0.18 * t)
  up, low = mix(h.mood.up_r, h.mood.up_l, left), mix(h.mood.low_r, h.mood.low_l, left)
  # A narrow axis tilt keeps the ends in place: corners move, the eye does not turn.
  return -h.eye_h * up * bow, h.eye_h * 0.62 * low * bow


def brow(xp, h: Head, t, left):
  """Centre line and half thickness at t in [-1, 1], from the nose side outward."""
  rise = mix(h.mood.raise_r, h.mood.raise_l, left)
  slope = h.mood.slope - h.brow_angle
  y = h.brow_y - rise + h.brow_w * 0.5 * slope * t - 0.022 * (1 - t * t)
  return y, h.brow_h * (1 - 0.28 * (t + 1) * (t + 1) * 0.5)


def mouth_half(h: Head):
  return h.mouth_w * h.mood.stretch


def mouth(xp, h: Head, t):
  """Curves at t in [-1, 1]: the upper lip's outer and inner edge, the lower's inner and outer."""
  lens = xp.maximum(1 - t * t, 0.0)
  bow = mix(lens, xp.sqrt(lens), h.mood.round)
  middle = h.mouth_y - h.mood.lift * (t * t - 0.4) - h.mood.skew * t
  upper = middle - h.mood.open_up * h.gape * bow
  lower = middle + h.mood.open_down * h.gape * bow
  cupid = 1 - 0.30 * xp.maximum(1 - (t / 0.34) ** 2, 0.0) ** 2
  thick = h.mood.pout * bow
  return upper - h.upper_lip * cupid * thick, upper, lower, lower + h.lower_lip * thick
