"""idejax.training.step: groups, freezing, accumulation, masters, skipping, keys, and one step on any mesh."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from idejax import draws, sharding, tree
from idejax.training import step as st

B, D = 16, 8


def loss(params, frozen, batch, keys):
  """A noisy two-layer regression: every draw comes from the row's own key."""
  x = batch["x"] + 0.1 * draws.normal(keys, (D,)).astype(batch["x"].dtype)
  h = jnp.tanh(x @ params["a"]["kernel"]) @ frozen["kernel"]
  error = (h @ params["b"]["kernel"])[:, 0].astype(jnp.float32) - batch["y"]
  return jnp.square(error).mean(), {"error": jnp.abs(error).mean()}


def make(rng, width=32):
  f = lambda *shape: jnp.asarray(rng.standard_normal(shape) / np.sqrt(shape[0]), jnp.float32)
  params = {"a": {"kernel": f(D, width)}, "b": {"kernel": f(width, 1)}}
  return params, {"kernel": f(width, width)}


def batch_of(i: int, bad: bool = False):
  rng = np.random.default_rng(i)
  x = rng.standard_normal((B, D)).astype(np.float32)
  y = np.full(B, np.nan, np.float32) if bad else x.sum(1)
  return {"x": x, "y": y, "index": np.arange(B, dtype=np.int32)}


def run(step, state, frozen, count=5, bad=(), key=0):
  history = []
  for i in range(count):
    state, metrics = step(state, frozen, batch_of(i, i in bad), jax.random.key(key))
    history.append(metrics)
  return state, history


def close(a, b, rtol=1e-5, atol=1e-6):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol, atol), a, b)


def same(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y), a, b)


@pytest.fixture
def world(rng):
  return make(rng)


def test_the_loss_falls_and_the_frozen_tree_is_no_part_of_the_optimiser(world):
  params, frozen = world
  tx = optax.adam(1e-2)
  step = jax.jit(st.make_step(loss, tx))
  state, history = run(step, st.init(params, tx), frozen, 30)
  assert history[-1]["loss"] < 0.5 * history[0]["loss"]
  assert int(state.step) == 30 and state.ema is None
  assert tree.size(state.opt) == 2 * tree.size(params) + 1
  assert {"loss", "error", "grad_norm", "skipped", "in_a_row"} == set(history[0])


def test_groups_by_path(world):
  params, frozen = world
  tx = st.by_path(("^b", optax.sgd(2e-2)), (".*", optax.sgd(1e-2)))
  plain = optax.sgd(1e-2)
  a, _ = run(jax.jit(st.make_step(loss, tx)), st.init(params, tx), frozen, 1)
  b, _ = run(jax.jit(st.make_step(loss, plain)), st.init(params, plain), frozen, 1)
  change = lambda s, n: s.params[n]["kernel"] - params[n]["kernel"]
  close(change(a, "b"), 2 * change(b, "b"))
  close(change(a, "a"), change(b, "a"))
  with pytest.raises(ValueError, match="no rule for the parameter a.kernel"):
    st.init(params, st.by_path(("^b", plain)))


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_equals_the_whole_batch(world, parts):
  params, frozen = world
  tx = optax.sgd(1e-2)
  undivided, a = run(jax.jit(st.make_step(loss, tx)), st.init(params, tx), frozen)
  divided, b = run(jax.jit(st.make_step(loss, tx, accumulate=parts)), st.init(params, tx), frozen)
  close(divided.params, undivided.params)  # sums in another order: round-off only
  close(a, b)


def test_clipping_bounds_the_update_and_reports_the_unclipped_norm(world):
  params, frozen = world
  tx = optax.sgd(1.0)
  state, history = run(jax.jit(st.make_step(loss, tx, clip=0.1)), st.init(params, tx), frozen, 1)
  change = jax.tree.map(jnp.subtract, state.params, params)
  np.testing.assert_allclose(optax.tree.norm(change), 0.1, rtol=1e-4)
  assert history[0]["grad_norm"] > 0.2


def test_bfloat16_computes_low_and_keeps_float32_masters(world):
  params, frozen = world
  calls = []

  def spy(params, frozen, batch, keys):
    calls.extend(x.dtype for x in jax.tree.leaves((params, frozen)))
    return loss(params, frozen, batch, keys)

  tx = optax.adam(1e-4)
  step = jax.jit(st.make_step(spy, tx, dtype=jnp.bfloat16))
  state, _ = run(step, st.init(params, tx), frozen, 20)
  assert set(calls) == {jnp.dtype(jnp.bfloat16)}
  assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype(jnp.float32)}
  # Updates of 1e-4 are below bfloat16's resolution: they add up in the masters alone.
  assert all((x != y).all() for x, y in zip(*map(jax.tree.leaves, (state.params, params))))


