"""Grows a trained UNet into a larger one that draws the same, so that training continues instead of starting again.

The finest level may become wider by a whole factor: each channel is copied that many times, and the next
layer's weights are shared among the copies (Net2Net, arXiv 1511.05641), unevenly, so that the copies diverge.
The level may also get attention, whose output starts at zero. Two things are not preserved, and training has to
repair them: the groups of GroupNorm shift where that level is concatenated with a coarser one, and where the
finest level becomes as wide as the next, that level's first block loses the projection on its shortcut. The
shipped UNet's v-loss of 0.245 was 0.324 after it grew.
"""

import re
from typing import Any

import jax
import numpy as np

from idejax import tree
from idejax.model.families import random_params
from idejax.nets import unet

_UNEVEN = 0.5  # deviation of the difference between copies, in standard deviations of the weights
_ZERO = re.compile(r"proj_out\.(kernel|bias)$")


def grow(old_cfg: unet.UNetConfig, old: Any, cfg: unet.UNetConfig, seed: int) -> Any:
  """float32 parameters of `cfg`. ValueError unless it is `old_cfg` with a wider finest level or attention there."""
  times = cfg.widths[0] // old_cfg.widths[0]
  if (times < 1 or cfg.widths != (times * old_cfg.widths[0], *old_cfg.widths[1:]) or cfg.layers != old_cfg.layers
      or cfg.groups != old_cfg.groups or cfg.channels != old_cfg.channels):  # fmt: skip
    raise ValueError(f"a UNet of widths {old_cfg.widths} does not grow into one of {cfg.widths}")
  rng = np.random.default_rng(seed)
  flat = {k: np.asarray(x) for k, x in tree.flatten(old).items()}
  fresh = {k: np.asarray(x) for k, x in tree.flatten(random_params(unet.shapes(cfg), seed)).items()}
  out = {}
  for path, x in fresh.items():
    if path in flat:
      out[path] = _widen(path, flat[path], x.shape, times, rng)
    else:
      out[path] = np.zeros_like(x) if _ZERO.search(path) else x
  return jax.tree.map(jax.numpy.asarray, tree.unflatten(unet.shapes(cfg), out))


def _widen(path: str, x: np.ndarray, shape: tuple[int, ...], times: int, rng: np.random.Generator) -> np.ndarray:
  if x.shape == shape:
    return x
  if path == "time_embedding.linear_1.kernel":  # of twice the frequencies every second is an old one
    wide = np.zeros((shape[0], x.shape[1]), np.float32)
    half, old = shape[0] // 2, x.shape[0] // 2
    for part in (0, 1):
      wide[part * half : (part + 1) * half : times] = x[part * old : (part + 1) * old]
    return wide.repeat(times, -1)
  if x.shape[-1] != shape[-1]:
    x = x.take(_channels(x.shape[-1], shape[-1], times), -1)
  if x.ndim == 1 or x.shape[-2] == shape[-2]:
    return x
  index = _channels(x.shape[-2], shape[-2], times)
  count = np.bincount(index)[index]
  wide = x.take(index, -2) / count[:, None]
  noise = rng.standard_normal(wide.shape).astype(np.float32) * x.std() * _UNEVEN
  for c in np.flatnonzero(np.bincount(index) > 1):
    at = np.flatnonzero(index == c)
    wide[..., at, :] += noise[..., at, :] - noise[..., at, :].mean(-2, keepdims=True)
  return wide.astype(np.float32)


def _channels(old: int, new: int, times: int) -> np.ndarray:
  """The old channel of each new one: the last (new - old) / (times - 1) are repeated `times` times; those
  before them, a coarser level's in a concatenation, stay single."""
  wide = (new - old) // (times - 1)
  return np.concatenate([np.arange(old - wide), np.arange(old - wide, old).repeat(times)])
