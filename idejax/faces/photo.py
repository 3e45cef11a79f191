"""Reads any picture file or array as upright RGB uint8; a UserError says in one sentence what is wrong with it."""

import hashlib
import io
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from idejax.errors import UserError, one_line

MOST_PIXELS = 100_000_000  # 300 MB as RGB
LONGEST = 30_000  # cv2 addresses pixels by 16-bit numbers
SHORTEST = 16
MOST_BYTES = 2**29
# Formats that only store pixels; Pillow's others run programs or are no pictures.
DRAWN_SIDE = 128  # pixels a side up to which a picture may be of the drawn world, whose own have 64
FORMATS = "PNG JPEG WEBP TIFF BMP DIB GIF JPEG2000 AVIF PPM TGA ICO PSD PCX QOI".split()
SUFFIXES = frozenset(
  ".png .jpg .jpeg .jpe .jfif .mpo .webp .tif .tiff .bmp .dib .gif .jp2 .j2k .avif .ppm .pgm .pbm .pnm"
  " .tga .ico .psd .pcx .qoi".split()
)


class Photo(NamedTuple):
  """Pixels uint8 [H, W, 3], RGB and upright; sha256 of the file, or of an array's shape and pixels."""

  pixels: np.ndarray
  digest: str
  name: str  # for messages


def read(source: Any) -> Photo:
  """The photo in a path, bytes, a PIL image or an array: uint8, uint16, bool, or floats in [0, 1], of
  shape [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] (RGBA, put on white). UserError names what is wrong.
  """
  if isinstance(source, Photo):
    return source
  if isinstance(source, str | os.PathLike):
    data = encoded(Path(source))
    return Photo(_decode(data, str(source)), hashlib.sha256(data).hexdigest(), str(source))
  if isinstance(source, bytes):
    return Photo(_decode(source, "the picture"), hashlib.sha256(source).hexdigest(), "the picture")
  name = "the picture"
  pixels = _rgb(source, name) if isinstance(source, Image.Image) else _array(np.asarray(source))
  return Photo(pixels, hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest(), name)


def digest(path: Path) -> str:
  """sha256 of the file, as in `Photo.digest`, without decoding it."""
  return hashlib.sha256(encoded(path)).hexdigest()


def header_size(path: Path) -> tuple[int, int]:
  """(width, height) from the header alone; (0, 0) if it cannot be read (`read` says why)."""
  if not path.is_file():
    return 0, 0
  try:
    with open(path, "rb") as file:
      return _open(file, str(path)).size
  except (OSError, UserError):
    return 0, 0


def encoded(path: Path) -> bytes:
  """The bytes of a picture file, not looked at. UserError if there are none, or more than a picture has."""
  if path.is_dir():
    raise UserError(f"{path} is a folder, not a picture")
  if not path.exists():
    raise UserError(f"{path} does not exist")
  if not path.is_file():
    raise UserError(f"{path} is no regular file")
  try:
    size = path.stat().st_size
    if size > MOST_BYTES:
      raise UserError(f"{path} has {size:,} bytes; a picture has at most {MOST_BYTES:,}")
    if not size:
      raise UserError(f"{path} is empty")
    return path.read_bytes()
  except OSError as e:
    raise UserError(f"{path} cannot be read: {e.strerror}") from e


def _decode(data: bytes, name: str) -> np.ndarray:
  return _rgb(_open(io.BytesIO(data), name), name)


