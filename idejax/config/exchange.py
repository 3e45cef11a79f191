"""What the commands that exchange files with other software take."""

import dataclasses
from pathlib import Path
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Export:
  """Write a person as files that diffusers opens without idejax, and prove that they are the same.

    idejax export runs/anna --to anna
    idejax export runs/anna --to anna --format textual-inversion
    idejax export runs/anna --to anna --quick

  --to receives the weights, README.md (how to open them, what to say, whose face it is) and
  certificate.json: idejax and diffusers, in separate processes, on the same prompts and noise. If they
  differ, nothing is written and the command fails.
  """

  to: Path
  """Folder to make."""
  run: Path = dataclasses.field(default=Path("."), metadata={"positional": True})
  """Run folder of idejax personalize, or its identity.safetensors."""
  format: Literal["auto", "textual-inversion", "pipeline", "lora", "custom-diffusion", "certificate-only"] = "auto"
  """auto: a textual-inversion file where words are all that was learned, else a whole pipeline folder.
  lora and custom-diffusion are small files for what they can hold; what a form leaves out is said in
  its card. certificate-only checks the form that auto chooses and keeps the certificate."""
  model: str | None = None
  """Where the base model is now. Default: where the identity was made."""
  quick: bool = False
  """Check 10 steps, not 10 and 50."""
  verify: bool = True
  """Run diffusers and compare; --no-verify leaves it out, and the certificate says so."""


@dataclasses.dataclass(frozen=True)
class Convert:
  """Rewrite a model, or bring in a person who was learned elsewhere.

    idejax convert FOLDER NEW --dtype float16
    idejax convert FLAX_FOLDER NEW
    idejax convert FOLDER NEW --max-shard-size 2GB
    idejax convert FOLDER model.safetensors
    idejax convert model.safetensors NEW --model FOLDER_OF_THE_SAME_FAMILY
    idejax convert runs/anna NEW
    idejax convert learned_embeds.safetensors runs/anna --kind identity --model MODEL --name "<anna>"

  A folder is a pipeline, or one component such as a ControlNet, in diffusers' layout; Flax msgpack
  files, which no library opens any more, become safetensors. A run that trained a network (DreamBooth,
  the miniature) becomes a pipeline folder with what its newest checkpoint holds. A target that ends in
  .safetensors is one file for other front ends. Bits stay where the dtype stays.
  """

  paths: tuple[Path, ...] = dataclasses.field(default=(), metadata={"positional": True})
  """What to convert, and where to. Of an identity: its files (a word's file beside a LoRA, or SDXL's
  two), and last the run folder to make."""
  kind: Literal["auto", "model", "identity"] = "auto"
  """What the source is; auto: a model, but an identity where --name is given."""
  to: Literal["auto", "orbax"] = "auto"
  """orbax: a checkpoint of idejax's own runs, in NEW/checkpoints; auto: as the target's name says."""
  dtype: Literal["float32", "float16", "bfloat16"] | None = None
  """Of the weights. Default: as they are."""
  max_shard_size: str | None = None
  """Split weights into files of at most this size, such as 5GB. Default: one file a component."""
  variant: str | None = None
  """Read this variant of the weights, such as fp16."""
  allow_pickle: bool = False
  """Open pickles (.bin, .pt, .ckpt) too; they can run code: only from people you trust."""
  model: str | None = None
  """The model that an identity was trained on. Of a single-file checkpoint: a folder of the same family,
  whose configs and tokenizer are taken (a hub id, or none: diffusers fetches them, with PyTorch). Of a
  run: the pipeline it began from, where the run does not say."""
  name: str | None = None
  """What prompts shall call the person, such as "<anna>"."""
  word: str = "sks person"
  """What prompts called the person while a LoRA was trained; each word a single token."""
