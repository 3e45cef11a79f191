"""What each command takes: frozen dataclasses, whose comments are the text of `--help`.

A file in `configs/` sets `config = Sample(...)`; `--config FILE` loads it, flags override it.
"""

import dataclasses
import runpy
import types
import typing
from pathlib import Path
from typing import Any, Literal

from idejax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Sample:
  """Make pictures for prompts with any Stable Diffusion 1.x, 2.x or SDXL folder.

    idejax sample --model FOLDER --prompt "a photo of a cat" --out cat
    idejax sample --model FOLDER --prompts prompts.txt --num 4 --seed 7 --steps 25 --out many
    idejax sample --config configs/sample_sdxl_turbo.py --prompt "a red fox" --out fox

  --out receives 00000.png and so on, manifest.jsonl (a line a picture) and sheet.png (all at a
  glance). Every picture carries its prompt, seed, sampler and model digest in its text chunks.
  The same command again continues where a killed one stopped; what is finished stays.
  """

  out: Path
  """Folder for the pictures; made if need be."""
  model: str = ""
  """Required: a pipeline folder in diffusers' layout, or a hub id such as stabilityai/sdxl-turbo."""
  prompt: tuple[str, ...] = ()
  """One or more prompts, each in quotes; the option may be repeated."""
  prompts: Path | None = None
  """File of prompts: .txt (one a line), or .jsonl or .csv with the fields prompt, negative, seed and
  guidance, of which all but prompt may be left out."""
  negative: str | None = None
  """What the pictures should not show. Default: the empty prompt (SDXL base: zeros, as diffusers)."""
  num: int = 1
  """Pictures per prompt."""
  seed: int = 0
  """Picture i of the run starts from the noise (seed, i), on any device and in any batch."""
  steps: int = 50
  """Sampler steps: more is slower and, up to 30 or so, better. At most 128 model calls."""
  guidance: float | None = None
  """How closely to follow the prompt; 0 to 1 switches guidance off (Turbo and Lightning models want
  that) and halves the time. Default: 7.5, SDXL 5, as diffusers."""
  sampler: Literal["folder", "ddim", "ddpm", "pndm", "euler", "euler_ancestral", "dpmpp_2m",
                   "dpmpp_2m_sde", "dpmpp_sde", "lcm"] = "folder"  # fmt: skip
  """`folder` is the one that the model's scheduler_config.json names."""
  spacing: Literal["leading", "trailing", "linspace"] | None = None
  """Which timesteps are visited. Default: the model's own; Turbo and Lightning want trailing."""
  karras: bool | None = None
  """Karras' noise levels. Default: the model's own choice."""
  eta: float | None = None
  """Noise of stochastic samplers, 0 to 1. Default: 0 for ddim, 1 for the others."""
  height: int | None = None
  """Pixels, a multiple of 8. Default: the size that the model was trained at."""
  width: int | None = None
  """Pixels, a multiple of 8. Default: the size that the model was trained at."""
  dtype: Literal["float32", "bfloat16"] | None = None
  """Of weights and computation; bfloat16 halves the memory. Default: float32 on CPU, else bfloat16."""
  batch: int | None = None
  """Pictures at a time over all devices; less needs less memory. Default: 4 a device."""
  tiled: bool = False
  """Decode in overlapping tiles: large pictures in little memory."""
  attention: Literal["plain", "chunk", "cudnn", "flash", "splash"] | None = None
  """Attention implementation. Default: chosen by device and length."""
  variant: str | None = None
  """Weight file variant, such as fp16. Default: full precision if there, else fp16."""
  init_latents: Path | None = None
  """Initial noise instead of the seed's: .npy, float32 (N, C, h, w), unit variance."""
  save_latents: Path | None = None
  """Where to write the final latents before the VAE: .npy, float32 (N, C, h, w)."""
  allow_pickle: bool = False
  """Read .bin and .ckpt weights with torch's weights-only loader (needs PyTorch)."""


@dataclasses.dataclass(frozen=True)
class Bench:
  """Measure UNet, sampling, VAE and compilation with random weights; compare with diffusers.

  Work is alternated with the peer's in one run and medians are compared, so that a busy machine
  slows both. Prints achieved FLOP/s and, where PyTorch is installed, the ratio.
  """

  family: Literal["sd15", "sd21-base", "sd21", "sdxl"] = "sd15"
  """Architecture; its released size unless --small."""
  small: bool = False
  """The small relative of the family (64 px) instead of the released size."""
  vs: Literal["none", "diffusers"] = "none"
  """Run PyTorch diffusers on the same work, alternating, and print ratios."""
  what: tuple[Literal["unet", "sample", "vae", "compile"], ...] = ("unet", "sample", "vae", "compile")
  """Which measurements."""
  batch: int = 1
  """Pictures at a time."""
  steps: int = 4
  """Sampler steps, with guidance."""
  size: int | None = None
  """Pixels a side. Default: the family's."""
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


