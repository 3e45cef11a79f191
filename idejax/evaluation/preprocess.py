"""Pictures as the judges' networks want them, to the bit where a published number depends on it.

uint8 RGB [H, W, 3] in, float32 [side, side, 3] out.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image

from idejax.errors import UserError

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def clip(image: np.ndarray, side: int, mean=CLIP_MEAN, std=CLIP_STD) -> np.ndarray:
  """transformers' CLIPImageProcessor: the shorter side to `side` by Pillow's bicubic, centre crop,
  then (x / 255 - mean) / std."""
  h, w = image.shape[:2]
  short, long = min(h, w), max(h, w)
  if short != side:
    size = (side, int(side * long / short)) if w <= h else (int(side * long / short), side)
    image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
  h, w = image.shape[:2]
  top, left = (h - side) // 2, (w - side) // 2
  return _by(image[top : top + side, left : left + side], mean, std)


def normalise(image: np.ndarray) -> np.ndarray:
  """(x / 255 - mean) / std with CLIP's constants at the picture's own size, for CLIP-IQA."""
  return _by(image, CLIP_MEAN, CLIP_STD)


def _by(image: np.ndarray, mean, std) -> np.ndarray:
  x = image.astype(np.float32) * np.float32(1 / 255)
  return (x - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)


# How FID's libraries resize pictures to 299 pixels. Each way gives another FID.


def tensorflow(image: np.ndarray, side: int) -> np.ndarray:
  """torch-fidelity's: bilinear without smoothing, corners not aligned, as TensorFlow 1 had it."""
  x = image.astype(np.float32)

  def places(count: int):
    at = np.arange(side, dtype=np.float32) * np.float32(count / side)
    low = at.astype(np.int64)
    return low, np.minimum(low + 1, count - 1), (at - low.astype(np.float32))[:, None, None]

  top, bottom, down = places(x.shape[0])
  left, right, across = places(x.shape[1])
  x = x.swapaxes(0, 1)
  x = (x[left] + (x[right] - x[left]) * across).swapaxes(0, 1)
  return x[top] + (x[bottom] - x[top]) * down


def clean(image: np.ndarray, side: int) -> np.ndarray:
  """clean-fid's: Pillow's bicubic, which smooths, channel by channel in floats."""
  one = lambda c: np.asarray(Image.fromarray(c.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC))
  return np.stack([one(image[..., i]).clip(0, 255) for i in range(3)], -1)


RESIZES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {"tensorflow": tensorflow, "clean": clean}


def inception(image: np.ndarray, resize: str = "tensorflow", side: int = 299) -> np.ndarray:
  """(x - 128) / 128 of the resized picture. UserError for an unknown way to resize."""
  if resize not in RESIZES:
    raise UserError(f"resize is {resize!r}; it must be {' or '.join(RESIZES)}")
  return (RESIZES[resize](image, side) - 128) / 128


def face(crop: np.ndarray, mean: float, scale: float, bgr: bool) -> np.ndarray:
  """(x - mean) / scale of an aligned crop, its channels turned round for networks that learned BGR."""
  x = (crop.astype(np.float32) - np.float32(mean)) / np.float32(scale)
  return np.ascontiguousarray(x[..., ::-1]) if bgr else x
