"""Schedules against diffusers on real configs, and the algebra of eps, v and z0."""

import dataclasses
import inspect
import json

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fakes import relative_error
from support.sampler_twins import compare, twin_class

from idejax.errors import UserError
from idejax.model import diffusion
from idejax.model.diffusion import CHOICES, CLASS_DEFAULTS, NoiseSchedule
from idejax.sampling import sampler

# As published in the model folders of these names, leftovers of other classes included.
SD_BETAS = {
  "beta_start": 0.00085,
  "beta_end": 0.012,
  "beta_schedule": "scaled_linear",
  "num_train_timesteps": 1000,
  "trained_betas": None,
}
CONFIGS = {
  "sd15": {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    **SD_BETAS,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "clip_sample": False,
  },
  "sd21": {
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.8.0",
    **SD_BETAS,
    "clip_sample": False,
    "prediction_type": "v_prediction",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
  },
  "sdxl": {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.19.0.dev0",
    **SD_BETAS,
    "clip_sample": False,
    "interpolation_type": "linear",
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "use_karras_sigmas": False,
  },
  "sdxl-turbo": {
    "_class_name": "EulerAncestralDiscreteScheduler",
    "_diffusers_version": "0.24.0",
    **SD_BETAS,
    "clip_sample": False,
    "interpolation_type": "linear",
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
    "use_karras_sigmas": False,
  },
  "lightning": {
    "_class_name": "EulerDiscreteScheduler",
    **SD_BETAS,
    "clip_sample": False,
    "interpolation_type": "linear",
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "timestep_spacing": "trailing",
    "timestep_type": "discrete",
    "sigma_max": None,
    "sigma_min": None,
    "rescale_betas_zero_snr": False,
    "use_karras_sigmas": False,
  },
  "lcm": {
    "_class_name": "LCMScheduler",
    "_diffusers_version": "0.22.0.dev0",
    **SD_BETAS,
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "dynamic_thresholding_ratio": 0.995,
    "original_inference_steps": 50,
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
    "sample_max_value": 1.0,
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "thresholding": False,
    "timestep_scaling": 10.0,
    "timestep_spacing": "leading",
  },
  "dpm": {
    "_class_name": "DPMSolverMultistepScheduler",
    "_diffusers_version": "0.24.0",
    **SD_BETAS,
    "algorithm_type": "dpmsolver++",
    "dynamic_thresholding_ratio": 0.995,
    "euler_at_final": False,
    "lambda_min_clipped": -float("inf"),
    "lower_order_final": True,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "solver_order": 2,
    "solver_type": "midpoint",
    "steps_offset": 1,
    "thresholding": False,
    "timestep_spacing": "leading",
    "use_karras_sigmas": True,
    "use_lu_lambdas": False,
    "variance_type": None,
  },
  "ddpm": {
    "_class_name": "DDPMScheduler",
    "_diffusers_version": "0.8.0",
    **SD_BETAS,
    "clip_sample": False,
    "variance_type": "fixed_small",
    "prediction_type": "epsilon",
  },
}
SAMPLER_STEPS = {"sd15": 50, "sd21": 50, "sdxl": 30, "sdxl-turbo": 4, "lightning": 4, "lcm": 4, "dpm": 25, "ddpm": 20}


def round_trip(config):
  return json.loads(json.dumps(config))


@pytest.mark.parametrize("name", CONFIGS)
def test_published_configs(name, monkeypatch):
  config = round_trip(CONFIGS[name])
  schedule = NoiseSchedule.from_json(config)
  twin = getattr(diffusers, config["_class_name"]).from_config(config)
  theirs = twin.alphas_cumprod.numpy()
  assert schedule.alphas_cumprod.dtype == np.float64
  assert np.abs(schedule.alphas_cumprod - theirs).max() <= 2.0**-24
  for field in dataclasses.fields(schedule):
    if field.name in twin.config and field.name not in ("trained_betas", "given"):
      assert getattr(schedule, field.name) == twin.config[field.name], field.name
  kind, notice = sampler.folder_sampler(schedule)
  assert notice is None
  compare(kind, config, SAMPLER_STEPS[name], monkeypatch)


