"""Samplers as tables of coefficients, computed on the host in float64.

A row is one evaluation of the network. With the model's output m, fresh noise n, and D_-1..D_-4
the D of the rows before,

    m = model(scale * x, t);   D = clip(p x + q m)
    x, base <- a x + b base + c D + d m + sum_k e_k D_-k + f n + g n_prev,   x

D is the estimate of z0, except for PLMS, where it is m itself. `sampler.sample` runs any table.
Each builder gives diffusers' numbers (0.42.1), its quirks included: tests compare the two.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from idejax.errors import UserError
from idejax.model.diffusion import NoiseSchedule

Number = Any  # a float in a row, float32 [R] in a table, a traced scalar inside the scan


class Row(NamedTuple):
  """Coefficients of one row as floats, or of a whole table as float32 [R] (e: [R, 4])."""

  t: Number  # the network's timestep; fractional for Euler with linspace spacing
  scale: Number = 1.0
  p: Number = 0.0
  q: Number = 1.0
  clip: Number = math.inf
  a: Number = 0.0
  b: Number = 0.0
  c: Number = 0.0
  d: Number = 0.0
  e: Any = (0.0, 0.0, 0.0, 0.0)
  f: Number = 0.0
  g: Number = 0.0


class Start(NamedTuple):
  """The state before the first row: pure noise, or noise over latents (img2img)."""

  init_sigma: float
  signal: float
  sigma: float


class Knobs(NamedTuple):
  steps: int
  start: int
  eta: float
  s_noise: float


# ---- predictions as coefficients of (x, m) ----------------------------------------------------


def _x0(prediction: str, alpha: float, sigma: float) -> np.ndarray:
  """z0 = p x + q m at x = alpha z0 + sigma eps."""
  return np.array(
    {"epsilon": (np.divide(1, alpha), np.divide(-sigma, alpha)), "sample": (0, 1), "v_prediction": (alpha, -sigma)}[
      prediction
    ]
  )


def _eps(prediction: str, alpha: float, sigma: float) -> np.ndarray:
  """eps = p x + q m at x = alpha z0 + sigma eps."""
  return np.array(
    {"epsilon": (0, 1), "v_prediction": (sigma, alpha), "sample": (np.divide(1, sigma), np.divide(-alpha, sigma))}[
      prediction
    ]
  )


def _ve(prediction: str, s: float) -> dict:
  """`scale`, `p` and `q` at x = z0 + s eps, which is the x of `_x0` divided by its alpha."""
  alpha = 1 / math.sqrt(1 + s * s)
  p, q = _x0(prediction, alpha, s * alpha)
  return dict(scale=alpha, p=p * alpha, q=q)


# ---- noise levels and timesteps ---------------------------------------------------------------


def _timesteps(s: NoiseSchedule, steps: int) -> np.ndarray:
  """Timesteps in descending order, float64 [steps]; Lin et al. 2023, Table 2."""
  T = s.num_train_timesteps
  if s.timestep_spacing == "linspace":
    return np.linspace(0, T - 1, steps)[::-1]
  if s.timestep_spacing == "trailing":
    return np.arange(T, 0, -T / steps).round()[:steps] - 1
  return np.arange(steps)[::-1] * float(T // steps) + _offset(s, (steps - 1) * (T // steps))


def _offset(s: NoiseSchedule, last: int) -> int:
  if last + s.steps_offset >= s.num_train_timesteps:
    raise UserError(
      f"steps_offset {s.steps_offset} leads beyond the last of the "
      f"{s.num_train_timesteps} training timesteps; use fewer steps."
    )
  return s.steps_offset


def _integers(t: np.ndarray) -> list[int]:
  return t.round().astype(int).tolist()


def _train_sigmas(s: NoiseSchedule) -> np.ndarray:
  """sqrt((1 - abar) / abar) as diffusers' float32 [T], ascending."""
  abar = s.alphas_cumprod.astype(np.float32)
  # diffusers keeps the last sigma finite at zero terminal SNR with fp16's smallest subnormal.
  if abar[-1] == 0:
    abar[-1] = 2.0**-24
  return np.sqrt((1 - abar) / abar)


def _sigma_to_t(sigmas: np.ndarray, train: np.ndarray) -> np.ndarray:
  """Fractional timesteps of noise levels, linear in log sigma."""
  return np.interp(np.log(sigmas), np.log(train), np.arange(len(train)))


