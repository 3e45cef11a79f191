"""The data of one person's training, and the random examples that a step draws from it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from idejax import draws
from idejax.model import backbone, conditioning, diffusion
from idejax.model.backbone import Backbone
from idejax.model.conditioning import Prompts

Array = Any  # numpy when prepared, traced inside jit


class Subject(NamedTuple):
  """One person: V variants of the photo (mirrored, cropped, pasted, ...), which are all encoded before training,
  so that a step only gathers them."""

  mean: Array  # [V, h, w, C] moments of the VAE's latents, unscaled
  logvar: Array  # [V, h, w, C]
  face: Array  # [512] the recogniser's embedding of the photo, L2-normalised
  faces: Array  # [V, 512] the embedding of each variant before it was cropped or pasted
  face_mask: Array  # [V, h, w] in {0, 1}
  hair_mask: Array  # [V, h, w] in {0, 1}
  features: Array | None = None  # [V, F] of a face ViT; variant 0 is the photo itself
  prior_mean: Array | None = None  # [N, h, w, C] pictures of the class, for prior preservation
  prior_logvar: Array | None = None


class Frozen(NamedTuple):
  """Everything that a loss reads and does not change."""

  backbone: Backbone
  constants: Any  # the method's `Needs.constants`, the same for all people
  captions: Prompts  # [T, L] training captions
  subject: Subject  # None for a method of scope dataset, whose batches carry the data


class Example(NamedTuple):
  variant: jax.Array  # int32 [B]
  caption: jax.Array  # int32 [B]
  latents: jax.Array  # [B, h, w, C] scaled, clean
  noise: jax.Array  # [B, h, w, C]
  t: jax.Array  # int32 [B]
  abar: jax.Array  # [B]
  noisy: jax.Array  # [B, h, w, C] at t
  target: jax.Array  # what the UNet should predict: noise, v or the latents


def draw(frozen: Frozen, keys: jax.Array) -> Example:
  """A random variant, caption, posterior sample, timestep and noise for each key [B]."""
  k_variant, k_caption, k_latent, k_t, k_noise = draws.split(keys, 5)
  s = frozen.subject
  variant = draws.integers(k_variant, s.mean.shape[0])
  caption = draws.integers(k_caption, frozen.captions.ids[0].shape[0])
  return make_example(frozen.backbone, variant, caption, s.mean[variant], s.logvar[variant], (k_latent, k_t, k_noise))


def make_example(b: Backbone, variant, caption, mean, logvar, keys: tuple[jax.Array, ...]) -> Example:
  """An example from moments [B, h, w, C]; keys [B] for posterior sample, timestep and noise."""
  k_latent, k_t, k_noise = keys
  schedule, shape = b.nets.schedule, mean.shape[1:]
  z = mean + jnp.exp(0.5 * logvar) * draws.normal(k_latent, shape)
  z = backbone.scale_latents(b, z)
  t = draws.integers(k_t, schedule.num_train_timesteps)
  noise = draws.normal(k_noise, shape)
  abar = diffusion.gather(schedule.alphas_cumprod, t)
  zt = diffusion.add_noise(z, noise, abar)
  target = diffusion.target(z, noise, abar, schedule.prediction_type)
  return Example(variant, caption, z, noise, t, abar, zt, target)


def prompts(frozen: Frozen, example: Example) -> Prompts:
  """The captions of an example's rows."""
  return conditioning.take(frozen.captions, example.caption)
