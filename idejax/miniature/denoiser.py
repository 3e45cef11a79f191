"""Training the miniature's text encoder and UNet jointly: initial weights, loss, validation."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from idejax import diffusion, draws, tree
from idejax.backbone import Nets
from idejax.families import random_params
from idejax.miniature.recipe import Recipe
from idejax.nets import clip, unet
from idejax.step import Loss

# The last layer of every residual branch starts small and the output at zero: the first steps
# then learn the mean picture instead of undoing noise.
_SMALL = re.compile(r"(conv2|to_out\.0|ff\.net\.2|proj_out|out_proj|fc2)\.kernel$")
_ZERO = re.compile(r"^unet\.conv_out\.")
# Words must be told apart from the first step. At CLIP's deviation of 0.02 the residual branches
# (0.3) drown them: after 140,000 pictures "red" and "black" still gave one context.
WORDS = re.compile(r"token_embedding\.embedding$")
WORDS_SCALE = 25.0


def init(nets: Nets, seed: int, unet_params: Any = None) -> Any:
  """float32 {"unet", "text_encoder"}; the UNet's from an earlier training if given."""
  shapes = {"unet": unet.shapes(nets.unet), "text_encoder": clip.shapes(nets.text[0])}

  def scaled(path, x):
    if _ZERO.search(path): return jnp.zeros(x.shape)
    if WORDS.search(path): return jnp.asarray(WORDS_SCALE * x, jnp.float32)
    return jnp.asarray(x * (0.3 if _SMALL.search(path) else 1.0), jnp.float32)

  params = tree.map_with_path(scaled, random_params(shapes, seed))
  if unet_params is None: return params
  return params | {"unet": jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), unet_params)}


def make_loss(nets: Nets, empty_ids: np.ndarray, r: Recipe) -> Loss:
  """Min-SNR-weighted error of v on latents drawn from batch["mean"], batch["logvar"].

  batch: moments [B, h, w, C], ids int32 [B, L], index [B]. A share of the rows gets the empty
  prompt's ids [L], so that the UNet learns the unconditional score for guidance.
  """
  schedule = nets.schedule
  kind, train_steps = schedule.prediction_type, schedule.num_train_timesteps

  def loss(params, frozen, batch, keys):
    k_latent, k_t, k_noise, k_empty = draws.split(keys, 4)
    mean, logvar = (batch[n].astype(jnp.float32) for n in ("mean", "logvar"))
    z = mean + jnp.exp(0.5 * logvar) * draws.normal(k_latent, mean.shape[1:])
    z *= nets.vae.scaling_factor
    t = draws.integers(k_t, train_steps)
    noise = draws.normal(k_noise, z.shape[1:])
    abar = diffusion.gather(schedule.alphas_cumprod, t)
    empty = draws.uniform(k_empty) < r.empty
    ids = jnp.where(empty[:, None], jnp.asarray(empty_ids)[None], batch["ids"])
    context = clip.TextEncoder(nets.text[0]).apply({"params": params["text_encoder"]}, ids).last
    zt = diffusion.add_noise(z, noise, abar)
    out = unet.UNet(nets.unet).apply({"params": params["unet"]}, zt, t, context)
    error = diffusion.mse(out, diffusion.target(z, noise, abar, kind))
    weight = diffusion.min_snr_weight(abar, kind, r.min_snr)
    return (weight * error).mean(), {"v": error.mean()}

  return loss


def make_validate(loss: Loss, batch: int):
  """(params, batches of moments and ids) -> mean error of v, on draws that are always the same."""
  one = jax.jit(lambda params, data, keys: loss(params, {}, data, keys)[1]["v"])

  def validate(params, mean, logvar, ids) -> float:
    found = []
    for start in range(0, len(ids) - batch + 1, batch):
      rows = slice(start, start + batch)
      index = np.arange(start, start + batch, dtype=np.int32)
      keys = draws.keys(jax.random.key(1), 0, index)
      data = {"mean": mean[rows], "logvar": logvar[rows], "ids": ids[rows], "index": index}
      found.append(one(params, data, keys))
    return float(np.mean(jax.device_get(found)))

  return validate
