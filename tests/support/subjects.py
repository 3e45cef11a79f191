"""Random small pipelines and people, for the tests of methods."""

import dataclasses
import functools

import jax
import numpy as np

from idejax import tree
from idejax.methods.contract import encode_captions
from idejax.model import backbone, families, tokens
from idejax.person import subject
from idejax.training import step

NAMES = ("ab cd", "ef gh", "ij kl", "mn op", "qr st", "uv wx")


@functools.cache
def opened(folder, family):
  """(backbone, tokenizers) of a random small pipeline, written below `folder` once."""
  path = folder / family
  if not path.exists():
    families.write_random(path, family)
  b = backbone.load(path)
  return b, tuple(tokens.load(path / f) for f in ["tokenizer", "tokenizer_2"][: len(b.nets.text)])


def person(b, seed=0, variants=2, features=None):
  """A subject of random arrays; with masks, and with `features` numbers of a face ViT."""
  rng = np.random.default_rng(seed)
  side, channels = b.nets.unet.sample_size, b.nets.latent_channels
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  face = np.zeros((variants, side, side), np.float32)
  face[:, 4:12, 4:12] = 1
  hair = np.zeros_like(face)
  hair[:, :4] = 1
  mean = normal(variants, side, side, channels)
  return subject.Subject(
    mean,
    np.full_like(mean, -8.0),
    unit(normal(512)),
    unit(normal(variants, 512)),
    face,
    hair,
    None if features is None else normal(variants, features),
    normal(3, side, side, channels),
    np.full((3, side, side, channels), -8.0, np.float32),
  )


def frozen(folder, family, method, cfg, *, seed=0, features=None, rows=None):
  """Everything that a method's loss reads; `rows`: how many a placeholder takes, if not the method's own."""
  b, words = opened(folder, family)
  needs = method.needs(cfg, b.nets)
  if rows is not None:
    needs = dataclasses.replace(needs, tokens=rows)
  constants, captions = needs.constants(b, words, NAMES, cfg), encode_captions(needs, words, "<id>")
  return subject.Frozen(b, constants, captions, person(b, seed, features=features))


def example(b, e):
  """(noisy, target) of an example's latents, noise and timesteps, by diffusers' scheduler."""
  import torch
  from diffusers import DDPMScheduler

  s = b.nets.schedule
  theirs = DDPMScheduler(s.num_train_timesteps, s.beta_start, s.beta_end, s.beta_schedule)
  z, noise, t = (torch.from_numpy(np.array(x)) for x in (e.latents, e.noise, e.t))
  target = {"epsilon": lambda: noise, "v_prediction": lambda: theirs.get_velocity(z, noise, t)}[s.prediction_type]()
  return theirs.add_noise(z, noise, t).numpy(), target.numpy()


def train(method, cfg, fz, steps, *, seed=0, batch=2):
  """(initial params, trained params, metrics of each step)."""
  params = method.init(jax.random.key(seed), fz, cfg)
  tx = step.by_path(*method.rates(cfg))
  run = jax.jit(step.make_step(functools.partial(method.loss, cfg=cfg), tx))
  state, log = step.init(jax.tree.map(np.asarray, params), tx), []
  for _ in range(steps):
    state, metrics = run(state, fz, {"index": np.arange(batch, dtype=np.int32)}, jax.random.key(seed))
    log.append({k: float(v) for k, v in metrics.items()})
  return params, state.params, log


def moved(before, after) -> set[str]:
  """Dotted paths of the leaves that differ."""
  a, b = tree.flatten(before), tree.flatten(after)
  return {k for k in a if not np.array_equal(np.asarray(a[k]), np.asarray(b[k]))}
