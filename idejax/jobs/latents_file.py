"""The file of `idejax sample --save-latents`, which is filled row by row and continued by the same command."""

import hashlib
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from idejax.errors import UserError
from idejax.runtime import distributed


def sha256(x: np.ndarray) -> str:
  return hashlib.sha256(np.ascontiguousarray(x).data).hexdigest()


class LatentsFile:
  """The file of --save-latents. It is `.NAME.partial`, with rows filled in as they are made, until the last row is
  there. A row belongs to a picture if its sha256 is the one in the picture's record.

  It is written with seek and write, because a memory map on a full disk would end the process.
  """

  def __init__(self, path: Path, shape: tuple[int, ...], old_records: list[dict[str, Any] | None]):
    self.path, self.shape, self.partial = path, shape, path.with_name(f".{path.name}.partial")
    self.file: Any = None
    self.rows = self._read(path)
    if path.exists() and (
      self.rows is None
      or not any(old_records)
      or any(old and not self.holds(i, old) for i, old in enumerate(old_records))
    ):
      raise UserError(
        f"--save-latents {path} is there and does not belong to the pictures in --out; move it or choose another name"
      )
    if self.rows is None:
      self.rows = self._read(self.partial)

  def _read(self, path: Path) -> np.ndarray | None:
    try:
      rows = np.load(path, mmap_mode="r", allow_pickle=False)
      return rows if rows.shape == self.shape and rows.dtype == np.float32 else None
    except (OSError, ValueError, EOFError, AttributeError):
      return None

  def holds(self, i: int, record: dict[str, Any]) -> bool:
    return self.rows is not None and sha256(self.rows[i]) == record.get("latents_sha256")

  def reopen(self):
    """Prepares `put` and makes room for every row, so that a full disk is noticed now. One process makes the
    file, and all write their rows into it."""
    if distributed.first():
      self._make()
    distributed.meet("room for latents")
    self.file = open(self.partial, "r+b")

  def _make(self):
    if self.path.exists():
      self.path.replace(self.partial)
    if self.rows is None:
      try:
        with open(self.partial, "wb") as f:
          header = dict(descr="<f4", fortran_order=False, shape=self.shape)
          np.lib.format.write_array_header_1_0(f, header)
          for _ in range(self.shape[0]):
            f.write(bytes(4 * math.prod(self.shape[1:])))
      except OSError as e:
        self.partial.unlink(missing_ok=True)
        e.filename = e.filename or str(self.path)
        raise

  def put(self, i: int, latents: np.ndarray):
    self.file.seek(i * latents.nbytes - math.prod(self.shape) * 4, os.SEEK_END)
    self.file.write(latents.astype("<f4").data)
    self.file.flush()

  def close(self):
    if self.file is None:
      return
    self.file.close()
    if distributed.first():
      self.partial.replace(self.path)
