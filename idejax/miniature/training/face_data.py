"""Pictures with ground truth for the face nets: rendered once, memory-mapped, read by row."""

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from idejax.errors import tell
from idejax.miniature.world import data, people, scene, scenery, styles, view
from idejax.miniature.world import head as hd

_PEOPLE_AT_A_TIME = 256
FACTORS = ("id", "expression", "accessory", "background", "style", "hair_style", "hair_colour")


class Faces(NamedTuple):
  """images uint8 [N, S, S, 3] (memory-mapped), boxes [N, 4], points [N, 5, 2] float32, factor codes
  by name int32 [N], N captions, digest of the images.
  """

  images: np.ndarray
  boxes: np.ndarray
  points: np.ndarray
  factors: dict[str, np.ndarray]
  captions: list[str]
  digest: str


def render(folder: Path, counts: dict[str, int], *, seed: int = 0, size: int = 64, limit: int | None = None) -> Faces:
  """`counts` pictures of every person of each split, or of its first `limit` people.

  Poses are wild: a net of faces has to read every one. A folder with pictures of the same arguments is reused, any
  other is rendered again.
  """
  recipe = {"counts": counts, "seed": seed, "size": size, "limit": limit} | data.VERSION
  facts = folder / "faces.json"  # written last: its presence says that the rest is whole
  if facts.exists():
    saved = json.loads(facts.read_text())
    if {k: saved.get(k) for k in recipe} == recipe:
      return _open(folder, saved["sha256"])
    facts.unlink()
  folder.mkdir(parents=True, exist_ok=True)
  total = sum(len(people.split(s)[:limit]) * n for s, n in counts.items())
  images = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=(total, size, size, 3))
  parts: list[dict[str, np.ndarray]] = []
  captions: list[str] = []
  done = 0
  for split, count in counts.items():
    everyone = people.split(split)[:limit]
    for start in range(0, len(everyone), _PEOPLE_AT_A_TIME):
      part = data.batch(everyone[start : start + _PEOPLE_AT_A_TIME], count, seed, size, calm=scene.WILD)
      images[done : done + len(part.images)] = part.images
      done += len(part.images)
      captions += part.captions
      parts += [
        {n: part.factors[n].astype(np.int32) for n in FACTORS}
        | {"box": part.geometry.box, "points": part.geometry.points}
      ]
      tell(f"rendered {done}/{total} pictures")
  images.flush()
  columns: dict[str, Any] = {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}
  np.savez(folder / "truth.npz", **columns)
  (folder / "captions.txt").write_text("\n".join(captions))
  digest = hashlib.sha256(images.data).hexdigest()
  facts.write_text(json.dumps(recipe | {"sha256": digest}, indent=2) + "\n")
  return _open(folder, digest)


def _open(folder: Path, digest: str) -> Faces:
  with np.load(folder / "truth.npz") as truth:
    factors = {n: truth[n] for n in FACTORS}
    boxes, points = truth["box"], truth["points"]
  captions = (folder / "captions.txt").read_text().split("\n")
  images = np.load(folder / "images.npy", mmap_mode="r")
  return Faces(images, boxes, points, factors, captions, digest)


def empty(count: int, seed: int, size: int = 64) -> np.ndarray:
  """Backgrounds without a person, uint8 [count, size, size, 3]."""
  return np.asarray(_empty(scene.scenes([people.PEOPLE], count, seed), size))


@partial(jax.jit, static_argnums=1)
def _empty(scenes, size):
  # The view needs some person for its coordinates; nobody is painted.
  somebody = people.person(0)

  def one(s):
    v = view.view(jnp, hd.head(jnp, somebody, s), s, size)
    rgb = styles.finish(jnp, scenery.paint_background(jnp, v, s), v, s)
    return (rgb * 255 + 0.5).astype(jnp.uint8)

  return jax.lax.map(one, scenes)
