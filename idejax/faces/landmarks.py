"""72 landmarks in FaceSnap's order: how to get them from insightface's 106 or iBUG's 68, and how to draw them.

FaceSnap's landmarks are iBUG's 68 with eight points per eye instead of six: contour down one side to the
chin (8), the other side from its top down, brows, nose, eyes from the outer (left) or inner (right)
corner over the upper lid, mouth. Left is the image's left.
"""

import numpy as np

# insightface's 2d106 numbers along each part, from the image's left to its right.
_CONTOUR = (1, 10, 12, 14, 16, 3, 5, 7, 0, 23, 21, 19, 32, 30, 28, 26, 17)  # every second of its 33
_LEFT_BROW, _RIGHT_BROW = (43, 48, 49, 51, 50), (102, 103, 104, 105, 101)
_BRIDGE, _BASE = (72, 73, 74, 86), (78, 79, 80, 85, 84)
_LEFT_EYE = (35, 41, 40, 42, 39, 37, 33, 36)
_RIGHT_EYE = (89, 95, 94, 96, 93, 91, 87, 90)
_OUTER_UPPER, _OUTER_LOWER = (52, 64, 63, 71, 67, 68, 61), (58, 59, 53, 56, 55)  # lower: right to left
_INNER_UPPER, _INNER_LOWER = (65, 66, 62, 70, 69), (57, 60, 54)

# Where FaceSnap has the points of the mouth, in the order of the four curves above.
_MOUTH = (52, 54, 53, 62, 58, 59, 57, 65, 66, 71, 69, 68, 55, 56, 63, 61, 60, 64, 70, 67)


def _map() -> np.ndarray:
  out = np.zeros(72, np.int64)
  out[:52] = (*_CONTOUR[:9], *_CONTOUR[:8:-1], *_LEFT_BROW, *_RIGHT_BROW, *_BRIDGE, *_BASE, *_LEFT_EYE, *_RIGHT_EYE)
  out[list(_MOUTH)] = (*_OUTER_UPPER, *_OUTER_LOWER, *_INNER_UPPER, *_INNER_LOWER)
  return out


FROM_106 = _map()  # int64 [72]: landmark i is insightface's FROM_106[i]


def from_106(marks: np.ndarray | None) -> np.ndarray | None:
  """float32 [106, 2] -> [72, 2]; None stays None. ValueError for another shape."""
  if marks is None:
    return None
  if marks.shape != (106, 2):
    raise ValueError(f"expected 106 landmarks, got {marks.shape}")
  return np.asarray(marks, np.float32)[FROM_106]


# The lines of a control image, each as its landmarks and its colour (RGB): contour, brows, nose, eyes, outer and
# inner lips. A closed line repeats its first landmark.
_GREY, _RED, _GREEN, _PURPLE = (125, 125, 125), (255, 0, 0), (0, 255, 0), (255, 0, 255)
_BLUE, _CYAN, _YELLOW = (0, 0, 255), (0, 255, 255), (255, 255, 0)
POLYLINES: tuple[tuple[tuple[int, ...], tuple[int, int, int]], ...] = (
  ((*range(9), *range(16, 8, -1)), _GREY),
  ((17, 18, 19, 20, 21), _RED),
  ((26, 25, 24, 23, 22), _GREEN),
  ((27, 28, 29, 30, 33), _PURPLE),
  ((31, 32, 33), _PURPLE),
  ((35, 34, 33), _PURPLE),
  ((*range(36, 44), 36), _BLUE),
  ((48, 47, 46, 45, 44, 51, 50, 49, 48), _CYAN),
  ((52, 54, 53, 62, 58, 59, 57, 65, 66, 71, 69, 68, 52), _YELLOW),
  ((55, 56, 63, 61, 60, 64, 70, 67, 55), _YELLOW),
)


def _lid() -> np.ndarray:
  """[3, 4]: a cubic through a lid's four points of iBUG, at a quarter, a half and three quarters of it."""
  powers = lambda t: np.stack([np.ones_like(t), t, t**2, t**3], -1)
  return powers(np.array([0.25, 0.5, 0.75])) @ np.linalg.inv(powers(np.arange(4) / 3))


def _map_68() -> np.ndarray:
  out = np.zeros((72, 68))
  same = {**{i: i for i in (*range(9), *range(17, 36))}, **{i: 25 - i for i in range(9, 17)}}
  same |= {36: 36, 40: 39, 44: 42, 48: 45}  # corners of the eyes
  same |= dict(zip((52, 54, 53, 62, 58, 59, 57, 65, 66, 71, 69, 68), range(48, 60)))
  same |= dict(zip((55, 56, 63, 61, 60, 64, 70, 67), range(60, 68)))
  for ours, theirs in same.items():
    out[ours, theirs] = 1
  for ours, theirs in [
    ((37, 38, 39), (36, 37, 38, 39)),
    ((41, 42, 43), (39, 40, 41, 36)),
    ((45, 46, 47), (42, 43, 44, 45)),
    ((49, 50, 51), (45, 46, 47, 42)),
  ]:
    out[np.ix_(ours, theirs)] = _lid()
  return out


FROM_68 = _map_68()  # float64 [72, 68], rows sum to 1: landmarks = FROM_68 @ iBUG's


def from_68(marks: np.ndarray) -> np.ndarray:
  """iBUG's landmarks [68, 2 or 3] -> [72, 2 or 3] float32; lids, of which iBUG has fewer points, along a cubic."""
  if marks.ndim != 2 or len(marks) != 68:
    raise ValueError(f"expected 68 landmarks, got {marks.shape}")
  return (FROM_68 @ np.asarray(marks, np.float64)).astype(np.float32)


def five(marks):
  """[..., 72, 2] -> eyes, nose tip and mouth corners [..., 5, 2], as `align` wants them; numpy or jax.

  It is a matrix product, so that a gradient can pass.
  """
  return FIVE.astype(marks.dtype) @ marks


def _five() -> np.ndarray:
  out = np.zeros((5, 72), np.float32)
  out[0, 36:44] = out[1, 44:52] = 1 / 8
  out[[2, 3, 4], [30, 52, 57]] = 1
  return out


FIVE = _five()
