"""One training step, pure: (state, frozen, batch, key) -> (state, metrics).

It is jitted over a mesh with `on_mesh`; because it is pure and holds no Python state it may as
well be vmapped over identities or mapped with pmap. Trainable and frozen parameters are two trees
from the start, so the optimiser never sees what does not train.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from idejax import draws, sharding, tree

PATIENCE = 10  # skipped steps in a row after which a run is lost
_MEAN = 50  # steps over which the loss is averaged to see whether it falls

Batch = Mapping[str, Any]
Metrics = dict[str, jax.Array]
# loss(params, frozen, batch, keys [B]) -> (mean over the batch's rows, metrics)
Loss = Callable[[Any, Any, Batch, jax.Array], tuple[jax.Array, Metrics]]
Step = Callable[["State", Any, Batch, jax.Array], tuple["State", Metrics]]


class State(NamedTuple):
  step: jax.Array  # int32 [], steps done, skipped ones too: it fixes data and random numbers
  params: Any  # trainable, float32
  opt: optax.OptState
  skipped: jax.Array  # int32 [2]: skipped in all, skipped in a row until now
  ema: Any = None  # average of params, or None
  trend: Any = None  # float32 [4]: running mean of the loss, its least, steps since then, steps taken; or None


def init(params, tx: optax.GradientTransformation, *, ema: bool = False, trend: bool = False) -> State:
  """The state before the first step. `params` is used, not copied."""
  # Distinct buffers: a donated state must not hold one array twice.
  average = jax.tree.map(lambda x: jnp.array(x, copy=True), params) if ema else None
  flat = jnp.array([0.0, jnp.inf, 0.0, 0.0]) if trend else None
  return State(jnp.zeros((), jnp.int32), params, tx.init(params), jnp.zeros(2, jnp.int32), average, flat)


def by_path(*rules: tuple[str, optax.GradientTransformation]) -> optax.GradientTransformation:
  """Parameter groups: each leaf is updated by the first rule whose regex its path matches.

  Every leaf needs a rule (end with `".*"`); what does not train belongs into the frozen tree.
  """
  names = [(pattern, str(i)) for i, (pattern, _) in enumerate(rules)]
  transforms: dict[Any, Any] = {str(i): tx for i, (_, tx) in enumerate(rules)}
  return optax.partition(transforms, lambda params: tree.label(params, names))


def make_step(
  loss: Loss,
  tx: optax.GradientTransformation,
  *,
  accumulate: int = 1,
  clip: float | None = None,
  ema: float | None = None,
  dtype: Any = None,
  axis: str | None = None,
  plateau: int = 0,
  replicated: jax.sharding.Sharding | None = None,
) -> Step:
  """The step for one loss.

  Args:
    loss: mean over the rows it is given; `batch` is a dict of arrays with leading axis B and
      "index" int32 [B], the rows' places in the global batch. Draws use `keys` (idejax.draws).
    accumulate: parts into which the batch is cut; gradients and metrics are averaged over them.
    clip: largest global norm of the gradient.
    ema: decay of the average of the parameters, reached by a warm-up; None keeps no average.
    dtype: in which parameters and frozen parameters enter the loss; the masters stay float32.
    axis: name of a `pmap` axis over which gradients and metrics are averaged.
    plateau: steps without a lower running mean of the loss after which nothing changes any more (metric
      "stopped"); in a crowd each person stops separately. 0: never. Needs a state with `trend`.
    replicated: the replicated sharding of a mesh that holds parameters in parts. They are then joined for the
      loss; otherwise XLA would divide channels like the parameters and join activations instead.

  A loss or gradient that is not finite changes nothing but the counters and the step. After
  PATIENCE such steps in a row nothing changes any more: the state is the last good one and the
  metric "in_a_row" says so.
  """

  def gradient(params, frozen, batch, keys):
    def cast_loss(params):
      low = (params, frozen) if dtype is None else tree.cast((params, frozen), dtype)
      if replicated is not None:
        low = jax.lax.with_sharding_constraint(low, replicated)
      value, metrics = loss(*low, batch, keys)
      return value.astype(jnp.float32), metrics

    (value, metrics), grads = jax.value_and_grad(cast_loss, has_aux=True)(params)
    if extra := {"loss", "grad_norm", "skipped", "in_a_row", "stopped"} & set(metrics):
      raise ValueError(f"metrics {sorted(extra)} are the step's own")
    return grads, {"loss": value} | metrics

  def accumulate_gradients(params, frozen, batch, keys):
    if accumulate == 1:
      return gradient(params, frozen, batch, keys)
    part = lambda i, x: x.reshape(-1, accumulate, *x.shape[1:])[:, i]  # rows stay on their device
    pick = lambda i: (jax.tree.map(lambda x: part(i, x), dict(batch)), part(i, keys))
    add = lambda i, total: jax.tree.map(jnp.add, total, gradient(params, frozen, *pick(i)))
    shapes = jax.eval_shape(lambda: gradient(params, frozen, *pick(0)))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    total = jax.lax.fori_loop(0, accumulate, add, zeros)
    return jax.tree.map(lambda x: x / accumulate, total)

  def step(state: State, frozen, batch, key):
    keys = draws.keys(key, state.step, batch["index"])
    grads, metrics = accumulate_gradients(state.params, frozen, batch, keys)
    if axis is not None:
      grads, metrics = jax.lax.pmean((grads, metrics), axis)
    norm = optax.tree.norm(grads)
    good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm) & (state.skipped[1] < PATIENCE)
    stopped = state.trend[2] >= plateau if plateau else jnp.array(False)
    if clip is not None:
      factor = jnp.minimum(1.0, clip / jnp.maximum(norm, jnp.finfo(jnp.float32).tiny))
      grads = jax.tree.map(lambda g: g * factor.astype(g.dtype), grads)
    updates, opt = tx.update(grads, state.opt, state.params)
    params = optax.apply_updates(state.params, updates)
    average = state.ema
    if ema is not None:
      decay = jnp.minimum(ema, (1 + state.step) / (10 + state.step))
      average = jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), state.ema, params)
    keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(good & ~stopped, n, o), new, old)
    bad = jnp.where(good | stopped, 0, 1)
    skipped = jnp.stack([state.skipped[0] + bad, (state.skipped[1] + bad) * bad])
    metrics |= {"grad_norm": norm, "skipped": skipped[0], "in_a_row": skipped[1]}
    trend = state.trend
    if plateau:
      metrics |= {"stopped": jnp.where(stopped, 1.0, 0.0)}
      trend = keep(_follow(trend, metrics["loss"]), trend)
    new = State(
      state.step + 1, keep(params, state.params), keep(opt, state.opt), skipped, keep(average, state.ema), trend
    )
    return new, metrics

  return step


def _follow(trend: jax.Array, loss: jax.Array) -> jax.Array:
  """`State.trend` after one more loss."""
  mean, least, since, count = trend
  mean += (loss - mean) / jnp.minimum(count + 1, _MEAN)
  lower = (mean < least) | (count < _MEAN)  # the mean of a few losses falls and rises by chance
  return jnp.stack([mean, jnp.where(lower, mean, least), jnp.where(lower, 0.0, since + 1), count + 1])


def on_mesh(
  step: Step,
  mesh: jax.sharding.Mesh,
  state: State,
  frozen,
  threshold: int | None = None,
  rows: jax.sharding.NamedSharding | None = None,
  whole: bool = False,
) -> tuple[Step, State, Any]:
  """The step compiled for a mesh, with state and frozen parameters placed on it; `whole`: the frozen ones not in parts.

  Leaves of `threshold` elements are sharded over `fsdp` (`sharding.by_shape`), the batch over
  both axes, or as `rows` says. The step donates its state: use what it returns, not what was passed in here.
  """
  replicated, rows = sharding.replicated(mesh), rows or sharding.batch(mesh)
  fixed = jax.tree.map(lambda _: replicated, frozen) if whole else sharding.by_shape(frozen, mesh, threshold)
  places = sharding.by_shape(state, mesh, threshold), fixed
  run = jax.jit(step, in_shardings=(*places, rows, replicated), out_shardings=(places[0], replicated), donate_argnums=0)
  state, frozen = sharding.put((state, frozen), places)
  return run, state, frozen
