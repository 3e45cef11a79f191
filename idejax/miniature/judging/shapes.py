"""What a drawn photo tells of a face's measures, mood and pose, and where its landmarks then lie.

The drawn world is its own morphable model: shape = a person's measures, expression = the mood, pose = yaw and a
similarity of the plane. They are read by ridge regression on fixed features of the aligned face (responses to
random patches, rectified and pooled: Coates and Ng, 2011); the world's geometry turns a source's measures
and a driver's mood and pose into 72 landmarks.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from idejax.errors import UserError
from idejax.faces import npz
from idejax.faces.predictor import Prediction
from idejax.faces.record import FaceRecord
from idejax.miniature.judging.crops import Cut, crop, similarity
from idejax.miniature.world import head, landmarks, people, poses, scene
from idejax.miniature.world.people import Person
from idejax.miniature.world.scene import Scene

FILE = Path(__file__).parents[1] / "weights" / "shapes.npz"
CUT = Cut(64, 0.72)  # the whole face, with brow, chin and ears
MEASURES = tuple(n for n in people.CONTINUOUS if n not in ("skin", "undertone", "hair_volume"))
PLACE = ("yaw", "turn", "growth", "right", "down")  # of the head; all but yaw as in the crop, see `place_of`
OUTPUTS = (*MEASURES, "woman", *scene.EXPRESSIONS, *PLACE)
_SIDE = 64  # of a virtual picture in which scenes have their scale and shift; any will do
_GRID = 6  # of the pooled maps
_STRIDE = 2


class Reading(NamedTuple):
  person: Person  # scalar fields; what has no effect on landmarks is 0
  scene: Scene


class Regressor(NamedTuple):
  filters: np.ndarray  # float32 [K, 5, 5, 3]
  mean: np.ndarray  # float32 [F], of the features
  scale: np.ndarray  # float32 [F]
  kernel: np.ndarray  # float32 [F, outputs]
  bias: np.ndarray  # float32 [outputs]


@functools.cache
def load(path: Path = FILE) -> Regressor:
  """UserError if the file is missing or not ours."""
  try:
    arrays = npz.read(path)
    return Regressor(*(arrays[n].astype(np.float32) for n in Regressor._fields))
  except (OSError, ValueError, KeyError) as e:
    raise UserError(f"{path} cannot be read: idejax train-miniature --stage shapes makes it ({e})") from e


class Drawn:
  """A `faces.posing.Poser` of drawn people."""

  def __init__(self, regressor: Regressor | None = None):
    self.regressor = regressor or load()

  def read(self, face: FaceRecord | Reading) -> Reading:
    return face if isinstance(face, Reading) else read(self.regressor, face.photo, face.points)

  def keep(self, record: FaceRecord) -> dict[str, np.ndarray]:
    return {"measures": np.array([np.float32(x) for x in self.read(record).person], np.float32)}

  def kept(self, arrays: Mapping[str, np.ndarray]) -> Reading:
    if "measures" not in arrays:
      raise UserError("nothing is kept of this face's measures: it was read by another pack than miniature")
    values = dict(zip(Person._fields, np.asarray(arrays["measures"], np.float32)))
    whole = {n: np.int32(values[n]) for n in people.DISCRETE}
    return Reading(Person(**(values | whole)), scene.scene())

  def own(self, record: FaceRecord) -> np.ndarray | None:
    return marks(self.read(record))

  def driven(self, source: FaceRecord | Reading, driver: FaceRecord) -> Prediction:
    return Prediction(marks(self.read(source)._replace(scene=self.read(driver).scene)), {})

  def by_name(self, source: FaceRecord | Reading, pose: str, height: int, width: int) -> np.ndarray:
    if pose not in poses.POSES:
      raise UserError(f"no pose {pose!r}; there are {', '.join(poses.POSES)}")
    result = marks(self.read(source)._replace(scene=scene.scene(**poses.POSES[pose])))
    side = min(height, width)
    middle = np.array([width - 1, height - 1]) / 2
    return ((result + 0.5) * (side / _SIDE) - side / 2 + middle).astype(np.float32)


COEFFICIENTS = {"shape": len(MEASURES) + 1, "expression": len(scene.EXPRESSIONS), "pose": 6}


def coefficients(reading: Reading) -> dict[str, np.ndarray]:
  """A reading as numbers: shape (MEASURES, 1 for a woman), expression (1 for the mood), pose (turn about x, y and z in
  radians, pixels of the head's unit, where its pivot lies). Float32, by field of COEFFICIENTS."""
  who, where = reading
  a = head.ZOOM * float(where.scale) * _SIDE / 2
  half, middle = _SIDE / 2, (_SIDE - 1) / 2
  x = float(where.shift_x) * half + middle
  y = (float(where.shift_y) + head.CENTRE) * half + middle + head.PIVOT * a
  mood = np.eye(len(scene.EXPRESSIONS), dtype=np.float32)[int(where.expression)]
  return {
    "shape": np.array([*(getattr(who, n) for n in MEASURES), who.gender], np.float32),
    "expression": mood,
    "pose": np.array([0, where.yaw, where.tilt, a, x, y], np.float32),
  }


def of_coefficients(shape: np.ndarray, expression: np.ndarray, pose: np.ndarray) -> Reading:
  """The reading whose `coefficients` these are; of a record's, in that record's pixels."""
  fixed = dict.fromkeys(people.CONTINUOUS, np.float32(0)) | dict.fromkeys(people.DISCRETE, np.int32(0))
  size = dict(zip(MEASURES, np.asarray(shape, np.float32)))
  person = Person(**(fixed | size | {"gender": np.int32(shape[-1] > 0.5)}))
  return Reading(person, _placed(pose[2], pose[1], pose[3], pose[4], pose[5], int(np.argmax(expression))))


def marks(reading: Reading) -> np.ndarray:
  """float32 [72, 2] in the pixels of the photo that the scene was read from."""
  return np.asarray(landmarks.geometry(np, *reading, _SIDE).landmarks, np.float32)


def read(r: Regressor, photo: np.ndarray, points: np.ndarray) -> Reading:
  """Measures, mood and pose of the face at five points [5, 2] of a photo uint8 [H, W, 3]."""
  matrix = similarity(np.asarray(points, np.float64), CUT.template())
  x = (features(r.filters, crop(photo, matrix, CUT.side)[None])[0] - r.mean) / r.scale
  out = dict(zip(OUTPUTS, x @ r.kernel + r.bias))
  mood = int(np.argmax([out[n] for n in scene.EXPRESSIONS]))
  size = {n: np.float32(np.clip(out[n], -1, 1)) for n in MEASURES}
  fixed = dict.fromkeys(people.CONTINUOUS, np.float32(0)) | dict.fromkeys(people.DISCRETE, np.int32(0))
  person = Person(**(fixed | size | {"gender": np.int32(out["woman"] > 0.5)}))
  return Reading(person, _scene(out, mood, matrix))


def _scene(out: dict[str, float], mood: int, matrix: np.ndarray) -> Scene:
  """The scene in the photo of a head placed in the crop, to which `matrix` takes the photo."""
  turn = matrix[0, 0] + 1j * matrix[1, 0]
  a = CUT.side * np.exp(out["growth"] + 1j * out["turn"]) / turn
  b = (CUT.side * (out["right"] + 1j * out["down"]) - (matrix[0, 2] + 1j * matrix[1, 2])) / turn
  return _placed(np.angle(a), np.clip(out["yaw"], -0.45, 0.45), abs(a), b.real, b.imag, mood)


def _placed(tilt: float, yaw: float, unit: float, x: float, y: float, mood: int) -> Scene:
  """The scene of a head whose unit has so many pixels and whose pivot lies at (x, y)."""
  scale, half, middle = unit / (head.ZOOM * _SIDE / 2), _SIDE / 2, (_SIDE - 1) / 2
  return scene.scene(
    tilt=float(tilt),
    scale=scale,
    yaw=float(yaw),
    shift_x=(x - middle) / half,
    shift_y=(y - middle) / half - head.CENTRE - head.PIVOT * head.ZOOM * scale,
    expression=scene.EXPRESSIONS[mood],
  )


def place_of(one: Scene, size: int, matrix: np.ndarray) -> list[float]:
  """PLACE of a scene in a picture of `size`, whose face `matrix` takes to the crop: the truth to learn.

  A head's point q lies at a (q - pivot) + b in the picture, complex numbers; in the crop at another a and b, of which
  log |a|, the angle of a and b are regressed, in sides of the crop.
  """
  zoom, half, middle = head.ZOOM * float(one.scale), size / 2, (size - 1) / 2
  a = zoom * half * np.exp(1j * float(one.tilt))
  x = float(one.shift_x) * half + middle
  y = (head.PIVOT * zoom + float(one.shift_y) + head.CENTRE) * half + middle
  turn, shift = matrix[0, 0] + 1j * matrix[1, 0], matrix[0, 2] + 1j * matrix[1, 2]
  a, b = turn * a / CUT.side, (turn * (x + 1j * y) + shift) / CUT.side
  return [float(one.yaw), float(np.angle(a)), float(np.log(abs(a))), b.real, b.imag]


def features(filters: np.ndarray, crops: np.ndarray) -> np.ndarray:
  """Crops uint8 [N, 64, 64, 3] -> float32 [N, F]: each patch normalised, its products with `filters` [K, 5, 5, 3]
  rectified both ways, averaged over a grid."""
  count, size = filters.shape[:2]
  weights = filters.reshape(count, -1)
  out = []
  for image in crops:
    small = cv2.GaussianBlur(image, (0, 0), 0.6).astype(np.float32) / 255
    patches = np.lib.stride_tricks.sliding_window_view(small, (size, size), (0, 1))[::_STRIDE, ::_STRIDE]
    rows = patches.transpose(0, 1, 3, 4, 2).reshape(-1, weights.shape[1])
    rows = rows - rows.mean(1, keepdims=True)
    rows /= np.sqrt(np.square(rows).mean(1, keepdims=True) + 1e-3)
    y = rows @ weights.T
    maps = np.concatenate([np.maximum(y, 0), np.maximum(-y, 0)], 1).reshape(*patches.shape[:2], -1)
    side = maps.shape[0] // _GRID * _GRID
    pooled = maps[:side, :side].reshape(_GRID, side // _GRID, _GRID, side // _GRID, -1).mean((1, 3))
    colour = cv2.resize(image, (8, 8), interpolation=cv2.INTER_AREA).astype(np.float32).reshape(-1) / 255
    out.append(np.concatenate([pooled.reshape(-1), colour]))
  return np.stack(out)
