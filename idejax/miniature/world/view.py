"""The pixel grid in every frame that painters need, and the colours of a person."""

from typing import Any, NamedTuple

import numpy as np

from idejax.miniature.world import head as hd
from idejax.miniature.world.shapes import colour, lookup, mix

# Back to front. Labels name the front-most shape of a pixel.
LAYERS = ("background", "back hair", "neck", "clothes", "ears", "face", "beard", "mouth", "nose",
          "eyes", "hair", "brows", "accessory")  # fmt: skip
(BACKGROUND, BACK_HAIR, NECK, CLOTHES, EARS, FACE, BEARD, MOUTH, NOSE, EYES, HAIR, BROWS,
 ACCESSORY) = range(len(LAYERS))  # fmt: skip

LINE = 0.022  # outline width of the drawn styles, in half image widths

_SKIN = colour([(255, 226, 202), (244, 202, 166), (224, 172, 128), (188, 132, 90), (138, 90, 60), (92, 60, 44)])
_HAIR = colour([(38, 34, 40), (98, 62, 40), (232, 192, 104), (190, 78, 34), (150, 152, 160),
                (240, 238, 236), (62, 110, 200)])  # fmt: skip
_EYE = colour([(92, 56, 34), (58, 128, 210), (64, 142, 84), (128, 140, 150), (168, 118, 44)])
_LIPS = colour([(190, 92, 86), (240, 70, 130), (190, 14, 34)])
_LIPS_AMOUNT = np.array([0.55, 0.75, 0.92], np.float32)


class View(NamedTuple):
  """Planes [S, S]; `px` and `hpx` are one pixel's size in picture and in head coordinates."""

  x: Any  # picture, -1..1
  y: Any
  bx: Any  # body: picture without the head's tilt
  by: Any
  hx: Any  # head
  hy: Any
  fx: Any  # frontal face: hx with the yaw undone
  face: Any  # signed distance to the face
  px: Any
  hpx: Any


class Paint(NamedTuple):
  """Colours [3, 1, 1] of one person under one light; `light` is the scene's, a scalar."""

  skin: Any
  shade: Any  # skin in shadow
  line: Any  # skin's darkest: nostrils, folds
  hair: Any
  brow: Any
  eye: Any
  lips: Any
  light: Any


def view(xp, h: hd.Head, scene, size: int) -> View:
  px = 2 / size
  axis = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(px) - 1
  x, y = (xp.asarray(np.ascontiguousarray(g)) for g in np.meshgrid(axis, axis))
  hx, hy = hd.to_head(xp, x, y, scene)
  zoom = hd.ZOOM * scene.scale
  bx, by = (x - scene.shift_x) / zoom, (y - scene.shift_y - hd.CENTRE) / zoom
  fx = hd.unturn(xp, h, hx)
  return View(x, y, bx, by, hx, hy, fx, hd.outline(xp, h, hx, hy), px, px / zoom)


def palette(xp, person, scene) -> Paint:
  at = (person.skin + 1) * 2.4999
  low = xp.asarray(at, np.int32)
  skin = mix(lookup(xp, _SKIN, low), lookup(xp, _SKIN, low + 1), at - xp.asarray(low, np.float32))
  skin = skin * (1 + person.undertone * colour(9, -1, -12))
  # Shadows of skin turn redder, not greyer: otherwise flat faces look dead.
  shade = skin * colour(206, 178, 172)
  line = skin * colour(140, 96, 90)
  hair = lookup(xp, _HAIR, person.hair_colour)
  amount = lookup(xp, _LIPS_AMOUNT, person.lip_colour)
  lips = lookup(xp, _LIPS, person.lip_colour) * (0.62 + 0.38 * skin)
  return Paint(
    skin=skin,
    shade=shade,
    line=line,
    hair=hair,
    # Without the skin's line colour fair brows would vanish on fair skin, and gray ones on dark.
    brow=mix(hair * 0.60, line * 0.6, 0.42),
    eye=lookup(xp, _EYE, person.eye_colour),
    lips=mix(shade, lips, amount),
    light=scene.light,
  )
