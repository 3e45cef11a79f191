"""Opens, checks and writes ControlNet folders in diffusers' layout."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from idejax.errors import UserError
from idejax.model.backbone import Backbone, Nets, make_config, net_shapes, read_json
from idejax.nets import controlnet
from idejax.nets.controlnet import ControlNetConfig
from idejax.storage import tensorfiles, weights
from idejax.storage.files import write_json


def with_controlnet(b: Backbone, folder: Path, *, variant: str | None = None, allow_pickle: bool = False) -> Backbone:
  """The backbone with the ControlNet of a folder in diffusers' layout, in the backbone's dtype.

  UserError if the folder holds none, or one of another family.
  """
  path, n = folder / "config.json", b.nets
  if not path.is_file():
    raise UserError(f"{folder} is no ControlNet folder in diffusers' layout: it has no config.json")
  run = dict(dtype=n.dtype, attention=n.unet.attention, remat=n.unet.remat)
  if (kind := read_json(path).get("_class_name", "ControlNetModel")) != "ControlNetModel":
    raise UserError(f"{path} describes a {kind}, not a ControlNetModel")
  cfg = make_config(ControlNetConfig, path, **run)
  check(cfg, n, str(folder))
  tensors = tensorfiles.read(folder, "diffusion_pytorch_model", variant=variant, allow_pickle=allow_pickle)
  want = weights.with_dtype(net_shapes(controlnet.shapes, cfg, path), n.dtype)
  params = weights.from_torch(want, tensors, name=str(folder))
  return Backbone(dataclasses.replace(n, controlnet=cfg), b.params | {"controlnet": params})


def check(cfg: ControlNetConfig, n: Nets, where: str):
  """UserError, one sentence that starts with `where`, for a ControlNet that cannot steer the model's UNet."""
  facts = lambda u: {
    "latent channels": u.channels[0],
    "widths": list(u.widths),
    "layers per level": list(u.layers),
    "context features": u.context_dim,
    "added features": u.added_dims and list(u.added_dims),
  }
  theirs = facts(cfg.unet) | {"control pixels per latent pixel": cfg.factor, "control channels": cfg.control_channels}
  ours = facts(n.unet) | {"control pixels per latent pixel": n.factor, "control channels": 3}
  for name, mine in ours.items():
    if theirs[name] != mine:
      raise UserError(f"{where}: a ControlNet of another family: its {name} are {theirs[name]}, the model's {mine}")


def write(folder: Path, cfg: ControlNetConfig, params: Mapping[str, Any]):
  """A folder that diffusers' `ControlNetModel.from_pretrained` opens: config.json and safetensors."""
  tensorfiles.write(folder / "diffusion_pytorch_model.safetensors", weights.to_torch(params))
  write_json(folder / "config.json", cfg.to_json())
