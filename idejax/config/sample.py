"""What `idejax sample` takes."""

import dataclasses
from pathlib import Path
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Sample:
  """Make pictures for prompts with any Stable Diffusion 1.x, 2.x or SDXL folder, and of people learned.

    idejax sample --prompt "a photo of a woman with red hair and glasses on the beach"
    idejax sample --identity runs/anna --prompt "a photo of <anna> smiling" --out anna
    idejax sample --model FOLDER --prompt "a photo of a cat" --out cat
    idejax sample --model FOLDER --prompts prompts.txt --num 4 --seed 7 --steps 25 --out many
    idejax sample --config configs/sample_sdxl_turbo.py --prompt "a red fox" --out fox

  --out receives 00000.png and so on, manifest.jsonl (a line a picture) and sheet.png (all at a
  glance). Every picture carries its prompt, seed, sampler and model digest in its text chunks.
  The same command again continues where a killed one stopped; what is finished stays.
  """

  out: Path = Path("pictures")
  """Folder for the pictures; made if need be."""
  model: str | None = None
  """Pipeline folder, or hub id such as stabilityai/sdxl-turbo. Default: --identity's, else miniature, built in."""
  identity: tuple[Path, ...] = ()
  """Run folders of idejax personalize, whose people may be named in prompts; the option may be repeated."""
  strength: float | None = None
  """How strongly an identity acts, 1 as it was trained (id-ea, dreambooth's lora). Default: as its run says."""
  start: float = 0.0
  """Share of the steps, 0 to 1, drawn as "person" before the identity enters: freer layouts."""
  other_model: bool = False
  """Use an identity on another model than its own, if the widths agree."""
  prompt: tuple[str, ...] = ()
  """One or more prompts, each in quotes; the option may be repeated."""
  prompts: Path | None = None
  """File of prompts: .txt (one a line), or .jsonl or .csv with the fields prompt [negative, seed, guidance]."""
  negative: str | None = None
  """What the pictures should not show. Default: the empty prompt (SDXL base: zeros, as diffusers)."""
  num: int | None = None
  """Pictures per prompt. Default: 4 for a single prompt, else 1."""
  seed: int = 0
  """Picture i of the run starts from the noise (seed, i), on any device and in any batch."""
  steps: int = 50
  """Sampler steps: more is slower and, up to 30 or so, better. At most 128 model calls."""
  guidance: float | None = None
  """How closely to follow the prompt; 0 to 1: no guidance, half the time (Turbo, Lightning). Default: 7.5, SDXL 5."""
  sampler: Literal[
    "folder", "ddim", "ddpm", "pndm", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_sde", "lcm"
  ] = "folder"
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
