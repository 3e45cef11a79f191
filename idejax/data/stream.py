"""An endless, shuffled stream of training batches from a data set: a function of (seed, step).

    load = Stream(face_folder.source(path), Picture(64), batch=32, seed=0, workers=8)
    loop.train(..., batch=load)        # load(i) is batch i, on any number of processes and workers

A checkpoint therefore holds the step alone: a resumed run sees what an uninterrupted one would have seen,
even on another number of processes or workers. Reading and decoding are grain's.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from idejax.faces import photo
from idejax.person.augment import resize


@dataclasses.dataclass(frozen=True)
class Picture:
  """Example -> {"image": uint8 [side, side, 3]}: decoded, its middle square, resized."""

  side: int

  def __call__(self, example: Mapping[str, Any]) -> dict[str, np.ndarray]:
    pixels = photo.read(example["image"]).pixels
    height, width = pixels.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    return {"image": resize(pixels[top : top + short, left : left + short], self.side)}


_END = 1 << 48  # examples; grain's own endless data sets have lengths that overflow


class Stream:
  """`stream(i)`: batch i of this process, a dict of arrays with "index", the rows' places in the global
  batch. Consecutive calls are cheap; any other call starts a new pass over the data.

  batch: rows of all `hosts` together, a multiple of them. workers: processes that read and decode; 0:
  threads of this process. Each epoch is shuffled separately and holds every example once.
  """

  def __init__(
    self,
    source: Sequence[Any],
    decode: Callable[[Any], dict[str, Any]],
    *,
    batch: int,
    seed: int,
    host: int = 0,
    hosts: int = 1,
    workers: int = 0,
  ):
    if batch % hosts:
      raise ValueError(f"a batch of {batch} does not divide by {hosts} processes")
    self.source, self.decode, self.seed, self.workers = source, decode, seed, workers
    self.batch, self.host, self.hosts = batch, host, hosts
    self._at, self._rows = -1, iter(())

  def __call__(self, i: int) -> dict[str, np.ndarray]:
    if i != self._at:
      self._rows = self._from(i)
    self._at = i + 1
    index = np.arange(self.host, self.batch, self.hosts, dtype=np.int32)
    return {**next(self._rows), "index": index}

  def _from(self, i: int):
    import grain

    order = grain.MapDataset.source(self.source).seed(self.seed).shuffle().repeat(_END // len(self.source))
    rows = order[i * self.batch + self.host :: self.hosts].map(self.decode).batch(self.batch // self.hosts)
    if not self.workers:
      return iter(rows.to_iter_dataset(grain.ReadOptions(num_threads=4, prefetch_buffer_size=16)))
    from absl import flags

    flags.FLAGS.mark_as_parsed()  # or grain's workers refuse to start
    dataset = rows.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
    return iter(dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=self.workers)))
