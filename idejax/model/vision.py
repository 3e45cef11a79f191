"""A CLIP image encoder from a folder that transformers wrote: aligned portraits -> FaceSnap's tokens.

The penultimate layer's hidden states, the class token's and every patch's: neither pooled nor projected.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from idejax.errors import UserError, one_line
from idejax.nets import clip_vision
from idejax.storage import tensorfiles, weights
from idejax.storage.files import read_json

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's
_CHUNK = 32  # portraits per call of the net


class Tower:
  """A vision tower on this machine."""

  def __init__(self, folder: Path, variant: str | None = None):
    """UserError if the folder holds no CLIP image encoder."""
    self.folder, path = folder, folder / "config.json"
    if not path.is_file():
      raise UserError(f"{folder} holds no CLIP image encoder: it has no config.json")
    try:
      self.cfg = clip_vision.VisionConfig.from_json(read_json(path))
    except (ValueError, TypeError, AttributeError) as e:
      raise UserError(f"{path} describes no CLIP image encoder: {one_line(str(e))[:200]}") from e
    how = read_json(folder / "preprocessor_config.json") if (folder / "preprocessor_config.json").is_file() else {}
    row = lambda name, usual: np.asarray(how.get(name, usual), np.float32)
    self.mean, self.std = row("image_mean", MEAN), row("image_std", STD)
    shapes = clip_vision.shapes(self.cfg)
    mine = weights.keys(shapes)
    tensors = tensorfiles.read(folder, "model", variant=variant)
    # A whole CLIPModel has a text tower too, and old files a buffer of positions.
    own = {k: tensors[k] for k in tensors if k in mine}
    params = weights.from_torch(shapes, own, name=str(folder))
    self.params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    net: Any = clip_vision.VisionEncoder(self.cfg)
    self._run = jax.jit(lambda p, x: net.apply({"params": p}, x).penultimate)

  @property
  def side(self) -> int:
    """Pixels of a portrait as it is read."""
    return self.cfg.image_size

  @property
  def count(self) -> int:
    """Tokens of a portrait: the class token's and every patch's."""
    return (self.cfg.image_size // self.cfg.patch_size) ** 2 + 1

  @property
  def width(self) -> int:
    """Features of a token."""
    return self.cfg.hidden_size

  @property
  def digest(self) -> str:
    return tensorfiles.digest(self.folder)

  def tokens(self, portraits: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Portraits uint8 [P, P, 3], aligned as FFHQ -> float32 [N, T, width]."""
    out = []
    for at in range(0, len(portraits), _CHUNK):
      rows = np.minimum(np.arange(at, at + _CHUNK), len(portraits) - 1)
      x = np.stack([self._pixels(np.asarray(portraits[i])) for i in rows])
      out.append(np.asarray(self._run(self.params, x))[: len(portraits) - at])
    return np.concatenate(out)

  def _pixels(self, portrait: np.ndarray) -> np.ndarray:
    small = portrait
    if len(portrait) != self.side:
      side = (self.side, self.side)
      small = np.asarray(Image.fromarray(np.ascontiguousarray(portrait)).resize(side, Image.Resampling.BICUBIC))
    return (small.astype(np.float32) / 255 - self.mean) / self.std
