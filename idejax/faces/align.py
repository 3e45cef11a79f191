"""Alignment: similarities that map a face's five points to a template's, and the crops they give.

Points are eye, eye, nose tip, mouth corners, first those on the image's left; pixel (0, 0) has its
centre at (0, 0), as in cv2 and insightface.
"""

import cv2
import numpy as np

# ArcFace's template in its 112 x 112 crop, and where FFHQ's alignment puts the same points at 512.
ARCFACE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
FFHQ = np.array(
  [
    [192.98138, 239.94708],
    [318.90277, 240.19360],
    [256.63416, 314.01935],
    [201.26117, 371.41043],
    [313.08905, 371.15118],
  ]
)
CROP, PORTRAIT = 112, 512
# Celeb Basis' released warp of a 512 px FFHQ crop, in coordinates from -1 to 1: out -> in.
RELEASED = np.array([[1.07695457, -0.03625215, -1.56352194 / 512], [0.03625215, 1.07695457, -5.32134629 / 512]])


def similarity(src: np.ndarray, dst: np.ndarray) -> np.ndarray:
  """Umeyama's least-squares rotation, scale and shift, float64 [2, 3], that takes points `src` [N, 2]
  to `dst`, without reflection. ValueError if all points of `src` coincide.

  float32 is computed in float32, so that crops equal insightface's to the last pixel: 3e-5 px more
  precision would round one in ten thousand of them otherwise, and move embeddings by 3e-5.
  """
  src, dst = np.asarray(src), np.asarray(dst)
  a, b = src - src.mean(0), dst - dst.mean(0)
  power = a.var(0).sum()
  if not np.isfinite(power) or power <= 1e-12 * (1 + np.abs(src).max()) ** 2:
    raise ValueError("the points coincide")
  u, stretch, v = np.linalg.svd(b.T @ a / len(a))
  sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(v))])
  rotation = u.astype(np.float64) @ np.diag(sign) @ v
  scale = (1 / power) * (stretch @ sign)
  shift = dst.mean(0) - scale * (rotation @ src.mean(0))
  return np.concatenate([scale * rotation, shift[:, None]], 1)


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
  """Points [N, 2] through an affine [2, 3]."""
  return np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]


def invert(matrix: np.ndarray) -> np.ndarray:
  """The affine [2, 3] that undoes another."""
  back = np.linalg.inv(matrix[:, :2])
  return np.concatenate([back, -(back @ matrix[:, 2:])], 1)


def template(size: int) -> np.ndarray:
  """ArcFace's five points in a crop of `size`, a multiple of 112 or, with a margin, of 128."""
  if size % 112 == 0:
    return ARCFACE * (size / 112)
  if size % 128 == 0:
    return (ARCFACE + [8, 0]) * (size / 128)
  raise ValueError(f"crops have a multiple of 112 or 128 pixels, not {size}")


def crop(pixels: np.ndarray, points: np.ndarray, size: int = CROP) -> np.ndarray:
  """The aligned face as recognisers want it, uint8 [size, size, 3], black outside the photo."""
  matrix = similarity(np.asarray(points, np.float32), template(size).astype(np.float32))
  return cv2.warpAffine(pixels, matrix, (size, size), borderValue=0)


def portrait_matrix(points: np.ndarray) -> np.ndarray:
  """[2, 3] from the photo to its 512 px FFHQ-style crop: head and hair, upright."""
  return similarity(points, FFHQ)


def portrait(pixels: np.ndarray, points: np.ndarray, size: int = PORTRAIT, mirror: bool = True) -> np.ndarray:
  """FFHQ-style crop, uint8 [size, size] or [size, size, 3]; beyond its edges the photo is mirrored, or black."""
  scale = size / PORTRAIT
  matrix = scale * portrait_matrix(points)
  matrix[:, 2] += (scale - 1) / 2  # pixel centres: 0 lies half a pixel inside
  return _warp(pixels, matrix, size, cv2.BORDER_REFLECT_101 if mirror else cv2.BORDER_CONSTANT)


def enlargement(points: np.ndarray, size: int) -> float:
  """How many pixels of such a crop a pixel of the photo becomes, along a side."""
  return size / PORTRAIT * float(np.sqrt(np.linalg.det(portrait_matrix(points)[:, :2])))


def released_matrix() -> np.ndarray:
  """[2, 3] from a 512 px portrait to Celeb Basis' 112 px crop, whose faces are 28 % smaller than ArcFace's.
  Corners map to corners, as in its grid sampling."""
  back = invert(RELEASED)
  to, fro = 2 / (PORTRAIT - 1), (CROP - 1) / 2
  inside = back[:, :2] * (to * fro)
  return np.concatenate([inside, (back[:, 2:] - back[:, :2].sum(1, keepdims=True) + 1) * fro], 1)


def released(image: np.ndarray) -> np.ndarray:
  """Celeb Basis' crop of a portrait: uint8 [512, 512, 3] -> [112, 112, 3], black outside."""
  return _warp(image, released_matrix(), CROP, cv2.BORDER_CONSTANT)


def _warp(pixels: np.ndarray, matrix: np.ndarray, size: int, border: int) -> np.ndarray:
  """Bilinear warp; the image is shrunk first where bilinear sampling alone would skip pixels."""
  shrink = int(1 / np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
  if shrink > 1:
    h, w = (max(1, n // shrink) for n in pixels.shape[:2])
    scale = np.array([pixels.shape[1] / w, pixels.shape[0] / h])
    pixels = cv2.resize(pixels, (w, h), interpolation=cv2.INTER_AREA)
    shift = matrix[:, :2] @ (scale - 1)[:, None] / 2 + matrix[:, 2:]
    matrix = np.concatenate([matrix[:, :2] * scale, shift], 1)
  return cv2.warpAffine(pixels, matrix, (size, size), borderMode=border)


def yaw(points: np.ndarray) -> float:
  """An estimate of how far the head is turned, in degrees, positive towards the image's right.

  It compares the nose tip's distance from the line between the eyes' and the mouth's middle with the
  distance of the eyes; a nose stands out by about 0.6 of the latter.
  """
  p = np.asarray(points, np.float64) @ [1, 1j]
  eyes, mouth, across = (p[0] + p[1]) / 2, (p[3] + p[4]) / 2, p[1] - p[0]
  down = mouth - eyes
  if abs(across) < 1e-6 or abs(down) < 1e-6:
    return 0.0
  right = -((p[2] - eyes) * np.conj(down / abs(down))).imag
  return float(np.degrees(np.arctan2(right, 0.6 * abs(across))))