def test_the_average_lags_behind_and_warms_up(world):
  params, frozen = world
  tx = optax.sgd(1e-2)
  step = jax.jit(st.make_step(loss, tx, ema=0.9))
  state, want = st.init(params, tx, ema=True), params
  for i in range(4):
    state, _ = step(state, frozen, batch_of(i), jax.random.key(0))
    decay = min(0.9, (1 + i) / (10 + i))
    want = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, want, state.params)  # noqa: B023
  close(state.ema, want)


def test_a_step_that_is_not_finite_changes_nothing_but_the_counters(world):
  params, frozen = world
  tx = optax.adam(1e-2)
  step = jax.jit(st.make_step(loss, tx, ema=0.9))
  before, _ = run(step, st.init(params, tx, ema=True), frozen, 3)
  after, metrics = step(before, frozen, batch_of(3, bad=True), jax.random.key(0))
  same((after.params, after.opt, after.ema), (before.params, before.opt, before.ema))
  assert int(after.step) == 4 and after.skipped.tolist() == [1, 1]
  assert int(metrics["skipped"]) == int(metrics["in_a_row"]) == 1
  good, _ = step(after, frozen, batch_of(4), jax.random.key(0))
  assert good.skipped.tolist() == [1, 0]
  assert (good.params["a"]["kernel"] != before.params["a"]["kernel"]).any()


def test_a_gradient_that_is_not_finite_is_skipped_though_the_loss_is():
  """A length at zero: the loss is 0, its gradient is not a number."""

  def length(params, frozen, batch, keys):
    return jnp.sqrt(jnp.square(params["x"]).sum()), {}

  tx = optax.adam(1e-2)
  before = st.init({"x": jnp.zeros(3)}, tx)
  after, metrics = jax.jit(st.make_step(length, tx))(before, {}, {"index": np.arange(2)}, jax.random.key(0))
  assert metrics["loss"] == 0 and np.isnan(metrics["grad_norm"])
  same((after.params, after.opt), (before.params, before.opt))
  assert after.skipped.tolist() == [1, 1] and int(after.step) == 1


def test_after_ten_in_a_row_the_state_stays_the_last_good_one(world):
  params, frozen = world
  tx = optax.adam(1e-2)
  step = jax.jit(st.make_step(loss, tx))
  good, _ = run(step, st.init(params, tx), frozen, 2)
  state, history = run(step, good, frozen, 13, bad=range(10))
  same(state.params, good.params)  # also after good batches: the loop has not yet noticed
  assert [int(m["in_a_row"]) for m in history[:10]] == list(range(1, 11))
  assert int(history[-1]["in_a_row"]) >= st.PATIENCE


def test_the_step_after_a_skipped_one_draws_anew():
  tx = optax.sgd(0.0)
  show = lambda params, frozen, batch, keys: (params["a"].sum() + batch["y"].sum(), {"drawn": draws.normal(keys).sum()})
  step = jax.jit(st.make_step(show, tx))
  state, numbers = st.init({"a": jnp.ones(1)}, tx), []
  for bad in (False, True, False, True, True):
    state, metrics = step(state, {}, batch_of(0, bad), jax.random.key(0))
    numbers.append(float(metrics["drawn"]))
  assert state.skipped.tolist() == [3, 2] and len(set(numbers)) == 5


def test_draws_depend_on_seed_step_and_row_and_on_nothing_else():
  at = lambda key, step, index: jax.random.key_data(draws.keys(jax.random.key(key), step, index))
  base = at(0, 3, jnp.arange(4))
  same(base[2:], at(0, 3, jnp.arange(2, 4)))  # a row does not know its company
  for other in (at(1, 3, jnp.arange(4)), at(0, 4, jnp.arange(4)), at(0, 3, jnp.arange(4, 8))):
    assert (base != other).any(1).all()
  first, second = draws.split(draws.keys(jax.random.key(0), 0, jnp.arange(1000)), 2)
  x, y = draws.normal(first), draws.uniform(second)
  assert abs(float(x.mean())) < 0.1 and abs(float(x.std()) - 1) < 0.1
  assert abs(float(y.mean()) - 0.5) < 0.05 and abs(np.corrcoef(x, y)[0, 1]) < 0.1
  k = draws.integers(first, 7)
  assert set(np.asarray(k).tolist()) == set(range(7))


def test_keys_are_used_once(world):
  params, frozen = world
  tx = optax.sgd(1e-2)
  step = st.make_step(loss, tx)
  with jax.debug_key_reuse(True):
    jax.jit(step)(st.init(params, tx), frozen, batch_of(0), jax.random.key(0))


