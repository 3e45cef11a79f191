"""What `idejax train-shared` takes, beside the options of ID-EA."""

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from idejax.ranges import any_seed, at_least, between, not_empty, without_braces


@dataclasses.dataclass(frozen=True)
class TrainShared:
  """Train ID-EA's modules once for everybody: a person then needs two words and few steps, or none.

    idejax train-shared --out runs/shared                              drawn people, the built-in model
    idejax train-shared --data people --model FOLDER --pack buffalo_l --out runs/shared
    idejax personalize anna.png --shared runs/shared --steps 20

  This is idejax's own; in ID-EA's paper each person trains modules of their own, to which the face is a constant.
  Here face projection, enhancer and adapter (with --kv also keys and values) train jointly with many people, each of
  whom has two words of their own; in a share of the examples these are as they began, so that the modules alone must
  show who it is. --data is what idejax personalize takes for several people, a folder with a file or a sub-folder for
  each, or `drawn`. --out receives modules.safetensors and shared.json, which --shared reads, checkpoints and loss.png.
  The same command continues, to the bit. Use photos only of people who agree to it.
  """

  out: Path = Path("runs/shared")
  """Folder for the modules, checkpoints and metrics."""
  data: Annotated[str, not_empty] = "drawn"
  """Folder with a photo or a sub-folder of photos for each person, or `drawn`: the drawn world's training people."""
  people: Annotated[int | None, at_least(1)] = None
  """How many drawn people. Default: all 2600 of the world's training split."""
  each: Annotated[int, at_least(1)] = 6
  """Pictures of each drawn person."""
  model: Annotated[str, not_empty] = "miniature"
  """Pipeline folder in diffusers' layout, or a hub id. The models miniature and miniature-sdxl are built in."""
  pack: Annotated[str, not_empty] = "miniature"
  """Networks that find and recognise faces: miniature, an insightface pack by name (buffalo_l), or a folder."""
  preset: str | None = None
  """Named settings of ID-EA to start from. Default: {preset}, with --kv none."""
  plain: Annotated[float, between(0, 1)] = 0.5
  """Share of the examples whose person has the two words as they began: the average name."""
  crop: Literal["head", "square"] | None = None
  """What of a photo trains: the head as FFHQ frames it, or the largest square round the face. Default: head."""
  describe: Annotated[str, without_braces] = ""
  """What all photos of --data show beside the person, for their captions."""
  names: Path | None = None
  """Text file of celebrities that the model knows, one name a line. Default: a list that suits the model."""
  seed: Annotated[int, any_seed] = 0
  """Seed of weights, data order and noise."""
  minutes: Annotated[float | None, at_least(0)] = None
  """Stop after so long, with the modules as they then are; the same command continues."""
  checkpoint_every: Annotated[int | None, at_least(1)] = None
  """Save after this many steps. Default: every few minutes, and at the end."""
  tensorboard: bool = False
  """Write the losses as TensorBoard events too."""
  dtype: Literal["float32", "bfloat16"] | None = None
  """Number format of frozen weights and of computation. Default: float32 on CPU, else bfloat16."""
  remat: bool = False
  """Compute the UNet's blocks again in the backward pass: about a third more work, far less memory."""
  accumulate: Annotated[int, at_least(1)] = 1
  """Parts in which a step goes through its batch, one after the other: the same step in less memory."""

  GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
    "people": ("data", "people", "each", "crop", "describe"),
    "training": (
      "out",
      "preset",
      "steps",
      "batch",
      "lr",
      "plain",
      "seed",
      "minutes",
      "checkpoint_every",
      "tensorboard",
    ),
    "model": ("model", "pack", "names"),
    "machine": ("dtype", "remat", "accumulate"),
  }
