"""What is computed of photos, a stage at a time: each reads the photos and earlier stages, and gives columns.

Columns have a row for every photo of the shard, also for those that are dropped later: nothing is lost when a rule
changes.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
import numpy as np

from idejax.data.preparing import parts, rules, squares
from idejax.data.preparing.captioner import Captioner
from idejax.data.preparing.sources import Drawn, Item, Picture, Source
from idejax.errors import UserError
from idejax.faces import batch, landmarks, mask, photo
from idejax.faces.mask import Parser
from idejax.faces.pack import Pack
from idejax.person import augment

Columns = dict[str, np.ndarray]
_ERROR = 200  # letters


class Encoder(NamedTuple):
  """A net that reads the records' pictures: its name, the digest of its files, pixels a side that it reads.

  run: uint8 [N, side, side, 3] -> arrays [N, ...] by field; the net is loaded when it is first called.
  """

  name: str
  digest: str
  side: int
  run: Callable[[np.ndarray], Columns]


class Reader(NamedTuple):
  """What reads shape, expression and pose of a face: its name, the digest of its files, numbers in each by field.

  run: a photo, its five points, its 72 landmarks or None -> arrays by field; None where it cannot tell.
  """

  name: str
  digest: str
  sizes: Mapping[str, int]
  run: Callable[[np.ndarray, np.ndarray, np.ndarray | None], Mapping[str, np.ndarray] | None]


class Work(NamedTuple):
  """What the stages share: networks and settings."""

  source: Source
  pack: Pack
  parser: Parser | None
  threads: int | None = None
  size: int | None = None  # of the squares that are stored; None: the photos as they are
  around: float = 4.0
  vae: Encoder | None = None
  tower: Encoder | None = None
  captioner: Captioner | None = None
  shapes: Reader | None = None


class Stage(NamedTuple):
  """`run(work, items, columns by stage)`; `after`: the stages whose columns it reads."""

  name: str
  after: tuple[str, ...]
  settings: Callable[[Work], Mapping[str, Any]]
  run: Callable[[Work, Sequence[Item], Mapping[str, Columns]], Columns]


def detect(work: Work, items: Sequence[Item], _: Mapping[str, Columns]) -> Columns:
  """The largest face of each photo: box [N, 4], points [N, 5, 2], how many there are, quality [N, 3] (size, blur,
  yaw); the photo's size, digest and hash; why it has none."""

  def look(picture: Picture) -> dict[str, Any]:
    row: dict[str, Any] = dict(
      error="", size=(0, 0), sha256="", hash=0, score=0, faces=0, second=0, quality=(0, 0, 0),
      box=np.zeros(4), points=np.zeros((5, 2)),
    )  # fmt: skip
    try:
      if isinstance(picture.data, UserError):
        raise picture.data
      one = photo.read(picture.data)
      row |= dict(size=one.pixels.shape[:2], sha256=one.digest, hash=_hash(one.pixels))
      detections = work.pack.detect(one.pixels)
      if not len(detections.scores):
        return row | {"error": "no face"}
      areas = (detections.boxes[:, 2:] - detections.boxes[:, :2]).prod(1)
      n = int(np.argmax(areas))
      second = np.sort(areas)[-2] / areas[n] if len(areas) > 1 else 0
      crop = work.pack.crop(one.pixels, detections.points[n])
      q = batch.quality(crop, detections.boxes[n], detections.points[n])
      return row | dict(
        box=detections.boxes[n], points=detections.points[n], score=detections.scores[n], faces=len(areas), second=second,
        quality=(q["size"], q["blur"], q["yaw"]),
      )  # fmt: skip
    except (UserError, ValueError) as e:
      return row | {"error": str(e)[:_ERROR] or "unreadable"}

  rows = list(_threaded(work, look, work.source.read(items)))
  column = lambda name, dtype: np.array([r[name] for r in rows], dtype)
  return dict(
    error=np.array([r["error"] for r in rows], f"U{_ERROR}"),
    sha256=np.array([r["sha256"] for r in rows], "U64"),
    size=column("size", np.int32),
    hash=column("hash", np.uint64),
    box=column("box", np.float32),
    points=column("points", np.float32),
    score=column("score", np.float32),
    faces=column("faces", np.int32),
    second=column("second", np.float32),
    quality=column("quality", np.float32),
  )


