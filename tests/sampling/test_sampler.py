"""Every sampler against its diffusers twin on a nonlinear toy model, and against closed forms."""

import functools

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.fakes import relative_error
from support.sampler_twins import (
  NO_SAMPLE_PREDICTION,
  SD,
  SHAPE,
  TOLERANCE,
  TWINS,
  compare,
  config_of,
  draws,
  ours,
  theirs,
  toy,
  twin_class,
)

from idejax.errors import UserError
from idejax.model.diffusion import NoiseSchedule
from idejax.sampling import sampler


@pytest.fixture(autouse=True)
def quiet():
  diffusers.logging.set_verbosity_error()


# What diffusers lacks is in test_predictions_agree and test_sde_is_the_specification.
@pytest.mark.parametrize(
  "name, prediction",
  [
    (name, prediction)
    for name in TWINS
    for prediction in ("epsilon", "v_prediction", "sample")
    if not (prediction == "sample" and name in NO_SAMPLE_PREDICTION)
  ],
)
def test_twin(name, prediction, monkeypatch, record_property):
  errors = {}
  for spacing in ("leading", "trailing", "linspace"):
    for steps in (1, 2, 4, 10, 30):
      config = config_of(name, prediction_type=prediction, timestep_spacing=spacing)
      errors[spacing, steps] = compare(name, config, steps, monkeypatch)
  record_property("worst", max(errors.values()))
  print(f"worst {name} {prediction} {max(errors.values()):.1e} {max(errors, key=errors.get)}")


@pytest.mark.parametrize(
  "name, fields",
  [
    ("ddim", dict(set_alpha_to_one=False, steps_offset=1)),
    ("ddim", dict(clip_sample=True, clip_sample_range=0.8)),
    ("ddpm", dict(clip_sample=True, variance_type="fixed_large", steps_offset=1)),
    ("ddpm", dict(beta_schedule="squaredcos_cap_v2")),
    ("pndm", dict(set_alpha_to_one=True, steps_offset=1)),
    ("lcm", dict(clip_sample=True, original_inference_steps=100, timestep_scaling=3.0)),
    ("euler", dict(use_karras_sigmas=True)),
    ("euler", dict(use_karras_sigmas=True, sigma_min=0.05, sigma_max=10.0)),
    ("euler", dict(use_exponential_sigmas=True, final_sigmas_type="sigma_min")),
    ("euler", dict(beta_schedule="linear", beta_end=0.02, prediction_type="epsilon")),
    ("dpmpp_2m", dict(use_karras_sigmas=True)),
    ("dpmpp_2m", dict(use_exponential_sigmas=True)),
    ("dpmpp_2m", dict(use_lu_lambdas=True)),
    ("dpmpp_2m", dict(use_karras_sigmas=True, final_sigmas_type="sigma_min")),
    ("dpmpp_2m", dict(solver_type="heun", lower_order_final=False)),
    ("dpmpp_2m", dict(solver_order=3, final_sigmas_type="sigma_min")),
    ("dpmpp_2m", dict(solver_order=3, lower_order_final=False)),
    ("dpmpp_2m", dict(solver_order=1, euler_at_final=True)),
    ("dpmpp_2m", dict(beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1)),
    ("dpmpp_2m", dict(beta_schedule="squaredcos_cap_v2", use_karras_sigmas=True)),
    ("dpmpp_2m_sde", dict(use_karras_sigmas=True, final_sigmas_type="sigma_min")),
    ("dpmpp_2m_sde", dict(solver_type="heun")),
    ("dpmpp_sde", dict(use_karras_sigmas=True)),
    ("dpmpp_sde", dict(use_exponential_sigmas=True)),
  ],
)
def test_twin_settings(name, fields, monkeypatch):
  fields = {"prediction_type": "v_prediction", **fields}
  for steps in (2, 7, 20):
    compare(name, config_of(name, **fields), steps, monkeypatch)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_eta(eta, monkeypatch):
  for spacing in ("leading", "trailing"):
    compare("ddim", config_of("ddim", timestep_spacing=spacing), 10, monkeypatch, eta=eta)


