"""Drawn people's faces with the world's truth, for what is trained once for everybody.

Captions say mood, wear and background and nothing of the person: who it is must come from the face.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from idejax import faces
from idejax.errors import tell
from idejax.faces import align
from idejax.faces.face_set import FaceSet
from idejax.miniature.judging import crops
from idejax.miniature.world import captions, data, people, scene
from idejax.person.augment import resize

PORTRAIT = 64  # pixels a side that are kept of a portrait
_PEOPLE_AT_A_TIME = 64
_SHAKEN = 0.015  # of the face's width: how far the detector's points lie off the truth
_NAMES = ("images", "person", "embedding", "portraits", "marks", "masks", "clear")


def render(folder: Path, counts: dict[str, int], *, seed: int = 0, size: int = 64, limit: int | None = None) -> FaceSet:
  """`counts` faces of every person of each split (the first `limit` of each), for example {"train": 6}.

  Poses are wild: they are what the landmarks are to be followed in. A folder that holds the faces of the same
  arguments is opened, any other is made anew.
  """
  pack = faces.open_pack("miniature", notify=lambda _: None)
  facts = {"counts": counts, "seed": seed, "size": size, "limit": limit, "pack": pack.digest} | data.VERSION
  stamp = folder / "set.json"  # written last: its presence says that the rest is whole
  saved = json.loads(stamp.read_text()) if stamp.exists() else {}
  if {k: saved.get(k) for k in facts} != facts:
    stamp.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    parts: list[dict[str, Any]] = []
    texts: list[str] = []
    for split, count in counts.items():
      everyone = people.split(split)[:limit]
      for at in range(0, len(everyone), _PEOPLE_AT_A_TIME):
        part = _faces(pack, everyone[at : at + _PEOPLE_AT_A_TIME], count, seed, size)
        texts += part.pop("captions")
        parts.append(part)
        tell(f"{split}: faces of {min(at + _PEOPLE_AT_A_TIME, len(everyone))}/{len(everyone)} people")
    columns = {n: np.concatenate([p[n] for p in parts]) for n in _NAMES}
    columns["person"] = np.unique(columns["person"], return_inverse=True)[1].astype(np.int32)
    for name, x in columns.items():
      np.save(folder / f"{name}.npy", x)
    (folder / "captions.txt").write_text("\n".join(texts))
    digest = hashlib.sha256(columns["images"].tobytes() + columns["embedding"].tobytes()).hexdigest()
    stamp.write_text(json.dumps(facts | {"sha256": digest}, indent=2) + "\n")
    saved = {"sha256": digest}
  arrays = {n: np.load(folder / f"{n}.npy", mmap_mode="r") for n in _NAMES}
  return FaceSet(captions=(folder / "captions.txt").read_text().split("\n"), digest=saved["sha256"], **arrays)


def _faces(pack: faces.Pack, ids: np.ndarray, count: int, seed: int, size: int) -> dict[str, Any]:
  batch, scenes = data.batch(ids, count, seed, size, calm=scene.WILD), scene.scenes(ids, count, seed, scene.WILD)
  rng = np.random.Generator(np.random.Philox(key=[seed, int(ids[0])], counter=[0, 0, 5, 0]))
  truth = batch.geometry
  points = crops.shake(rng, truth.points, truth.box[:, 2] - truth.box[:, 0], _SHAKEN)
  crop = [pack.crop(i, p) for i, p in zip(batch.images, points)]
  small = lambda i, p: resize(align.portrait(i, p), PORTRAIT)
  covers = scene.ACCESSORIES.index("sunglasses"), scene.ACCESSORIES.index("hat")  # they hide eyes, hair
  return {
    "images": batch.images,
    "captions": [caption(scene.Scene(*(f[n] for f in scenes)), rng) for n in range(len(crop))],
    "person": batch.factors["id"],
    "embedding": pack.embed(crop),
    "portraits": np.stack([small(i, p) for i, p in zip(batch.images, points)]),
    "marks": np.asarray(truth.landmarks, np.float32),
    "masks": np.stack([_hull(m, size) for m in np.asarray(truth.landmarks)]),
    "clear": (batch.factors["style"] == 0) & ~np.isin(batch.factors["accessory"], covers),
  }


def caption(one: scene.Scene, rng: np.random.Generator) -> str:
  """What a picture shows beside the person, in the world's words; of whom it says "a person" or nothing more."""
  words = scene.names(one)
  if rng.random() < 0.5:
    words.pop("clothes")
  if rng.random() < 0.1:
    words.pop("background")
  return captions.prompt("a person", after=bool(rng.random() < 0.5), **words)


def _hull(marks: np.ndarray, size: int) -> np.ndarray:
  """bool [size, size]: inside the landmarks and, for the forehead, as far above the eyes as the mouth is below."""
  eyes, mouth = marks[36:52].mean(0), marks[52:72].mean(0)
  brow = marks[17:27] + (eyes - mouth) * 0.8
  canvas = np.zeros((size, size), np.uint8)
  corners = cv2.convexHull(np.concatenate([marks, brow]).astype(np.float32))
  cv2.fillConvexPoly(canvas, np.round(corners * 16).astype(np.int32), 1, shift=4)
  return canvas > 0
