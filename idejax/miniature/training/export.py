"""The pipeline folder: Stable Diffusion 2.1's or SDXL's layout on disk, float16, written without PyTorch."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from idejax.miniature.training import recipe
from idejax.nets import clip, unet, vae
from idejax.storage import tensorfiles, weights
from idejax.storage.files import write_json

NETS: dict[str, tuple[Any, Any, str, str]] = {  # config class, shapes, file, library
  "vae": (vae.VAEConfig, vae.shapes, "diffusion_pytorch_model", "diffusers"),
  "unet": (unet.UNetConfig, unet.shapes, "diffusion_pytorch_model", "diffusers"),
  "text_encoder": (clip.TextConfig, clip.shapes, "model", "transformers"),
  "text_encoder_2": (clip.TextConfig, clip.shapes, "model", "transformers"),
}


def write_net(folder: Path, name: str, config: dict[str, Any], params: Any):
  """Writes one component: config.json and weights. ValueError if a weight overflows fp16."""
  cfg_class, shapes, stem, _ = NETS[name]
  tensors = {k: _half(k, x) for k, x in weights.to_torch(params).items()}
  weights.from_torch(weights.with_dtype(shapes(cfg_class.from_json(config)), jnp.float16), tensors)
  write_json(folder / name / "config.json", config)
  tensorfiles.write(folder / name / f"{stem}.safetensors", tensors)


def read_net(folder: Path, name: str) -> tuple[Any, Any]:
  """(config, float32 params) of a component, as users of the folder read them."""
  cfg_class, shapes, stem, _ = NETS[name]
  cfg = cfg_class.from_json(json.loads((folder / name / "config.json").read_text()))
  params = weights.from_torch(shapes(cfg), tensorfiles.read(folder / name, stem), name=name)
  return cfg, jax.tree.map(jnp.asarray, params)


def write_index(folder: Path, scheduler: dict[str, Any], xl: bool = False):
  """Writes scheduler/ and model_index.json, which name the classes that stock diffusers builds."""
  classes = dict(vae="AutoencoderKL", unet="UNet2DConditionModel", text_encoder="CLIPTextModel")
  absent: dict[str, Any] = dict(safety_checker=[None, None], requires_safety_checker=False)
  name = "StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline"
  if xl:
    classes |= dict(text_encoder_2="CLIPTextModelWithProjection")
    absent = dict(image_encoder=[None, None], force_zeros_for_empty_prompt=True)
  index: dict[str, Any] = dict(_class_name=name, _diffusers_version="0.30.0")
  index |= {part: [NETS[part][3], kind] for part, kind in classes.items()}
  index |= {t: ["transformers", "CLIPTokenizer"] for t in ("tokenizer", "tokenizer_2")[: 1 + xl]}
  index |= (
    dict(scheduler=["diffusers", scheduler["_class_name"]], feature_extractor=[None, None])
    | dict(_idejax_guidance=recipe.GUIDANCE, _idejax_sampler=recipe.SAMPLER)
    | absent
  )
  write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
  write_json(folder / "model_index.json", index)


def _half(key: str, x: np.ndarray) -> np.ndarray:
  y = x.astype(np.float16)
  if not np.isfinite(y).all():
    raise ValueError(f"{key} does not fit into float16")
  return y
