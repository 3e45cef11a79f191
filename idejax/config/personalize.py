"""What `idejax personalize` takes, beside the options of its method."""

import dataclasses
from pathlib import Path
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Personalize:
  """Learn a person from one photo, and draw that person in new pictures.

    idejax personalize                                    the built-in model and portrait, ID-EA
    idejax personalize anna.png --name "<anna>" --out runs/anna
    idejax personalize anna.png --method sefi-ide --steps 300 --lr 0.01 --out runs/anna
    idejax personalize people/ --out runs/people          everyone in a folder at once
    idejax personalize anna.png --compare id-ea,textual-inversion --out runs/both

  Then: idejax sample --identity runs/anna --prompt "a photo of <anna> on the beach" --out anna

  --out receives identity.safetensors (all that sampling needs), sheet.png, loss.png, report.json,
  config.json (the whole run again: --config FILE) and provenance.json. The same command again
  continues where a killed one stopped. A person's photos should be yours to use.
  """

  photo: Path | None = dataclasses.field(default=None, metadata={"positional": True})
  """A portrait; or a folder with a file or a sub-folder per person. Default: a drawn portrait."""
  drawn: int = 1
  """Without a photo: how many people of the drawn world."""
  split: Literal["heldout", "development"] = "heldout"
  """Of these: people kept for reporting, or for choosing settings. No training saw either."""
  out: Path | None = None
  """Run folder. Default: runs/ and the photo's name."""
  method: Literal["id-ea", "sefi-ide", "stable-identity", "textual-inversion", "celeb-basis", "dreambooth"] = "id-ea"
  """How to learn. The method's own options stand at the end of this list."""
  preset: str | None = None
  """Settings of the method to start from. Default: miniature on the built-in model, else paper."""
  model: str = "miniature"
  """Pipeline folder in diffusers layout, or a hub id; miniature is built in."""
  pack: str = "miniature"
  """Face networks: miniature, an insightface pack by name (buffalo_l), or a folder."""
  name: str = "<id>"
  """The word for the person in prompts. In a folder of people: taken from the files' names."""
  seed: int = 0
  """Of initial values, data order and noise."""
  face: int | None = None
  """Which face of the photo, from the left, beginning with 1. Default: the largest."""
  parsing: Path | None = None
  """Face-parsing network (ONNX, 19 classes) for face and hair masks."""
  vit: Path | None = None
  """Folder of a face-recognition ViT as transformers writes it; stable-identity with --source vit reads it."""
  describe: str | None = None
  """What else the photo shows, "in a blue shirt on the beach", for captions to say. Default: of drawn portraits, all of it."""
  names: Path | None = None
  """Text file of celebrities' names, one a line, that the model knows. Default: the model's own."""
  checkpoint_every: int | None = None
  """Save after this many steps. Default: every few minutes, and at the end."""
  prompts: tuple[str, ...] = ()
  """Prompts for the sheet; {} is the person. Default: six that show what can change."""
  num: int = 3
  """Pictures per prompt on the sheet."""
  sample_steps: int = 25
  """Sampler steps of the sheet's pictures."""
  guidance: float | None = None
  """Of the sheet's pictures. Default: the model's."""
  compare: str = ""
  """Several methods, separated by commas, on the same photos: one table, one sheet. A preset or
  settings may follow: id-ea,id-ea/no_adapter,textual-inversion/paper/steps=500."""
  at_a_time: int = 32
  """People of a folder that train together; less needs less memory."""
  dtype: Literal["float32", "bfloat16"] | None = None
  """Of frozen weights and computation. Default: float32 on CPU, else bfloat16."""
  remat: bool = False
  """Compute the UNet's blocks again in the backward pass: about a third more work, far less memory."""
  accumulate: int = 1
  """Parts in which a step goes through its batch, one after the other: the same step in less memory."""
  minutes: float | None = None
  """Stop training after so long; the same command continues."""
  plateau: int = 0
  """Stop a person whose loss (its running mean) did not fall for so many steps. 0: nobody."""
  tensorboard: bool = False
  """Write the losses as TensorBoard events too, in --out/events."""
  consent: str = "not stated"
  """Who agreed to the use of the photo; recorded in provenance.json."""
