"""What `idejax plan` takes."""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Plan:
  """Compile the training step for a topology that is not there: memory, work, collectives, time, what fits.

    idejax plan --config configs/X.py --topology v5e:4x4
    idejax plan --model sd21-base --method id-ea --people 8 --topology v5e-256
    idejax plan --config configs/X.py --table

  No accelerator is needed; for TPUs, pip install "idejax[plan]". Figures are of one device. They are
  kept by content, so that the same question is answered at once; --out writes them as JSON.
  """

  run: Path | None = dataclasses.field(default=None, metadata={"positional": True})
  """A config file of idejax personalize (.py, or a run's config.json), also as --config."""
  topology: tuple[str, ...] = ("v5e:2x4",)
  """KIND:GRID, such as v5e:4x4, v5e-256, v6e-8, v5p:2x2x1; cpu:8 tries the command. May be repeated."""
  table: bool = False
  """Compare topologies: a line each for v5e-8, v5e-256 and v6e-8, or those given."""
  model: str | None = None
  """sd15, sd21-base, sd21, sdxl, a known hub id, or a pipeline folder (its configs). Default: the config file's."""
  method: str | None = None
  """Instead of the config file's."""
  batch: int | None = None
  """Rows of a step, over all devices for one person. Default: the method's."""
  people: int = 0
  """How many train at once on each device; 0: one person, whose batch all devices divide."""
  fsdp: int = 1
  """Devices among which large arrays are divided. 1: as idejax personalize divides them."""
  dtype: str | None = None
  """float32 or bfloat16, of frozen weights and computation. Default: bfloat16, on cpu float32."""
  remat: bool = False
  """As of idejax personalize; also if the config file says so."""
  blocks: bool = False
  """Do not compile the whole step but its repeating blocks, and sum them: an estimate, minutes faster."""
  limit: float = 900.0
  """Seconds for compiling the whole step; after that its blocks are compiled instead. 0: no limit."""
  out: Path | None = None
  """Write the figures as JSON."""
