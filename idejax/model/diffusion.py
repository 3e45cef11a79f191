"""Noise schedules as diffusers writes them, and the algebra between z0, eps, v and z_t.

Notation: abar_t = prod_{s<=t} (1 - beta_s), and z_t = sqrt(abar_t) z0 + sqrt(1 - abar_t) eps.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from idejax.errors import UserError

# What each diffusers class assumes for a key that `scheduler_config.json` leaves out, where that
# differs from the defaults of `NoiseSchedule` (diffusers 0.42.1; a test compares the signatures).
_SD_BETAS = dict(beta_start=0.00085, beta_end=0.012)
CLASS_DEFAULTS: dict[str, dict] = {
  "DDIMScheduler": dict(timestep_spacing="leading", clip_sample=True),
  "DDPMScheduler": dict(timestep_spacing="leading", clip_sample=True, variance_type="fixed_small"),
  "PNDMScheduler": dict(timestep_spacing="leading", set_alpha_to_one=False),
  "LCMScheduler": dict(timestep_spacing="leading", beta_schedule="scaled_linear", **_SD_BETAS),
  "EulerDiscreteScheduler": {},
  "EulerAncestralDiscreteScheduler": {},
  "DPMSolverMultistepScheduler": {},
  "DPMSolverSDEScheduler": _SD_BETAS,
  "DPMSolverSinglestepScheduler": dict(lower_order_final=False),
  "DEISMultistepScheduler": {},
  "UniPCMultistepScheduler": {},
  "LMSDiscreteScheduler": {},
  "HeunDiscreteScheduler": _SD_BETAS,
  "KDPM2DiscreteScheduler": _SD_BETAS,
  "KDPM2AncestralDiscreteScheduler": _SD_BETAS,
}

# Supported values, also of keys that are no fields because only one value of them is supported.
CHOICES: dict[str, tuple] = {
  "beta_schedule": ("scaled_linear", "linear", "squaredcos_cap_v2"),
  "prediction_type": ("epsilon", "v_prediction", "sample"),
  "timestep_spacing": ("leading", "trailing", "linspace"),
  "final_sigmas_type": ("zero", "sigma_min"),
  "algorithm_type": ("dpmsolver++", "sde-dpmsolver++"),
  "solver_type": ("midpoint", "heun"),
  "solver_order": (1, 2, 3),
  "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large"),
  "thresholding": (False, None),
  "use_beta_sigmas": (False, None),
  "use_flow_sigmas": (False, None),
  "use_dynamic_shifting": (False, None),
  "interpolation_type": ("linear",),
  "timestep_type": ("discrete",),
}
# diffusers itself reads these as their neighbours when DPM-Solver++ loads another solver's file.
_ALIASES = {"deis": "dpmsolver++", "logrho": "midpoint", "bh1": "midpoint", "bh2": "midpoint"}


@dataclasses.dataclass(frozen=True)
class NoiseSchedule:
  """The fields of a `scheduler_config.json` that change training or a sampler's numbers."""

  class_name: str = "DDIMScheduler"
  num_train_timesteps: int = 1000
  beta_start: float = 0.0001
  beta_end: float = 0.02
  beta_schedule: str = "linear"
  trained_betas: tuple[float, ...] | None = None
  rescale_betas_zero_snr: bool = False
  prediction_type: str = "epsilon"
  timestep_spacing: str = "linspace"
  steps_offset: int = 0
  set_alpha_to_one: bool = True
  clip_sample: bool = False
  clip_sample_range: float = 1.0
  final_sigmas_type: str = "zero"
  use_karras_sigmas: bool = False
  use_exponential_sigmas: bool = False
  use_lu_lambdas: bool = False
  sigma_min: float | None = None
  sigma_max: float | None = None
  algorithm_type: str = "dpmsolver++"
  solver_order: int = 2
  solver_type: str = "midpoint"
  lower_order_final: bool = True
  euler_at_final: bool = False
  lambda_min_clipped: float = -math.inf
  variance_type: str | None = None
  skip_prk_steps: bool = False
  original_inference_steps: int = 50
  timestep_scaling: float = 10.0
  # Names of fields that a file or a caller set; the others may follow another sampler's class (`as_class`).
  explicit: frozenset[str] = dataclasses.field(default=frozenset(), compare=False, repr=False)

  @classmethod
  def from_json(cls, config: dict) -> "NoiseSchedule":
    """Reads the content of `scheduler_config.json`; keys that change nothing here are ignored.

    Raises UserError for a class or a value that is not supported, naming field and value.
    """
    name = config.get("_class_name")
    if name not in CLASS_DEFAULTS:
      raise UserError(f"scheduler _class_name is {name!r}; supported: {', '.join(CLASS_DEFAULTS)}.")
    return cls(class_name=name, **CLASS_DEFAULTS[name]).override(
      **{k: v for k, v in config.items() if k in _FIELDS or k in CHOICES}
    )

  def override(self, **values) -> "NoiseSchedule":
    """A copy with some fields changed. Raises UserError for unknown fields and bad values."""
    for key in values:
      if key not in _FIELDS and key not in CHOICES:
        raise UserError(f"unknown scheduler setting {key!r}; known: {', '.join(sorted(_FIELDS))}.")
    values = {k: _convert(k, v) for k, v in values.items()}
    fields = {k: v for k, v in values.items() if k in _FIELDS}
    out = dataclasses.replace(self, **fields, explicit=self.explicit | frozenset(fields))
    betas = out.betas
    if len(betas) != out.num_train_timesteps:
      raise UserError(
        f"trained_betas has {len(betas)} values, num_train_timesteps is {out.num_train_timesteps}; they must agree."
      )
    if not (np.all(betas > 0) and np.all(betas[:-1] < 1) and betas[-1] <= 1):
      raise UserError(
        f"betas lie in {betas.min():g}..{betas.max():g}; they must be above 0 and "
        "below 1 (beta_start, beta_end, trained_betas)."
      )
    return out

  def as_class(self, name: str) -> "NoiseSchedule":
    """The schedule that diffusers' `<name>.from_config` reads from this one's file.

    Fields that the file leaves out take the other class's defaults. Betas and the prediction
    type stay, because they belong to the network; and clipping stays off unless asked for,
    because latents do not lie in [-1, 1] (diffusers' DDIM and DDPM would clip them).
    """
    # diffusers' class has the trained noise levels only; a caller may still ask for others.
    changes: dict[str, Any] = {}
    if name == "EulerAncestralDiscreteScheduler":
      changes = dict(use_karras_sigmas=False, use_exponential_sigmas=False)
    if name == self.class_name:
      return dataclasses.replace(self, **changes)
    base = NoiseSchedule(class_name=name, **CLASS_DEFAULTS[name])
    follow = ("timestep_spacing", "set_alpha_to_one", "lower_order_final", "variance_type")
    changes |= {f: getattr(base, f) for f in follow if f not in self.explicit}
    if "clip_sample" not in self.explicit:
      changes["clip_sample"] = False
    # Stable Diffusion's PNDM is the one without Runge-Kutta steps, whatever the class assumes.
    if "skip_prk_steps" not in self.explicit:
      changes["skip_prk_steps"] = True
    return dataclasses.replace(self, class_name=name, **changes)

  def to_json(self) -> dict:
    """The content of a `scheduler_config.json` that diffusers and `from_json` both read."""
    base = NoiseSchedule(class_name=self.class_name, **CLASS_DEFAULTS[self.class_name])
    always = {
      "num_train_timesteps",
      "beta_start",
      "beta_end",
      "beta_schedule",
      "prediction_type",
      "timestep_spacing",
      "steps_offset",
    } | self.explicit
    out = {f: getattr(self, f) for f in _FIELDS}
    out = {f: v for f, v in out.items() if f in always or v != getattr(base, f)}
    if self.trained_betas is not None:
      out["trained_betas"] = list(self.trained_betas)
    return {"_class_name": self.class_name, **out}

  @functools.cached_property
  def betas(self) -> np.ndarray:
    """[T] float32, rounded where diffusers rounds (1 ulp of torch's linspace)."""
    T = self.num_train_timesteps
    if self.trained_betas is not None:
      betas = np.array(self.trained_betas, np.float32)
    elif self.beta_schedule == "linear":
      betas = np.linspace(self.beta_start, self.beta_end, T).astype(np.float32)
    elif self.beta_schedule == "scaled_linear":
      betas = np.linspace(self.beta_start**0.5, self.beta_end**0.5, T).astype(np.float32) ** 2
    else:  # squaredcos_cap_v2, Nichol & Dhariwal 2021 eq. 17
      u = np.arange(T + 1) / T
      bar = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
      betas = np.minimum(1 - bar[1:] / bar[:-1], 0.999).astype(np.float32)
    return _zero_terminal_snr(betas) if self.rescale_betas_zero_snr else betas

  @functools.cached_property
  def alphas_cumprod(self) -> np.ndarray:
    """abar [T], float64 values of diffusers' float32 ones; the last is 0 at zero terminal SNR."""
    return _cumprod(1 - self.betas).astype(np.float64)


