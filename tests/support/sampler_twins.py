"""Every sampler beside diffusers' own, on a nonlinear toy model and fed the same noise."""

import functools
import importlib
import sys
import types

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch
from support.fakes import relative_error

from idejax.model.diffusion import NoiseSchedule
from idejax.sampling import sampler

SD = {
  "beta_start": 0.00085,
  "beta_end": 0.012,
  "beta_schedule": "scaled_linear",
  "num_train_timesteps": 1000,
  "clip_sample": False,
}
TWINS = {
  "ddim": "DDIMScheduler",
  "ddpm": "DDPMScheduler",
  "pndm": "PNDMScheduler",
  "lcm": "LCMScheduler",
  "euler": "EulerDiscreteScheduler",
  "euler_ancestral": "EulerAncestralDiscreteScheduler",
  "dpmpp_2m": "DPMSolverMultistepScheduler",
  "dpmpp_2m_sde": "DPMSolverMultistepScheduler",
  "dpmpp_sde": "DPMSolverSDEScheduler",
}
NO_SAMPLE_PREDICTION = ("pndm", "euler_ancestral", "dpmpp_sde")  # in diffusers
SHAPE, ROWS = (2, 4, 3, 4), 64
TOLERANCE = 1e-4  # relative to the largest latent; tighter where a test says so


def draws(seed=0):
  """Unit noise z [B, H, W, C] and noise [R, B, H, W, C], float32."""
  rng = np.random.default_rng(seed)
  return [rng.standard_normal(s).astype(np.float32) for s in (SHAPE, (ROWS, *SHAPE))]


def toy(lib, x, t):
  """The same smooth nonlinear network in torch and in jnp."""
  return 0.6 * lib.sin(1.1 * x + t / 250) + 0.4 * lib.tanh(x * (0.2 + t / 1000))


@functools.partial(jax.jit, static_argnums=4)
def ours_jit(z, table, noise, latents, use_latents):
  keys = jax.random.split(jax.random.key(0), SHAPE[0])
  return sampler.sample(
    lambda x, t: toy(jnp, x, t), z, table, keys, noise=noise, latents=latents if use_latents else None
  )


def ours(name, config, steps, latents=None, **knobs):
  z, noise = draws()
  table = sampler.table(name, NoiseSchedule.from_json(config), steps, max_rows=ROWS, **knobs)
  return ours_jit(z, table, noise, z if latents is None else latents, latents is not None)


def twin_class(name):
  if name != "DPMSolverSDEScheduler":
    return getattr(diffusers, name)
  # Its module imports torchsde only for the Brownian tree, which the tests replace.
  sys.modules.setdefault("torchsde", types.ModuleType("torchsde"))
  return importlib.import_module("diffusers.schedulers.scheduling_dpmsolver_sde").__dict__[name]


def theirs(name, config, steps, monkeypatch, latents=None, start=0, eta=0.0):
  """diffusers' own loop, fed the noise that `ours` is fed."""
  cls = twin_class(TWINS.get(name, name))
  scheduler = cls.from_config(config)
  scheduler.set_timesteps(steps)
  z, noise = (torch.from_numpy(v) for v in draws())
  row = -1
  module = sys.modules[cls.__module__]
  monkeypatch.setattr(module, "randn_tensor", lambda *a, **k: noise[row], raising=False)
  order = scheduler.order
  if hasattr(scheduler, "set_begin_index"):
    scheduler.set_begin_index(order * start)
  timesteps = scheduler.timesteps[order * start :]
  if latents is None:
    x = z * scheduler.init_noise_sigma
  else:
    x = scheduler.add_noise(torch.from_numpy(latents), z, timesteps[:1].repeat(len(z)))
  if name == "dpmpp_sde":
    levels = scheduler.sigmas[order * start :].double().unique().flip(0)[:-1]

    def brownian(a, b):
      if row % 2 == 0:
        return noise[row]
      s, end = levels[row // 2], levels[row // 2 + 1]
      m = (s * end).sqrt()
      w = ((s - m).sqrt() * noise[row - 1] + (m - end).sqrt() * noise[row]) / (s - end).sqrt()
      return w.float()

    scheduler.noise_sampler = brownian
  for row, t in enumerate(timesteps):  # the noise above reads `row`
    m = toy(torch, scheduler.scale_model_input(x, t), float(t))
    kwargs = dict(eta=eta, variance_noise=noise[row]) if name == "ddim" and eta else {}
    x = scheduler.step(m, t, x, **kwargs).prev_sample
  return x


def compare(name, config, steps, monkeypatch, latents=None, start=0, eta=0.0, tolerance=TOLERANCE):
  knobs = {"eta": eta} if eta else {}
  a = ours(name, config, steps, latents=latents, start=start, **knobs)
  b = theirs(name, config, steps, monkeypatch, latents=latents, start=start, eta=eta)
  error = relative_error(a, b)
  assert error < tolerance, (name, config, steps, error)
  return error


def config_of(name, **fields):
  own = {"dpmpp_2m_sde": {"algorithm_type": "sde-dpmsolver++"}, "pndm": {"skip_prk_steps": True}}
  return {"_class_name": TWINS[name], **SD, **own.get(name, {}), **fields}
