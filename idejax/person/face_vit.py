"""A face ViT from a folder that transformers wrote: aligned portraits -> the input of StableIdentity's MLP."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from idejax.errors import UserError, one_line
from idejax.nets import vit
from idejax.person.augment import resize
from idejax.storage import tensorfiles, weights

Embed = Callable[[Sequence[np.ndarray]], np.ndarray]  # portraits uint8 [512, 512, 3] -> float32 [N, D]


def load(folder: Path) -> Embed:
  """A function from portraits to the ViT's class tokens after the final norm. UserError if it is no ViT."""
  try:
    cfg = vit.ViTConfig.from_json(json.loads((folder / "config.json").read_text("utf-8")))
  except (OSError, ValueError, TypeError, AttributeError) as e:
    raise UserError(
      f"{folder} is no folder of a vision transformer such as transformers writes: {one_line(str(e))[:200]}"
    ) from e
  tensors = tensorfiles.read(folder, "model")
  bare = {k.removeprefix("vit."): k for k in tensors}  # a classifier holds the ViT under this name
  params = weights.from_torch(
    vit.shapes(cfg), {k: tensors[v] for k, v in bare.items()}, name=str(folder), ignore=("^pooler", "^classifier")
  )
  net: Any = vit.ViT(cfg)
  run = jax.jit(lambda params, x: net.apply({"params": params}, x)[:, 0])
  params = jax.tree.map(jnp.asarray, params)

  def embed(portraits: Sequence[np.ndarray]) -> np.ndarray:
    # The face in an FFHQ-aligned portrait, as StableIdentity cuts it.
    crops = [resize(np.ascontiguousarray(p[70:446, 64:440]), cfg.image_size) for p in portraits]
    pixels = np.stack(crops).astype(np.float32) / 127.5 - 1
    return np.asarray(run(params, pixels), np.float32)

  return embed
