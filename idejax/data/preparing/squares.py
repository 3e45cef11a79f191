"""The picture that a record stores: a photo's own bytes, or the square round its face."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from idejax.faces import photo
from idejax.person import augment


def cut(record: Mapping[str, Any], place: tuple[int, int, int], size: int) -> dict[str, Any]:
  """A record of the photo's square (top, left, side) at `size` pixels: picture, masks, and what is measured in pixels."""
  scale, corner = size / place[2], np.array([place[1], place[0]], np.float32)
  out = dict(record)
  # Whole numbers are pixels' centres: the middle of the square stays its middle.
  inside = lambda points: (points - corner + 0.5) * scale - 0.5
  for name in ("box", "points", "landmarks"):
    if name in record:
      out[name] = inside(record[name].reshape(-1, 2)).reshape(record[name].shape).astype(np.float32)
  if "pose" in record:  # its last three numbers are pixels: how large, and where
    turn, size_, at = np.split(record["pose"], (3, 4))
    out["pose"] = np.concatenate([turn, size_ * scale, inside(at)]).astype(np.float32)
  top, left, side = place
  shrink = lambda x: augment.resize(np.ascontiguousarray(x[top : top + side, left : left + side]), size)
  out |= {n: png(shrink(_bits(record[n])) > 127) for n in ("face", "hair") if n in record}
  return out | {"image": _jpeg(shrink(record["image"]))}


def whole(data: bytes) -> bytes:
  """A file that any reader of PNG and JPEG opens; others, and those that lie on their side, are stored as PNG."""
  if data[:3] == b"\xff\xd8\xff" or data[:8] == b"\x89PNG\r\n\x1a\n":
    with Image.open(io.BytesIO(data)) as image:
      if image.mode == "RGB" and image.getexif().get(0x0112, 1) == 1:
        return data
  Image.fromarray(photo.read(data).pixels).save(out := io.BytesIO(), "PNG")
  return out.getvalue()


def _bits(png: bytes) -> np.ndarray:
  return np.asarray(Image.open(io.BytesIO(png)))


def _jpeg(pixels: np.ndarray) -> bytes:
  Image.fromarray(pixels).save(out := io.BytesIO(), "JPEG", quality=95, subsampling=0)
  return out.getvalue()


def png(bits: np.ndarray) -> bytes:
  """A mask as a grey PNG file, 0 and 255."""
  Image.fromarray(bits.astype(np.uint8) * 255).save(out := io.BytesIO(), "PNG", compress_level=1)
  return out.getvalue()
