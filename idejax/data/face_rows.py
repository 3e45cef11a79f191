"""Records of `idejax prepare` as a training reads them: all into memory, or a step's own, by index, a few steps ahead.

FaceShards --Rows.read(at)--> FaceSet --person.face_features--> what the nets read
Streamed.take(at, who)        a batch's rows, of which no other is read; moved, if moves are given
InMemory.read(at)             the same of a FaceSet, for a training whose pictures move
Ahead(read, steps)            batches that threads read before their step comes, so many and no more
"""

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from idejax import faces
from idejax.data.face_shards import digest, open_shards
from idejax.errors import UserError
from idejax.faces import align, control, npz, photo
from idejax.faces.face_set import FaceSet
from idejax.person import augment, face_features, moves
from idejax.runtime.progress import counting

PLAIN = "a photo of a person"  # the caption of a photo that has none
PEOPLE = "people.npz"  # beside the shards: who each record shows, so that no record need be read to know


class ByPerson(Sequence):
  """The records of each person, [P] arrays of places in `person` int32 [N], at the cost of one array."""

  def __init__(self, person: np.ndarray):
    self._order = np.argsort(person, kind="stable")
    self._ends = np.cumsum(np.bincount(person))

  def __len__(self) -> int:
    return len(self._ends)

  def __getitem__(self, n):
    return self._order[self._ends[n - 1] if n else 0 : self._ends[n]]


class Rows:
  """Records as squares of `side` pixels and portraits of `portrait`: stored as squares, as large or larger.

  Nothing is looked at again: embeddings, points, masks, and latents and CLIP's tokens where they are there, are the
  records'. vae, tower: sha256 of the VAE's and the image encoder's folders.

  UserError for what `open_shards` refuses, and for records of smaller squares.
  """

  def __init__(self, folder: Path, pack: faces.Pack, side: int, portrait: int, vae: str = "", tower: str = ""):
    fields = ("image", "face", "points", "embedding", "person", "square", "photo_size")
    self.records = open_shards(
      folder, fields, pack.digest, None, (vae, side) if vae else None, tower or None, raw=("image", "hair")
    )
    self.folder, self.side, self.portrait = folder, side, portrait
    size = self.records.about["size"]
    if size and size < side:
      raise UserError(f"the pictures of {folder} have {size} pixels a side; {self._advice()}")
    have = self.records.about["fields"]
    self.has_latents, self.has_clip = bool(vae) and "mean" in have, bool(tower) and "clip" in have
    self.person = people(folder, self.records.about)
    self.references: Sequence[np.ndarray] = ByPerson(self.person)
    made_from = [self.records.digest, side, portrait]
    self.digest = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()

  def __len__(self) -> int:
    return len(self.records)

  def read(
    self,
    at: Sequence[int] | np.ndarray,
    tick: Callable[[int], Any] = lambda _: None,
    how: Sequence[moves.Move | None] | None = None,
  ) -> FaceSet:
    """The records at some places, moved as `how` says of each: then without the latents that are of unmoved pictures."""
    rows = []
    for n, i in enumerate(at):
      rows.append(self._row(self.records[int(i)], None if how is None else [how[n]]))
      tick(1)
    column: Callable[[str], Any] = lambda name: np.stack([r[name] for r in rows]) if name in rows[0] else None
    latents = (column("mean"), column("logvar")) if self.has_latents and how is None else None
    return FaceSet(
      images=column("images"),
      captions=[r["caption"] for r in rows],
      person=self.person[np.asarray(at)],
      embedding=column("embedding"),
      portraits=column("portraits"),
      marks=column("marks"),
      masks=column("masks"),
      clear=np.ones(len(rows), bool),
      digest=self.digest,
      latents=latents,
      clip=column("clip"),
      sizes=column("sizes"),
      inside=column("inside"),
    )

  def all(self) -> FaceSet:
    """Every record, in memory."""
    bar = counting(len(self), "record", True)
    data = self.read(range(len(self)), bar.update)
    bar.close()
    return data

  def picture(self, i: int) -> np.ndarray:
    """The picture of a record, uint8 [side, side, 3]."""
    return augment.resize(photo.read(self.records[i]["image"]).pixels, self.side)

  def bytes(self, latents: int, tokens: int) -> int:
    """About how many bytes of memory all records take while they are encoded; numbers in latents and in CLIP's tokens."""
    pixels = self.side**2
    each = 2 * (2 * latents + tokens) + 4 * (512 + 144) + pixels
    each += 0 if self.has_latents else 3 * pixels
    each += 0 if self.has_clip else 3 * self.portrait**2
    return each * len(self)

  def _row(self, record: dict[str, Any], moved: Sequence[moves.Move | None] | None = None) -> dict[str, Any]:
    """A record's row; `moved`: its move, if pictures move at all."""
    height, width = record["face"].shape[:2]
    if height != width or height < self.side:
      raise UserError(f"{self.folder}: {record['name']} is {width} x {height}; {self._advice()}")
    known = self.has_latents and moved is None
    pixels: Any = None if known and self.has_clip else photo.read(record["image"]).pixels
    marks = np.full((72, 2), np.nan, np.float32)
    if "landmarks" in record:
      marks = control.place(record["landmarks"], (height, width), self.side, self.side)
    row = {
      "caption": record["caption"] or PLAIN,
      "embedding": record["embedding"],
      "marks": marks,
      "sizes": self._sizes(record),
    }
    if moved is None:
      row["masks"] = augment.resize(record["face"][..., 0], self.side) > 127
    else:
      row |= moves.apply(moved[0], pixels, record["face"][..., 0], marks, row["sizes"], self.side)
    if known:
      row |= {"mean": record["mean"], "logvar": record["logvar"]}
    elif moved is None:
      row["images"] = augment.resize(pixels, self.side)
    if self.has_clip:
      row["clip"] = record["clip"]
    else:
      row["portraits"] = augment.resize(align.portrait(pixels, record["points"]), self.portrait)
    return row

  def _sizes(self, record: dict[str, Any]) -> np.ndarray:
    """`FaceSet.sizes` of a record."""
    top, left, side = (0, 0, 1) if self.records.about["size"] is None else record["square"]
    return np.array([*record["photo_size"], *np.round(self.side / side * np.array([top, left]))], np.float32)

  def _advice(self) -> str:
    return f"this training reads squares of {self.side} pixels or more: idejax prepare --size {self.side}"


