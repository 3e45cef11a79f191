"""What `idejax plan` takes."""

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from idejax.ranges import above, at_least, between, not_empty


@dataclasses.dataclass(frozen=True)
class Plan:
  """Compile the training step for a topology that is not there: memory, work, collectives, time, what fits.

    idejax plan --config configs/X.py --topology v5e:4x4
    idejax plan --model sd21-base --method id-ea --people 8 --topology v5e-256
    idejax plan --model sd21-base --method id-ea --people 8 --topology h200:8
    idejax plan --config configs/X.py --table
    idejax plan --config configs/facesnap_sdxl.py --table --batch 256 --images 5e6 --price 2

  No accelerator is needed; for TPUs, pip install -e ".[plan]", for GPUs pip install "jax[cuda12]". For GPUs kernels
  are not tuned: the program shows whether it fits and which collectives it has, not its speed. Figures are of one
  device. They are kept by content, so that the same question is answered at once; --out writes them as JSON. A run of
  idejax pretrain is planned from shapes, without a compiler: memory, FLOPs, collectives, days, cost.
  """

  run: Path | None = dataclasses.field(default=None, metadata={"positional": True})
  """A config file of idejax personalize (.py, or a run's config.json) or pretrain (.py), also as --config."""
  topology: Annotated[tuple[str, ...], not_empty] = ("v5e:2x4",)
  """Chips to plan for, as KIND:GRID, such as v5e:4x4, v5e-256, v6e-8, v5p:2x2x1; GPUs of one node as h200:8 (a100,
  h100, h200, b200); cpu:8 tries the command. The option may be repeated."""
  table: bool = False
  """Compare topologies: a line each for v5e-8, v5e-256 and v6e-8, or those given; a pretraining on
  v5e-256, v6e-8, v5p:4x4x4, h100:8 and h200:8."""
  model: Annotated[str | None, not_empty] = None
  """sd15, sd21-base, sd21, sdxl, a known hub id, or a pipeline folder (its configs). Default: the config file's."""
  method: str | None = None
  """Method to plan. Default: the config file's."""
  batch: Annotated[int | None, at_least(1)] = None
  """Examples in a step, over all devices for one person. Default: the method's."""
  people: Annotated[int, at_least(0)] = 0
  """How many train at once on each device; 0: one person, whose batch all devices divide."""
  fsdp: Annotated[int, at_least(1)] = 1
  """Devices among which large arrays are divided. 1: as idejax personalize divides them."""
  dtype: Literal["float32", "bfloat16"] | None = None
  """Number format of frozen weights and of computation. Default: bfloat16, on cpu float32."""
  remat: bool = False
  """Compute the UNet's blocks again in the backward pass, as `idejax personalize --remat` does."""
  blocks: bool = False
  """Compile only the repeating blocks of the step and add them up: an estimate, minutes faster."""
  check: bool = False
  """With --blocks: compile the whole step too, whatever time it takes, and print how far their sum is from it."""
  limit: Annotated[float, at_least(0)] = 900.0
  """Seconds for compiling the whole step; after that its blocks are compiled instead. 0: no limit."""
  images: Annotated[float | None, at_least(1)] = None
  """Faces that a pretraining shall see, such as 5e6. Default: its steps times its batch."""
  share: Annotated[float, between(0.01, 1)] = 0.4
  """Share of the roofline's speed that a pretraining is taken to reach, for its days."""
  price: Annotated[float | None, above(0)] = None
  """Price of a chip and hour, in any currency, for a pretraining's cost."""
  out: Path | None = None
  """File for the figures as JSON."""

  GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
    "run": ("run", "model", "method", "batch", "people", "fsdp", "dtype", "remat"),
    "chips": ("topology", "table"),
    "estimate": ("blocks", "check", "limit", "out"),
    "a pretraining": ("images", "share", "price"),
  }
