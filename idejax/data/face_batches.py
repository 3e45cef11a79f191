"""Batches of face records: what a method that is trained once for everybody sees, step by step.

    folder of photos, shards, or drawn people --photos, shards, miniature.training.drawn_set--> FaceSet
    FaceSet --person.face_features.encode--> Encoded     --load--> batch
    shards that memory does not hold --face_rows--> Streamed --load--> the same batch

A batch is a pure function of (seed, step), wherever its rows lie.
"""

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from idejax import faces
from idejax.data.face_rows import PLAIN, Rows
from idejax.data.people import pictures_in
from idejax.errors import UserError, tell
from idejax.faces import control
from idejax.faces.face_set import FaceSet
from idejax.faces.photo import SUFFIXES
from idejax.miniature.world.pictures import rows
from idejax.person import augment, moves
from idejax.runtime.progress import counting


def photos(folder: Path, pack: faces.Pack, side: int, portrait: int, parsing: Path | None = None) -> FaceSet:
  """The faces of a folder with a sub-folder of photos for each person, as squares of `side` pixels.

  A photo's caption is the text of the file of its name that ends in .txt, or PLAIN. Photos that cannot be used, or
  that would be enlarged more than twice, are skipped, counted and listed. UserError if none is left.
  """
  sources = [(p, pictures_in(p)) for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")]
  if not any(files for _, files in sources):
    loose = any(p.suffix.lower() in SUFFIXES for p in folder.iterdir())
    hint = "; it has photos, but none in a sub-folder per person" if loose else ""
    raise UserError(f"{folder}: no photos in sub-folders, one for each person{hint}")
  looks: list[dict[str, Any]] = []
  reasons: list[str] = []
  bar = counting(sum(len(files) for _, files in sources), "photo", True)
  for n, (_, files) in enumerate(sources):
    for file in files:
      try:
        looks.append(_look(faces.read([file], pack, parsing=parsing)[0], side, portrait, n, _caption(file)))
      except UserError as e:
        reasons.append(str(e))
      bar.update(1)
  bar.close()
  for reason in reasons:
    tell(f"skipped: {reason}")
  if not looks:
    raise UserError(f"{folder}: no photo here can be used")
  data = _gather(looks, [[x["digest"], x["captions"], side, portrait, pack.digest] for x in looks])
  tell(
    f"{folder}: {len(looks)} faces of {data.person.max() + 1} people" + (f", {len(reasons)} skipped" if reasons else "")
  )
  return data


def shards(folder: Path, pack: faces.Pack, side: int, portrait: int) -> FaceSet:
  """All records of a folder of `idejax prepare`, as squares of `side` pixels; see `face_rows.Rows`."""
  return told(folder, Rows(folder, pack, side, portrait).all())


def told(folder: Path, data: FaceSet) -> FaceSet:
  """The data, once it is said how many faces and people they are."""
  tell(f"{folder}: {len(data.person)} faces of {int(data.person.max()) + 1} people")
  return data


def _gather(rows: list[dict[str, Any]], made_from: list[Any]) -> FaceSet:
  """Rows, a face each, as a FaceSet; its digest is that of `made_from`."""
  column: Callable[[str], Any] = lambda name: np.stack([x[name] for x in rows])
  return FaceSet(
    captions=[x["captions"] for x in rows],
    person=np.unique(column("person"), return_inverse=True)[1].astype(np.int32),
    clear=np.ones(len(rows), bool),
    digest=hashlib.sha256(json.dumps(made_from).encode()).hexdigest(),
    **{n: column(n) for n in ("images", "embedding", "portraits", "marks", "masks", "sizes")},
  )


def _look(record: faces.FaceRecord, side: int, portrait: int, person: int, caption: str) -> dict[str, Any]:
  """One face's row of a FaceSet."""
  top, left, size = augment.square(record.photo.shape, record.box)
  if side > 2 * size:
    raise UserError(f"{record.meta['photo']}: its square of {size} pixels is less than half of {side}")
  window = np.s_[top : top + size, left : left + size]
  shrink = lambda x: augment.resize(np.ascontiguousarray(x), side)
  marks = np.full((72, 2), np.nan, np.float32)
  if record.landmarks is not None:
    marks = control.place(record.landmarks - np.array([left, top], np.float32), (size, size), side, side)
  return {
    "images": shrink(record.photo[window]),
    "captions": caption,
    "person": np.int32(person),
    "embedding": record.embedding,
    "portraits": augment.resize(record.portrait, portrait),
    "marks": marks,
    "masks": shrink(255 * record.face[window].astype(np.uint8)) > 127,
    "sizes": np.array([*record.photo.shape[:2], *np.round(side / size * np.array([top, left]))], np.float32),
    "digest": record.meta["photo_sha256"],
  }


def _caption(file: Path) -> str:
  text = file.with_suffix(".txt")
  return (text.read_text("utf-8", errors="replace").strip() or PLAIN) if text.is_file() else PLAIN


def load(
  data: Any,
  step: int,
  batch: int,
  seed: int,
  cross: float,
  places: np.ndarray | None = None,
  among: np.ndarray | None = None,
  photos: int = 1,
  how: moves.Moves | None = None,
) -> dict[str, Any]:
  """The faces of a step: pictures in a fresh order each epoch and, for a share `cross` of them, as reference another
  clear picture of the same person, where there is one.

  photos: above 1 each example has a number of references, from 1 to `photos` by chance, as [photos, ...]: the first as
  above, the others further clear pictures of the person, all repeated in turn until there are `photos`.

  data: `face_features.Encoded` or `face_rows.Streamed`. places: the batch's rows that are wanted, those of this
  process's devices; None: all. among: the pictures that are trained on, places in `data`; None: all. how: what may
  move pictures, of Streamed data; None: nothing does.
  """
  at = rows(step, batch, len(data.person if among is None else among), seed)
  at = at if among is None else among[at]
  rng = np.random.Generator(np.random.Philox(key=[seed, step], counter=[0, 0, 0, 9]))
  draws, turns = rng.random(batch), rng.random(batch)
  who = at.copy()
  for n, i in enumerate(at):
    others = data.references[data.person[i]]
    others = others[others != i]
    if draws[n] < cross and len(others):
      who[n] = others[int(turns[n] * len(others))]
  places = np.arange(batch) if places is None else places
  about = {"index": places.astype(np.int32), "person": np.asarray(data.person)[at[places]].astype(np.int32)}
  moved = {"how": [moves.draw(how, seed, step, batch)[n] for n in places]} if how else {}
  out = data.take(at[places], who[places], **moved) | about
  if photos == 1:
    return out
  shown = np.stack([_several(data, i, w, photos, rng) for i, w in zip(at, who)])[places]
  looks = [out] + [data.shows(w) for w in shown.T[1:]]
  return out | {n: np.stack([x[n] for x in looks], axis=1) for n in ("identity", "clip")}


def _several(data: Any, i: int, first: int, photos: int, rng: np.random.Generator) -> np.ndarray:
  """`photos` references of the person in picture i: `first` and some others, as often as one another where that goes."""
  own = data.references[data.person[i]]
  others = rng.permutation(own[(own != i) & (own != first)])
  count = int(rng.integers(1, photos + 1))
  return np.resize(np.r_[first, others[: count - 1]], photos)


def places(where: jax.sharding.Sharding, batch: int) -> np.ndarray:
  """The rows of a batch that lie on this process's devices, in order."""
  index = where.addressable_devices_indices_map((batch,)).values()
  return np.unique(np.concatenate([np.arange(batch)[i] for i in index]))


def put(data: dict[str, Any], where: jax.sharding.Sharding, batch: int) -> dict[str, Any]:
  """A batch on the devices, of which `data` has the rows of this process's, "index" their places."""
  at = np.full(batch, -1)
  at[data["index"]] = np.arange(len(data["index"]))
  part: Callable[[Any, Any], Any] = lambda x, index: x[at[index[0]]]
  one = lambda x: jax.make_array_from_callback((batch, *x.shape[1:]), where, functools.partial(part, x))
  return jax.tree.map(one, data)
