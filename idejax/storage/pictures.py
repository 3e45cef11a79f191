"""PNG files that hold their provenance, contact sheets, files of latents."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from idejax.errors import UserError
from idejax.storage import sheets
from idejax.storage.files import replacing


def write_png(path: Path, image: np.ndarray, record: Mapping[str, Any]):
  """Write uint8 [H, W, 3] as PNG; `record` goes into text chunks, one per field, and one as JSON."""
  info = PngImagePlugin.PngInfo()
  info.add_text("AI-generated", "true")
  info.add_itxt("idejax", json.dumps(record, ensure_ascii=False))
  for key, value in record.items():
    if value is not None and key != "idejax":
      info.add_itxt(key, str(value))  # if two chunks have one name, readers see the last
  with replacing(path) as temporary:
    Image.fromarray(image).save(temporary, format="PNG", pnginfo=info)


def read_record(path: Path) -> tuple[dict[str, Any] | None, bool]:
  """The record that `write_png` put into a PNG (None if it has none), and whether all its pixels can be read."""
  try:
    with Image.open(path) as image:
      record = json.loads(image.info["idejax"])
      try:
        image.load()
      except (OSError, SyntaxError):
        return record, False
      return record, True
  except (OSError, ValueError, KeyError, SyntaxError, Image.DecompressionBombError):
    return None, False


def sheet(path: Path, files: Sequence[Path], labels: Sequence[str], columns: int, side: int = 192):
  """A contact sheet: pictures in groups of `columns`, each under its label."""
  groups = [sheets.Group(label, files[at : at + columns]) for label, at in zip(labels, range(0, len(files), columns))]
  sheets.write(path, [sheets.Section("", groups)], side)


def read_latents(path: Path, count: int, shape: tuple[int, int, int]) -> np.ndarray:
  """Initial noise from a .npy file: float32 (N, C, h, w) -> float32 [N, h, w, C]. UserError."""
  try:
    # np.load would also open archives, and leave the file open when they are damaged.
    with open(path, "rb") as file:
      z = np.lib.format.read_array(file, allow_pickle=False)
  except FileNotFoundError:
    raise UserError(f"{path} does not exist") from None
  except Exception as e:  # numpy evaluates the header: a damaged one raises nearly anything
    raise UserError(f"{path} is not a readable .npy file: {e}") from e
  if z.shape != (count, *shape):
    raise UserError(f"{path} has shape {z.shape}; {count} images of this size need {(count, *shape)}")
  if z.dtype != np.float32:
    raise UserError(f"{path} holds {z.dtype}; initial latents are float32")
  if not np.isfinite(z).all():
    raise UserError(f"{path} holds values that are not finite")
  return np.ascontiguousarray(z.transpose(0, 2, 3, 1))
