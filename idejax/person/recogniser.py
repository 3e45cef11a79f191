"""A face pack's recogniser in JAX, where a gradient must pass through it: FaceSnap's identity loss.

Its weights are those of the pack's ONNX file: an ArcFace IResNet, or the built-in pack's small net. Which of
the two, and how deep, is read from the weights.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from idejax.errors import UserError
from idejax.nets import convnet, iresnet, smallface

SIDE = 112  # pixels of a crop


def load(path: Path) -> dict[str, Any]:
  """float32 parameters of an ONNX file. UserError if there is no JAX twin of its network."""
  try:
    return convnet.load_onnx(path)
  except ValueError:
    pass  # not one of ours: an IResNet, or nothing that is known
  try:
    cfg, params = iresnet.load_onnx(path)
  except ValueError as e:
    raise UserError(f"{path}: the identity loss needs a recogniser with a JAX twin: {e}") from e
  if cfg.image_size != SIDE:
    raise UserError(f"{path}: the identity loss crops {SIDE} x {SIDE} pixels, this reads {cfg.image_size}")
  return params


def embed(params: Mapping[str, Any], crops: jax.Array) -> jax.Array:
  """Aligned crops [B, 112, 112, 3], RGB in [-1, 1] -> [B, 512], not normalised; differentiable in the pixels."""
  net: Any = convnet.Net(smallface.recogniser, folded=True) if "stem" in params else iresnet.IResNet(_config(params))
  return net.apply({"params": params}, crops)


def _config(params: Mapping[str, Any]) -> iresnet.IResNetConfig:
  stages = sorted({name.split(".")[0] for name in params if name.startswith("layer")})
  depths = tuple(sum(name.startswith(f"{s}.") for name in params) for s in stages)
  widths = tuple(int(np.shape(params[f"{s}.0"]["conv1"]["kernel"])[-1]) for s in stages)
  return iresnet.IResNetConfig(depths, widths, int(np.shape(params["fc"]["kernel"])[-1]))