@pytest.mark.parametrize("name", ["ddim", "ddpm", "lcm", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde"])
def test_zero_terminal_snr(name, monkeypatch):
  zero = dict(rescale_betas_zero_snr=True, timestep_spacing="trailing")
  config = config_of(name, prediction_type="v_prediction", **zero)
  for steps in (1, 4, 25):
    # In diffusers' Euler, float32 x starts at 4096 z and z0 is what is left of x - (x - z0): a
    # round-off of its own, as the next test shows.
    tolerance = 2e-3 if "euler" in name else TOLERANCE
    compare(name, config, steps, monkeypatch, tolerance=tolerance)
  if "euler" in name or "dpmpp" in name:  # the largest sigma is 4096, so epsilon works as well
    compare(name, config_of(name, **zero), 4, monkeypatch, tolerance=tolerance)
  else:
    with pytest.raises(UserError, match="zero terminal SNR use v_prediction"):
      sampler.table(name, NoiseSchedule.from_json(config_of(name, **zero)), 4)
  x = ours("pndm", config_of("ddim", prediction_type="v_prediction", **zero), 10)
  assert np.isfinite(x).all()


@pytest.mark.parametrize("steps", [1, 4, 25])
def test_zero_terminal_snr_euler_in_float64(steps):
  config = config_of("euler", prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
  t = sampler.table("euler", NoiseSchedule.from_json(config), steps).rows.t[:steps].astype(int)
  abar = NoiseSchedule.from_json(config).alphas_cumprod.copy()
  abar[-1] = 2.0**-24
  sigmas = np.append(np.sqrt(1 / abar - 1)[t], 0)
  x = draws()[0].astype(np.float64) * sigmas[0]
  for i, s in enumerate(sigmas[:-1]):
    m = toy(np, x / np.sqrt(s**2 + 1), float(t[i]))
    x0 = x / (s**2 + 1) - s / np.sqrt(s**2 + 1) * m
    x = x + (x - x0) / s * (sigmas[i + 1] - s)
  assert relative_error(ours("euler", config, steps), x) < 1e-5


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_turbo(steps, monkeypatch):
  config = config_of("euler_ancestral", timestep_spacing="trailing", steps_offset=1)
  compare("euler_ancestral", config, steps, monkeypatch)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_lightning(steps, monkeypatch):
  """Trailing Euler; the 1-step checkpoint predicts the sample."""
  config = config_of("euler", timestep_spacing="trailing")
  fields = {"prediction_type": "sample"} if steps == 1 else {}
  a = ours("euler", config, steps, **fields)
  b = theirs("euler", {**config, **fields}, steps, monkeypatch)
  assert relative_error(a, b) < 1e-5
  table = sampler.table("euler", NoiseSchedule.from_json(config), steps)
  expected = {1: [999], 2: [999, 499], 4: [999, 749, 499, 249], 8: [999, 874, 749, 624]}[steps]
  assert table.rows.t[: min(4, steps)].tolist() == expected


@pytest.mark.parametrize("name", [n for n in TWINS if n not in ("pndm", "lcm")])
@pytest.mark.parametrize("start", [0, 3, 9])
def test_image_to_image(name, start, monkeypatch):
  """`start`, `latents` are diffusers' set_begin_index, add_noise (PNDM's and LCM's differ)."""
  latents = 0.5 * np.random.default_rng(5).standard_normal(SHAPE).astype(np.float32)
  compare(name, config_of(name), 10, monkeypatch, latents=latents, start=start)


def test_plms_from_the_middle_is_plms_on_fewer_timesteps():
  """diffusers skips a timestep here, so the check is a table that starts at the same one."""
  schedule = NoiseSchedule.from_json(config_of("pndm"))
  part = sampler.table("pndm", schedule, 10, start=4)
  t = part.rows.t[part.active]
  assert t.tolist() == [500, 400, 400, 300, 200, 100, 0]
  whole = sampler.table("pndm", schedule, 10)
  np.testing.assert_array_equal(whole.rows.t[:3], [900, 800, 800])
  np.testing.assert_allclose(part.start_signal**2 + part.start_sigma**2, 1, rtol=1e-6)


def test_another_class_is_from_config(monkeypatch):
  """A PNDM folder sampled with any sampler agrees with <class>.from_config of the same file."""
  pndm = config_of("pndm", steps_offset=1, set_alpha_to_one=False)
  for name in TWINS:
    config = {**pndm, "algorithm_type": "sde-dpmsolver++"} if name == "dpmpp_2m_sde" else pndm
    compare(name, config, 8, monkeypatch)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("name", TWINS)
def test_timesteps(name, spacing):
  """Also step counts that do not divide 1000, and the models' fractional timesteps."""
  for karras in (False, True):
    config = config_of(name, timestep_spacing=spacing, use_karras_sigmas=karras)
    twin = twin_class(TWINS[name]).from_config(config)
    for steps in (3, 7, 13, 28, 33, 49):
      twin.set_timesteps(steps)
      table = sampler.table(name, NoiseSchedule.from_json(config), steps)
      t = table.rows.t[table.active]
      np.testing.assert_allclose(t, twin.timesteps.float().numpy(), rtol=1e-6, atol=2e-4)
      np.testing.assert_allclose(table.init_sigma, float(twin.init_noise_sigma), rtol=1e-6)


@functools.partial(jax.jit, static_argnums=3)
def denoise_as(z, table, abar, prediction):
  def model(x, t):
    bar = abar[t.astype(int)]
    eps = toy(jnp, x, t)
    x0 = (x - jnp.sqrt(1 - bar) * eps) / jnp.sqrt(bar)
    v = jnp.sqrt(bar) * eps - jnp.sqrt(1 - bar) * x0
    return {"epsilon": eps, "sample": x0, "v_prediction": v}[prediction]

  return sampler.sample(model, z, table, jax.random.split(jax.random.key(0), SHAPE[0]))


def test_predictions_agree():
  """One denoiser told as eps, v or z0 gives the same latents, also where diffusers lacks it."""
  for name in TWINS:
    if name in ("pndm", "dpmpp_sde"):
      continue  # extrapolates what is told; fractional timesteps
    schedule = NoiseSchedule.from_json(config_of(name, timestep_spacing="leading"))
    eps, v, x0 = (
      denoise_as(
        draws()[0], sampler.table(name, schedule, 10, prediction_type=p), schedule.alphas_cumprod.astype(np.float32), p
      )
      for p in ("epsilon", "v_prediction", "sample")
    )
    assert max(relative_error(v, eps), relative_error(x0, eps)) < 1e-5, name


# ---- DPM++ SDE, facesnap.md (f) and (j) 10, 11 --------------------------------------------------


def sde_in_float64(schedule, steps, prediction, eta=1.0):
  """facesnap.md (f), word for word, with Karras sigmas."""
  z, noise = (v.astype(np.float64) for v in draws())
  train = np.sqrt((1 - schedule.alphas_cumprod) / schedule.alphas_cumprod)
  ramp = np.linspace(0, 1, steps)
  ends = train[-1] ** (1 / 7), train[0] ** (1 / 7)
  s = np.append((ends[0] + ramp * (ends[1] - ends[0])) ** 7, 0)

  def D(x, s):
    t = np.interp(np.log(s), np.log(train), np.arange(len(train)))
    m = toy(np, x / np.sqrt(s**2 + 1), t)
    return {"epsilon": x - s * m, "sample": m, "v_prediction": x / (s**2 + 1) - s / np.sqrt(s**2 + 1) * m}[prediction]

  def ancestral(a, b):
    up = min(b, eta * np.sqrt(b**2 * (a**2 - b**2) / a**2))
    return np.sqrt(b**2 - up**2), up

  x, n = z * s[0], iter(noise)
  for i in range(steps):
    D1 = D(x, s[i])
    if s[i + 1] == 0:
      return D1
    m = np.exp(-(-np.log(s[i]) + 0.5 * (np.log(s[i]) - np.log(s[i + 1]))))
    n1, n2 = next(n), next(n)
    w2 = (np.sqrt(s[i] - m) * n1 + np.sqrt(m - s[i + 1]) * n2) / np.sqrt(s[i] - s[i + 1])
    dn, up = ancestral(s[i], m)
    x2 = dn / s[i] * x + (1 - dn / s[i]) * D1 + up * n1
    dn, up = ancestral(s[i], s[i + 1])
    x = dn / s[i] * x + (1 - dn / s[i]) * D(x2, m) + up * w2


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_sde_is_the_specification(prediction):
  config = config_of("dpmpp_sde", prediction_type=prediction, use_karras_sigmas=True)
  schedule = NoiseSchedule.from_json(config)
  for steps in (2, 8, 30):
    for eta in (0.0, 0.5, 1.0):
      a = ours("dpmpp_sde", config, steps, eta=eta)
      assert relative_error(a, sde_in_float64(schedule, steps, prediction, eta)) < 1e-4


def gaussian_model(schedule, std):
  """The exact epsilon of data ~ N(0, std^2): D(x, s) = x std^2 / (std^2 + s^2)."""
  log_train = 0.5 * np.log((1 - schedule.alphas_cumprod) / schedule.alphas_cumprod)

  def model(x, t):
    s = jnp.exp(jnp.interp(t, jnp.arange(len(log_train)), jnp.asarray(log_train, jnp.float32)))
    return x * jnp.sqrt(1 + s * s) * s / (std**2 + s * s)

  return model


@pytest.mark.parametrize("name", ["dpmpp_sde", "dpmpp_2m"])
def test_second_order_on_a_linear_ode(name):
  """Without noise dx/ds = x s / (std^2 + s^2), so x grows as sqrt(std^2 + s^2)."""
  schedule = NoiseSchedule.from_json(config_of(name, use_karras_sigmas=True))
  run = jax.jit(functools.partial(sampler.sample, gaussian_model(schedule, 0.7)))
  errors = []
  for steps in (8, 16, 32):
    knobs = {"eta": 0.0} if name == "dpmpp_sde" else {}
    table = sampler.table(name, schedule, steps, **knobs)
    if name == "dpmpp_2m":
      table = exact_timesteps(table, schedule)
    calls = int(table.active.sum())
    table.active[calls - 1] = False  # stop at the smallest sigma: the last step is first order
    z = jnp.ones((1, 1, 1, 1))
    x = float(run(z, table, jax.random.split(jax.random.key(0), 1))[0, 0, 0, 0])
    sigma = np.sqrt((1 - schedule.alphas_cumprod) / schedule.alphas_cumprod)
    high, low = sigma[-1], sigma[0]
    if name == "dpmpp_2m":  # its x is alpha times that of the others
      x, high = x * np.sqrt(1 + low**2), np.float64(high)
      start = np.sqrt(1 + high**2)
    else:
      start = high
    errors.append(abs(x / (start * np.sqrt((0.49 + low**2) / (0.49 + high**2))) - 1))
  orders = np.log2(np.array(errors[:-1]) / errors[1:])
  assert (orders > 1.7).all(), (errors, orders)


def exact_timesteps(table, schedule):
  """diffusers rounds DPM-Solver++'s Karras timesteps; undo it to see the order of the solver."""
  log_train = 0.5 * np.log((1 - schedule.alphas_cumprod) / schedule.alphas_cumprod)
  n = int(table.active.sum())
  ramp = np.linspace(0, 1, n)
  high, low = np.exp(log_train[-1] / 7), np.exp(log_train[0] / 7)
  t = table.rows.t.copy()
  t[:n] = np.interp(7 * np.log(high + ramp * (low - high)), log_train, np.arange(1000))
  return table._replace(rows=table.rows._replace(t=t))


@pytest.mark.parametrize("steps, ratio", [(50, 0.998), (20, 0.987), (8, 0.915)])
def test_sde_reproduces_the_data_variance(steps, ratio):
  """All is linear, so the variance is the sum of squared responses to unit noises: no sampling."""
  schedule = NoiseSchedule.from_json(config_of("dpmpp_sde", use_karras_sigmas=True))
  table = sampler.table("dpmpp_sde", schedule, steps, max_rows=100)
  units = np.eye(101, dtype=np.float32)
  z, noise = units[0].reshape(-1, 1, 1, 1), units[1:].reshape(100, 101, 1, 1, 1)
  x = jax.jit(functools.partial(sampler.sample, gaussian_model(schedule, 0.7)))(
    z, table, jax.random.split(jax.random.key(0), 101), noise=noise
  )
  got = float(jnp.sqrt(jnp.square(x).sum())) / 0.7
  assert abs(got - ratio) < 2e-3
  if steps == 50:
    assert abs(got**2 - 1) < 0.02


def test_sde_noises_are_one_brownian_path():
  """E[w2^2] = 1, corr(w1, w2) = sqrt((s - m)/(s - s')); 2n - 1 calls; the last returns D1."""
  schedule = NoiseSchedule.from_json(config_of("dpmpp_sde", use_karras_sigmas=True))
  table = sampler.table("dpmpp_sde", schedule, 8)
  assert table.active.sum() == 15
  rows = jax.tree.map(lambda v: v[:15].astype(np.float64), table.rows)
  s = np.sqrt(1 / rows.scale**2 - 1)
  now, mid, to = s[:-1:2], s[1::2], s[2::2]
  up = np.sqrt(to**2 * (now**2 - to**2) / now**2)
  np.testing.assert_allclose(np.hypot(rows.f, rows.g)[1::2], up, rtol=1e-4)
  np.testing.assert_allclose(rows.g[1::2] / up, np.sqrt((now - mid) / (now - to)), rtol=1e-4)
  last = jax.tree.map(lambda v: v[14], rows)
  assert last.c == 1 and not (last.a or last.b or last.d or last.f or last.g or last.e.any())


# ---- the scan -----------------------------------------------------------------------------------


def test_one_compilation_for_every_sampler_step_count_and_eta():
  schedule = NoiseSchedule.from_json(config_of("pndm"))
  traces = []

  @jax.jit
  def run(z, table, keys):
    traces.append(None)
    return sampler.sample(lambda x, t: toy(jnp, x, t), z, table, keys)

  z, keys = draws()[0], jax.random.split(jax.random.key(0), SHAPE[0])
  for name in sampler.names():
    for steps in (1, 5, 30):
      assert np.isfinite(run(z, sampler.table(name, schedule, steps), keys)).all()
  run(z, sampler.table("ddim", schedule, 10, eta=0.5), keys)
  run(z, sampler.table("euler", schedule, 10, timestep_spacing="trailing", start=2), keys)
  run(z, sampler.table("dpmpp_2m", schedule, 10, use_karras_sigmas=True, solver_order=3), keys)
  assert len(traces) == 1 and run._cache_size() == 1


def test_noise_of_an_image_ignores_its_batch():
  run = jax.jit(functools.partial(sampler.sample, lambda x, t: toy(jnp, x, t)))
  z, keys = draws()[0], jax.random.split(jax.random.key(7), SHAPE[0])
  # The documented stream: row i draws normal(fold_in(key, i)).
  stream = jax.vmap(lambda i: jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, i), SHAPE[1:]))(keys))
  noise = jax.jit(stream)(jnp.arange(sampler.MAX_ROWS))
  for name in ("ddim", "euler_ancestral", "lcm", "dpmpp_2m_sde", "dpmpp_sde"):
    knobs = {"eta": 1.0} if name == "ddim" else {}
    table = sampler.table(name, NoiseSchedule.from_json(config_of(name)), 6, **knobs)
    both = run(z, table, keys)
    for b in range(SHAPE[0]):
      alone = run(z[b : b + 1], table, keys[b : b + 1])
      assert relative_error(alone, both[b : b + 1]) < 1e-5
    assert relative_error(run(z[::-1], table, keys[::-1]), both[::-1]) < 1e-5
    assert relative_error(run(z, table, keys[::-1]), both) > 1e-2  # the key matters
    assert relative_error(run(z, table, keys, noise=noise), both) < 1e-5


