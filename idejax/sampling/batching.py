"""The batches of a job's pictures, and their rows on each process."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from idejax import sharding

Group = tuple[str, ...]  # the people in a prompt, by their words


def size(rows: int | None, count: int, devices: int) -> int:
  """Rows of a batch over all devices, a multiple of their number: `rows` or else 4 a device, at most `count`."""
  return -(-min(rows or 4 * devices, count) // devices) * devices


def form(groups: Sequence[Group], rows: int, whole: Callable[[Group], bool]) -> list[list[int]]:
  """Positions of the pictures of each batch, the last of a kind padded by repeating its end.

  A person with whole weights of their own (DreamBooth) is not mixed with others.
  """
  kinds: dict[Any, list[int]] = {}
  for i, g in enumerate(groups):
    kinds.setdefault(g if whole(g) else None, []).append(i)
  cut = lambda members: [members[at : at + rows] for at in range(0, len(members), rows)]
  return [part + [part[-1]] * (rows - len(part)) for m in kinds.values() for part in cut(m)]


def part(batch: list[int], mesh: jax.sharding.Mesh) -> tuple[list[int], set[int]]:
  """(rows on this process's mesh, pictures that this process makes) of a batch that all processes share.

  A picture that padding repeats belongs to the process with its first row.
  """
  at = sharding.share(mesh, len(batch))
  return batch[at], set(batch[at]) - set(batch[: at.start])
