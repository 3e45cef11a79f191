"""The training pictures, rendered once into a memory-mapped file, and the order in which they are read."""

import functools
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from idejax.errors import tell
from idejax.miniature.world import data, people

_PEOPLE_AT_A_TIME = 256


class Pictures(NamedTuple):
  """images uint8 [N, S, S, 3] (memory-mapped), N captions, person ids int32 [N], digest of images."""

  images: np.ndarray
  captions: list[str]
  ids: np.ndarray
  digest: str


def render(folder: Path, counts: dict[str, int], *, seed: int = 0, size: int = 64) -> Pictures:
  """`counts` pictures of every person of each split, e.g. {"celebrity": 90, "train": 12}.

  A folder with pictures of the same arguments is reused, any other is rendered again.
  """
  recipe = {"counts": counts, "seed": seed, "size": size} | data.VERSION
  facts = folder / "pictures.json"  # written last: its presence says that the rest is whole
  if facts.exists():
    saved = json.loads(facts.read_text())
    if {k: saved.get(k) for k in recipe} == recipe:
      return _open(folder, saved["sha256"])
    facts.unlink()
  folder.mkdir(parents=True, exist_ok=True)
  total = sum(len(people.split(s)) * n for s, n in counts.items())
  images = np.lib.format.open_memmap(
    folder / "images.npy", mode="w+", dtype=np.uint8, shape=(total, size, size, 3))  # fmt: skip
  texts, ids, done = [], [], 0
  for split, count in counts.items():
    everyone = people.split(split)
    for start in range(0, len(everyone), _PEOPLE_AT_A_TIME):
      part = data.batch(everyone[start : start + _PEOPLE_AT_A_TIME], count, seed, size)
      images[done : done + len(part.images)] = part.images
      done += len(part.images)
      texts += part.captions
      ids.append(part.factors["id"])
      tell(f"rendered {done}/{total} pictures")
  images.flush()
  (folder / "captions.txt").write_text("\n".join(texts))
  np.save(folder / "ids.npy", np.concatenate(ids).astype(np.int32))
  digest = hashlib.sha256(images.data).hexdigest()
  facts.write_text(json.dumps(recipe | {"sha256": digest}, indent=2) + "\n")
  return _open(folder, digest)


def _open(folder: Path, digest: str) -> Pictures:
  images = np.load(folder / "images.npy", mmap_mode="r")
  texts = (folder / "captions.txt").read_text().split("\n")
  return Pictures(images, texts, np.load(folder / "ids.npy"), digest)


def rows(step: int, batch: int, total: int, seed: int) -> np.ndarray:
  """The examples that step `step` reads, [batch]: every epoch is a new shuffle of all of them."""
  at = step * batch + np.arange(batch)
  return np.array([_order(seed, int(e), total)[p] for e, p in zip(at // total, at % total)])


@functools.lru_cache(2)
def _order(seed: int, epoch: int, total: int) -> np.ndarray:
  return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(total)
