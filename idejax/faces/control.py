"""Draws landmarks as the picture that a ControlNet reads: lines and dots, with one colour per part of the face.

Edges are smooth over one pixel. `stroke` works with numpy and with jax, so that a training that stores
landmarks instead of pictures can draw the same pictures on its device.
"""

from typing import Any

import numpy as np

from idejax.faces.landmarks import POLYLINES

# (from landmark, to landmark, colour, 1 for a dot): first every line, then a dot on every landmark.
_LINES = [(a, b, colour, 0) for run, colour in POLYLINES for a, b in zip(run, run[1:])]
_DOTS = sorted({(i, i, colour, 1) for run, colour in POLYLINES for i in run})
STROKES = (*_LINES, *_DOTS)


def width(xp, marks) -> Any:
  """The width of lines in pixels, [..., 72, 2] -> [...]: the face's width / 128, at least 2. Also a dot's radius."""
  across = marks[..., 0].max(-1) - marks[..., 0].min(-1)
  return xp.maximum(xp.round(across / 128), 2.0)


def stroke(xp, x, y, a, b, radius) -> Any:
  """The share, 0 to 1, of a pixel at (x, y) that a line from a to b with round ends covers; all arguments broadcast.

  a, b: [..., 2]; x, y, radius: [...].
  """
  ax, ay = a[..., 0], a[..., 1]
  dx, dy = b[..., 0] - ax, b[..., 1] - ay
  t = ((x - ax) * dx + (y - ay) * dy) / xp.maximum(dx * dx + dy * dy, 1e-12)
  t = xp.clip(t, 0.0, 1.0)
  far = xp.sqrt((x - ax - t * dx) ** 2 + (y - ay - t * dy) ** 2)
  return xp.clip(radius + 0.5 - far, 0.0, 1.0)


def raster(marks: np.ndarray | None, height: int, wide: int) -> np.ndarray:
  """Landmarks [72, 2] in pixels of the picture -> float32 [height, width, 3] in [0, 1]; None: all black.

  Lines outside the picture are cut off.
  """
  out = np.zeros((height, wide, 3), np.float32)
  if marks is None:
    return out
  marks = np.asarray(marks, np.float32)
  if marks.shape != (72, 2) or not np.isfinite(marks).all():
    raise ValueError(f"expected 72 finite landmarks, got {marks.shape}")
  thick = width(np, marks)
  for i, j, colour, dot in STROKES:
    a, b, radius = marks[i], marks[j], thick / (1 if dot else 2)
    low = np.clip(np.floor(np.minimum(a, b) - radius - 1), 0, (wide, height)).astype(int)
    high = np.clip(np.ceil(np.maximum(a, b) + radius + 2), 0, (wide, height)).astype(int)
    if (low >= high).any():
      continue
    y, x = np.mgrid[low[1] : high[1], low[0] : high[0]].astype(np.float32)
    cover = stroke(np, x, y, a[None, None], b[None, None], radius)[..., None]
    part = out[low[1] : high[1], low[0] : high[0]]
    part += cover * (np.array(colour, np.float32) / 255 - part)
  return out


def place(marks: np.ndarray, photo: tuple[int, int], height: int, wide: int) -> np.ndarray:
  """Landmarks of a photo [H, W] after the whole photo is fitted into height x width and centred."""
  scale = min(height / photo[0], wide / photo[1])
  # Pixel centres are whole numbers: a picture's middle is (W - 1) / 2.
  middle = np.array([photo[1] - 1, photo[0] - 1]) / 2
  return ((marks - middle) * scale + np.array([wide - 1, height - 1]) / 2).astype(np.float32)