@pytest.mark.parametrize("name", CLASS_DEFAULTS)
def test_defaults_are_those_of_the_class(name):
  """A key that a file leaves out has the default of the class that the file names."""
  schedule = NoiseSchedule.from_json({"_class_name": name})
  aliases = {"deis": "dpmsolver++", "logrho": "midpoint", "bh2": "midpoint"}
  parameters = inspect.signature(twin_class(name).__init__).parameters
  defaults = {key: parameter.default for key, parameter in parameters.items()}
  checked = 0
  for field in dataclasses.fields(schedule):
    if field.name in defaults:
      expected = defaults[field.name]
      assert getattr(schedule, field.name) == aliases.get(expected, expected), field.name
      checked += 1
  assert checked >= 8
  for key, values in CHOICES.items():  # and every default is supported
    if key in defaults:
      assert aliases.get(defaults[key], defaults[key]) in values


@pytest.mark.parametrize(
  "fields",
  [
    dict(beta_schedule="linear", beta_start=0.0001, beta_end=0.02),
    dict(beta_schedule="squaredcos_cap_v2"),
    dict(beta_schedule="squaredcos_cap_v2", num_train_timesteps=64),
    dict(SD_BETAS, rescale_betas_zero_snr=True),
    dict(beta_schedule="squaredcos_cap_v2", rescale_betas_zero_snr=True),
    dict(trained_betas=list(np.linspace(1e-4, 0.3, 40)), num_train_timesteps=40),
  ],
)
def test_beta_schedules(fields):
  schedule = NoiseSchedule.from_json({"_class_name": "DDIMScheduler", **fields})
  twin = diffusers.DDIMScheduler(**fields)
  # One float32 rounding of a beta (torch's linspace depends on the vector width of the CPU); the
  # rescaled betas are quotients of rounded numbers, and their product gathers 1000 roundings.
  zero = fields.get("rescale_betas_zero_snr", False)
  np.testing.assert_allclose(
    schedule.alphas_cumprod, twin.alphas_cumprod.numpy(), rtol=2e-6 if zero else 3e-7, atol=2.0**-24
  )
  if zero:
    assert schedule.alphas_cumprod[-1] == 0


@given(
  st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]),
  st.integers(2, 1200),
  st.floats(1e-6, 0.01),
  st.floats(0.01, 0.05),
  st.booleans(),
)
@settings(max_examples=60, deadline=None, database=None)
def test_alphas_fall_from_one_to_zero(kind, T, low, high, zero):
  schedule = NoiseSchedule.from_json(
    {
      "_class_name": "DDPMScheduler",
      "beta_schedule": kind,
      "num_train_timesteps": T,
      "beta_start": low,
      "beta_end": high,
      "rescale_betas_zero_snr": zero,
    }
  )
  abar = schedule.alphas_cumprod
  assert abar.shape == (T,) and abar[0] < 1 and abar[-1] >= 0
  assert (np.diff(abar) <= 0).all()
  assert not zero or abar[-1] == 0
  assert NoiseSchedule.from_json(round_trip(schedule.to_json())) == schedule


@pytest.mark.parametrize("name", CONFIGS)
def test_to_json_is_read_by_both(name):
  schedule = NoiseSchedule.from_json(CONFIGS[name])
  written = round_trip(schedule.to_json())
  assert NoiseSchedule.from_json(written) == schedule
  twin = getattr(diffusers, written["_class_name"]).from_config(written)
  assert np.abs(twin.alphas_cumprod.numpy() - schedule.alphas_cumprod).max() <= 2.0**-24
  assert hash(schedule) == hash(NoiseSchedule.from_json(written))


def test_another_class_keeps_the_network_and_takes_the_sampler_defaults():
  sd15 = NoiseSchedule.from_json(CONFIGS["sd15"])
  assert sd15.timestep_spacing == "leading"
  dpm = sd15.as_class("DPMSolverMultistepScheduler")
  assert dpm.timestep_spacing == "linspace" and dpm.steps_offset == 1 and not dpm.set_alpha_to_one
  np.testing.assert_array_equal(dpm.betas, sd15.betas)
  bare = NoiseSchedule.from_json({"_class_name": "EulerDiscreteScheduler"})
  assert not bare.as_class("DDIMScheduler").clip_sample  # diffusers would clip latents to [-1, 1]
  assert NoiseSchedule.from_json({"_class_name": "DDIMScheduler"}).clip_sample
  fixed = sd15.override(timestep_spacing="trailing").as_class("EulerDiscreteScheduler")
  assert fixed.timestep_spacing == "trailing"


