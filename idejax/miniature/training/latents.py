"""Latents of all training pictures, computed once, so that the UNet's training never runs the encoder."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from idejax.errors import tell
from idejax.miniature.training import autoencoder
from idejax.nets import vae

_AT_A_TIME = 200
_SAMPLE = 4000  # pictures for the statistics of the latents


class Moments(NamedTuple):
  """float16 [N, h, w, C], memory-mapped, unscaled."""

  mean: np.ndarray
  logvar: np.ndarray


def statistics(cfg: vae.VAEConfig, params: Any, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Mean and standard deviation of each channel of the latents that training draws."""
  every = max(1, len(images) // _SAMPLE)
  parts = list(_encode(cfg, params, images[::every]))
  mean, logvar = (np.concatenate(x).astype(np.float64) for x in zip(*parts))
  axes = (0, 1, 2)
  return mean.mean(axes), np.sqrt(mean.var(axes) + np.exp(logvar).mean(axes))


def moments(folder: Path, cfg: vae.VAEConfig, params: Any, images: np.ndarray, facts: dict[str, Any]) -> Moments:
  """The moments of uint8 images [N, H, W, 3]; a folder with moments of the same `facts` is reused."""
  stamp = folder / "latents.json"  # written last
  if not stamp.exists() or json.loads(stamp.read_text()) != facts:
    stamp.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    side = images.shape[1] // cfg.factor
    shape = (len(images), side, side, cfg.latent_channels)
    create = lambda name: np.lib.format.open_memmap(folder / name, mode="w+", dtype=np.float16, shape=shape)
    mean, logvar = create("mean.npy"), create("logvar.npy")
    done = 0
    for m, v in _encode(cfg, params, images):
      mean[done : done + len(m)], logvar[done : done + len(m)] = m, v
      done += len(m)
      if done % (50 * _AT_A_TIME) == 0:
        tell(f"encoded {done}/{len(images)} pictures")
    mean.flush()
    logvar.flush()
    stamp.write_text(json.dumps(facts) + "\n")
  return Moments(*(np.load(folder / name, mmap_mode="r") for name in ("mean.npy", "logvar.npy")))


def _encode(cfg: vae.VAEConfig, params: Any, images: np.ndarray):
  encode = autoencoder.make_encode(cfg)
  for i in range(0, len(images), _AT_A_TIME):
    yield jax.device_get(encode(params, np.asarray(images[i : i + _AT_A_TIME])))
