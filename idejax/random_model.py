"""`idejax random-model`: a pipeline folder with random weights, to try the machinery on."""

from idejax import config, families
from idejax.errors import UserError, tell


def main(c: config.RandomModel):
  if c.out.exists() and any(c.out.iterdir() if c.out.is_dir() else [c.out]):
    raise UserError(f"--out {c.out} exists and is not empty")
  families.write_random(c.out, c.family, seed=c.seed)
  tell(f"{c.out}: {c.family} at a laptop's size, random weights; its pictures are coloured noise")
