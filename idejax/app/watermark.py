"""An invisible mark in the pixels, and metadata which say that the picture was made by AI.

The mark is spread over the whole picture: the DCT of every 8 x 8 block holds a little of a pattern drawn from
a key, in frequencies that JPEG keeps. Correlation finds it without the original, also after saving as JPEG.
Copying the pixels loses the metadata, but not the mark.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from idejax.storage.files import replacing

KEY = 0x1DE7A  # of the pattern; a detector needs the same
STRENGTH = 4.0  # of a coefficient, in grey levels: 46 dB
SMALLEST = 192  # pixels a side: fewer hold too few blocks to be sure
CERTAIN = 6.0  # standard deviations: once in a thousand million pictures by chance
_AT = ((0, 2), (1, 1), (2, 0), (1, 2), (2, 1), (0, 3), (3, 0))  # of a block: low, but not its mean or slopes
_CLIP = 12.0  # larger coefficients are edges, which would drown the mark
_SOFTWARE = "idejax comic"
_SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def embed(image: np.ndarray) -> np.ndarray:
  """The image, uint8 [H, W, 3], with the mark; unchanged if a side is shorter than SMALLEST."""
  height, width = (n // 8 * 8 for n in image.shape[:2])
  if min(height, width) < SMALLEST:
    return image
  pattern = STRENGTH * _pattern(height // 8, width // 8)
  blocks = np.zeros((height // 8, width // 8, 8, 8), np.float32)
  for k, (i, j) in enumerate(_AT):
    blocks[:, :, i, j] = pattern[..., k]
  change = _join(_BASIS.T @ blocks @ _BASIS)
  out = image.astype(np.float32)
  out[:height, :width] += change[..., None]
  return np.clip(np.round(out), 0, 255).astype(np.uint8)


def certainty(image: np.ndarray) -> float:
  """By how many standard deviations the pattern stands out; above CERTAIN the mark is there."""
  height, width = (n // 8 * 8 for n in image.shape[:2])
  if min(height, width) < SMALLEST:
    return 0.0
  grey = image[:height, :width].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
  blocks = grey.reshape(height // 8, 8, width // 8, 8).transpose(0, 2, 1, 3)
  coefficients = np.stack([(_BASIS @ blocks @ _BASIS.T)[:, :, i, j] for i, j in _AT], -1)
  coefficients = np.clip(coefficients, -_CLIP, _CLIP)
  norm = float(np.sqrt((coefficients**2).sum()))
  return float((coefficients * _pattern(height // 8, width // 8)).sum() / norm) if norm else 0.0


def present(image: np.ndarray) -> bool:
  return certainty(image) > CERTAIN


@functools.lru_cache(maxsize=8)
def _pattern(rows: int, columns: int) -> np.ndarray:
  """+1 and -1, float32 [rows, columns, len(_AT)]: block (i, j) has the same whatever the picture's size."""
  side = 1 << (max(rows, columns) - 1).bit_length()
  out = np.empty((rows, columns, len(_AT)), np.float32)
  for i in range(rows):
    bits = np.random.Generator(np.random.Philox(key=[KEY, i])).integers(0, 2, (side, len(_AT)))
    out[i] = 2.0 * bits[:columns] - 1
  return out


def _basis() -> np.ndarray:
  """The orthonormal DCT-II, [8, 8]."""
  n = np.arange(8)
  m = np.cos(np.pi * (2 * n[None] + 1) * n[:, None] / 16) * 0.5
  m[0] /= np.sqrt(2)
  return m.astype(np.float32)


_BASIS = _basis()


def _join(blocks: np.ndarray) -> np.ndarray:
  """[h, w, 8, 8] -> [8 h, 8 w]."""
  h, w = blocks.shape[:2]
  return blocks.transpose(0, 2, 1, 3).reshape(8 * h, 8 * w)


# Metadata.


def save(path: Path, image: np.ndarray, record: Mapping[str, Any]):
  """uint8 [H, W, 3], marked, as PNG or JPEG by the path's suffix, with `record` inside.

  Both carry EXIF and XMP that say it was made by AI (IPTC's term); PNG has text chunks too.
  """
  marked = Image.fromarray(embed(image))
  exif, xmp = _exif(record), _xmp()
  with replacing(path) as temporary:
    if path.suffix.lower() in (".jpg", ".jpeg"):
      marked.save(temporary, "JPEG", quality=92, subsampling=0, exif=exif, xmp=xmp)
    else:
      marked.save(temporary, "PNG", pnginfo=chunks(record), exif=exif)


def chunks(record: Mapping[str, Any]) -> PngImagePlugin.PngInfo:
  """PNG's text chunks."""
  info = PngImagePlugin.PngInfo()
  info.add_text("AI-generated", "true")
  info.add_text("Software", _SOFTWARE)
  info.add_itxt("XML:com.adobe.xmp", _xmp().decode())
  info.add_itxt("idejax", json.dumps(dict(record), ensure_ascii=False))
  return info


def _exif(record: Mapping[str, Any]) -> Image.Exif:
  exif = Image.Exif()
  exif[0x0131] = _SOFTWARE
  exif[0x010E] = "AI-generated " + json.dumps(dict(record), ensure_ascii=True)
  return exif


def _xmp() -> bytes:
  return (
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    f'<rdf:Description xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    f'Iptc4xmpExt:DigitalSourceType="{_SOURCE}"/></rdf:RDF></x:xmpmeta>'
  ).encode()


def declares_ai(path: Path) -> bool:
  """Whether a file says that it was made by AI."""
  with Image.open(path) as image:
    exif = str(image.getexif().get(0x010E, "")).startswith("AI-generated")
    return exif or image.info.get("AI-generated") == "true"