def embed(work: Work, items: Sequence[Item], before: Mapping[str, Columns]) -> Columns:
  """The recogniser's embeddings float32 [N, 512] of the faces that were found, L2-normalised; zeros stand where there
  is no face, and no record is made of those."""
  detections = before["detect"]
  rows = _with_face(detections)
  crop = lambda pair: work.pack.crop(photo.read(pair[0].data).pixels, detections["points"][pair[1]])
  pictures = zip(work.source.read([items[i] for i in rows]), rows)
  out = np.zeros((len(items), 512), np.float32)
  for start, crops in _batches(_threaded(work, crop, pictures), 32):
    out[rows[start : start + len(crops)]] = work.pack.embed(crops)
  return {"embedding": out}


def marks(work: Work, items: Sequence[Item], before: Mapping[str, Columns]) -> Columns:
  """72 landmarks float32 [N, 72, 2] in FaceSnap's order, and whether there are any [N]."""
  detections = before["detect"]
  rows = _with_face(detections)

  def look(pair: tuple[Picture, int]) -> np.ndarray | None:
    picture, i = pair
    if picture.truth is not None:
      return picture.truth.landmarks
    return landmarks.from_106(work.pack.landmarks106(photo.read(picture.data).pixels, detections["box"][i]))

  out, have = np.zeros((len(items), 72, 2), np.float32), np.zeros(len(items), bool)
  pictures = zip(work.source.read([items[i] for i in rows]), rows)
  for i, points in zip(rows, _threaded(work, look, pictures)):
    if points is not None:
      out[i], have[i] = points, True
  return {"landmarks": out, "has_landmarks": have}


def masks(work: Work, items: Sequence[Item], before: Mapping[str, Columns]) -> Columns:
  """Face and hair of each photo as grey PNG files, and where they come from."""
  detections, points = before["detect"], before["landmarks"]
  rows = _with_face(detections)

  def look(pair: tuple[Picture, int]) -> mask.Masks:
    picture, i = pair
    pixels, five = photo.read(picture.data).pixels, detections["points"][i]
    labels = work.parser.labels(batch.align.portrait(pixels, five)) if work.parser else None
    outline = points["landmarks"][i] if points["has_landmarks"][i] else None
    return mask.masks(pixels.shape[:2], five, outline, labels, picture.truth)

  files = {"face": [b""] * len(items), "hair": [b""] * len(items)}
  origins = np.full((len(items), 2), "", "U12")
  pictures = zip(work.source.read([items[i] for i in rows]), rows)
  for i, m in zip(rows, _threaded(work, look, pictures)):
    files["face"][i], files["hair"][i] = squares.png(m.face), squares.png(m.hair)
    origins[i] = m.face_source, m.hair_source
  columns = {f"{name}_{k}": v for name, f in files.items() for k, v in parts.pack(f).items()}
  return {**columns, "mask_source": origins}


def captions(work: Work, items: Sequence[Item], before: Mapping[str, Columns]) -> Columns:
  """What came with the photos: sidecar, list, tar, data set or the drawn world; of those without, what the user's
  captioner says of the pictures as they are stored, and that it does; never invented."""
  texts = work.source.captions(items) if isinstance(work.source, Drawn) else [i.caption for i in items]
  columns = {"caption": texts}
  if work.captioner:
    rows = [i for i in _with_face(before["detect"]) if not texts[i]]
    columns["caption_by"] = [""] * len(items)
    pictures = zip(work.source.read([items[i] for i in rows]), rows)
    look = lambda pair: _stored(work, before["detect"], *pair)[0]
    for start, images in _batches(_threaded(work, look, pictures), 32):
      for i, text in zip(rows[start:], work.captioner(images)):
        texts[i], columns["caption_by"][i] = text, work.captioner.name if text else ""
  return {f"{n}_{k}": v for n, c in columns.items() for k, v in parts.pack([t.encode() for t in c]).items()}


def shapes(work: Work, items: Sequence[Item], before: Mapping[str, Columns]) -> Columns:
  """Shape, expression and pose of each face, float32 [N, ...] by field; NaN where they cannot be told."""
  assert work.shapes
  detections, points = before["detect"], before["landmarks"]
  rows, reader = _with_face(detections), work.shapes

  def look(pair: tuple[Picture, int]) -> Mapping[str, np.ndarray] | None:
    picture, i = pair
    marks = points["landmarks"][i] if points["has_landmarks"][i] else None
    return reader.run(photo.read(picture.data).pixels, detections["points"][i], marks)

  columns = {n: np.full((len(items), size), np.nan, np.float32) for n, size in reader.sizes.items()}
  pictures = zip(work.source.read([items[i] for i in rows]), rows)
  for i, row in zip(rows, _threaded(work, look, pictures)):
    for name, x in (row or {}).items():
      columns[name][i] = x
  return columns


