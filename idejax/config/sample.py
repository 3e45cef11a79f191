"""What `idejax sample` takes."""

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from idejax.ranges import any_seed, at_least, between, from_to_below, not_empty


@dataclasses.dataclass(frozen=True)
class Sample:
  """Make pictures from prompts with any Stable Diffusion 1.x, 2.x or SDXL folder, and of people learned.

    idejax sample --prompt "a photo of a woman with red hair and glasses on the beach"
    idejax sample --identity runs/anna --prompt "a photo of <anna> smiling" --out anna
    idejax sample --model FOLDER --prompt "a photo of a cat" --out cat
    idejax sample --model FOLDER --prompts prompts.txt --num 4 --seed 7 --steps 25 --out many
    idejax sample --addon ADDON --face anna.png --pose left --prompt "a photo of a person on the beach"
    idejax sample --model FOLDER --controlnet CONTROLNET --control edges.png --prompt "a red fox"
    idejax sample --config configs/sample_sdxl_turbo.py --prompt "a red fox" --out fox

  --out receives 00000.png and so on, manifest.jsonl (a line for each picture) and sheet.png (all at a
  glance). Every picture carries its prompt, seed, sampler and model digest in its text chunks.
  The same command again continues where a killed one stopped; what is finished stays.
  """

  out: Path | None = None
  """Folder for the pictures. Default: pictures, with a number if other pictures are there."""
  model: Annotated[str | None, not_empty] = None
  """Pipeline folder, or hub id such as stabilityai/sdxl-turbo. Default: the identity's, else the built-in miniature."""
  identity: tuple[Path, ...] = ()
  """Run folders of idejax personalize whose people prompts may name; the folder of a crowd stands for all in it."""
  strength: Annotated[float | None, between(0, 10)] = None
  """How strongly an identity acts; 1 is as it was trained (id-ea, and dreambooth with LoRA). Default: as its run says."""
  start: Annotated[float, from_to_below(0, 1)] = 0.0
  """Share of the steps, from 0 to 1, that show just "a person" before the identity enters: freer layouts."""
  other_model: bool = False
  """Use an identity on another model than its own, if the widths agree."""
  addon: Annotated[str | None, not_empty] = None
  """Add-on folder of idejax pretrain, by which --face steers pictures without any training of that person."""
  face: tuple[Path, ...] = ()
  """Photo whose face the pictures shall have, with --addon; several are of one person, and count as their mean."""
  pose: Annotated[str | None, not_empty] = None
  """Where the face lies, of --face or of a person by facesnap: a driver's photo, none, or front, left, right, half-left, half-right, tilted-left,
  tilted-right, happy, surprised, far. Default: as in the person's photo, if landmarks are found there, else none."""
  face_strength: Annotated[float, between(0, 10)] = 1.0
  """How strongly the add-on acts; 0 makes the model's own pictures."""
  face_until: Annotated[float, between(0, 1)] = 1.0
  """Share of the steps, from the first, in which it acts: below 1 leaves the last ones to the prompt."""
  pack: Annotated[str, not_empty] = "miniature"
  """Face networks that read --face and --pose, those of the add-on's training: miniature (drawn portraits), an
  insightface pack (buffalo_l), or a folder of ONNX files."""
  vision: Path | None = None
  """CLIP image encoder of the add-on, as transformers writes it. Default: the one in its folder."""
  shape: Path | None = None
  """Morphable model (.npz, see docs/methods.md), with --table: of photographs, the person's own shape of face in the
  driver's pose. Default: the driver's landmarks as they are; of drawn portraits, the drawn world's own geometry."""
  table: Path | None = None
  """Where the 72 landmarks lie on that model (.json), with --shape."""
  controlnet: Path | None = None
  """Folder of a stock ControlNet of the model's family (edges, depth, body or face key points), in diffusers' layout."""
  control: Path | None = None
  """Picture that it reads, drawn already as it was trained on; stretched to the pictures' size."""
  control_strength: Annotated[float, between(0, 10)] = 1.0
  """How strongly the control picture acts; 0 makes the model's own pictures."""
  control_from: Annotated[float, between(0, 1)] = 0.0
  """Share of the steps before it acts."""
  control_until: Annotated[float, between(0, 1)] = 1.0
  """Share of the steps, from the first, after which it no longer acts."""
  prompt: Annotated[tuple[str, ...], not_empty] = ()
  """One or more prompts, each in quotes; the option may be repeated."""
  prompts: Path | None = None
  """File of prompts: .txt (one a line), or .jsonl or .csv with the fields prompt [negative, seed, guidance, face, pose,
  control]. Rows whose photo or control picture cannot be used are skipped, counted and listed."""
  negative: str | None = None
  """What the pictures should not show. Default: the empty prompt (for SDXL base zeros, as in diffusers)."""
  num: Annotated[int | None, at_least(1)] = None
  """Pictures for each prompt. Default: 4 for a single prompt, else 1."""
  seed: Annotated[int, any_seed] = 0
  """Seed of the noise: picture i starts from the noise (seed, i), on any device and in any batch."""
  steps: Annotated[int, at_least(1)] = 50
  """Sampler steps: more are slower and, up to 30 or so, better. At most 128 model calls."""
  guidance: Annotated[float | None, between(0, 100)] = None
  """How closely to follow the prompt; up to 1 it is off, which takes half the time (Turbo, Lightning).
  Default: {guidance}."""
  sampler: Literal[
    "folder", "ddim", "ddpm", "pndm", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_sde", "lcm"
  ] = "folder"
  """Sampling algorithm; `folder` is the one that the model's scheduler_config.json names."""
  spacing: Literal["leading", "trailing", "linspace"] | None = None
  """Which timesteps are visited. Default: the model's own choice; Turbo and Lightning want trailing."""
  karras: bool | None = None
  """Use the noise levels of Karras et al. Default: the model's own choice."""
  eta: Annotated[float | None, at_least(0)] = None
  """How much noise a stochastic sampler adds, from 0 to 1. Default: 0 for ddim, 1 for the others."""
  height: Annotated[int | None, at_least(1)] = None
  """Height in pixels, a multiple of {multiple}. Default: {side}."""
  width: Annotated[int | None, at_least(1)] = None
  """Width in pixels, a multiple of {multiple}. Default: {side}."""
  dtype: Literal["float32", "bfloat16"] | None = None
  """Number format of weights and computation; bfloat16 halves the memory, on a CPU only where that has units for it.
  Default: float32 on CPU, else bfloat16."""
  batch: Annotated[int | None, at_least(1)] = None
  """Pictures at a time over all devices; fewer need less memory. Default: 4 for each device."""
  tiled: bool = False
  """Decode in overlapping tiles: large pictures in little memory."""
  attention: Literal["plain", "chunk", "cudnn", "flash", "splash"] | None = None
  """Implementation of attention. Default: chosen by device and length."""
  variant: str | None = None
  """Variant of the weight files to read, such as fp16. Default: full precision if there, else fp16."""
  init_latents: Path | None = None
  """Initial noise in place of the seed's: .npy, float32 (N, C, h, w), unit variance."""
  save_latents: Path | None = None
  """File for the final latents before the VAE: .npy, float32 (N, C, h, w)."""
  allow_pickle: bool = False
  """Read .bin and .ckpt weights with torch's weights-only loader (needs PyTorch)."""

  GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
    "prompts": ("prompt", "prompts", "negative"),
    "people": ("identity", "strength", "start", "other_model"),
    "a face without training": (
      "addon",
      "face",
      "pose",
      "face_strength",
      "face_until",
      "pack",
      "vision",
      "shape",
      "table",
    ),
    "a control picture": ("controlnet", "control", "control_strength", "control_from", "control_until"),
    "pictures": ("out", "num", "seed", "steps", "guidance", "height", "width"),
    "sampler": ("sampler", "spacing", "karras", "eta"),
    "model": ("model", "variant", "allow_pickle"),
    "machine": ("dtype", "batch", "tiled", "attention", "init_latents", "save_latents"),
  }
  COMMON: ClassVar[tuple[str, ...]] = (
    "prompt",
    "prompts",
    "negative",
    "identity",
    "strength",
    "out",
    "num",
    "seed",
    "steps",
    "guidance",
    "height",
    "width",
    "model",
  )
