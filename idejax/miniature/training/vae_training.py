"""The stage `vae`: trains the miniature's autoencoder, and makes its latents ready for the UNet."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from idejax import sharding, tree
from idejax.config import TrainMiniature
from idejax.errors import UserError, tell
from idejax.miniature.training import autoencoder, export, latents, recipe, training
from idejax.miniature.world import pictures
from idejax.nets import vae as vae_net
from idejax.storage.files import write_json
from idejax.training import step as st


def train(c: TrainMiniature, r: recipe.Recipe):
  data, development = training.data(c, r), training.held_out(c, r).images[: r.people * r.validation_each]
  cfg = vae_net.VAEConfig.from_json(recipe.vae(r))
  if c.start:
    return _take(c, r, c.start, data, development)
  steps, batch = c.steps or r.vae_steps, r.vae_batch
  schedule = optax.warmup_cosine_decay_schedule(0.0, r.vae_lr, min(200, steps // 5), steps, 0.01 * r.vae_lr)
  tx = optax.adam(schedule, b2=0.99)
  step = st.make_step(autoencoder.make_loss(cfg, r.kl), tx, clip=r.clip, ema=r.ema)
  state = st.init(autoencoder.init(cfg, c.seed), tx, ema=True)
  step, state, frozen = st.on_mesh(step, sharding.make_mesh(), state, {})
  tell(f"vae: {tree.size(state.params) / 1e6:.2f} M parameters, {steps} steps of {batch}")

  def load(i: int):
    at = pictures.rows(i, batch, len(data.images), c.seed)
    return {"image": data.images[at], "index": np.arange(batch, dtype=np.int32)}

  reconstruct = autoencoder.make_reconstruct(cfg)
  facts = training.facts(c, r, "vae_widths latent_channels vae_batch vae_lr kl ema clip", data=data.digest)
  run = training.run(c, c.out / "vae", "vae", steps)

  def look(done, state):
    db, copies = autoencoder.psnr(reconstruct, state.ema, development)
    training.append(run.folder / "validation.jsonl", {"step": done, "psnr": db})
    tell(f"vae {done}: held-out PSNR {db:.2f} dB (people never seen in training)")
    every = slice(None, 16 * r.validation_each, r.validation_each)
    training.grid(run.folder / f"pictures-{done:06d}.png", [development[every], copies[every]])
    return db

  state = training.fit(step, state, frozen, load, run=run, seed=c.seed, facts=facts, every=r.look, look=look)
  db = look(int(state.step), state)
  digest = training.save_weights(run.folder / "weights.safetensors", jax.device_get(state.ema))
  write_json(run.folder / "result.json", {"step": int(state.step), "psnr": db, "sha256": digest} | facts)
  tell(f"vae: {db:.2f} dB after {int(state.step)} steps; sha256 {digest[:16]}")


def _take(c: TrainMiniature, r: recipe.Recipe, start: Path, data: pictures.Pictures, development: np.ndarray):
  """Takes the autoencoder of a finished pipeline instead of training one."""
  cfg, params = export.read_net(start, "vae")
  own = vae_net.VAEConfig.from_json(recipe.vae(r) | {"scaling_factor": cfg.scaling_factor})
  if cfg != own:
    raise UserError(f"{start / 'vae'} is not of this recipe's size: --start takes pipelines of the same one")
  db, _ = autoencoder.psnr(autoencoder.make_reconstruct(cfg), params, development)
  digest = training.save_weights(c.out / "vae" / "weights.safetensors", jax.device_get(params))
  write_json(
    c.out / "vae" / "result.json",
    {"psnr": db, "sha256": digest, "data": data.digest, "scaling_factor": cfg.scaling_factor},
  )
  tell(f"vae: that of {start}, {db:.2f} dB; sha256 {digest[:16]}")


class Ready(NamedTuple):
  """The autoencoder as it is read from its folder, and the latents' moments of both sets of pictures."""

  config: vae_net.VAEConfig
  scale: float  # deviation of its latents
  moments: latents.Moments
  development: latents.Moments
  facts: dict[str, Any]  # digests of the autoencoder and the pictures


def ready(
  c: TrainMiniature, r: recipe.Recipe, folder: Path, data: pictures.Pictures, development: pictures.Pictures
) -> Ready:
  """Writes folder/vae in float16 with normalised latent channels, and encodes all pictures once."""
  result = training.read_json(c.out / "vae" / "result.json", "vae")
  facts = {"vae": result["sha256"], "data": data.digest}
  cfg = vae_net.VAEConfig.from_json(recipe.vae(r))
  params = training.load_weights(c.out / "vae", vae_net.shapes(cfg))
  if not (factor := result.get("scaling_factor")):  # a finished one's channels are normalised already
    mean, std = latents.statistics(cfg, params, data.images)
    scale = float(np.sqrt(np.square(std).mean()))
    params, factor = autoencoder.normalise(params, mean, std / scale), round(1 / scale, 5)
  export.write_net(folder, "vae", recipe.vae(r) | {"scaling_factor": factor}, params)
  cfg, params = export.read_net(folder, "vae")
  moments = latents.moments(c.out / "latents", cfg, params, data.images, facts)
  development_moments = latents.moments(c.out / "latents_development", cfg, params, development.images, facts)
  return Ready(cfg, 1 / factor, moments, development_moments, facts)
