"""`idejax random-model`: a pipeline folder with random weights, to try the machinery on."""

import os
import tempfile
from pathlib import Path

from idejax import config
from idejax.errors import UserError, tell
from idejax.model import families


def main(c: config.RandomModel):
  if c.out.exists() and any(c.out.iterdir() if c.out.is_dir() else [c.out]):
    raise UserError(f"--out {c.out} exists and is not empty")
  c.out.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=c.out.parent, prefix=f".{c.out.name}-") as temporary:
    families.write_random(Path(temporary) / "model", c.family, seed=c.seed)
    os.replace(Path(temporary) / "model", c.out)  # whole or absent
  tell(f"{c.out}: {c.family} at a laptop's size, random weights; its pictures are coloured noise")
