"""Training pictures of the detector: portraits of any size at any place in a square, or none at all."""

from typing import NamedTuple

import cv2
import numpy as np

from idejax.miniature.training.face_data import Faces

SIDE, MOST = 128, 3  # pixels; faces in a frame
NONE, FACE, IGNORE = 0, 1, 2


class Frames(NamedTuple):
  """images uint8 [B, S, S, 3]; boxes [B, MOST, 4], points [B, MOST, 5, 2] in pixels; kind [B, MOST]."""

  images: np.ndarray
  boxes: np.ndarray
  points: np.ndarray
  kind: np.ndarray


def frames(step: int, batch: int, faces: Faces, empties: np.ndarray, seed: int) -> Frames:
  """The frames of one step, a pure function of (seed, step)."""
  rng = np.random.Generator(np.random.Philox(key=[seed, step], counter=[0, 0, 0, 1]))
  out = Frames(
    np.zeros((batch, SIDE, SIDE, 3), np.uint8),
    np.zeros((batch, MOST, 4), np.float32),
    np.zeros((batch, MOST, 5, 2), np.float32),
    np.zeros((batch, MOST), np.int32),
  )
  for i in range(batch):
    canvas = _canvas(rng, empties)
    for n, to in enumerate(_places(rng)):
      row = int(rng.integers(len(faces.images)))
      matrix = _placement(to, faces.boxes[row], faces.images.shape[1])
      cv2.warpAffine(
        faces.images[row], matrix, (SIDE, SIDE), dst=canvas, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_TRANSPARENT
      )
      box, points = faces.boxes[row].reshape(2, 2), faces.points[row]
      corners = np.array([(x, y) for x in box[:, 0] for y in box[:, 1]])
      corners = corners @ matrix[:, :2].T + matrix[:, 2]
      out.boxes[i, n] = *corners.min(0), *corners.max(0)
      out.points[i, n] = points @ matrix[:, :2].T + matrix[:, 2]
      out.kind[i, n] = FACE if _visible_share(out.boxes[i, n]) > 0.7 else IGNORE
    out.images[i] = spoil(rng, canvas)
  return out


def _places(rng) -> list[tuple[float, float, float, float | None, float | None]]:
  """(scale, tilt, centre of the face or None for the whole picture) of each portrait."""
  what = rng.random()
  if what < 0.12:
    return []
  if what < 0.42:  # as a portrait comes in: fitted into the frame, at its upper left
    return [(SIDE / 64 * rng.choice([1.0, rng.uniform(0.5, 1.0)]), 0.0, 0.0, None, None)]
  tilt = lambda: float(rng.normal(0, 0.15))
  if what < 0.80:
    scale = float(np.exp(rng.uniform(np.log(0.4), np.log(4.2))))
    x, y = rng.uniform(0.12, 0.88, 2) * SIDE
    return [(scale, tilt(), 0.0, x, y)]
  count = int(rng.integers(2, MOST + 1))
  half = SIDE / count
  return [
    (rng.uniform(0.4, 1.0) * 2 * half / 64, tilt() / 2, 0.0, (k + 0.5) * half, rng.uniform(0.25, 0.75) * SIDE)
    for k in range(count)
  ]


def _placement(to, box, size) -> np.ndarray:
  """The affine matrix [2, 3] of one place: scale and tilt about the face's centre, then a shift."""
  scale, tilt, _, x, y = to
  if x is None:
    return np.array([[scale, 0, scale / 2 - 0.5], [0, scale, scale / 2 - 0.5]])
  c, s = scale * np.cos(tilt), scale * np.sin(tilt)
  turn = np.array([[c, -s], [s, c]])
  centre = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
  return np.concatenate([turn, (np.array([x, y]) - turn @ centre)[:, None]], 1)


def _visible_share(box) -> float:
  """Share of a box inside the frame."""
  x0, y0, x1, y1 = np.clip(box, 0, SIDE)
  return float((x1 - x0) * (y1 - y0) / max((box[2] - box[0]) * (box[3] - box[1]), 1e-6))


def _canvas(rng, empties) -> np.ndarray:
  """A background: an empty scene, a plain or graded colour, coarse noise, or black."""
  what = rng.random()
  if what < 0.5:
    image = empties[int(rng.integers(len(empties)))]
    side = int(rng.integers(24, image.shape[0] + 1))
    x, y = rng.integers(0, image.shape[0] - side + 1, 2)
    return cv2.resize(image[y : y + side, x : x + side], (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
  if what < 0.65:
    return np.zeros((SIDE, SIDE, 3), np.uint8)
  cells = (1, 2, 4, 9, 20)[int(rng.integers(5))]
  noise = rng.integers(0, 256, (cells, cells, 3), np.uint8)
  return cv2.resize(noise, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)


def spoil(rng, image: np.ndarray) -> np.ndarray:
  """Changes by cameras and codecs: light, contrast, colour, blur, noise, JPEG; in six of ten pictures."""
  if rng.random() < 0.4:
    return image
  x = image.astype(np.float32)
  gain, shift = rng.uniform(0.7, 1.3), rng.uniform(-25, 25)
  x = (x - 128) * gain + 128 + shift
  if rng.random() < 0.3:
    x *= rng.uniform(0.85, 1.15, 3).astype(np.float32)
  if rng.random() < 0.1:
    x = x.mean(-1, keepdims=True).repeat(3, -1)
  if rng.random() < 0.3:
    x = cv2.GaussianBlur(x, (0, 0), float(rng.uniform(0.4, 1.6)))
  if rng.random() < 0.3:
    x = x + rng.normal(0, rng.uniform(2, 10), x.shape).astype(np.float32)
  out = np.clip(x, 0, 255).astype(np.uint8)
  if rng.random() < 0.25:
    _, code = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 90))])
    out = cv2.imdecode(code, cv2.IMREAD_COLOR)
  return out