def test_rows_that_are_not_active_do_not_call_the_model():
  schedule, calls = NoiseSchedule.from_json(config_of("dpmpp_sde")), []

  def model(x, t):
    jax.debug.callback(lambda t: calls.append(float(t)), t)
    return 0.1 * x

  z, keys = draws()[0], jax.random.split(jax.random.key(0), SHAPE[0])
  run = jax.jit(functools.partial(sampler.sample, model))
  for name, expected in [("dpmpp_sde", 15), ("pndm", 9), ("ddim", 8)]:
    calls.clear()
    run(z, sampler.table(name, schedule, 8), keys).block_until_ready()
    jax.effects_barrier()
    assert len(calls) == expected
  vmapped = jax.vmap(lambda z, k, table: sampler.sample(model, z, table, k), in_axes=(0, 0, None))
  calls.clear()
  jax.jit(vmapped)(z[:, None], keys[:, None], sampler.table("ddim", schedule, 8))
  jax.effects_barrier()
  assert len(calls) == 8  # and not all of the 128 rows


def test_deterministic_tables_draw_no_noise():
  schedule = NoiseSchedule.from_json(config_of("ddim"))
  for name in ("ddim", "pndm", "euler", "dpmpp_2m"):
    assert not sampler.table(name, schedule, 10).noisy.any()
  for name in ("euler_ancestral", "dpmpp_sde", "dpmpp_2m_sde"):
    assert not sampler.table(name, schedule, 10, eta=0.0).noisy.any()
    assert sampler.table(name, schedule, 10).noisy.any()
  assert sampler.table("lcm", schedule, 4).noisy.tolist()[:5] == [True, True, True, False, False]