_FIELDS = {f.name: f.type for f in dataclasses.fields(NoiseSchedule) if f.name not in ("class_name", "explicit")}


def _convert(name: str, value):
  """`value` in the type of field `name`, or UserError."""
  value = _ALIASES.get(value, value) if isinstance(value, str) else value
  if name in CHOICES:
    if value not in CHOICES[name]:
      choices = ", ".join(str(c) for c in CHOICES[name])
      raise UserError(f"scheduler setting {name} is {value!r}; supported: {choices}.")
    return value
  kind: Any = _FIELDS[name]
  out: Any = None
  number = isinstance(value, (int, float)) and not isinstance(value, bool)
  finite = number and math.isfinite(value)
  if kind is bool and (value is None or isinstance(value, bool)):
    out = bool(value)
  elif kind is int and finite and value == int(value) >= (name != "steps_offset"):
    out = int(value)
  elif kind is float and (finite and value > 0 or number and name == "lambda_min_clipped"):
    out = float(value)
  elif kind == float | None and (value is None or finite and value > 0):
    return value
  elif name == "trained_betas":
    if value is None:
      return None
    array = np.asarray(value)
    if array.ndim == 1 and array.dtype.kind in "fi":
      out = tuple(array.astype(float).tolist())
  if out is not None:
    return out
  expected = {bool: "true or false", int: "a whole number"}.get(kind, "a positive number")
  if name == "trained_betas":
    expected = "a list of numbers"
  raise UserError(f"scheduler setting {name} is {value!r}; expected {expected}.")