@pytest.mark.parametrize(
  "fields, message",
  [
    (
      {"_class_name": "FlowMatchEulerDiscreteScheduler"},
      "_class_name is 'FlowMatchEulerDiscreteScheduler'; supported: DDIMScheduler, .*LCMScheduler",
    ),
    ({"_class_name": None}, "_class_name is None"),
    ({"beta_schedule": "sigmoid"}, "beta_schedule is 'sigmoid'; supported: scaled_linear, line"),
    ({"prediction_type": "flow_prediction"}, "prediction_type is 'flow_prediction'; supported: eps"),
    ({"timestep_spacing": None}, "timestep_spacing is None; supported: leading, trailing, linspace"),
    ({"thresholding": True}, "thresholding is True; supported: False"),
    ({"use_beta_sigmas": True}, "use_beta_sigmas is True"),
    ({"timestep_type": "continuous"}, "timestep_type is 'continuous'; supported: discrete"),
    ({"algorithm_type": "dpmsolver"}, "algorithm_type is 'dpmsolver'; supported: dpmsolver\\+\\+"),
    ({"variance_type": "learned_range"}, "variance_type is 'learned_range'"),
    ({"solver_order": 4}, "solver_order is 4; supported: 1, 2, 3"),
    ({"num_train_timesteps": 0}, "num_train_timesteps is 0; expected a whole number"),
    ({"num_train_timesteps": "1000"}, "num_train_timesteps is '1000'"),
    ({"num_train_timesteps": float("inf")}, "num_train_timesteps is inf"),
    ({"steps_offset": -1}, "steps_offset is -1"),
    ({"steps_offset": 0.5}, "steps_offset is 0.5"),
    ({"beta_start": -0.1}, "beta_start is -0.1; expected a positive number"),
    ({"beta_start": float("nan")}, "beta_start is nan"),
    ({"beta_end": None}, "beta_end is None"),
    ({"beta_end": 1.5}, "betas lie in 0.0001..1.5; they must be above 0 and below 1"),
    ({"clip_sample": "yes"}, "clip_sample is 'yes'; expected true or false"),
    ({"sigma_min": -1.0}, "sigma_min is -1.0; expected a positive number"),
    ({"trained_betas": "0.1"}, "trained_betas is '0.1'; expected a list of numbers"),
    ({"trained_betas": [0.1, 0.2]}, "trained_betas has 2 values, num_train_timesteps is 1000"),
    ({"trained_betas": [0.1, -0.2], "num_train_timesteps": 2}, "betas lie in -0.2..0.1"),
    ({"beta_start": 1e-12, "beta_end": 1e-12, "rescale_betas_zero_snr": True}, "betas lie in nan"),
  ],
)
def test_bad_configs(fields, message):
  with pytest.raises(UserError, match=message):
    NoiseSchedule.from_json({"_class_name": "DDIMScheduler", **fields})


def test_null_switches_are_off():
  nulls = {"use_karras_sigmas": None, "use_beta_sigmas": None}
  schedule = NoiseSchedule.from_json({"_class_name": "EulerDiscreteScheduler", **nulls})
  assert schedule.use_karras_sigmas is False


# ---- algebra ------------------------------------------------------------------------------------

PREDICTIONS = ("epsilon", "v_prediction", "sample")


def triple(seed=0, shape=(5, 2, 3, 4)):
  k_z, k_eps = jax.random.split(jax.random.key(seed))
  return jax.random.normal(k_z, shape), jax.random.normal(k_eps, shape)


