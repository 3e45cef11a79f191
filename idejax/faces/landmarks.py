"""FaceSnap's 72 landmarks from insightface's 106.

FaceSnap's are iBUG's 68 with eight points to an eye instead of six: contour down one side to the
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
