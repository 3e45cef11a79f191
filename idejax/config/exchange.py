"""What the commands that exchange files with other software take."""

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from idejax.ranges import not_empty, person_word


@dataclasses.dataclass(frozen=True)
class Export:
  """Write a person, or FaceSnap's add-on, as files that diffusers opens without idejax, and prove that they are the same.

    idejax export runs/anna --to anna
    idejax export runs/anna --to anna --format textual-inversion
    idejax export runs/anna --to anna --quick
    idejax export runs/facesnap/addon --to facesnap --model FOLDER

  --to receives the weights, README.md (how to open them, what to say, whose face it is) and
  certificate.json: idejax and diffusers, in separate processes, on the same prompts and noise. If they
  differ, nothing is written and the command fails. The check needs PyTorch: pip install -e ".[export]".
  """

  to: Path
  """Folder to write; it must be new or empty."""
  run: Path = dataclasses.field(default=Path("."), metadata={"positional": True})
  """Run folder of idejax personalize, or its identity.safetensors; or an add-on folder of idejax pretrain."""
  format: Literal["auto", "textual-inversion", "pipeline", "lora", "custom-diffusion", "certificate-only"] = "auto"
  """Form of the files. auto: a textual-inversion file where words are all that was learned, else a whole
  pipeline folder. lora and custom-diffusion are small files for what they can hold; the card says what they
  leave out. certificate-only checks the form that auto chooses and keeps only the certificate."""
  model: Annotated[str | None, not_empty] = None
  """Where the base model is now. Default: where it was when the person was learned; of an add-on, the built-in model
  if it was made for that."""
  quick: bool = False
  """Check with 10 sampler steps only, not with 10 and 50."""
  verify: bool = True
  """Run diffusers and compare. Without the check, the certificate says that there was none."""


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
  .safetensors is one file for other front ends. Values stay the same to the bit where the dtype stays.
  """

  paths: tuple[Path, ...] = dataclasses.field(default=(), metadata={"positional": True})
  """What to convert (a folder, a file or a built-in model's name), and last where to. For an identity: its
  files (a word's file beside a LoRA, or SDXL's two), and last the run folder to write."""
  kind: Literal["auto", "model", "identity"] = "auto"
  """What the source is; auto: a model, but an identity where --name is given."""
  to: Literal["auto", "orbax"] = "auto"
  """orbax: a checkpoint of idejax's own runs, in NEW/checkpoints; auto: as the target's name says."""
  dtype: Literal["float32", "float16", "bfloat16"] | None = None
  """Number format of the written weights. Default: as they are."""
  max_shard_size: str | None = None
  """Split weights into files of at most this size, such as 5GB. Default: one file for each component."""
  variant: str | None = None
  """Variant of the weights to read, such as fp16."""
  allow_pickle: bool = False
  """Open pickles (.bin, .pt, .ckpt) too. They can run code: allow them only from people you trust."""
  model: Annotated[str | None, not_empty] = None
  """For an identity: the model that it was trained on. For a single-file checkpoint: a folder of the same
  family, whose configs and tokenizer are taken (with a hub id or nothing, diffusers fetches them, with
  PyTorch). For a run: the pipeline that it began from, where the run does not say."""
  name: Annotated[str | None, person_word] = None
  """What prompts shall call the person, such as "<anna>"."""
  word: Annotated[str, not_empty] = "sks person"
  """What prompts called the person while a LoRA was trained; each word must be a single token."""

  GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
    "files": ("paths", "kind", "to", "model", "variant", "allow_pickle"),
    "weights": ("dtype", "max_shard_size"),
    "identities": ("name", "word"),
  }


@dataclasses.dataclass(frozen=True)
class Rename:
  """Give a learned person another name, the word that prompts say.

    idejax rename runs/anna "<anna>"
    idejax rename runs/people/ben "<benjamin>"

  Only the word changes: pictures of "a photo of <anna>" are those that the old word gave. Nothing is
  written if the name is not one word or is an ordinary word of the person's model.
  """

  run: Path = dataclasses.field(metadata={"positional": True})
  """Run folder of idejax personalize with one person, or its identity.safetensors."""
  name: Annotated[str, person_word] = dataclasses.field(metadata={"positional": True})
  """The new word, such as "<anna>"."""
