"""Every sampler as one scan: a table of coefficients in, latents out.

Sampler, number of steps, eta, spacing and noise levels are contents of the table, so changing
them never recompiles. The equation of a row, and the samplers, are in `sampling.tables`.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from idejax.errors import UserError
from idejax.model.diffusion import NoiseSchedule
from idejax.sampling.tables import SAMPLERS, Knobs, Row, Start

Array = Any  # numpy when built, traced inside jit
MAX_ROWS = 128


class Table(NamedTuple):
  """A sampler, ready to run: a pytree of arrays, padded so that every sampler has one shape."""

  rows: Row  # float32 [R] (e: [R, 4])
  active: Array  # bool [R]; padding is skipped at run time
  noisy: Array  # bool [R]; whether this row's noise is used, by it or by the next
  init_sigma: Array  # standard deviation of x before the first row
  start_signal: Array  # img2img: x = start_signal * latents + start_sigma * noise
  start_sigma: Array


def names() -> tuple[str, ...]:
  """The samplers that `table` knows; "folder" is the one that a model folder asks for."""
  return ("folder", *SAMPLERS)


def for_sheets(own: str | None) -> str:
  """The sampler of sheets and comics, whose steps are few: the one that suits the model (`Nets.sampler`), else 2M."""
  return own or "dpmpp_2m"


def folder_sampler(schedule: NoiseSchedule) -> tuple[str, str | None]:
  """The sampler for the class of a `scheduler_config.json`, and a notice where it is a stand-in."""
  kind = schedule.class_name
  if kind == "DPMSolverMultistepScheduler":
    return ("dpmpp_2m_sde" if schedule.algorithm_type.startswith("sde") else "dpmpp_2m"), None
  for name, (_, class_name, _) in SAMPLERS.items():
    if class_name == kind:
      return name, None
  name = "euler_ancestral" if kind == "KDPM2AncestralDiscreteScheduler" else "dpmpp_2m"
  return name, f"{kind} is not implemented; sampling with {name} instead, on the same schedule."


def table(
  name: str,
  schedule: NoiseSchedule,
  steps: int,
  *,
  max_rows: int = MAX_ROWS,
  eta: float | None = None,
  s_noise: float = 1.0,
  start: int = 0,
  **fields,
) -> Table:
  """The table of sampler `name` (see `names`) with diffusers' numbers.

  Where the sampler follows another class than the schedule's, they are those of `<class>.from_config`
  (`as_class`). `eta` scales a stochastic sampler's noise (default as diffusers: 0 for ddim, else 1);
  `s_noise` scales it without compensation. `start` leaves out the first steps (img2img), as diffusers
  does except for pndm and lcm, whose own rules skip or re-space timesteps. `fields` overrides fields of
  the schedule: timestep_spacing, use_karras_sigmas, prediction_type, ...
  Raises UserError for anything unknown, out of range, or without a finite table.
  """
  schedule = schedule.override(**fields)
  if name == "folder":
    name, notice = folder_sampler(schedule)
    if notice:
      warnings.warn(notice, stacklevel=2)
  if name not in SAMPLERS:
    raise UserError(f"unknown sampler {name!r}; known: {', '.join(names())}.")
  build, class_name, default_eta = SAMPLERS[name]
  schedule = schedule.as_class(class_name).override(**fields)
  _check_whole("steps", steps, 1, schedule.num_train_timesteps)
  _check_whole("start", start, 0, steps - 1)
  if eta is not None and default_eta is None:
    raise UserError(f"sampler {name!r} draws no noise that eta could scale; leave eta out.")
  eta = default_eta if eta is None else eta
  if eta is not None and not 0 <= eta <= 1:
    raise UserError(f"eta is {eta!r}; expected a number from 0 to 1.")
  knobs = Knobs(int(steps), int(start), float(eta or 0.0), float(s_noise))
  with np.errstate(all="ignore"):  # a table that is not finite is reported here
    rows, begin = build(schedule, knobs)
    out = _pack(name, rows, begin, max_rows)
    finite = all(np.isfinite(v).all() for v in (*out.rows._replace(clip=0.0), *out[3:]))
  if not finite:
    raise UserError(
      f"sampler {name!r} has no finite step with steps={steps}, timestep_spacing="
      f"{schedule.timestep_spacing}, prediction_type={schedule.prediction_type}: a noise level "
      "repeats (use fewer steps), or the network predicts noise from pure noise (at zero terminal "
      "SNR use v_prediction)."
    )
  return out


def _check_whole(name: str, value, low: int, high: int):
  if not isinstance(value, int | np.integer) or isinstance(value, bool) or not low <= value <= high:
    raise UserError(f"{name} is {value!r}; expected a whole number from {low} to {high}.")


def _pack(name: str, rows: list[Row], begin: Start, max_rows: int) -> Table:
  if len(rows) > max_rows:
    raise UserError(f"sampler {name!r} needs {len(rows)} rows, the table has max_rows={max_rows}: use fewer steps.")
  padding = [Row(t=0.0)] * (max_rows - len(rows))
  columns = Row(*(np.array(column, np.float32) for column in zip(*rows, *padding)))
  noisy = (columns.f != 0) | (np.append(columns.g[1:], 0) != 0)
  active = np.arange(max_rows) < len(rows)
  return Table(columns, active, noisy, *(np.array(v, np.float32) for v in begin))


class State(NamedTuple):
  """What a row reads and writes, float32 [B, H, W, C]."""

  x: jax.Array
  base: jax.Array  # x before the last row
  history: tuple[jax.Array, ...]  # D of the last four rows, newest first
  noise: jax.Array  # the last row's


def init(z: jax.Array, table: Table, latents: jax.Array | None = None) -> State:
  """The state before the first row: unit noise `z` [B, H, W, C], over `latents` if given."""
  z = z.astype(jnp.float32)
  x = table.init_sigma * z
  if latents is not None:
    x = table.start_signal * latents + table.start_sigma * z
  zero = jnp.zeros_like(x)
  return State(x, zero, (zero,) * 4, zero)


def step(model: Callable, state: State, row: Row, noise: jax.Array) -> State:
  """One row of any sampler: the equation at the head of `sampling.tables`; `row` holds scalars."""
  x, base, history, last = state
  m = model(row.scale * x, row.t).astype(jnp.float32)
  D = jnp.clip(row.p * x + row.q * m, -row.clip, row.clip)
  new = row.a * x + row.b * base + row.c * D + row.d * m + row.f * noise + row.g * last
  # Not a dot product: those round to bfloat16 or TF32 on accelerators.
  for k, old in enumerate(history):
    new += row.e[k] * old
  return State(new, x, (D, *history[:3]), noise)


def sample(
  model: Callable,
  z: jax.Array,
  table: Table,
  keys: jax.Array,
  *,
  latents: jax.Array | None = None,
  noise: jax.Array | None = None,
) -> jax.Array:
  """From unit noise z [B, H, W, C] to latents: `init`, then `run`. `latents` start img2img."""
  return run(model, init(z, table, latents), table, keys, noise=noise).x


def run(model: Callable, state: State, table: Table, keys: jax.Array, *, noise: jax.Array | None = None) -> State:
  """Runs the table's active rows; a caller may mask rows and run a table in several calls.

  model(x [B, H, W, C] float32, t float32 scalar) -> [B, H, W, C] of any float dtype, guidance
  included. keys [B] are PRNG keys: row i adds normal(fold_in(key_b, i)), so an image's noise depends
  on its key alone; draw z from another key. A row without noise draws none, and an inactive row costs
  nothing (under vmap too, if the table is not mapped). `noise` [R, B, H, W, C] replaces the drawn
  noise (for tests).
  """
  shape = state.x.shape

  def draw(i):
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, i), shape[1:], jnp.float32))(keys)

  def body(state, xs):
    i, row, active, noisy, row_noise = xs

    def advance(state):
      fresh = lambda: draw(i) if row_noise is None else row_noise.astype(jnp.float32)
      return step(model, state, row, jax.lax.cond(noisy, fresh, lambda: jnp.zeros(shape)))

    return jax.lax.cond(active, advance, lambda state: state, state), None

  index = jnp.arange(table.active.shape[0])
  return jax.lax.scan(body, state, (index, table.rows, table.active, table.noisy, noise))[0]