@given(st.integers(0, 99), st.lists(st.floats(0.01, 0.99), min_size=5, max_size=5))
@settings(max_examples=30, deadline=None, database=None)
def test_conversions_invert_one_another(seed, abar):
  z0, eps = triple(seed)
  abar = jnp.array(abar)
  zt = diffusion.add_noise(z0, eps, abar)
  truth = {p: diffusion.target(z0, eps, abar, p) for p in PREDICTIONS}
  to = dict(zip(PREDICTIONS, (diffusion.eps_from, diffusion.v_from, diffusion.x0_from)))
  for told in PREDICTIONS:
    for wanted in PREDICTIONS:
      got = to[wanted](truth[told], zt, abar, told)
      np.testing.assert_allclose(got, truth[wanted], atol=2e-4)
      back = to[told](got, zt, abar, wanted)  # also for values that are no true eps, v or z0
      np.testing.assert_allclose(back, truth[told], atol=2e-3)


def test_add_noise_and_velocity_are_diffusers():
  schedule = NoiseSchedule.from_json(CONFIGS["sd21"])
  twin = diffusers.DDPMScheduler.from_config(CONFIGS["sd21"])
  z0, eps = triple()
  t = np.array([0, 1, 500, 998, 999])
  abar = diffusion.gather(schedule.alphas_cumprod, jnp.asarray(t))
  assert abar.dtype == jnp.float32 and abar.shape == (5,)
  args = [torch.from_numpy(np.array(v)) for v in (z0, eps, t)]
  assert relative_error(diffusion.add_noise(z0, eps, abar), twin.add_noise(*args)) < 1e-6
  v = diffusion.target(z0, eps, abar, "v_prediction")
  assert relative_error(v, twin.get_velocity(*args)) < 1e-6


@pytest.mark.parametrize("abar", [0.0, 0.3, 1.0])
def test_add_noise_statistics(abar):
  """Unit data stays at unit variance; the correlation with z0 is sqrt(abar)."""
  z0, eps = triple(shape=(4, 64, 64, 4))
  zt = np.asarray(diffusion.add_noise(z0, eps, jnp.full(4, abar)))
  assert abs(zt.var() - 1) < 0.02 and abs(zt.mean()) < 0.02
  assert abs(np.corrcoef(zt.ravel(), np.asarray(z0).ravel())[0, 1] - np.sqrt(abar)) < 0.02


def test_each_sample_has_its_own_timestep():
  z0, eps = triple()
  abar = jnp.linspace(0.1, 0.9, 5)
  both = diffusion.add_noise(z0, eps, abar)
  for b in range(5):
    np.testing.assert_allclose(both[b], diffusion.add_noise(z0[b], eps[b], abar[b]), rtol=1e-6)
  assert diffusion.add_noise(z0.astype(jnp.bfloat16), eps, abar).dtype == jnp.float32


def test_zero_terminal_snr_is_finite_for_v_and_sample():
  z0, eps = triple()
  zt = diffusion.add_noise(z0, eps, jnp.zeros(5))
  np.testing.assert_array_equal(zt, eps)
  v = diffusion.target(z0, eps, jnp.zeros(5), "v_prediction")
  np.testing.assert_allclose(diffusion.x0_from(v, zt, jnp.zeros(5), "v_prediction"), z0)
  np.testing.assert_allclose(diffusion.eps_from(z0, zt, jnp.zeros(5), "sample"), eps)


def test_mse_and_mask():
  out, wanted = triple()
  plain = diffusion.mse(out, wanted)
  np.testing.assert_allclose(plain, np.square(np.array(out) - wanted).mean((1, 2, 3)), rtol=1e-5)
  mask = jnp.ones((5, 2, 3, 1))
  np.testing.assert_array_equal(diffusion.mse(out, wanted, mask), plain)
  np.testing.assert_array_equal(diffusion.mse(out, wanted, 0 * mask), 0)
  half = mask.at[:, 0].set(0)
  moved = out.at[:, 0].add(9.0)  # outside the mask: neither loss nor gradient
  inside = [diffusion.mse(o, wanted, half) for o in (out, moved)]
  np.testing.assert_array_equal(*inside)
  grad = jax.grad(lambda o: diffusion.mse(o, wanted, half).sum())(moved)
  assert not grad[:, 0].any() and grad[:, 1].any()


def test_unknown_prediction():
  z0, eps = triple()
  for function in (diffusion.target, diffusion.x0_from, diffusion.eps_from, diffusion.v_from):
    with pytest.raises(UserError, match="prediction_type is 'flow'; supported: epsilon, v_pred"):
      function(z0, eps, jnp.full(5, 0.5), "flow")
