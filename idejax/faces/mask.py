"""Where face and hair are: by a face-parsing network if the user has one, else by shape."""

import functools
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from idejax.errors import UserError, one_line
from idejax.faces import align, onnx_files

CLASSES = 19  # BiSeNet's, in CelebAMask-HQ's order
# Skin, brows, eyes, glasses, ears, nose, mouth, lips; not neck, jewels, cloth, hat.
_FACE = (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13)
_HAIR = (17,)
_MEAN, _STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
# An ellipse over a face in the 512 px portrait: centre x, y and half axes. Eyes 63 mm apart are 126
# px there; a face is then 270 px wide, its chin 225 below the eyes, its hairline 140 above.
_ELLIPSE = (256.0, 284.0, 138.0, 172.0)


class Truth(NamedTuple):
  """What a drawn world knows about its picture: masks bool [H, W], landmarks float32 [72, 2]."""

  face: np.ndarray | None = None
  hair: np.ndarray | None = None
  landmarks: np.ndarray | None = None


class Masks(NamedTuple):
  """bool [H, W] each, and where each is from: parsing, landmarks, points, world or none."""

  face: np.ndarray
  hair: np.ndarray
  face_source: str
  hair_source: str


class Parser:
  """A face-parsing ONNX: RGB in ImageNet's normalisation [1, 3, S, S] -> scores [1, 19, S, S]."""

  def __init__(self, path: Path, threads: int = 0):
    self.path, self.threads = Path(path), threads
    if not self.path.is_file():
      why = "is a folder" if self.path.is_dir() else "does not exist"
      raise UserError(f"--parsing {path} {why}; give the ONNX file of a face-parsing network")

  @functools.cached_property
  def digest(self) -> str:
    with open(self.path, "rb") as file:
      return hashlib.file_digest(file, "sha256").hexdigest()

  @functools.cached_property
  def session(self) -> tuple[Any, int]:
    """(session, side of its input). UserError if its shapes are not a face-parsing network's."""
    net = onnx_files.header(self.path)
    image, scores = net.inputs[0], net.outputs[0]
    reads = len(net.inputs) == 1 and len(image) == 4 and image[1] in (3, None) and image[2] == image[3]
    if not reads or len(scores) != 4 or scores[1] not in (CLASSES, None):
      raise UserError(
        f"--parsing {self.path}: a face-parsing network reads [1, 3, 512, 512] and gives "
        f"[1, {CLASSES}, 512, 512], this reads {onnx_files.show(image)} and gives "
        f"{onnx_files.show(scores)}"
      )
    return onnx_files.session(self.path, self.threads, "--parsing"), image[2] or align.PORTRAIT

  def labels(self, portrait: np.ndarray) -> np.ndarray:
    """Class of each pixel of a portrait: uint8 [512, 512]."""
    session, side = self.session
    shrink = cv2.INTER_AREA if side < align.PORTRAIT else cv2.INTER_LINEAR
    image = cv2.resize(portrait, (side, side), interpolation=shrink)
    x = ((image / 255 - _MEAN) / _STD).astype(np.float32).transpose(2, 0, 1)[None]
    try:
      scores = session.run([session.get_outputs()[0].name], {session.get_inputs()[0].name: x})[0]
    except Exception as e:
      raise UserError(f"--parsing {self.path} fails: {one_line(str(e))[:300]}") from e
    if scores.ndim != 4 or scores.shape[1] != CLASSES:
      raise UserError(f"--parsing {self.path} gives {list(scores.shape)}, not [1, {CLASSES}, ...]")
    labels = scores[0].argmax(0).astype(np.uint8)
    return cv2.resize(labels, (align.PORTRAIT, align.PORTRAIT), interpolation=cv2.INTER_NEAREST)


def masks(
  shape: tuple[int, int],
  points: np.ndarray,
  landmarks: np.ndarray | None = None,
  labels: np.ndarray | None = None,
  truth: Truth | None = None,
) -> Masks:
  """Masks of a photo [H, W] from the best source: the drawn world, a parser's `labels` of the portrait,
  the hull of the landmarks, or an ellipse about the five points. Hair comes from the first two only.
  """
  truth = truth or Truth()
  face, hair = truth.face, truth.hair
  for known_mask in (face, hair):
    if known_mask is not None and known_mask.shape != shape:
      raise ValueError(f"a known mask is {known_mask.shape}, the photo {shape}")
  from_face = from_hair = "world"
  if labels is not None:
    if face is None:
      face, from_face = _unwarp(np.isin(labels, _FACE), points, shape), "parsing"
    if hair is None:
      hair, from_hair = _unwarp(np.isin(labels, _HAIR), points, shape), "parsing"
  if face is None and landmarks is not None:
    face, from_face = _hull(landmarks, shape), "landmarks"
  if face is None:
    face, from_face = _ellipse(points, shape), "points"
  if hair is None:
    hair, from_hair = np.zeros(shape, bool), "none"
  return Masks(face.astype(bool), hair.astype(bool), from_face, from_hair)


def _unwarp(mask: np.ndarray, points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
  """A mask of the portrait -> a mask of the photo that the portrait was cut from."""
  back = align.invert(align.portrait_matrix(points))
  return cv2.warpAffine(mask.astype(np.float32), back, shape[::-1], borderValue=0) > 0.5


def _hull(landmarks: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
  far = 4 * max(shape)
  corners = cv2.convexHull(np.clip(landmarks, -far, far).astype(np.float32))
  canvas = np.zeros(shape, np.uint8)
  cv2.fillConvexPoly(canvas, np.round(corners * 16).astype(np.int32), 1, shift=4)
  return canvas > 0


def _ellipse(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
  x, y, half_width, half_height = _ELLIPSE
  angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
  rim = np.stack([x + half_width * np.cos(angle), y + half_height * np.sin(angle)], -1)
  return _hull(align.apply(align.invert(align.portrait_matrix(points)), rim), shape)


def at_latent_size(mask: np.ndarray, sides: tuple[int, int], grow: int = 8) -> np.ndarray:
  """A face's region for a masked loss: bool [H, W], grown by a disc of `grow` pixels, averaged over each latent
  pixel: float32 [h, w] in [0, 1]. The mask's picture must be the one that the latents are of.
  """
  disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * grow + 1, 2 * grow + 1))
  return averaged(cv2.dilate(mask.astype(np.uint8), disc), sides)


def averaged(shares: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
  """Numbers of pixels [H, W], as float32, averaged over each latent pixel [h, w]."""
  return cv2.resize(shares.astype(np.float32), sides[::-1], interpolation=cv2.INTER_AREA)
