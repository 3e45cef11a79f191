"""Photos -> records: one with a cache, or thousands in batches."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, overload

import cv2
import numpy as np

from idejax import __version__
from idejax.errors import UserError, tell
from idejax.faces import align, cache, landmarks, mask, photo
from idejax.faces.mask import Parser, Truth
from idejax.faces.pack import Faces, Pack, open_pack
from idejax.faces.record import FaceRecord


class _Detection(NamedTuple):
  photo: photo.Photo
  faces: Faces
  number: int  # of the face that is read, from 0
  crop: np.ndarray  # for the recogniser


@overload
def read(
  photos: list[Any],
  pack: str | Pack = ...,
  face: int | None = ...,
  parsing: Path | Parser | None = ...,
  truth: Truth | None = ...,
  cached: bool = ...,
  notify: Callable[[str], None] = ...,
) -> list[FaceRecord]: ...
@overload
def read(
  photos: Any,
  pack: str | Pack = ...,
  face: int | None = ...,
  parsing: Path | Parser | None = ...,
  truth: Truth | None = ...,
  cached: bool = ...,
  notify: Callable[[str], None] = ...,
) -> FaceRecord: ...
def read(photos, pack="miniature", face=None, parsing=None, truth=None, cached=True, notify=tell):
  """The record in a photo (anything `photo.read` takes), or in each of a list of photos.

  `face` counts from 1, left to right; else the largest is taken, with a warning if there are
  several. `parsing` is a face-parsing ONNX file; `truth` is what a drawn world knows about its picture.
  With `cached` the networks' answers are kept, see `cache`. UserError if there is no face.
  """
  pack = pack if isinstance(pack, Pack) else open_pack(pack, notify=notify)
  parser = parsing if isinstance(parsing, Parser) or parsing is None else Parser(parsing)
  if isinstance(photos, list):
    return [read(p, pack, face, parser, truth, cached, notify) for p in photos]
  picture = photo.read(photos)
  file = cache.path(picture.digest, pack.digest, parser and parser.digest, face) if cached else None
  answers = cache.get(file)
  if answers is None:
    detection = _look(picture, pack, face)
    answers = _ask(detection, pack.embed([detection.crop])[0], pack, parser)
    cache.put(file, answers)
  count = len(answers.scores)
  if count > 1 and face is None:
    notify(
      f"warning: {picture.name} has {count} faces; taking the largest, number "
      f"{int(answers.chosen) + 1} from the left (--face N picks another)"
    )
  return _record(picture, answers, pack, parser, face, truth)


def many(
  photos: Iterable[Path],
  pack: Pack,
  parser: Parser | None = None,
  face: int | None = None,
  then: Callable[[Path, FaceRecord], Any] = lambda _, record: record,
  threads: int | None = None,
  batch: int = 32,
) -> Iterator[tuple[Path, Any]]:
  """(photo, `then`'s result for its record or the UserError) for each photo, in order.

  Decoding, detection and `then` run in threads while the recogniser runs on batches. Nothing is
  cached. Open the pack with `threads=1`: the threads here share the cores.
  """

  def look(path):
    try:
      return _look(photo.read(path), pack, face)
    except UserError as e:
      return e

  def finish(path, detection, vector):
    if isinstance(detection, UserError):
      return detection
    try:
      answers = _ask(detection, vector, pack, parser)
      return then(path, _record(detection.photo, answers, pack, parser, face))
    except UserError as e:
      return e

  pack.app  # noqa: B018 - open it once, before threads use it
  if parser:
    parser.session  # noqa: B018
  pool = ThreadPoolExecutor(threads or os.cpu_count() or 1)
  try:
    pending: list[tuple[Path, Future]] = []
    for chunk in _chunks(photos, batch):
      futures = [pool.submit(look, path) for path in chunk]
      for path, future in pending:
        yield path, future.result()
      detections = [future.result() for future in futures]
      hits = [n for n, x in enumerate(detections) if isinstance(x, _Detection)]
      vectors = dict(zip(hits, pack.embed([detections[n].crop for n in hits]) if hits else ()))
      pending = [
        (path, pool.submit(finish, path, x, vectors.get(n))) for n, (path, x) in enumerate(zip(chunk, detections))
      ]
    for path, future in pending:
      yield path, future.result()
  finally:
    pool.shutdown(cancel_futures=True)


def _chunks(photos: Iterable[Path], most: int, pixels: int = 2**26) -> Iterator[list[Path]]:
  """Batches for the recogniser, smaller where photos are large: two chunks are in memory at a time."""
  chunk: list[Path] = []
  pixel_count = 0
  for path in photos:
    width, height = photo.header_size(path)
    if chunk and (len(chunk) == most or pixel_count + width * height > pixels):
      yield chunk
      chunk, pixel_count = [], 0
    chunk.append(path)
    pixel_count += width * height
  if chunk:
    yield chunk


def _look(picture: photo.Photo, pack: Pack, face: int | None) -> _Detection:
  faces = pack.detect(picture.pixels)
  count = len(faces.scores)
  if not count:
    raise UserError(f"{picture.name}: {pack.no_face(picture.pixels)}")
  if face is not None and not 1 <= face <= count:
    raise UserError(
      f"{picture.name}: --face {face}, but it has {count} face{'s' * (count > 1)} (counted from the left, from 1)"
    )
  sides = faces.boxes[:, 2:] - faces.boxes[:, :2]
  index = int(np.argmax(sides.prod(1))) if face is None else face - 1
  try:
    crop = pack.crop(picture.pixels, faces.points[index])
  except ValueError as e:
    raise UserError(f"{picture.name}: the face cannot be aligned: {e}") from e
  return _Detection(picture, faces, index, crop)


def _ask(detection: _Detection, vector: np.ndarray, pack: Pack, parser: Parser | None) -> cache.Answers:
  picture, faces, n, _ = detection
  marks = pack.landmarks106(picture.pixels, faces.boxes[n])
  labels = parser.labels(align.portrait(picture.pixels, faces.points[n])) if parser else None
  return cache.Answers(*faces, np.array(n), vector, marks, labels)


def _record(
  picture: photo.Photo,
  answers: cache.Answers,
  pack: Pack,
  parser: Parser | None,
  face: int | None,
  truth: Truth | None = None,
) -> FaceRecord:
  n = int(answers.chosen)
  box, points, pixels = answers.boxes[n], answers.points[n], picture.pixels
  world = truth and truth.landmarks
  marks = landmarks.from_106(answers.marks) if world is None else world
  masks = mask.masks(pixels.shape[:2], points, marks, answers.labels, truth)
  crop = align.crop(pixels, points)
  missing = []
  if marks is None:
    missing.append("72 landmarks (the pack has no 106-point network)")
  if masks.hair_source == "none":
    missing.append("hair mask (give a face-parsing network: --parsing FILE.onnx)")
  meta = dict(
    photo=Path(picture.name).name,
    photo_sha256=picture.digest,
    faces=len(answers.scores),
    face=n + 1,
    face_asked=face,
    score=float(answers.scores[n]),
    boxes=[[round(float(x), 2) for x in b] for b in answers.boxes],
    pack=pack.name,
    pack_sha256=pack.digest,
    licence=pack.licence,
    licence_url=pack.licence_url,
    parsing_sha256=parser.digest if parser else None,
    face_source=masks.face_source,
    hair_source=masks.hair_source,
    landmarks_source="none" if marks is None else "106 points" if world is None else "world",
    missing=missing,
    idejax_version=__version__,
  )
  if marks is not None:
    marks = np.asarray(marks, np.float32)
  return FaceRecord(
    answers.embedding,
    box,
    points,
    crop,
    align.portrait(pixels, points),
    pixels,
    masks.face,
    masks.hair,
    marks,
    quality(crop, box, points),
    meta,
  )


def quality(crop: np.ndarray, box: np.ndarray, points: np.ndarray) -> dict[str, float]:
  """size: the box's shorter side in pixels; blur: variance of the Laplacian of the 112 px crop in
  grey, small when blurred; yaw: degrees, an estimate from the points."""
  grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
  blur = float(cv2.Laplacian(grey, cv2.CV_64F).var())
  return dict(size=float(np.min(box[2:] - box[:2])), blur=blur, yaw=align.yaw(points))
