"""Training the miniature's VAE: initial weights, loss, and how well it reconstructs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from idejax import draws
from idejax.miniature.world.data import pixels
from idejax.model.families import random_params
from idejax.nets import vae
from idejax.training.step import Loss

_EVALUATE = 50  # pictures at a time; divides the validation sets


def init(cfg: vae.VAEConfig, seed: int) -> Any:
  """float32 weights. Latents start nearly without noise; otherwise the decoder learns to ignore them."""
  params = random_params(vae.shapes(cfg), seed)
  params["quant_conv"]["bias"][cfg.latent_channels :] = -4.0  # log-variance: std 0.14
  return jax.tree.map(jnp.asarray, params)


def make_loss(cfg: vae.VAEConfig, kl_weight: float) -> Loss:
  """L1 + 4 MSE + L1 of differences between neighbours + KL, on batch["image"] uint8 [B, H, W, 3].

  MSE is what PSNR measures; the differences keep thin lines (mouths, glasses) sharp; the KL term only
  keeps latents near unit scale and is too weak to make them normal.
  """

  def loss(params, frozen, batch, keys):
    x = pixels(batch["image"])
    mean, logvar = vae.Encoder(cfg).apply({"params": params}, x)
    z = mean + jnp.exp(0.5 * logvar) * draws.normal(keys, mean.shape[1:])
    y = vae.Decoder(cfg).apply({"params": params}, z)
    error = y - x
    mse = jnp.square(error).mean()
    edges = jnp.abs(jnp.diff(error, axis=1)).mean() + jnp.abs(jnp.diff(error, axis=2)).mean()
    kl = 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1 - logvar).mean()
    value = jnp.abs(error).mean() + 4 * mse + edges + kl_weight * kl
    return value, {"psnr": -10 * jnp.log10(mse / 4), "kl": kl}

  return loss


def make_reconstruct(cfg: vae.VAEConfig) -> Callable[[Any, Any], jax.Array]:
  """Jitted (params, uint8 [B, H, W, 3]) -> uint8, through the mean of the latents."""

  @jax.jit
  def reconstruct(params, images):
    mean, _ = vae.Encoder(cfg).apply({"params": params}, pixels(images))
    y = vae.Decoder(cfg).apply({"params": params}, mean)
    return (jnp.clip(y * 0.5 + 0.5, 0, 1) * 255 + 0.5).astype(jnp.uint8)

  return reconstruct


def psnr(reconstruct, params, images: np.ndarray) -> tuple[float, np.ndarray]:
  """The mean PSNR of the pictures' 8-bit values in dB, and the reconstructions."""
  parts = [np.asarray(reconstruct(params, images[i : i + _EVALUATE])) for i in range(0, len(images), _EVALUATE)]
  copies = np.concatenate(parts)
  mse = np.square((copies.astype(np.float32) - images) / 255).mean((1, 2, 3))
  return float((-10 * np.log10(mse)).mean()), copies


def make_encode(cfg: vae.VAEConfig):
  """Jitted (params, uint8 [B, H, W, 3]) -> (mean, logvar), float32."""
  return jax.jit(lambda params, images: vae.Encoder(cfg).apply({"params": params}, pixels(images)))


def normalise(params: Any, mean: np.ndarray, std: np.ndarray) -> Any:
  """The same VAE with latents (z - mean) / std by channel; the change is folded into its 1x1 convolutions.

  Pipelines know one scaling factor for all channels and no shift, so channels must be alike.
  """
  c = len(mean)
  m, s = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
  quant, post = params["quant_conv"], params["post_quant_conv"]
  gain = jnp.concatenate([1 / s, jnp.ones(c)])
  shift = jnp.concatenate([-m / s, -2 * jnp.log(s)])
  kernel = post["kernel"][0, 0]  # [in, out]
  return params | {
    "quant_conv": {"kernel": quant["kernel"] * gain[None, None, None], "bias": quant["bias"] * gain + shift},
    "post_quant_conv": {"kernel": (s[:, None] * kernel)[None, None], "bias": post["bias"] + m @ kernel},
  }