def _respace(s: NoiseSchedule, sigmas: np.ndarray, steps: int) -> np.ndarray | None:
  """Karras (2022, eq. 5, rho 7) or exponential levels between the ends of `sigmas`; None if `s` asks for neither."""
  low = s.sigma_min or sigmas[-1]
  high = s.sigma_max or sigmas[0]
  ramp = np.linspace(0, 1, steps)
  if s.use_karras_sigmas:
    return (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7
  lu = s.use_lu_lambdas and s.class_name == "DPMSolverMultistepScheduler"
  if s.use_exponential_sigmas or lu:
    return np.exp(np.log(high) + ramp * (np.log(low) - np.log(high)))
  return None


def _levels(s: NoiseSchedule, steps: int, last: float = 0.0):
  """The Euler family's (t [steps], float64 sigmas [steps], rounded to float32 [steps + 1], initial sigma)."""
  train = _train_sigmas(s)
  t = _timesteps(s, steps)
  sigmas = np.interp(t, np.arange(len(train)), train)
  levels = _respace(s, sigmas, steps)
  if levels is not None:
    sigmas, t = levels, _sigma_to_t(levels, train)
  rounded = np.append(sigmas, last).astype(np.float32).astype(float)
  top = rounded.max()
  return t, sigmas, rounded, top if s.timestep_spacing != "leading" else math.sqrt(top**2 + 1)


def _ancestral(now: float, to: float, eta: float) -> tuple[float, float]:
  """(down, up): go to `down` without noise, then add `up`, to arrive at level `to`."""
  up = min(to, eta * to * math.sqrt(max(now**2 - to**2, 0.0)) / now)
  return math.sqrt(to**2 - up**2), up


# ---- samplers ---------------------------------------------------------------------------------


def _ddim(s: NoiseSchedule, k: Knobs):
  """Song et al. 2021, eq. 12 and 16."""
  abar, T, rows = s.alphas_cumprod, s.num_train_timesteps, []
  final = 1.0 if s.set_alpha_to_one else abar[0]
  ts = _integers(_timesteps(s, k.steps))
  for t in ts[k.start :]:
    # Not the next timestep of the list where the spacing is uneven: diffusers steps by T // steps.
    now, to = abar[t], (abar[t - T // k.steps] if t >= T // k.steps else final)
    std = k.eta * math.sqrt(max((1 - to) / (1 - now) * (1 - now / to), 0.0))
    level = math.sqrt(now), math.sqrt(1 - now)
    (p, q), eps = _x0(s.prediction_type, *level), _eps(s.prediction_type, *level)
    a, d = math.sqrt(max(1 - to - std**2, 0.0)) * eps
    rows.append(Row(t, p=p, q=q, clip=_clip(s), a=a, c=math.sqrt(to), d=d, f=std * k.s_noise))
  return rows, _vp_start(abar[ts[k.start]])


def _ddpm(s: NoiseSchedule, k: Knobs):
  """Ho et al. 2020, eq. 7, between the timesteps of the list."""
  abar, rows = s.alphas_cumprod, []
  ts = _integers(_timesteps(s, k.steps))
  for t, prev in list(zip(ts, [*ts[1:], None]))[k.start :]:
    now, to = abar[t], 1.0 if prev is None else abar[prev]
    beta = 1 - now / to
    var = beta if s.variance_type == "fixed_large" else (1 - to) / (1 - now) * beta
    p, q = _x0(s.prediction_type, math.sqrt(now), math.sqrt(1 - now))
    rows.append(
      Row(
        t,
        p=p,
        q=q,
        clip=_clip(s),
        a=math.sqrt(now / to) * (1 - to) / (1 - now),
        c=math.sqrt(to) * beta / (1 - now),
        f=math.sqrt(var) * k.s_noise if t > 0 else 0.0,
      )
    )
  return rows, _vp_start(abar[ts[k.start]])


def _plms(s: NoiseSchedule, k: Knobs):
  """Liu et al. 2022 without its Runge-Kutta start: the first step is taken twice, then averaged."""
  if not s.skip_prk_steps:
    raise UserError("scheduler setting skip_prk_steps is False; supported: True.")
  if s.prediction_type == "sample":
    raise UserError("prediction_type is 'sample'; supported by pndm: epsilon, v_prediction.")
  abar, stride, rows = s.alphas_cumprod, s.num_train_timesteps // k.steps, []
  final = 1.0 if s.set_alpha_to_one else abar[0]
  ts = _integers(_timesteps(s, k.steps))[k.start :]
  # (t of the network, from, to, weights of m and of the outputs before). The second row repeats
  # the first step, so its output never serves as history: hence the zeros in rows 2 to 4.
  moves: list[tuple[int, int, int, tuple[float, ...]]] = [(ts[0], ts[0], ts[0] - stride, (1,))]
  moves += [(t, t + stride, t, (1 / 2, 1 / 2)) for t in ts[1:2]]
  adams: list[tuple[float, ...]] = [
    (3 / 2, 0, -1 / 2),
    (23 / 12, -16 / 12, 0, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, 0, -9 / 24),
  ]
  adams += [(55 / 24, -59 / 24, 37 / 24, -9 / 24)] * len(ts)
  moves += [(t, t, t - stride, w) for t, w in zip(ts[1:], adams)]
  for i, (t, start, stop, w) in enumerate(moves):
    now, to = abar[start], abar[stop] if stop >= 0 else final
    level = math.sqrt(now), math.sqrt(1 - now)
    # Their eq. 9 is the step of DDIM; in this form nothing is divided by abar.
    x, m = math.sqrt(to) * _x0(s.prediction_type, *level) + math.sqrt(1 - to) * _eps(s.prediction_type, *level)
    e = tuple(m * v for v in w[1:]) + (0.0,) * (5 - len(w))
    rows.append(Row(t, **{"b" if i == 1 else "a": x}, c=m * w[0], e=e))
  return rows, _vp_start(abar[ts[0]])


def _lcm(s: NoiseSchedule, k: Knobs):
  """Luo et al. 2023: denoise to z0 by the consistency function, noise again to the next level."""
  abar, total, rows = s.alphas_cumprod, s.original_inference_steps, []
  if k.steps > total or total > s.num_train_timesteps:
    raise UserError(
      f"lcm with steps={k.steps}: expected at most original_inference_steps={total}, "
      f"and that at most {s.num_train_timesteps}."
    )
  origin = np.arange(total, 0, -1) * (s.num_train_timesteps // total) - 1
  ts = origin[np.floor(np.linspace(0, total, k.steps, endpoint=False)).astype(int)].tolist()
  for t, prev in list(zip(ts, [*ts[1:], None]))[k.start :]:
    p, q = _x0(s.prediction_type, math.sqrt(abar[t]), math.sqrt(1 - abar[t]))
    u = t * s.timestep_scaling
    skip, out = 0.25 / (u * u + 0.25), u / math.sqrt(u * u + 0.25)  # sigma_data = 1/2
    to = 1.0 if prev is None else abar[prev]
    rows.append(
      Row(t, p=p, q=q, clip=_clip(s), a=math.sqrt(to) * skip, c=math.sqrt(to) * out, f=math.sqrt(1 - to) * k.s_noise)
    )
  return rows, _vp_start(abar[ts[k.start]])


def _euler(s: NoiseSchedule, k: Knobs):
  """Karras et al. 2022, Algorithm 1 without churn; with eta > 0 the ancestral variant."""
  last = _train_sigmas(s)[0] if s.final_sigmas_type == "sigma_min" else 0.0
  t, _, sigmas, init = _levels(s, k.steps, 0.0 if k.eta else last)
  rows = []
  for i in range(k.start, k.steps):
    down, up = _ancestral(sigmas[i], sigmas[i + 1], k.eta)
    ratio = down / sigmas[i]
    rows.append(Row(t[i], **_ve(s.prediction_type, sigmas[i]), a=ratio, c=1 - ratio, f=up * k.s_noise))
  return rows, Start(init, 1.0, sigmas[k.start])


def _dpmpp_sde(s: NoiseSchedule, k: Knobs):
  """DPM-Solver++ (S), order 2, r = 1/2, with noise (k-diffusion): two rows a step, one the last.

  The noises of a step are increments of one Brownian path over [m, s] and [s', s], so the second
  one is a mixture of the first and of a fresh one.
  """
  t, exact, sigmas, init = _levels(s, k.steps)
  middle = _sigma_to_t(np.sqrt(exact[:-1] * exact[1:]), _train_sigmas(s))
  rows = []
  for i in range(k.start, k.steps - 1):
    now, to = sigmas[i], sigmas[i + 1]
    mid = math.sqrt(now * to)
    down, up = _ancestral(now, mid, k.eta)
    rows.append(Row(t[i], **_ve(s.prediction_type, now), a=down / now, c=1 - down / now, f=up * k.s_noise))
    down, up = _ancestral(now, to, k.eta)
    old, new = np.sqrt(np.array([now - mid, mid - to]) / (now - to)) * up * k.s_noise
    rows.append(Row(middle[i], **_ve(s.prediction_type, mid), b=down / now, c=1 - down / now, f=new, g=old))
  rows.append(Row(t[-1], **_ve(s.prediction_type, sigmas[-2]), c=1.0))
  return rows, Start(init, 1.0, sigmas[k.start])


def _dpmpp_2m(s: NoiseSchedule, k: Knobs):
  """DPM-Solver++ (M), order 1 to 3, Lu et al. 2022; with eta > 0 the SDE variant (k-diffusion)."""
  if k.eta and s.solver_order == 3:
    raise UserError("scheduler setting solver_order is 3; supported with noise: 1, 2.")
  t, sigmas = _dpm_levels(s, k.steps)
  rows, n = [], len(t)  # fewer than k.steps when lambda_min_clipped meets trailing spacing
  few = s.lower_order_final and n < 15
  for i in range(k.start, n):
    now, to = sigmas[i], sigmas[i + 1]
    alpha, alpha_to = 1 / np.sqrt(1 + np.array([now, to]) ** 2)
    p, q = _x0(s.prediction_type, alpha, now * alpha)
    final = i == n - 1 and (s.euler_at_final or few or s.final_sigmas_type == "zero")
    order = 1 if final else 2 if i == n - 2 and few else 3
    order = min(order, s.solver_order, i - k.start + 1)
    if to == 0:
      rows.append(Row(t[i], p=p, q=q, c=1.0))
      continue
    # h = lambda(to) - lambda(now) with lambda = -log sigma; noise makes the step (1 + eta) h long.
    h, H = np.log(now / to), (1 + k.eta) * np.log(now / to)
    first = np.log(sigmas[i - 1] / now) / h if order > 1 else 1.0
    second = np.log(sigmas[i - 2] / sigmas[i - 1]) / h if order > 2 else 1.0
    d0 = -np.expm1(-H) * np.array([1.0, 0, 0])  # coefficients of D, D_-1, D_-2
    one, two = np.array([1.0, -1, 0]) / first, np.array([0, 1.0, -1]) / second
    phi1 = 1 + np.expm1(-H) / H
    if order == 2:
      d0 += (phi1 if s.solver_type == "heun" else -np.expm1(-H) / 2) * one
    if order == 3:
      bend = (one - two) / (first + second)
      d0 += phi1 * (one + first * bend) - ((np.expm1(-H) + H) / H**2 - 0.5) * bend
    c, *e = alpha_to * d0
    rows.append(
      Row(
        t[i],
        p=p,
        q=q,
        a=to * alpha_to / (now * alpha) * np.exp(-k.eta * h),
        c=c,
        e=(*e, 0.0, 0.0),
        f=to * alpha_to * np.sqrt(-np.expm1(-2 * k.eta * h)) * k.s_noise,
      )
    )
  alpha = 1 / math.sqrt(1 + sigmas[k.start] ** 2)
  return rows, Start(1.0, alpha, sigmas[k.start] * alpha)


def _dpm_levels(s: NoiseSchedule, steps: int) -> tuple[np.ndarray, np.ndarray]:
  """DPM-Solver++'s own integer timesteps [steps] and sigmas [steps + 1]."""
  train = _train_sigmas(s)
  T = s.num_train_timesteps
  # Levels above exp(-lambda_min_clipped) are left out; the cosine schedule needs this.
  top = T - int(np.searchsorted(-np.log(train[::-1]), np.float32(s.lambda_min_clipped)))
  if s.timestep_spacing == "linspace":
    t = np.linspace(0, top - 1, steps + 1).round()[::-1][:-1]
  elif s.timestep_spacing == "trailing":
    t = np.arange(top, 0, -T / steps).round()[:steps] - 1
  else:
    stride = top // (steps + 1)
    t = np.arange(1.0, steps + 1)[::-1] * stride + _offset(s, steps * stride)
  sigmas = _respace(s, train[::-1].astype(float), steps)
  if sigmas is None:
    sigmas = np.interp(t, np.arange(T), train)
  else:
    t = _sigma_to_t(sigmas, train)
    if not s.use_exponential_sigmas and s.beta_schedule != "squaredcos_cap_v2":
      t = t.round()
  last = train[0] if s.final_sigmas_type == "sigma_min" else 0.0
  return t.astype(int), np.append(sigmas, last).astype(np.float32).astype(float)


def _clip(s: NoiseSchedule) -> float:
  return s.clip_sample_range if s.clip_sample else math.inf


def _vp_start(abar: float) -> Start:
  return Start(1.0, math.sqrt(abar), math.sqrt(1 - abar))


# name: (builder, the diffusers class that it follows, default eta; None: takes no eta)
SAMPLERS: dict[str, tuple[Callable, str, float | None]] = {
  "ddim": (_ddim, "DDIMScheduler", 0.0),
  "ddpm": (_ddpm, "DDPMScheduler", None),
  "pndm": (_plms, "PNDMScheduler", None),
  "lcm": (_lcm, "LCMScheduler", None),
  "euler": (_euler, "EulerDiscreteScheduler", None),
  "euler_ancestral": (_euler, "EulerAncestralDiscreteScheduler", 1.0),
  "dpmpp_2m": (_dpmpp_2m, "DPMSolverMultistepScheduler", None),
  "dpmpp_2m_sde": (_dpmpp_2m, "DPMSolverMultistepScheduler", 1.0),
  "dpmpp_sde": (_dpmpp_sde, "DPMSolverSDEScheduler", 1.0),
}
