"""Batches of face records: what a method that is trained once for everybody sees, step by step.

    folder of photos, or drawn people --photos, miniature.training.drawn_set--> FaceSet --encode--> Encoded --load--> batch

All is in memory or memory-mapped and a step only gathers: a pure function of (seed, step).
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from idejax import faces
from idejax.data.people import pictures_in
from idejax.errors import UserError, tell
from idejax.faces import control, mask
from idejax.faces.face_set import FaceSet
from idejax.faces.photo import SUFFIXES
from idejax.miniature.world.pictures import rows
from idejax.model import conditioning
from idejax.model.backbone import Backbone
from idejax.model.conditioning import Prompts
from idejax.model.tokens import Tokenizer
from idejax.person import augment, subjects
from idejax.person.face_clip import Tower
from idejax.runtime.progress import counting

PLAIN = "a photo of a person"  # the caption of a photo that has none
_GROW = 8 / 512  # of a picture's side: how far a face's region reaches beyond the face
_AT_A_TIME = 64


class Encoded(NamedTuple):
  """A FaceSet as the nets read it; arrays [N, ...], float16 where large."""

  mean: np.ndarray  # [N, h, w, C], moments of the latents, unscaled
  logvar: np.ndarray
  clip: np.ndarray  # [N, T, D]
  mask: np.ndarray  # [N, h, w] in [0, 1]
  identity: np.ndarray  # float32 [N, 512]
  marks: np.ndarray  # float32 [N, 72, 2]
  prompts: Prompts
  references: tuple[np.ndarray, ...]  # of each person, the pictures that may show who it is
  person: np.ndarray  # int32 [N]
  digest: str


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
  found: list[dict[str, Any]] = []
  skipped: list[str] = []
  bar = counting(sum(len(files) for _, files in sources), "photo", True)
  for n, (_, files) in enumerate(sources):
    for file in files:
      try:
        found.append(_look(faces.read([file], pack, parsing=parsing)[0], side, portrait, n, _caption(file)))
      except UserError as e:
        skipped.append(str(e))
      bar.update(1)
  bar.close()
  for reason in skipped:
    tell(f"skipped: {reason}")
  if not found:
    raise UserError(f"{folder}: no photo here can be used")
  column = lambda name: np.stack([x[name] for x in found])
  text = json.dumps([[x["digest"], x["captions"], side, portrait, pack.digest] for x in found])
  person = np.unique(column("person"), return_inverse=True)[1].astype(np.int32)
  tell(f"{folder}: {len(found)} faces of {person.max() + 1} people" + (f", {len(skipped)} skipped" if skipped else ""))
  arrays = {n: column(n) for n in ("images", "embedding", "portraits", "marks", "masks")}
  return FaceSet(
    captions=[x["captions"] for x in found],
    person=person,
    clear=np.ones(len(found), bool),
    digest=hashlib.sha256(text.encode()).hexdigest(),
    **arrays,
  )


def _look(record: faces.FaceRecord, side: int, portrait: int, person: int, caption: str) -> dict[str, Any]:
  """One face's row of a FaceSet."""
  top, left, size = augment.square(record.photo, record.box)
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
    "digest": record.meta["photo_sha256"],
  }


def _caption(file: Path) -> str:
  text = file.with_suffix(".txt")
  return (text.read_text("utf-8", errors="replace").strip() or PLAIN) if text.is_file() else PLAIN


def encode(b: Backbone, tokenizers: Sequence[Tokenizer], tower: Tower, data: FaceSet) -> Encoded:
  """What training reads of each face. UserError for a caption that cannot be tokenised."""
  mean, logvar, clip, region = [], [], [], []
  bar = counting(len(data.images), "face", True)
  for at in range(0, len(data.images), _AT_A_TIME):
    part = np.asarray(data.images[at : at + _AT_A_TIME])
    m, v = subjects.encode(b, part.astype(np.float32) / 127.5 - 1)
    mean.append(m.astype(np.float16))
    logvar.append(v.astype(np.float16))
    clip.append(tower.tokens(data.portraits[at : at + _AT_A_TIME]).astype(np.float16))
    grow = max(1, round(_GROW * part.shape[1]))
    small = [mask.at_latent_size(x, m.shape[1:3], grow) for x in np.asarray(data.masks[at : at + _AT_A_TIME])]
    region.append(np.stack(small).astype(np.float16))
    bar.update(len(part))
  bar.close()
  person, clear = np.asarray(data.person), np.asarray(data.clear)
  every = [np.flatnonzero(person == n) for n in range(int(person.max()) + 1)]
  return Encoded(
    np.concatenate(mean),
    np.concatenate(logvar),
    np.concatenate(clip),
    np.concatenate(region),
    np.asarray(data.embedding, np.float32),
    np.asarray(data.marks, np.float32),
    conditioning.tokenise(tokenizers, data.captions, {}),
    tuple(own[clear[own]] for own in every),
    person,
    data.digest,
  )


def load(data: Encoded, step: int, batch: int, seed: int, cross: float) -> dict[str, Any]:
  """The faces of a step: pictures in a fresh order each epoch and, for a share `cross` of them, as reference another
  clear picture of the same person, where there is one."""
  at = rows(step, batch, len(data.mean), seed)
  rng = np.random.Generator(np.random.Philox(key=[seed, step], counter=[0, 0, 0, 9]))
  draws, turns = rng.random(batch), rng.random(batch)
  who = at.copy()
  for n, i in enumerate(at):
    others = data.references[data.person[i]]
    others = others[others != i]
    if draws[n] < cross and len(others):
      who[n] = others[int(turns[n] * len(others))]
  f32 = lambda x: np.asarray(x, np.float32)
  return {
    "mean": f32(data.mean[at]),
    "logvar": f32(data.logvar[at]),
    "mask": f32(data.mask[at]),
    "marks": data.marks[at],
    "ids": tuple(np.asarray(x)[at] for x in data.prompts.ids),
    "eos": tuple(np.asarray(x)[at] for x in data.prompts.eos),
    "identity": data.identity[who],
    "clip": f32(data.clip[who]),
    "index": np.arange(batch, dtype=np.int32),
  }


def placed(data: dict[str, Any], where: jax.sharding.Sharding) -> dict[str, Any]:
  """A batch on the devices."""
  return jax.tree.map(lambda x: jax.device_put(x, where), data)
