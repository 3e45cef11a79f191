"""A parser of stories that answers what it was given."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Scripted:
  answer: tuple[str, ...]

  def parse(self, story: str, names: Sequence[str]) -> list[str]:
    return list(self.answer)
