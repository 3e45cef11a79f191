"""What `idejax personalize` takes, beside the options of its method."""

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from idejax.ranges import any_seed, at_least, between, not_empty, person_word, with_person, without_braces


@dataclasses.dataclass(frozen=True)
class Personalize:
  """Learn a person from one photo, and show that person in new pictures.

    idejax personalize                                    the built-in model and portrait, ID-EA
    idejax personalize anna.png --name "<anna>" --out runs/anna
    idejax personalize anna.png --method sefi-ide --steps 300 --lr 0.01
    idejax personalize people/ --out runs/people          everyone in a folder at once
    idejax personalize anna.png --compare id-ea,textual-inversion --out runs/both
    idejax personalize anna.png --method facesnap --addon ADDON        no training: one forward pass
    idejax personalize anna.png --shared runs/shared --steps 20        from modules of idejax train-shared
    idejax personalize people/ --method celeb-basis --joint            ten people, one network
    idejax personalize --method sefi-ide --preset list    the method's presets and their values

  Afterwards: idejax sample --identity runs/anna --prompt "a photo of <anna> on the beach"

  --out receives identity.safetensors (all that sampling needs), sheet.png, loss.png, report.json,
  config.json (repeats the run: --config FILE) and provenance.json. The same command again
  continues where a killed one stopped. Use photos only of people who agree to it.
  """

  photo: Path | None = dataclasses.field(default=None, metadata={"positional": True})
  """A portrait, or a folder with a file or a sub-folder for each person. Default: a drawn portrait."""
  drawn: Annotated[int, at_least(1)] = 1
  """How many people of the drawn world to learn when no photo is given."""
  split: Literal["heldout", "development"] = "heldout"
  """Which drawn people: those kept for reporting, or those for choosing settings. No training saw either."""
  out: Path | None = None
  """Folder for the run. Default: runs/ and the photo's name, with a number if another run is there."""
  method: Annotated[str, not_empty] = "id-ea"
  """How to learn the person: {methods}. Each has options of its own, which --help-all lists."""
  preset: str | None = None
  """Named settings of the method to start from; `--preset list` prints them. Default: {preset}."""
  model: Annotated[str, not_empty] = "miniature"
  """Pipeline folder in diffusers' layout, or a hub id. The models miniature and miniature-sdxl are built in."""
  pack: Annotated[str, not_empty] = "miniature"
  """Networks that find and recognise faces: miniature, an insightface pack by name (buffalo_l), or a folder."""
  name: Annotated[str, person_word] = "<id>"
  """The word for the person in prompts. People of a folder are named after their files instead."""
  seed: Annotated[int, any_seed] = 0
  """Seed of all random numbers: initial values, data order and noise."""
  face: Annotated[int | None, at_least(1)] = None
  """Which face of the photo to take, counted from the left, beginning with 1. Default: the largest."""
  crop: Literal["head", "square"] | None = None
  """What of the photo trains: the head as FFHQ frames it, upright and large, or the largest square round the face.
  Default: head; of drawn portraits the square."""
  parsing: Path | None = None
  """Face-parsing network (ONNX, 19 classes) that finds the masks of face and hair."""
  vit: Path | None = None
  """Folder of a face-recognition ViT in transformers' layout; stable-identity reads it with --source vit."""
  describe: Annotated[str | None, without_braces] = None
  """What else the photo shows ("in a blue shirt on the beach"), so that captions can say it.
  Default: nothing; for drawn portraits, everything."""
  addon: Annotated[str | None, not_empty] = None
  """Add-on folder of idejax pretrain, by which facesnap reads a face without any training of that person."""
  shared: Path | None = None
  """Folder of idejax train-shared: id-ea starts from its modules, and the two words train alone, for few --steps or 0."""
  vision: Path | None = None
  """CLIP image encoder of the add-on, as transformers writes it. Default: the one in its folder."""
  names: Path | None = None
  """Text file of celebrities that the model knows, one name a line. Default: a list that suits the model."""
  checkpoint_every: Annotated[int | None, at_least(1)] = None
  """Save after this many steps. Default: every few minutes, and at the end."""
  prompts: Annotated[tuple[str, ...], with_person] = ()
  """Prompts for the sheet; {} stands for the person. Default: six that show what can change."""
  num: Annotated[int, at_least(1)] = 3
  """Pictures for each prompt on the sheet."""
  sample_steps: Annotated[int, between(1, 128)] = 25
  """Sampler steps for the sheet's pictures."""
  guidance: Annotated[float | None, between(0, 100)] = None
  """How closely the sheet's pictures follow their prompts. Default: {guidance}."""
  compare: str = ""
  """Methods to compare on the same photos, separated by commas: one table, one sheet. A preset or settings may
  follow a name: id-ea,id-ea/no_adapter,textual-inversion/paper/steps=500. Training options beside it hold for all."""
  at_a_time: Annotated[int, at_least(1)] = 32
  """How many people of a folder train together; fewer need less memory."""
  joint: bool = False
  """Train the people of a folder as one, each step on several of them: celeb-basis with one network for all, as its
  paper does with ten, id-ea with one set of modules. --steps counts for all of them together."""
  dtype: Literal["float32", "bfloat16"] | None = None
  """Number format of frozen weights and of computation. Default: float32 on CPU, else bfloat16."""
  remat: bool = False
  """Compute the UNet's blocks again in the backward pass: about a third more work, far less memory."""
  accumulate: Annotated[int, at_least(1)] = 1
  """Parts in which a step goes through its batch, one after the other: the same step in less memory."""
  minutes: Annotated[float | None, at_least(0)] = None
  """Stop training after so many minutes; the same command continues."""
  plateau: Annotated[int, at_least(0)] = 0
  """Stop training a person whose average loss has not fallen for so many steps. 0: train to the end."""
  tensorboard: bool = False
  """Write the losses as TensorBoard events too, in --out/events."""
  consent: str = "not stated"
  """Who agreed to the use of the photo; recorded in provenance.json."""

  GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
    "photo": ("photo", "name", "face", "crop", "describe", "drawn", "split", "consent"),
    "method": ("method", "preset", "compare"),
    "training": (
      "out",
      "steps",
      "batch",
      "lr",
      "seed",
      "minutes",
      "plateau",
      "checkpoint_every",
      "at_a_time",
      "joint",
      "tensorboard",
    ),
    "pictures": ("prompts", "num", "sample_steps", "guidance"),
    "model": ("model", "pack", "parsing", "vit", "addon", "vision", "shared", "names"),
    "machine": ("dtype", "remat", "accumulate"),
  }
  COMMON: ClassVar[tuple[str, ...]] = (
    "photo",
    "name",
    "method",
    "preset",
    "compare",
    "out",
    "steps",
    "batch",
    "lr",
    "seed",
    "prompts",
    "num",
    "model",
    "pack",
    "addon",
  )
