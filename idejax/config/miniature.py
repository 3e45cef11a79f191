"""What the commands that make small models take."""

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from idejax.ranges import above, any_seed, at_least


@dataclasses.dataclass(frozen=True)
class RandomModel:
  """Write a small pipeline folder with random weights, in diffusers' layout.

  It loads in idejax and in diffusers, and makes coloured noise: for trying the machinery.
  """

  out: Path
  """Folder to write; it must be new or empty."""
  family: Literal["sd15", "sd21-base", "sd21", "sdxl"] = "sd21-base"
  """Architecture of the model."""
  seed: Annotated[int, any_seed] = 0
  """Seed of the weights."""


@dataclasses.dataclass(frozen=True)
class TrainMiniature:
  """Train the small pipelines that ship in the package, on their procedural world of portraits.

  Stages: tokenizer, data, vae, words, diffusion, export; faces (detector and recogniser), judges; and of
  FaceSnap vision (a CLIP image encoder) and shapes (reads face, mood and pose of a drawn photo).
  The same command again continues; the results are --out/pipeline, a Stable Diffusion folder that
  diffusers loads too, or, with --family sdxl, --out/pipeline_sdxl, on the same pictures and VAE;
  --out/faces/faces, a pack for insightface, and --out/faces/judges.
  """

  out: Path = Path("runs/miniature")
  """Folder for pictures, checkpoints, metrics and the pipeline."""
  stage: Literal[
    "all", "tokenizer", "data", "vae", "words", "diffusion", "export", "faces", "judges", "vision", "shapes"
  ] = "all"
  """One stage, or all of the pipeline (up to export) in order."""
  family: Literal["sd", "sdxl"] = "sd"
  """sd: Stable Diffusion 2.1's architecture. sdxl: Stable Diffusion XL's, two text encoders, smaller."""
  tiny: bool = False
  """A recipe of a minute or two that shows falling losses; its pictures are blurs."""
  steps: Annotated[int | None, at_least(0)] = None
  """Steps of the stage, earlier runs included. Default: the recipe's. 0 with --start: the stage words takes what is there."""
  minutes: Annotated[float | None, at_least(0)] = None
  """Stop each stage after so long; the same command continues."""
  seed: Annotated[int, any_seed] = 0
  """Seed of weights, data order and noise."""
  vae_lr: Annotated[float | None, above(0)] = None
  """Peak learning rate of the VAE. Default: the recipe's."""
  words_lr: Annotated[float | None, above(0)] = None
  """Peak learning rate of the text encoders. Default: the recipe's."""
  lr: Annotated[float | None, above(0)] = None
  """Peak learning rate of the UNet. Default: the recipe's."""
  batch: Annotated[int | None, at_least(1)] = None
  """Pictures per step of the UNet. Default: the recipe's, which keep a CPU busy, not a GPU."""
  start: Path | None = None
  """Pipeline (a folder, miniature or miniature-sdxl) whose weights text encoders and UNet start from;
  its VAE is taken as it is."""
  unet: Path | None = None
  """Folder with the unet/ that the UNet starts from in place of --start's, or a pipeline, for example miniature with
  --family sdxl: it grows into the other architecture, and reads the other text encoders as well as a matrix can tell."""
  look: Annotated[int | None, at_least(1)] = None
  """Steps between validations with pictures. Default: the recipe's."""
  save_seconds: Annotated[float, above(0)] = 240.0
  """Seconds between checkpoints."""

  GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
    "what is trained": ("out", "stage", "family", "tiny", "start", "unet"),
    "training": ("steps", "minutes", "seed", "batch", "lr", "vae_lr", "words_lr"),
    "looking and saving": ("look", "save_seconds"),
  }
