"""What `idejax bench` takes."""

import dataclasses
from pathlib import Path
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Bench:
  """Measure UNet, sampling, VAE, compilation, training steps and whole jobs; compare with diffusers.

    idejax bench --small --vs diffusers
    idejax bench unet --family sd15 --vs diffusers
    idejax bench personalize jobs --method id-ea --people 8 32
    idejax bench input

  Weights are random; only jobs runs `idejax personalize` as it is. Work is alternated with the peer's in
  one run and medians are compared, so that a busy machine slows both.
  """

  what: tuple[Literal["unet", "sample", "vae", "compile", "personalize", "jobs", "input"], ...] = dataclasses.field(
    default=("unet", "sample", "vae", "compile"), metadata={"positional": True}
  )
  """Which measurements."""
  family: Literal["sd15", "sd21-base", "sd21", "sdxl"] = "sd15"
  """Architecture; its released size unless --small."""
  small: bool = False
  """The small relative of the family (64 px) instead of the released size; of input, a tiny training."""
  vs: Literal["none", "diffusers"] = "none"
  """Run PyTorch diffusers on the same work, alternating, and print ratios."""
  batch: int = 1
  """Pictures at a time."""
  steps: int = 4
  """Sampler steps, with guidance; of personalize, training steps in a timed run."""
  method: str = "id-ea"
  """Of personalize and jobs: the method."""
  preset: str | None = None
  """Of personalize and jobs: the method's settings. Default: miniature on the built-in model, else paper."""
  train_batch: int | None = None
  """Of personalize and jobs: examples a step. Default: the preset's."""
  model: str = "miniature"
  """Of personalize: a family such as sd21-base (full size), a pipeline folder, or miniature. Of jobs: not a family."""
  people: tuple[int, ...] = (8, 32)
  """Of personalize (a step) and jobs (the whole command): sizes of crowds, beside one person."""
  size: int | None = None
  """Pixels a side. Default: the family's; of input, 512."""
  repeats: int = 5
  """Timed runs of each, after one that is not counted."""
  dtype: Literal["float32", "bfloat16"] = "float32"
  """Of weights and computation, on both sides."""
  torch_compile: bool = False
  """Let the peer use torch.compile."""
  threads: int | None = None
  """Threads for PyTorch. Default: as many as there are cores."""
  peak: float | None = None
  """Peak TFLOP/s of the device, for the share of it achieved."""
  out: Path | None = None
  """Write the figures with versions and device as JSON."""
