"""Which photos become records: stated rules, in order, and what they dropped."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from idejax.person import augment

_BANDS = 4  # a hash of 64 bits in four parts: two that differ in three bits share one
_BITS, _ALIKE = 3, 0.9  # near-duplicates: bits that may differ, cosine of the embeddings


@dataclasses.dataclass(frozen=True)
class Rules:
  """Thresholds; 0 or None lets everything through."""

  face: float = 56.0  # pixels of the box's shorter side: half of what a recogniser reads
  blur: float = 0.0  # variance of the Laplacian in the 112 px crop
  yaw: float = 60.0  # degrees, either way
  second: float = 0.25  # area of the second largest face, as a share of the largest
  enlarged: float = 2.0  # times that the photo's square may be enlarged to the training's size
  duplicates: bool = True


def square_of(size: np.ndarray, box: np.ndarray, around: float) -> tuple[int, int, int]:
  """(top, left, side): a square of at most `around` times the face's longer side that lies in the photo."""
  return augment.square(size.tolist(), box, max(1, round(around * float(np.max(box[2:] - box[:2])))))


def decide(columns: Mapping[str, np.ndarray], rules: Rules, size: int | None, around: float) -> list[str]:
  """Why each photo is dropped, in a word or two; "" for those that are kept. `found`: columns of the stage detect,
  and `embedding`, over all shards."""
  out = []
  for i, error in enumerate(columns["error"]):
    box, quality = columns["box"][i], columns["quality"][i]  # size, blur, yaw
    if error:
      why = "no face" if str(error) == "no face" else "unreadable"
    elif quality[0] < rules.face:
      why = "face too small"
    elif quality[1] < rules.blur:
      why = "blurred"
    elif abs(quality[2]) > rules.yaw:
      why = "turned away"
    elif columns["second"][i] > rules.second:
      why = "several faces"
    elif size and rules.enlarged and square_of(columns["size"][i], box, around)[2] * rules.enlarged < size:
      why = "enlarged too much"
    else:
      why = ""
    out.append(why)
  if rules.duplicates:
    places = [i for i, why in enumerate(out) if not why]
    for i in duplicates(columns["hash"][places], columns["embedding"][places]):
      out[places[i]] = "near-duplicate"
  return out


def duplicates(hashes: np.ndarray, embeddings: np.ndarray) -> list[int]:
  """Places of pictures that look like an earlier one: hashes uint64 [N] within 3 bits, embeddings [N, 512] alike."""
  copies: set[int] = set()
  for band in range(_BANDS):
    part = (hashes >> np.uint64(16 * band)) & np.uint64(0xFFFF)
    order = np.argsort(part, kind="stable")
    starts = np.flatnonzero(np.diff(part[order], prepend=part[order][:1] + np.uint64(1)))
    for group in np.split(order, starts[1:]) if len(order) else ():
      for place, j in enumerate(group[1:], 1):
        if int(j) in copies:
          continue
        others = group[:place]
        near = np.bitwise_count(hashes[others] ^ hashes[j]) <= _BITS
        if near.any() and (embeddings[others[near]] @ embeddings[j]).max() >= _ALIKE:
          copies.add(int(j))
  return sorted(copies)


def count(reasons: Sequence[str]) -> dict[str, int]:
  """How many photos each rule dropped, most first."""
  words, counts = np.unique([r for r in reasons if r] or [""], return_counts=True)
  order = np.argsort(-counts, kind="stable")
  return {str(words[i]): int(counts[i]) for i in order if words[i]}