def _open(file: Any, name: str) -> Image.Image:
  """The picture with its header read and no pixel decoded; the caller checks its size next.

  `Image.open` would check the size by a setting of the whole process, and warn or raise.
  """
  Image.init()
  prefix = file.read(16)
  for kind in FORMATS:
    factory, accept = Image.OPEN.get(kind, (None, None))
    if factory is None:
      continue
    try:
      # A text is the reason why this build cannot; a TGA has no signature, so its name must tell.
      verdict = accept(prefix) if accept else name.lower().endswith(".tga")
      if not verdict or isinstance(verdict, str):
        continue
      file.seek(0)
      return factory(file, "")
    except (SyntaxError, IndexError, TypeError, KeyError, EOFError, struct.error):
      continue  # how Pillow's formats say: not mine
    except Exception as e:  # decoders raise nearly anything over damaged data
      raise UserError(f"{name} is a damaged {kind} file: {one_line(str(e))}") from e
  raise UserError(f"{name} is no picture that can be read: PNG, JPEG, WebP, TIFF, BMP, GIF and others can")


def _check(width: int, height: int, name: str):
  size = f"{name} is {width:,} x {height:,} pixels"
  if width * height > MOST_PIXELS or max(width, height) > LONGEST:
    raise UserError(f"{size}; at most {MOST_PIXELS // 10**6} million and {LONGEST:,} a side are read: make it smaller")
  if min(width, height) < SHORTEST:
    raise UserError(f"{size}; a photo of a face has at least {SHORTEST} a side")


def _rgb(image: Image.Image, name: str) -> np.ndarray:
  """The decoded, upright picture, uint8 [H, W, 3]."""
  _check(*image.size, name)
  try:
    image.load()
  except MemoryError:
    raise UserError(f"{name} is too large for the memory of this machine") from None
  except Exception as e:
    why = one_line(str(e))[:200] or type(e).__name__
    raise UserError(f"{name} is damaged or truncated: {why}") from e
  try:
    upright = ImageOps.exif_transpose(image)
  except Exception:
    upright = image  # nonsense where the orientation should be: as stored
  _check(*upright.size, name)  # an icon may hold a larger picture than it says
  try:
    return np.ascontiguousarray(_flat(upright))
  except (OSError, ValueError) as e:
    raise UserError(f"{name}: its {image.mode} pixels cannot be made RGB: {one_line(str(e))}") from e


def _flat(image: Image.Image) -> np.ndarray:
  if image.mode.startswith(("I", "F")):
    return _grey(np.asarray(image))
  if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    image = Image.alpha_composite(white, image)
  return np.asarray(image.convert("RGB"))


def _grey(x: np.ndarray) -> np.ndarray:
  """16-bit, 32-bit or float greys -> uint8 RGB; values below 256 count as 8 bits, floats up to 1 as [0, 1]."""
  y: np.ndarray = np.nan_to_num(x.astype(np.float32), posinf=0, neginf=0)
  top = y.max()
  if x.dtype.kind == "f" and top <= 1:
    y = y * 255
  elif top > 255:
    y = y / 257 if top <= 65535 else y * (255 / top)
  return np.repeat(np.clip(y + 0.5, 0, 255).astype(np.uint8)[..., None], 3, -1)


def _array(x: np.ndarray) -> np.ndarray:
  if x.ndim == 2:
    x = x[..., None]
  if x.ndim != 3 or x.shape[-1] not in (1, 3, 4):
    raise UserError(f"a picture is [height, width] or [height, width, 1, 3 or 4], not {list(x.shape)}")
  _check(x.shape[1], x.shape[0], "the picture")
  if x.dtype == bool:
    x = x.astype(np.uint8) * 255
  elif x.dtype == np.uint16:
    x = ((x.astype(np.uint32) + 128) // 257).astype(np.uint8)
  elif x.dtype.kind == "f":
    if not (np.isfinite(x).all() and x.min() >= 0 and x.max() <= 1):
      raise UserError("a picture of floats holds values from 0 to 1; this one has others")
    x = (x * 255 + 0.5).astype(np.uint8)
  elif x.dtype != np.uint8:
    raise UserError(f"a picture holds uint8, uint16 or floats from 0 to 1, not {x.dtype}")
  if x.shape[-1] == 4:
    alpha = x[..., 3:].astype(np.uint16)
    x = ((x[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
  return np.ascontiguousarray(np.broadcast_to(x, (*x.shape[:2], 3)))
