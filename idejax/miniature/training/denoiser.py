"""Training the miniature's UNet: initial weights, loss, validation.

The text encoder (`words`) is frozen, as Stable Diffusion's was: if it trains along, even at a tenth of the
rate, it forgets the words that the UNet does not use yet.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from idejax import draws, tree
from idejax.miniature.training.recipe import Recipe
from idejax.miniature.world import landmarks, people, scene
from idejax.model import backbone, conditioning, diffusion
from idejax.model.backbone import Backbone, Conditioning, Nets
from idejax.model.families import random_params
from idejax.nets import unet
from idejax.training.step import Loss

# The last layer of every residual branch starts small and the output at zero: the first steps
# then learn the mean picture instead of undoing noise.
_SMALL = re.compile(r"(conv2|to_out\.0|ff\.net\.2|proj_out)\.kernel$")
_ZERO = re.compile(r"^conv_out\.")


def init(nets: Nets, seed: int, start: Any = None) -> Any:
  """float32 {"unet"}: random weights, or those of an earlier training."""
  if start is not None:
    return {"unet": jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), start)}

  def scale(path, x):
    return jnp.zeros(x.shape) if _ZERO.search(path) else jnp.asarray(x * (0.3 if _SMALL.search(path) else 1.0))

  return {"unet": tree.map_with_path(scale, random_params(unet.shapes(nets.unet), seed))}


def where_faces_are(side: int, most: float, count: int = 512) -> np.ndarray:
  """Weights of the loss by place, float32 [side, side, 1] with mean 1: `1 + most` times as large where
  brows, eyes, nose and mouth are most often as in the corners.

  A mood shows in a mouth of three latent cells among 256. The weight depends on the place alone, not on
  the picture, so the minimum of the loss stays the same.
  """
  ids = people.split("train")[:count]
  look = lambda person, s: landmarks.geometry(jnp, person, s, side).landmarks[17:]  # without the face's outline
  marks = np.asarray(jax.jit(jax.vmap(look))(people.people(ids), scene.scenes(ids, 1, 0))).reshape(-1, 2)
  edges = np.arange(side + 1) - 0.5
  often, *_ = np.histogram2d(marks[:, 1], marks[:, 0], (edges, edges))
  weight = 1 + most * often / often.max()
  return (weight / weight.mean()).astype(np.float32)[..., None]


def make_loss(nets: Nets, empty_ids: np.ndarray, r: Recipe, where: np.ndarray | None = None) -> Loss:
  """Mean squared error of v on latents drawn from batch["mean"], batch["logvar"]; `where` [h, w, 1] are
  weights by place.

  Timesteps are weighted by `time_weights`. Where noise is strongest, only the words decide about hair or
  glasses, and min-SNR weighting without a lower bound would nearly switch these timesteps off.

  params: {"unet"}; frozen: {"text_encoder"[, "text_encoder_2"]}. batch: moments [B, h, w, C], ids
  int32 [B, L], index [B]. A share of the rows has no prompt, so that the UNet learns the unconditional
  score for guidance: they get the empty prompt's ids [L], or for SDXL zeros in place of its encodings.
  """
  schedule = nets.schedule
  kind, train_steps = schedule.prediction_type, schedule.num_train_timesteps
  mask = None if where is None else jnp.sqrt(where)[None]
  often = None if not r.snr else jnp.asarray(time_weights(np.asarray(schedule.alphas_cumprod), r.snr, r.least))

  def loss(params, frozen, batch, keys):
    k_latent, k_t, k_noise, k_empty = draws.split(keys, 4)
    mean, logvar = (batch[n].astype(jnp.float32) for n in ("mean", "logvar"))
    z = mean + jnp.exp(0.5 * logvar) * draws.normal(k_latent, mean.shape[1:])
    z *= nets.vae.scaling_factor
    t = draws.integers(k_t, train_steps)
    noise = draws.normal(k_noise, z.shape[1:])
    abar = diffusion.gather(schedule.alphas_cumprod, t)
    empty = draws.uniform(k_empty) < r.empty
    b = Backbone(nets, dict(frozen) | dict(params))
    cond = _condition(b, batch["ids"], empty, jnp.asarray(empty_ids))
    out = backbone.predict(b, diffusion.add_noise(z, noise, abar), t, cond)
    error = diffusion.mse(out, diffusion.target(z, noise, abar, kind), mask)
    if often is None:
      return error.mean(), {}
    return (error * often[t]).mean(), {"v": error.mean()}

  return loss


def time_weights(abar: np.ndarray, snr: float, least: float) -> np.ndarray:
  """Weights float32 [T] with mean 1 for errors of v: min-SNR-`snr`, which is min(SNR, snr) / (SNR + 1) for
  v, but at least `least` before the mean is made 1."""
  ratio = abar / (1 - abar)
  weight = np.maximum(np.minimum(ratio, snr) / (ratio + 1), least)
  return (weight / weight.mean()).astype(np.float32)


def _condition(b: Backbone, ids: jax.Array, empty: jax.Array, empty_ids: jax.Array) -> Conditioning:
  """The contexts of prompts [B, L]; rows where `empty` [B] is true get no prompt."""
  zeros = b.nets.zero_empty_negative
  if not zeros:
    ids = jnp.where(empty[:, None], empty_ids[None], ids)
  texts = b.nets.text
  eos = tuple((ids == cfg.eos_token_id).argmax(-1) for cfg in texts)
  cond = conditioning.contexts(b, conditioning.Prompts((ids,) * len(texts), eos, ()), None)
  if not zeros or cond.pooled is None:
    return cond
  keep = 1.0 - empty
  k, v = (x * keep[None, :, None, None] for x in (cond.k, cond.v))
  return Conditioning(k, v, cond.pooled * keep[:, None], cond.time_ids)


def make_validate(loss: Loss, batch: int):
  """A function (params, frozen, moments and ids) -> mean error of v, with the same random draws every time."""
  one = jax.jit(lambda params, frozen, data, keys: loss(params, frozen, data, keys)[0])

  def validate(params, frozen, mean, logvar, ids) -> float:
    errors = []
    for start in range(0, len(ids) - batch + 1, batch):
      rows = slice(start, start + batch)
      index = np.arange(start, start + batch, dtype=np.int32)
      keys = draws.keys(jax.random.key(1), 0, index)
      data = {"mean": mean[rows], "logvar": logvar[rows], "ids": ids[rows], "index": index}
      errors.append(one(params, frozen, data, keys))
    return float(np.mean(jax.device_get(errors)))

  return validate
