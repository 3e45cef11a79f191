"""TensorBoard events of a run: the numbers of metrics.jsonl, one curve per person in a crowd."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from idejax.errors import UserError


class Board:
  """Writes events to FOLDER/events. Events that a killed run wrote from step `start` on are hidden. UserError
  without tensorboardX."""

  def __init__(self, folder: Path, start: int):
    try:
      from tensorboardX import SummaryWriter
    except ImportError as e:
      raise UserError('--tensorboard needs tensorboardX: pip install -e ".[tensorboard]"') from e
    self._writer = SummaryWriter(str(folder / "events"), purge_step=start)

  def add(self, rows: Sequence[Mapping[str, Any]]):
    """Write the records of steps, whose values are numbers, None, or lists with a number per person."""
    for row in rows:
      for name, x in row.items():
        each = {f"{name}/{i}": v for i, v in enumerate(x)} if isinstance(x, list) else {name: x}
        for tag, value in each.items():
          if name != "step" and value is not None:
            self._writer.add_scalar(tag, value, row["step"])
    self._writer.flush()

  def close(self):
    self._writer.close()
