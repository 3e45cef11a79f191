"""A face record: one face of one photo, as every method reads it, and its file."""

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from idejax.errors import UserError, one_line
from idejax.faces import npz

VERSION = 1
# field: (dtype, shape); H and W are the photo's.
_FIELDS: dict[str, tuple[type, tuple[int | str, ...]]] = {
  "embedding": (np.float32, (512,)),
  "box": (np.float32, (4,)),
  "points": (np.float32, (5, 2)),
  "crop": (np.uint8, (112, 112, 3)),
  "portrait": (np.uint8, (512, 512, 3)),
  "photo": (np.uint8, ("H", "W", 3)),
  "face": (np.bool_, ("H", "W")),
  "hair": (np.bool_, ("H", "W")),
  "landmarks": (np.float32, (72, 2)),
}


@dataclasses.dataclass(frozen=True, eq=False)
class FaceRecord:
  """One face of one photo. Coordinates are pixels of `photo`, whole numbers at pixel centres."""

  embedding: np.ndarray  # float32 [512], L2-normalised
  box: np.ndarray  # float32 [4], x0 y0 x1 y1
  points: np.ndarray  # float32 [5, 2]: eyes, nose tip, mouth corners, the image's left first
  crop: np.ndarray  # uint8 [112, 112, 3], aligned to ArcFace's template
  portrait: np.ndarray  # uint8 [512, 512, 3], aligned as FFHQ
  photo: np.ndarray  # uint8 [H, W, 3], RGB, upright
  face: np.ndarray  # bool [H, W]
  hair: np.ndarray  # bool [H, W]; all False where nothing tells (meta["hair_source"] is "none")
  landmarks: np.ndarray | None  # float32 [72, 2] in FaceSnap's order
  quality: dict[str, float]  # size: box's shorter side; blur: the Laplacian's variance; yaw: degrees
  meta: dict[str, Any]  # digests, pack, licence, sources, score, faces found, what is missing

  def __repr__(self) -> str:
    m, q, (height, width) = self.meta, self.quality, self.photo.shape[:2]
    return (
      f"<FaceRecord of {m['photo']}, {width} x {height} pixels: face {m['face']} of {m['faces']}, {q['size']:.0f} px, "
      f"score {m['score']:.2f}, yaw {round(q['yaw'])} degrees, by {m['pack']}>"
    )

  def _repr_png_(self) -> bytes:
    """What a notebook shows: the photo with what was found, and the crops."""
    from idejax.faces import overlay  # which draws records

    overlay.picture(self).save(data := io.BytesIO(), "PNG")
    return data.getvalue()


def save(path: Path, records: FaceRecord | Sequence[FaceRecord]):
  """Write one .npz of plain arrays by field name; names of further records end in `.1`, `.2`, ..."""
  all_records = [records] if isinstance(records, FaceRecord) else list(records)
  arrays: dict[str, np.ndarray] = {}
  for n, record in enumerate(all_records):
    suffix = f".{n}" if n else ""
    for key in _FIELDS:
      if (value := getattr(record, key)) is not None:
        arrays[key + suffix] = value
    header = {"version": VERSION, "quality": record.quality, "meta": record.meta}
    arrays["record" + suffix] = np.array(json.dumps(header, ensure_ascii=False))
  npz.write(Path(path), arrays)


def load(path: Path) -> FaceRecord:
  """The first record of a file. UserError if the file is damaged or not a record file."""
  return load_all(path)[0]


def load_all(path: Path) -> list[FaceRecord]:
  """Every record of a file, in the order of its photos."""
  path = Path(path)
  if path.is_dir():
    raise UserError(f"{path} is a folder; give an .npz file of idejax identity")
  if not path.exists():
    raise UserError(f"{path} does not exist; idejax identity PHOTO --out {path} makes it")
  try:
    arrays = npz.read(path)
    more = sum(key.startswith("record.") for key in arrays)
    return [_from_arrays(arrays, suffix) for suffix in ("", *(f".{n + 1}" for n in range(more)))]
  except (ValueError, RecursionError) as e:
    raise UserError(f"{path} is no record file: {one_line(str(e))[:200]}") from e


def peek(path: Path) -> dict[str, Any] | None:
  """The header {version, quality, meta} of a file's first record; None if it cannot be read."""
  try:
    return _record(npz.read(path, only=("record",)), "record")
  except (OSError, ValueError, RecursionError):
    return None


def _from_arrays(arrays: dict[str, np.ndarray], suffix: str) -> FaceRecord:
  header = _record(arrays, "record" + suffix)
  values: dict[str, Any] = {}
  sizes: dict[str, int] = {}
  for key, (dtype, shape) in _FIELDS.items():
    x = values[key] = arrays.get(key + suffix)
    if x is None and key == "landmarks":
      continue
    if x is None:
      raise ValueError(f"{key + suffix} is missing")
    fits = (
      x.dtype == dtype
      and x.ndim == len(shape)
      and all(n == (m if isinstance(m, int) else sizes.setdefault(m, n)) for n, m in zip(x.shape, shape))
    )
    if not fits:
      raise ValueError(f"{key + suffix} is {x.dtype} {list(x.shape)}, not {np.dtype(dtype)} {list(shape)}")
    if x.dtype == np.float32 and not np.isfinite(x).all():
      raise ValueError(f"{key + suffix} is not finite")
  return FaceRecord(**values, quality=header["quality"], meta=header["meta"])


def _record(arrays: dict[str, np.ndarray], key: str) -> dict[str, Any]:
  text = arrays.get(key)
  if text is None or text.dtype.kind != "U" or text.ndim:
    raise ValueError(f"{key} is missing")
  record = json.loads(str(text))
  parts = [record.get(k) for k in ("quality", "meta")] if isinstance(record, dict) else [None]
  if not all(isinstance(p, dict) for p in parts):
    raise ValueError(f"{key} is not a record")
  if record.get("version") != VERSION:
    raise ValueError(f"its version is {record.get('version')}, not {VERSION}")
  return record