def test_ancestral_takes_karras_levels_only_when_asked():
  """diffusers' class has none, whatever the file says; k-diffusion's sampler has."""
  schedule = NoiseSchedule.from_json(config_of("euler", use_karras_sigmas=True))
  plain, karras = (sampler.table("euler_ancestral", schedule, 8, **k) for k in ({}, {"use_karras_sigmas": True}))
  assert plain.rows.scale[3] != karras.rows.scale[3]
  np.testing.assert_array_equal(karras.rows.scale, sampler.table("euler", schedule, 8).rows.scale)


def test_without_noise_the_variants_are_their_solvers():
  for solver, variant in [("euler", "euler_ancestral"), ("dpmpp_2m", "dpmpp_2m_sde")]:
    a, b = ours(solver, config_of(solver), 9), ours(variant, config_of(solver), 9, eta=0.0)
    assert relative_error(a, b) < 1e-6


def test_state_is_float32_whatever_the_model_computes_in():
  table = sampler.table("dpmpp_sde", NoiseSchedule.from_json(config_of("dpmpp_sde")), 4)
  seen = []

  def model(x, t):
    seen.append((x.dtype, t.dtype, t.shape))
    return x.astype(jnp.bfloat16)

  keys = jax.random.split(jax.random.key(0), SHAPE[0])
  x = sampler.sample(model, jnp.ones(SHAPE, jnp.bfloat16), table, keys)
  assert x.dtype == jnp.float32 and set(seen) == {(jnp.dtype("float32"),) * 2 + ((),)}