def latents(work: Work, items: Sequence[Item], before: Mapping[str, Columns]) -> Columns:
  """The VAE's moments float16 [N, h, w, C] of the squares as they are stored, JPEG's losses included."""
  assert work.vae

  def look(pair: tuple[Picture, int]) -> np.ndarray:
    return _stored(work, before["detect"], *pair)[0]

  return _encode(work, work.vae, look, items, before["detect"])


def clip(work: Work, items: Sequence[Item], before: Mapping[str, Columns]) -> Columns:
  """The image encoder's tokens float16 [N, T, D] of portraits, aligned in the pictures as they are stored."""
  assert work.tower
  side = work.tower.side

  def look(pair: tuple[Picture, int]) -> np.ndarray:
    return augment.resize(batch.align.portrait(*_stored(work, before["detect"], *pair)), side)

  return _encode(work, work.tower, look, items, before["detect"])


def _stored(work: Work, detections: Columns, picture: Picture, i: int) -> tuple[np.ndarray, np.ndarray]:
  """The picture of a record as it will be read, and its five points there."""
  pixels, points = photo.read(picture.data).pixels, detections["points"][i]
  if work.size is None:
    return pixels, points
  place = rules.square_of(detections["size"][i], detections["box"][i], work.around)
  record = squares.cut({"image": pixels, "points": points}, place, work.size)
  return photo.read(record["image"]).pixels, record["points"]


def _encode(
  work: Work,
  encoder: Encoder,
  look: Callable[[tuple[Picture, int]], np.ndarray],
  items: Sequence[Item],
  detections: Columns,
) -> Columns:
  """An encoder's columns of the photos with a face; zeros stand where there is none, and no record is made of those."""
  rows, columns = _with_face(detections), Columns()
  pictures = zip(work.source.read([items[i] for i in rows]), rows)
  for start, images in _batches(_threaded(work, look, pictures), 32):
    for name, x in encoder.run(np.stack(images)).items():
      columns.setdefault(name, np.zeros((len(items), *x.shape[1:]), x.dtype))[rows[start : start + len(x)]] = x
  return columns


def _pack(work: Work) -> Mapping[str, Any]:
  return {"pack": work.pack.digest}


STAGES: dict[str, Stage] = {
  s.name: s
  for s in (
    Stage("detect", (), _pack, detect),
    Stage("embed", ("detect",), _pack, embed),
    Stage("landmarks", ("detect",), _pack, marks),
    Stage("masks", ("detect", "landmarks"), lambda w: {"parsing": w.parser and w.parser.digest}, masks),
    Stage("captions", (), lambda w: {}, captions),
  )
}
# Of those who name a model: what its nets make of the pictures and faces.
LATENTS = Stage("latents", ("detect",), lambda w: _encoder(w, w.vae), latents)
CLIP = Stage("clip", ("detect",), lambda w: _encoder(w, w.tower), clip)

CAPTIONED = Stage("captions", ("detect",), lambda w: _encoder(w, w.captioner), captions)
SHAPES = Stage("shapes", ("detect", "landmarks"), lambda w: {"reader": w.shapes and w.shapes.digest}, shapes)


def asked(work: Work) -> dict[str, Stage]:
  """The stages that records are made of, by name."""
  more = (CAPTIONED, work.captioner), (LATENTS, work.vae), (CLIP, work.tower), (SHAPES, work.shapes)
  return STAGES | {s.name: s for s, net in more if net}


def _encoder(work: Work, encoder: Encoder | Captioner | None) -> Mapping[str, Any]:
  return {"size": work.size, "around": work.around, "net": encoder and encoder.digest}


def _hash(pixels: np.ndarray) -> int:
  """64 bits that nearly equal pictures share: whether brightness rises from cell to cell of a 9 x 8 grid."""
  grey = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
  return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")


def _with_face(detections: Columns) -> np.ndarray:
  return np.flatnonzero(detections["error"] == "")


def _threaded(work: Work, function: Callable[[Any], Any], rows: Any) -> Iterator[Any]:
  """`function` of each row, in order, by threads, a few rows ahead: photos are large."""
  ahead: list[Any] = []
  count = work.threads or os.cpu_count() or 1
  with ThreadPoolExecutor(count) as pool:
    for row in rows:
      ahead.append(pool.submit(function, row))
      if len(ahead) > 4 * count:
        yield ahead.pop(0).result()
    for each in ahead:
      yield each.result()


def _batches(rows: Iterator[Any], count: int) -> Iterator[tuple[int, list[Any]]]:
  """(place of the first, rows) of groups of `count`."""
  start, group = 0, list[Any]()
  for row in rows:
    group.append(row)
    if len(group) == count:
      yield start, group
      start, group = start + count, []
  if group:
    yield start, group