@dataclasses.dataclass(frozen=True)
class RandomModel:
  """Write a small pipeline folder with random weights, in diffusers' layout.

  It loads in idejax and in diffusers, and draws coloured noise: for trying the machinery.
  """

  out: Path
  """Folder to make."""
  family: Literal["sd15", "sd21-base", "sd21", "sdxl"] = "sd21-base"
  """Architecture."""
  seed: int = 0
  """Of the weights."""


@dataclasses.dataclass(frozen=True)
class TrainMiniature:
  """Train the small pipeline that ships in the package, on its procedural world of portraits.

  Stages: tokenizer, data, vae, diffusion, export. The same command again continues; the result
  is --out/pipeline, a Stable Diffusion folder that diffusers loads too.
  """

  out: Path = Path("runs/miniature")
  """Folder for pictures, checkpoints, metrics and the pipeline."""
  stage: Literal["all", "tokenizer", "data", "vae", "diffusion", "export"] = "all"
  """One stage, or all in order."""
  tiny: bool = False
  """A recipe of a minute or two that shows falling losses; its pictures are blurs."""
  steps: int | None = None
  """Steps of the stage in all. Default: the recipe's."""
  minutes: float | None = None
  """Stop each stage after so long; the same command continues."""
  seed: int = 0
  """Of weights, data order and noise."""
  vae_lr: float | None = None
  """Peak learning rate of the VAE. Default: the recipe's."""
  lr: float | None = None
  """Peak learning rate of text encoder and UNet. Default: the recipe's."""
  look: int | None = None
  """Steps between validations with pictures. Default: the recipe's."""
  save_seconds: float = 240.0
  """Time between checkpoints."""


def load(path: Path, kind: type) -> Any:
  """The `config` of a Python file, checked to be of the command's kind."""
  if not path.is_file():
    what = "is a folder" if path.is_dir() else "does not exist"
    raise UserError(f"--config {path} {what}: give a Python file that sets `config`")
  try:
    value = runpy.run_path(str(path)).get("config")
  except (Exception, SystemExit) as e:
    raise UserError(f"{path}: {type(e).__name__}: {' '.join(str(e).split())}") from e
  if value is None: raise UserError(f"{path} sets no `config`; write config = {kind.__name__}(...)")
  if not isinstance(value, kind):
    raise UserError(f"{path} sets config to {type(value).__name__}; this command takes {kind.__name__}")
  return _typed(path, value)


def _typed(path: Path, value: Any) -> Any:
  """The same config with strings for paths made paths; UserError for a field of another type."""
  changes = {}
  for field in dataclasses.fields(value):
    x = getattr(value, field.name)
    if isinstance(x, str) and not _fits(x, field.type) and _fits(Path(x), field.type): x = Path(x)
    if isinstance(x, list): x = tuple(x)
    if not _fits(x, field.type):
      raise UserError(f"{path}: {field.name} is {x!r}; it must be {expected(field.type)}")
    changes[field.name] = x
  return dataclasses.replace(value, **changes)


def _fits(x: Any, kind: Any) -> bool:
  origin, args = typing.get_origin(kind), typing.get_args(kind)
  if origin is Literal: return x in args
  if origin in (typing.Union, types.UnionType): return any(_fits(x, a) for a in args)
  if origin is tuple: return isinstance(x, tuple) and all(_fits(y, args[0]) for y in x)
  if kind is float: return isinstance(x, int | float) and not isinstance(x, bool)
  return isinstance(x, kind) and (kind is bool or not isinstance(x, bool))


def expected(kind: Any) -> str:
  """A field's type in words, for error messages."""
  args = [a for a in typing.get_args(kind) if a not in (type(None), ...)]
  if typing.get_origin(kind) is Literal: return f"one of {', '.join(map(str, args))}"
  if args: return expected(args[0]) + (" (several)" if typing.get_origin(kind) is tuple else "")
  words = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", Path: "a path"}
  return words.get(kind) or f"of type {kind.__name__}"
