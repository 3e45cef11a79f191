"""Control images on the device: the same pictures as `faces.control.raster` draws, of a batch's landmarks."""

import jax
import jax.numpy as jnp
import numpy as np

from idejax.faces import control

_FROM, _TO, _COLOUR, _DOT = (np.array(column) for column in zip(*control.STROKES))


def raster(marks: jax.Array, height: int, width: int) -> jax.Array:
  """Landmarks [B, 72, 2] in pixels of the picture -> float32 [B, height, width, 3] in [0, 1]."""
  marks = marks.astype(jnp.float32)
  y, x = (axis.astype(jnp.float32)[None] for axis in jnp.mgrid[:height, :width])
  line = control.width(jnp, marks)[:, None, None]

  def draw(canvas, one):  # in order: what comes later lies over what came before
    i, j, colour, dot = one
    a, b = (marks[:, k][:, None, None] for k in (i, j))
    cover = control.stroke(jnp, x, y, a, b, line * (1 + dot) / 2)[..., None]
    return canvas + cover * (colour[None, None, None] - canvas), None

  canvas = jnp.zeros((len(marks), height, width, 3))
  strokes = (_FROM, _TO, _COLOUR.astype(np.float32) / 255, _DOT.astype(np.float32))
  return jax.lax.scan(draw, canvas, tuple(map(jnp.asarray, strokes)))[0]
