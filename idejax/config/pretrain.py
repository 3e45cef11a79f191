"""What `idejax pretrain` takes, beside the options of FaceSnap itself."""

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from idejax.ranges import above, any_seed, at_least, between, from_to_below, not_empty


@dataclasses.dataclass(frozen=True)
class Pretrain:
  """Train FaceSnap once for everybody: a face then steers pictures without any training of its own.

    idejax pretrain --out runs/facesnap
    idejax pretrain --data people --model FOLDER --pack buffalo_l --vision CLIP --out runs/facesnap
    idejax pretrain --config configs/facesnap_sdxl.py --data faces --out runs/facesnap       the paper's, on any mesh

  --data is a folder of `idejax prepare`, a folder with a sub-folder of photos for each person, or `drawn`: people
  of the drawn world. A photo's caption is in the file of its name that ends in .txt. Prepared faces that are more
  than --memory stay on the disk: each process reads its own rows of each step, ahead of it. --out receives
  checkpoints, loss.png and addon/, which `idejax sample --addon runs/facesnap/addon --face PHOTO` reads. The same
  command continues, to the bit, and one process or many train the same (launch/README.md).
  """

  out: Path = Path("runs/facesnap")
  """Folder for checkpoints, metrics and the add-on."""
  data: Annotated[str, not_empty] = "drawn"
  """Folder of idejax prepare, folder with a sub-folder of photos per person, or `drawn`."""
  model: Annotated[str, not_empty] = "miniature"
  """Pipeline whose pictures the add-on shall steer: a folder, a hub id, or miniature."""
  preset: Literal["default", "paper", "sd15-512", "sd21-512", "miniature", "tiny"] = "default"
  """Settings of the method; default: miniature on built-in models, paper on others."""
  steps: Annotated[int | None, at_least(1)] = None
  """Training steps, earlier runs included. Default: the preset's."""
  batch: Annotated[int | None, at_least(1)] = None
  """Faces in a step. Default: the preset's."""
  lr: Annotated[float | None, between(0, 1)] = None
  """Learning rate. Default: the preset's."""
  cross: Annotated[float | None, between(0, 1)] = None
  """Share of examples whose face is from another picture of the person. Default: the preset's."""
  photos: Annotated[int | None, at_least(1)] = None
  """Most reference photos of a person that the mixer learns to read at once. Default: the preset's, 1 in the paper."""
  augment: Annotated[float | None, between(0, 1)] = None
  """Share of the pictures that are scaled, turned and set elsewhere in a black frame, anew in every step, drawn from
  (seed, step, place); landmarks, masks and SDXL's crop move with them, the reference does not. 0: none. Latents of
  idejax prepare are of unmoved pictures, so they are then computed step by step. Default: the preset's, 0.8 in the
  paper's."""
  zoom: Annotated[float | None, at_least(1)] = None
  """How many times --augment enlarges or shrinks at most; the face stays in the frame. Default: the preset's, 1.5."""
  turn: Annotated[float | None, between(0, 180)] = None
  """How many degrees --augment turns at most, either way. Default: the preset's, 15."""
  identity_weight: Annotated[float | None, at_least(0)] = None
  """Weight of the identity loss. Default: the preset's."""
  contrast: Annotated[float | None, at_least(0)] = None
  """Weight, beside the identity loss, of InfoNCE: a face shall be nearer to its own reference than to those of the
  batch's other people. Default: the preset's, 0 in the paper."""
  ema: Annotated[float | None, from_to_below(0, 1)] = None
  """Momentum of an average of the weights, which is validated and kept in place of the last; 0: none. Default: the
  preset's, 0 in the paper."""
  fuse: Literal["mixer", "concat", "identity", "clip"] | None = None
  """How embedding and CLIP's tokens meet: the mixer, or what the paper compares it with. Default: the preset's."""
  minutes: Annotated[float | None, at_least(0)] = None
  """Stop after so long; the same command continues."""
  seed: Annotated[int, any_seed] = 0
  """Seed of weights, data order and noise."""
  memory: Annotated[float, at_least(0)] = 4.0
  """GiB of faces of idejax prepare that are read and encoded at once and held; more than that are read from the
  shards step by step. 0: always."""
  dtype: Literal["float32", "bfloat16"] | None = None
  """Number format of frozen weights and of computation; what trains is float32. Default: bfloat16, on CPU float32."""
  remat: bool = False
  """Compute the UNet's blocks again in the backward pass instead of keeping what they computed: less memory."""
  frozen: Literal["parts", "whole"] = "parts"
  """Weights that do not train, where the devices hold what trains in parts: in parts too, or whole on each, which takes
  more memory and spares joining them in every step."""
  tensorboard: bool = False
  """Write events for TensorBoard too."""
  accumulate: Annotated[int, at_least(1)] = 1
  """Parts into which a batch is cut, computed one after another."""
  pack: Annotated[str, not_empty] = "miniature"
  """Detector and recogniser: miniature (drawn portraits), an insightface pack (buffalo_l), or a folder of ONNX files."""
  vision: Annotated[str, not_empty] = "miniature"
  """Folder of a CLIP image encoder as transformers writes it (the paper: ViT-H/14), or miniature."""
  parsing: Path | None = None
  """Face-parsing network (ONNX, CelebAMask-HQ's 19 classes) that finds faces' regions in photos."""
  people: Annotated[int | None, at_least(1)] = None
  """How many drawn people to learn from. Default: all 2600 of the world's training split."""
  each: Annotated[int, at_least(1)] = 6
  """Pictures of each drawn person."""
  measure: Annotated[int | None, at_least(3)] = None
  """Afterwards measure the add-on on so many drawn people whom no training has seen, by judges that no training
  listens to: measured.json and measured.png."""
  validate_every: Annotated[int | None, at_least(1)] = None
  """Every so many steps, validate on people whom the training does not see: the masked loss by fixed draws, identity
  by a second recogniser, the error of the pose, in validation.jsonl, and a sheet of pictures in validation/."""
  validate_people: Annotated[int, at_least(2)] = 8
  """How many people of --data are kept out of the training for that; of drawn ones, how many of the world's held-out."""
  judge: Annotated[str | None, not_empty] = None
  """Face pack whose recogniser judges identity at validations, another than --pack. Default: the drawn world's second
  one, of other packs none."""
  save_seconds: Annotated[float, above(0)] = 240.0
  """Seconds between checkpoints."""

  GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
    "data": ("data", "memory", "people", "each", "pack", "vision", "parsing"),
    "training": (
      "out",
      "model",
      "preset",
      "steps",
      "batch",
      "lr",
      "cross",
      "photos",
      "augment",
      "zoom",
      "turn",
      "identity_weight",
      "contrast",
      "ema",
      "fuse",
      "minutes",
      "seed",
    ),
    "validation": ("validate_every", "validate_people", "judge", "measure"),
    "machine": ("dtype", "remat", "frozen", "accumulate", "save_seconds", "tensorboard"),
  }