@pytest.mark.parametrize("fsdp, whole", [(1, False), (2, False), (8, False), (8, True)])
def test_eight_devices_equal_one(fsdp, whole):
  """Tolerance 1e-5 relative: sums over the batch are taken in another order. Frozen weights that are whole on each device
  are not joined."""
  tx = optax.adam(1e-2)
  step = st.make_step(loss, tx, clip=1.0, ema=0.9)
  make_world = lambda: make(np.random.default_rng(0), width=64)
  params, frozen = make_world()
  one, _ = run(jax.jit(step), st.init(params, tx, ema=True), frozen)
  mesh = sharding.make_mesh(fsdp=fsdp)
  params, frozen = make_world()
  if fsdp > 1:
    step = st.make_step(loss, tx, clip=1.0, ema=0.9, replicated=sharding.replicated(mesh))
  compiled, state, placed = st.on_mesh(step, mesh, st.init(params, tx, ema=True), frozen, threshold=256, whole=whole)
  program = compiled.lower(state, placed, batch_of(0), jax.random.key(0)).compile().as_text()
  shapes = set(re.findall(r"= \w+\[([\d,]*)\]\S* all-gather\(", program))
  joined = params if whole else (params, frozen)
  arrays = {",".join(map(str, x.shape)) for x in jax.tree.leaves(joined) if x.size >= 256}
  assert shapes == (arrays if fsdp > 1 else set()) and not re.search(r" (all-to-all|collective-permute)\(", program)
  many, history = run(compiled, state, placed)
  shards = {
    x.size // x.addressable_shards[0].data.size for x in (many.params["a"]["kernel"], many.opt[0].mu["a"]["kernel"])
  }
  assert shards == {fsdp} and placed["kernel"].sharding.is_fully_replicated == (whole or fsdp == 1)
  close(many, one)
  assert np.isfinite(history[-1]["loss"])


def test_the_shape_rule():
  mesh = sharding.make_mesh(fsdp=4)
  shapes = {"small": (8, 8), "odd": (1025, 1027), "wide": (1024, 4096), "tall": (4096, 1025), "scalar": ()}
  got = sharding.by_shape({k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in shapes.items()}, mesh)
  spec = {k: tuple(s.spec) for k, s in got.items()}
  assert spec == {"small": (), "odd": (), "wide": (None, "fsdp"), "tall": ("fsdp",), "scalar": ()}


def test_the_step_maps_over_identities(world):
  """Each of three identities, with its own weights and key, gets what it gets alone."""
  _, frozen = world
  tx = optax.adam(1e-2)
  step = st.make_step(loss, tx, clip=1.0)
  states = [st.init(make(np.random.default_rng(i))[0], tx) for i in range(3)]
  keys = jax.random.split(jax.random.key(7), 3)
  batches = [batch_of(i, bad=i == 1) for i in range(3)]
  stack = lambda *xs: jnp.stack(xs)
  crowd = jax.jit(jax.vmap(step, in_axes=(0, None, 0, 0)))
  many, _ = crowd(jax.tree.map(stack, *states), frozen, jax.tree.map(stack, *batches), keys)
  for i, state in enumerate(states):
    alone, _ = jax.jit(step)(state, frozen, batches[i], keys[i])
    close(jax.tree.map(lambda x: x[i], many), alone)  # noqa: B023
  assert many.skipped[:, 0].tolist() == [0, 1, 0]


def test_the_state_is_donated(world):
  params, frozen = world
  tx = optax.adam(1e-2)
  compiled, state, frozen = st.on_mesh(st.make_step(loss, tx), sharding.make_mesh(), st.init(params, tx), frozen)
  compiled(state, frozen, batch_of(0), jax.random.key(0))
  assert state.params["a"]["kernel"].is_deleted()


def test_a_person_whose_loss_falls_no_more_stops_alone_and_in_a_crowd():
  """The second person's loss has no slope: its least mean is that after the first 50 steps."""
  tx, frozen, plateau = optax.sgd(1e-3), {"target": jnp.array([5.0, 0.0])}, 20

  def loss(params, frozen, batch, keys):
    return jnp.square(params["x"] - frozen["target"]).mean() + 1e-6 * jnp.square(params["x"]).mean() + 1.0, {}

  step = st.make_step(loss, tx, plateau=plateau)
  batch, key = {"index": np.arange(2, dtype=np.int32)}, jax.random.key(0)
  begin = lambda x: st.init({"x": jnp.float32(x)}, tx, trend=True)

  def go(run, state, frozen, steps=100):
    stops = []
    for _ in range(steps):
      state, metrics = run(state, frozen, batch, key)
      stops.append(np.asarray(metrics["stopped"]))
    return jax.device_get(state), np.stack(stops)

  moving, never = go(jax.jit(step), begin(1.0), {"target": jnp.float32(5.0)})
  still, stops = go(jax.jit(step), begin(0.0), {"target": jnp.float32(0.0)})
  assert never.sum() == 0 and moving.trend[3] == 100
  taken = int(still.trend[3])
  assert 50 + plateau <= taken < 80 and stops.sum() == 100 - taken and still.step == 100 and still.skipped[0] == 0

  crowd = jax.tree.map(lambda *xs: jnp.stack(xs), begin(1.0), begin(0.0))
  both, told = go(jax.jit(jax.vmap(step, in_axes=(0, 0, None, None))), crowd, frozen)
  for i, one in enumerate((moving, still)):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[i], rtol=1e-5), one, both)  # noqa: B023
  np.testing.assert_array_equal(told[:, 1], stops)
