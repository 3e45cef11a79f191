"""What `idejax bench` takes."""

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from idejax.ranges import above, at_least, not_empty


@dataclasses.dataclass(frozen=True)
class Bench:
  """Measure UNet, sampling, VAE, compilation, training steps and whole jobs; compare with diffusers.

    idejax bench --small --vs diffusers
    idejax bench unet --family sd15 --vs diffusers
    idejax bench personalize jobs --method id-ea --people 8 32
    idejax bench input
    idejax bench faces --size 1024         each stage of idejax prepare, and records out of its shards
    idejax bench sample --addon runs/facesnap/addon --steps 20

  Weights are random; only the measurement `jobs` runs `idejax personalize` as it is. With --vs the two
  sides take turns in one run and medians are compared. Other work on the machine still changes the
  ratio: PyTorch's threads wait by spinning. Measure on an idle machine.
  """

  what: tuple[Literal["unet", "sample", "vae", "compile", "personalize", "jobs", "input", "faces"], ...] = (
    dataclasses.field(default=("unet", "sample", "vae", "compile"), metadata={"positional": True})
  )
  """Which measurements to take."""
  family: Literal["sd15", "sd21-base", "sd21", "sdxl"] = "sd15"
  """Architecture to measure, at its released size unless --small is given."""
  small: bool = False
  """Measure the family's small relative (64 px) instead of the released size; for input, a tiny training."""
  vs: Literal["none", "diffusers", "dew"] = "none"
  """Run a peer on the same work, alternating, and print ratios: PyTorch's diffusers, or Dew's UNet in JAX."""
  batch: Annotated[int, at_least(1)] = 1
  """Pictures at a time."""
  steps: Annotated[int, at_least(1)] = 4
  """Sampler steps, with guidance; for personalize, training steps in a timed run."""
  method: Annotated[str, not_empty] = "id-ea"
  """Method that personalize and jobs measure."""
  preset: str | None = None
  """Settings of the method for personalize and jobs. Default: miniature on the built-in model, else paper."""
  train_batch: Annotated[int | None, at_least(1)] = None
  """Examples in a training step of personalize and jobs. Default: the preset's."""
  model: Annotated[str, not_empty] = "miniature"
  """Model for sample with --addon, for personalize (a family such as sd21-base at full size, a pipeline folder, or miniature) and for
  jobs (not a family)."""
  addon: Path | None = None
  """Add-on folder for sample: what one face costs beside plain pictures of --model, in operations and seconds."""
  people: Annotated[tuple[int, ...], at_least(1)] = (8, 32)
  """Sizes of crowds that personalize (a step) and jobs (the whole command) measure, beside one person."""
  size: Annotated[int | None, at_least(1)] = None
  """Width and height in pixels. Default: the family's; for input and faces, 512."""
  repeats: Annotated[int, at_least(1)] = 5
  """Timed runs of each measurement, after one that is not counted."""
  dtype: Literal["float32", "bfloat16"] = "float32"
  """Number format of weights and computation, on both sides."""
  torch_compile: bool = False
  """Let the PyTorch side use torch.compile."""
  threads: Annotated[int | None, at_least(1)] = None
  """Cores that both sides use, and threads of PyTorch. Default: all."""
  peak: Annotated[float | None, above(0)] = None
  """Peak TFLOP/s of the device, to print the share of it that is reached."""
  out: Path | None = None
  """File for the figures as JSON, with versions and device."""

  GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
    "measurements": ("what", "vs", "repeats", "out"),
    "model": ("family", "small", "size", "dtype", "batch", "steps"),
    "sample with a face": ("addon",),
    "personalize and jobs": ("method", "preset", "train_batch", "model", "people"),
    "machine": ("threads", "torch_compile", "peak"),
  }
