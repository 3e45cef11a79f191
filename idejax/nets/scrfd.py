"""A small face detector with SCRFD's outputs: scores, boxes and five points at strides 8, 16, 32."""

import numpy as np

from idejax.nets import convnet

STRIDES, ANCHORS = (8, 16, 32), 2
WIDTHS = (12, 24, 32, 48, 64)  # at strides 2, 4, 8, 16, 32
NECK = 32


def body(f, x):
  """RGB (x - 127.5) / 128, sides multiples of 32 -> SCRFD's nine outputs in its order.

  Scores [B, H W 2, 1] after the sigmoid at each stride, then boxes [.., 4] (left, top, right, bottom
  from the cell's corner) and points [.., 10] (x, y), both in strides.
  """
  maps = _features(f, x)
  heads = [_head(f, h, f"stride{s}") for h, s in zip(maps, STRIDES)]
  return (*(f.sigmoid(h[0]) for h in heads), *(h[1] for h in heads), *(h[2] for h in heads))


def logits(f, x):
  """The outputs of `body` with scores before the sigmoid, for training."""
  heads = [_head(f, h, f"stride{s}") for h, s in zip(_features(f, x), STRIDES)]
  return tuple(h[i] for i in range(3) for h in heads)


def _features(f, x):
  """Three maps of NECK channels, fine to coarse; coarse maps are added to finer ones (a feature pyramid)."""
  h = f.conv("stem", x, WIDTHS[0], 3, 2)
  h = f.conv("down4", h, WIDTHS[1], 3, 2)
  maps = []
  for stride, width in zip(STRIDES, WIDTHS[2:]):
    h = f.conv(f"down{stride}", h, width, 3, 2)
    skip = h
    h = f.conv(f"block{stride}.0", h, width)
    h = f.add(skip, f.conv(f"block{stride}.1", h, width))
    maps.append(f.conv(f"lateral{stride}", h, NECK, 1))
  fine, middle, coarse = maps
  middle = f.conv("merge16", f.add(middle, f.grow(coarse)), NECK)
  fine = f.conv("merge8", f.add(fine, f.grow(middle)), NECK)
  return fine, middle, coarse


def _head(f, h, name):
  h = f.conv(f"{name}.0", h, NECK)
  h = f.conv(f"{name}.1", h, NECK)
  out = lambda what, width: f.anchors(f.conv(f"{name}.{what}", h, ANCHORS * width, 1, act=None, norm=False), width)
  return out("score", 1), out("box", 4), out("points", 10)


def centres(height: int, width: int) -> np.ndarray:
  """(x, y, stride) of every prediction, one stride after another: float32 [P, 3]."""
  parts = []
  for s in STRIDES:
    y, x = np.mgrid[: height // s, : width // s]
    grid = np.stack([x * s, y * s, np.full_like(x, s)], -1).reshape(-1, 3)
    parts.append(np.repeat(grid, ANCHORS, 0))
  return np.concatenate(parts).astype(np.float32)


def shapes(side: int = 128, folded: bool = False):
  """The parameters as float32 ShapeDtypeStructs; nothing is computed or allocated."""
  return convnet.shapes(body, side, folded)