def _cumprod(alphas: np.ndarray) -> np.ndarray:
  """torch.cumprod of float32 on a CPU: accumulates in double, stores float32."""
  return np.cumprod(alphas.astype(np.float64)).astype(np.float32)


def _zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
  """Betas with abar_T = 0 (Lin et al. 2023, Algorithm 1), float32 in every step as diffusers."""
  root = np.sqrt(_cumprod(1 - betas))
  with np.errstate(divide="ignore", invalid="ignore"):  # constant abar: caught as bad betas
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    bar = root**2
    return 1 - np.concatenate([bar[:1], bar[1:] / bar[:-1]])


def gather(alphas_cumprod, t: jax.Array) -> jax.Array:
  """abar of each sample: [T], integer [B] -> float32 [B]."""
  return jnp.asarray(alphas_cumprod, jnp.float32)[t]


def _signal_noise(abar_t, like: jax.Array) -> tuple[jax.Array, jax.Array]:
  """sqrt(abar), sqrt(1 - abar) in float32, [B] (or a scalar) shaped to broadcast with [B, ...]."""
  abar = jnp.asarray(abar_t, jnp.float32)
  if abar.ndim:
    abar = abar.reshape(abar.shape + (1,) * (like.ndim - abar.ndim))
  return jnp.sqrt(abar), jnp.sqrt(1 - abar)


def add_noise(z0: jax.Array, eps: jax.Array, abar_t) -> jax.Array:
  """z_t = sqrt(abar) z0 + sqrt(1 - abar) eps: [B, ...], abar [B] or scalar -> float32 [B, ...]."""
  a, s = _signal_noise(abar_t, z0)
  return a * z0 + s * eps


def target(z0: jax.Array, eps: jax.Array, abar_t, prediction: str = "epsilon") -> jax.Array:
  """What the network is trained to predict: eps, z0, or v = sqrt(abar) eps - sqrt(1 - abar) z0."""
  if prediction == "epsilon":
    return eps
  if prediction == "sample":
    return z0
  _require(prediction)
  a, s = _signal_noise(abar_t, z0)
  return a * eps - s * z0


def x0_from(out: jax.Array, zt: jax.Array, abar_t, prediction: str = "epsilon") -> jax.Array:
  """z0 implied by the network's output at z_t; with epsilon it is infinite where abar = 0."""
  a, s = _signal_noise(abar_t, zt)
  if prediction == "epsilon":
    return (zt - s * out) / a
  if prediction == "sample":
    return out
  _require(prediction)
  return a * zt - s * out


def eps_from(out: jax.Array, zt: jax.Array, abar_t, prediction: str = "epsilon") -> jax.Array:
  """eps implied by the network's output at z_t; with sample it is infinite where abar = 1."""
  a, s = _signal_noise(abar_t, zt)
  if prediction == "epsilon":
    return out
  if prediction == "sample":
    return (zt - a * out) / s
  _require(prediction)
  return a * out + s * zt


def v_from(out: jax.Array, zt: jax.Array, abar_t, prediction: str = "epsilon") -> jax.Array:
  """v implied by the network's output at z_t: (eps - s z_t) / a or (a z_t - z0) / s."""
  a, s = _signal_noise(abar_t, zt)
  if prediction == "epsilon":
    return (out - s * zt) / a
  if prediction == "sample":
    return (a * zt - out) / s
  _require(prediction)
  return out


def mse(out: jax.Array, expected: jax.Array, mask: jax.Array | None = None) -> jax.Array:
  """mean ||M (out - expected)||^2 of each sample over all its elements: [B, ...] -> float32 [B].

  `mask` broadcasts with `out`, for example [B, H, W, 1]; the mean is not renormalised by it
  (FaceSnap eq. 3), so a mask of ones gives the plain error and a mask of zeros gives 0.
  """
  error = out.astype(jnp.float32) - expected.astype(jnp.float32)
  if mask is not None:
    error = error * mask
  return jnp.square(error).mean(tuple(range(1, error.ndim)))


def _require(prediction: str):
  if prediction != "v_prediction":
    _convert("prediction_type", prediction)