def people(folder: Path, about: dict[str, Any]) -> np.ndarray:
  """Who each record shows, int32 [N], numbered as they come. UserError if that file is of other shards."""
  again = "the same idejax prepare again writes it"
  try:
    arrays = npz.read(folder / PEOPLE)
    person, of = arrays["person"], str(arrays["of"])
  except (OSError, ValueError, KeyError) as e:
    raise UserError(f"{folder / PEOPLE} cannot be read ({e}); {again}") from e
  if of != digest(about):
    raise UserError(f"{folder / PEOPLE} is of other shards than those here; {again}")
  return person.astype(np.int32)


class InMemory:
  """A FaceSet as records that are read by index; CLIP's tokens are computed once."""

  def __init__(self, data: FaceSet, tower: Any):
    self.person, self.references = np.asarray(data.person), face_features.references(data)
    self.data, self.digest = data._replace(clip=face_features.looks(tower, data).clip, portraits=None), data.digest

  def read(
    self,
    at: Sequence[int] | np.ndarray,
    tick: Callable[[int], Any] = lambda _: None,
    how: Sequence[moves.Move | None] | None = None,
  ) -> FaceSet:
    """As `Rows.read`."""
    at, data = np.asarray(at), self.data
    part = data._replace(
      captions=[data.captions[i] for i in at], latents=data.latents and tuple(x[at] for x in data.latents),
      **{n: x[at] for n, x in data._asdict().items() if n not in ("captions", "latents", "digest") and x is not None},
    )  # fmt: skip
    tick(len(at))
    if how is None:
      return part
    assert data.images is not None
    side = part.masks.shape[1]
    grey = 255 * np.asarray(part.masks).astype(np.uint8)
    sizes = np.tile([side, side, 0, 0], (len(at), 1)) if part.sizes is None else part.sizes
    rows = [moves.apply(*one, side) for one in zip(how, part.images, grey, part.marks, sizes)]
    columns: dict[str, Any] = {n: np.stack([r[n] for r in rows]) for n in rows[0]}
    return part._replace(latents=None, **columns)


class Streamed:
  """Records that are read step by step, mostly from the disk: of a batch each process reads the rows that it needs.

  What the records lack is computed on the devices, each time anew, by the function that encodes all in memory.
  """

  def __init__(self, rows: Rows | InMemory, backbone: Any, tokenizers: Sequence[Any], tower: Any):
    self.rows, self._nets = rows, (backbone, tokenizers, tower)
    self.person, self.references, self.digest = rows.person, rows.references, rows.digest

  def take(self, at: np.ndarray, who: np.ndarray, how: Sequence[moves.Move | None] | None = None) -> dict[str, Any]:
    """Rows of a batch: the pictures `at`, moved as `how` says, with the looks of the faces `who`."""
    backbone, tokenizers, tower = self._nets
    targets = self.rows.read(at, how=how)
    shown = targets if np.array_equal(at, who) else self.rows.read(who)
    return face_features.batch(face_features.pictures(backbone, tokenizers, targets), face_features.looks(tower, shown))

  def shows(self, who: np.ndarray) -> dict[str, Any]:
    """The looks alone, of the faces `who`."""
    return face_features.shown(face_features.looks(self._nets[2], self.rows.read(who)))


class Ahead:
  """`ahead(i)` is `read(i)`, which threads began some steps before; a pure function of i, so any order will do.

  At most `most` steps are read ahead of the one that was asked for: that is what they cost in memory.
  """

  def __init__(self, read: Callable[[int], Any], steps: int, most: int = 8, threads: int = 4):
    self._read, self._steps, self._most = read, steps, most
    self._pool, self._lock = ThreadPoolExecutor(threads), threading.Lock()
    self._todo: dict[int, Future] = {}

  def __call__(self, i: int) -> Any:
    with self._lock:
      for j in [j for j in self._todo if not i <= j <= i + self._most]:
        self._todo.pop(j).cancel()
      for j in range(i, min(i + 1 + self._most, max(self._steps, i + 1))):
        if j not in self._todo:
          self._todo[j] = self._pool.submit(self._read, j)
      mine = self._todo.pop(i)
    return mine.result()

  def close(self):
    """Stop reading; what was read ahead is dropped."""
    self._pool.shutdown(wait=True, cancel_futures=True)