def test_gradient_passes_through_the_scan():
  table = sampler.table("euler", NoiseSchedule.from_json(config_of("euler")), 3, max_rows=4)
  keys = jax.random.split(jax.random.key(0), SHAPE[0])
  z = draws()[0]
  loss = lambda w: jnp.square(sampler.sample(lambda x, t: w * x, z, table, keys)).mean()
  both = jax.jit(jax.value_and_grad(loss))
  slope = (both(0.301)[0] - both(0.299)[0]) / 0.002
  assert abs(both(0.3)[1] - slope) < 1e-2 * abs(slope)


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
  "name, steps, knobs, message",
  [
    ("dpm++", 8, {}, "unknown sampler 'dpm\\+\\+'; known: folder, ddim, .*dpmpp_sde"),
    ("ddim", 0, {}, "steps is 0; expected a whole number from 1 to 1000"),
    ("ddim", 1001, {}, "steps is 1001"),
    ("ddim", 2.5, {}, "steps is 2.5"),
    ("ddim", True, {}, "steps is True"),
    ("ddim", 200, {}, "needs 200 rows, the table has max_rows=128"),
    ("dpmpp_sde", 8, {"max_rows": 14}, "needs 15 rows"),
    ("ddim", 8, {"start": 8}, "start is 8; expected a whole number from 0 to 7"),
    ("ddim", 8, {"eta": 1.5}, "eta is 1.5"),
    ("ddim", 8, {"eta": float("nan")}, "eta is nan"),
    ("euler", 8, {"eta": 0.5}, "'euler' draws no noise"),
    ("ddim", 8, {"karras": True}, "unknown scheduler setting 'karras'; known: .*use_karras_sigmas"),
    ("ddim", 8, {"timestep_spacing": "even"}, "timestep_spacing is 'even'; supported: leading, tr"),
    ("lcm", 51, {}, "steps=51: expected at most original_inference_steps=50"),
    ("dpmpp_2m_sde", 8, {"solver_order": 3}, "solver_order is 3; supported with noise: 1, 2"),
    ("pndm", 8, {"prediction_type": "sample"}, "supported by pndm: epsilon, v_prediction"),
    ("pndm", 8, {"skip_prk_steps": False}, "skip_prk_steps is False; supported: True"),
    ("ddim", 1000, {"steps_offset": 1, "max_rows": 1000}, "steps_offset 1 leads beyond"),
    ("dpmpp_2m", 1000, {"max_rows": 1000}, "a noise level repeats"),
    ("euler_ancestral", 8, {"s_noise": float("inf")}, "no finite step"),
  ],
)
def test_bad_input(name, steps, knobs, message):
  schedule = NoiseSchedule.from_json(config_of("pndm"))
  with pytest.raises(UserError, match=message):
    sampler.table(name, schedule, steps, **knobs)


def test_many_steps_fit_when_asked():
  schedule = NoiseSchedule.from_json(config_of("ddim"))
  for name in TWINS:
    if name != "lcm":
      assert sampler.table(name, schedule, 400, max_rows=800).active.sum() >= 400


def test_folder_names_its_sampler_and_says_when_it_stands_in():
  for name in TWINS:
    assert sampler.folder_sampler(NoiseSchedule.from_json(config_of(name))) == (name, None)
  unipc = {"_class_name": "UniPCMultistepScheduler", "solver_type": "bh2", **SD}
  unipc = NoiseSchedule.from_json(unipc)
  with pytest.warns(UserWarning, match="UniPCMultistepScheduler is not implemented; .* dpmpp_2m"):
    table = sampler.table("folder", unipc, 8)
  jax.tree.map(np.testing.assert_array_equal, table, sampler.table("dpmpp_2m", unipc, 8))
  pndm = NoiseSchedule.from_json({"_class_name": "PNDMScheduler", **SD, "skip_prk_steps": False})
  with pytest.raises(UserError, match="skip_prk_steps is False"):
    sampler.table("folder", pndm, 8)
