"""Random add-on folders and image encoders, a few kB each."""

from pathlib import Path

from support.fakes import fill

from idejax.model import addon
from idejax.model.backbone import Backbone
from idejax.nets import clip_vision, controlnet, mixer
from idejax.nets.controlnet import ControlNetConfig
from idejax.nets.mixer import MixerConfig
from idejax.storage import tensorfiles, weights
from idejax.storage.files import write_json

SIZES = dict(clip_dim=8, dim=8, head_dim=4, identity_tokens=3, tokens=4, layers=1)


def tower(folder: Path, seed: int = 0, width: int = 8) -> Path:
  """A CLIP image encoder of 16 px as transformers writes it: five tokens of `width` features."""
  config = dict(
    model_type="clip_vision_model", hidden_size=width, intermediate_size=16, num_hidden_layers=2,
    num_attention_heads=2, image_size=16, patch_size=8, projection_dim=4)  # fmt: skip
  params = fill(clip_vision.shapes(clip_vision.VisionConfig.from_json(config)), seed, 0.3)
  tensorfiles.write(folder / "model.safetensors", weights.to_torch(params))
  write_json(folder / "config.json", config)
  return folder


def write(folder: Path, b: Backbone, pack: str = "green", seed: int = 1, vision: bool = True, **sizes) -> Path:
  """An add-on of a backbone whose every weight is random, the zero convolutions' too: it steers."""
  m = MixerConfig(b.nets.unet.context_dim, **SIZES | sizes)
  c = ControlNetConfig.of(b.nets.unet, b.nets.factor)
  about = addon.About("toy", pack, "none", "toy ViT", "drawn people", 3)
  addon.write(folder, (m, fill(mixer.shapes(m), seed, 0.5)), (c, fill(controlnet.shapes(c), seed + 1, 0.1)), about)
  if vision:
    tower(folder / "vision", seed + 2)
  return folder
