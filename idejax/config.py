"""What each command takes: frozen dataclasses, whose comments are the text of `--help`.

A file in `configs/` sets `config = Sample(...)`; `--config FILE` loads it, flags override it.
"""

import dataclasses
import runpy
from pathlib import Path
from typing import Any, Literal

from idejax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Sample:
  """Make pictures for prompts with any Stable Diffusion 1.x, 2.x or SDXL folder.

  The same command again continues where a killed one stopped. Pictures, manifest.jsonl and
  sheet.png go to --out; every picture carries its prompt, seed, sampler and model digest.
  """

  out: Path
  """Folder for the pictures; made if need be."""
  model: str = ""
  """Pipeline folder in diffusers layout, or a hub id such as stabilityai/stable-diffusion-xl-base-1.0."""
  prompt: tuple[str, ...] = ()
  """One or more prompts, each in quotes."""
  prompts: Path | None = None
  """File of prompts: .txt (one a line), .jsonl or .csv (fields prompt, negative, seed, guidance)."""
  negative: str | None = None
  """What the pictures should not show. Default: the empty prompt (SDXL base: zeros, as diffusers)."""
  num: int = 1
  """Pictures per prompt."""
  seed: int = 0
  """Picture i of the run starts from the noise (seed, i)."""
  steps: int = 50
  """Sampler steps; the program is compiled once for every number up to 128 model calls."""
  guidance: float | None = None
  """Classifier-free guidance; up to 1 switches it off. Default: 7.5, SDXL 5.0, as diffusers."""
  sampler: str = "folder"
  """folder (the model's own), ddim, ddpm, pndm, euler, euler_ancestral, dpmpp_2m, dpmpp_2m_sde, dpmpp_sde, lcm."""
  spacing: Literal["leading", "trailing", "linspace"] | None = None
  """Timestep spacing. Default: the model's own; Lightning and Turbo models want trailing."""
  karras: bool | None = None
  """Karras noise levels. Default: the model's own choice."""
  eta: float | None = None
  """Noise of stochastic samplers, 0 to 1. Default: 0 for ddim, 1 for the others."""
  height: int | None = None
  """Pixels. Default: the size that the model was trained at."""
  width: int | None = None
  """Pixels. Default: the size that the model was trained at."""
  dtype: Literal["float32", "bfloat16"] | None = None
  """Of weights and computation. Default: float32 on CPU, bfloat16 on GPU and TPU."""
  batch: int | None = None
  """Pictures at a time over all devices. Default: 4 per device."""
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


def load(path: Path, kind: type) -> Any:
  """The `config` of a Python file, checked to be of the command's kind."""
  if not path.is_file(): raise UserError(f"{path} does not exist: --config takes a Python file")
  try:
    value = runpy.run_path(str(path)).get("config")
  except Exception as e:
    raise UserError(f"{path}: {type(e).__name__}: {e}") from e
  if not isinstance(value, kind):
    raise UserError(f"{path} sets config to {type(value).__name__}; this command takes {kind.__name__}")
  return value
