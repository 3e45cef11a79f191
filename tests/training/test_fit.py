"""One person alone, over a mesh, with pmap and in a crowd has the same numbers; resumed runs are equal to the bit."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny_pipelines
from support.subjects import NAMES, opened, person

from idejax import sharding
from idejax.methods import textual_inversion as method
from idejax.methods.contract import encode_captions
from idejax.person import subjects
from idejax.person.subject import Frozen
from idejax.training import fit, loop
from idejax.training.checkpoint import Checkpoints

CFG = method.Config(vectors=2, start="cross", steps=3, batch=4, lr=1e-2)
DIGESTS = [f"{i:02d}abcdef0123456789" for i in range(4)]
STEPS = 3


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  b, words = opened(tiny_pipelines.write(tmp_path_factory.mktemp("models"), "sd15"), "sd15")
  needs = method.needs(CFG, b.nets)
  constants = needs.constants(b, words, NAMES, CFG)
  captions = encode_captions(needs, words, "<id>")
  people = [person(b, seed=i) for i in range(4)]
  return b, constants, captions, people


def walk(step, state, frozen, key, index=None):
  index = np.arange(CFG.batch, dtype=np.int32) if index is None else index
  losses = []
  for _ in range(STEPS):
    state, metrics = step(state, frozen, {"index": index}, key)
    losses.append(np.asarray(metrics["loss"]))
  return jax.device_get(state.params), np.stack(losses)


def alone(world, i, devices=1):
  b, constants, captions, people = world
  mesh = sharding.make_mesh(jax.devices()[:devices])
  key = fit.keys(0, DIGESTS[i : i + 1])[0]
  return walk(*fit.one(method, CFG, Frozen(b, constants, captions, people[i]), key, mesh), key)


@pytest.fixture(scope="module")
def first(world):
  return alone(world, 0)


def close(a, b, tolerance=1e-5):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


def test_a_batch_over_four_devices_gives_the_same(world, first):
  close(alone(world, 0, devices=4), first)


def test_a_batch_that_the_devices_do_not_divide_uses_fewer_of_them(world, monkeypatch):
  cfg = dataclasses.replace(CFG, batch=6)
  b, constants, captions, people = world
  _, state, _ = fit.one(method, cfg, Frozen(b, constants, captions, people[0]), jax.random.key(0), sharding.make_mesh())
  assert len(state.step.sharding.device_set) == 2


def test_a_batch_in_parts_gives_the_same(world, first):
  b, constants, captions, people = world
  key, frozen = fit.keys(0, DIGESTS[:1])[0], Frozen(b, constants, captions, people[0])
  close(walk(*fit.one(method, CFG, frozen, key, sharding.make_mesh(jax.devices()[:4]), accumulate=2), key), first)


@pytest.mark.slow
def test_a_crowd_in_parts_gives_the_same(world, first):
  b, constants, captions, people = world
  mesh, keys = sharding.make_mesh(jax.devices()[:2]), fit.keys(0, DIGESTS)
  params, losses = walk(
    *fit.crowd(method, CFG, b, constants, captions, subjects.stack(people), keys, mesh, accumulate=4), keys
  )
  close((fit.person(params, 0), losses[:, 0]), first)


@pytest.mark.slow
def test_pmap_gives_the_same(world, first):
  b, constants, captions, people = world
  key = fit.keys(0, DIGESTS[:1])[0]
  devices = jax.devices()[:2]
  step, state, frozen = fit.replicas(method, CFG, Frozen(b, constants, captions, people[0]), key, devices)
  params, losses = walk(step, state, frozen, key, np.arange(CFG.batch, dtype=np.int32).reshape(2, 2))
  for i in range(2):
    close(jax.tree.map(lambda x, i=i: x[i], params), first[0])
  close(losses[:, 0], first[1])


def test_a_person_in_a_crowd_over_devices_is_the_person_alone(world, first):
  b, constants, captions, people = world
  mesh = sharding.make_mesh(jax.devices()[:4])
  keys = fit.keys(0, DIGESTS)
  step, state, frozen = fit.crowd(method, CFG, b, constants, captions, subjects.stack(people), keys, mesh)
  hlo = step.lower(state, frozen, {"index": np.arange(CFG.batch, dtype=np.int32)}, keys).compile().as_text()
  for collective in ("all-reduce(", "all-gather(", "all-to-all(", "collective-permute("):
    assert collective not in hlo  # nobody waits for anybody
  params, losses = walk(step, state, frozen, keys)
  assert losses.shape == (STEPS, 4) and len({float(x) for x in losses[0]}) == 4
  close(fit.person(params, 0), first[0])
  close(losses[:, 0], first[1])
  close(fit.person(params, 3), alone(world, 3)[0])


def test_keys_depend_on_seed_and_photos_only():
  data = lambda k: np.asarray(jax.random.key_data(k))
  a, b = fit.keys(0, DIGESTS), fit.keys(1, DIGESTS)
  assert len({tuple(x) for x in np.concatenate([data(a), data(b)])}) == 8
  np.testing.assert_array_equal(data(fit.keys(0, DIGESTS[3:4]))[0], data(a)[3])


def test_where_parameters_begin_shares_no_random_numbers_with_a_step():
  key, data = fit.keys(0, DIGESTS[:1])[0], jax.random.key_data
  of_steps = np.asarray(jax.vmap(lambda i: data(jax.random.fold_in(key, i)))(np.arange(2000)))
  assert not (of_steps == np.asarray(data(fit.init_key(key)))).all(-1).any()


def test_an_interrupted_run_equals_an_uninterrupted_one_to_the_bit(world, tmp_path):
  b, constants, captions, people = world
  key = fit.keys(0, DIGESTS[:1])[0]
  cfg = dataclasses.replace(CFG, steps=4, batch=2)
  frozen = Frozen(b, constants, captions, people[0])
  mesh = sharding.make_mesh(jax.devices()[:1])
  begin = functools.cache(lambda: fit.one(method, cfg, frozen, key, mesh))

  def run(folder, stops):
    for stop in stops:
      step, _, placed = begin()
      _, state, _ = fit.one(method, cfg, frozen, key, mesh)  # a donated state cannot be used twice
      for count, now in fit.train(
        step, state, placed, fit.rows(step, cfg.batch), key, loop.Run(folder, cfg.steps), {"a": 1}
      ):
        last = now
        if count == stop:
          break
    with Checkpoints(folder / "checkpoints") as c:
      return jax.device_get(c.restore(last).state)

  unbroken, pieces = run(tmp_path / "whole", [4]), run(tmp_path / "pieces", [1, 3, 4])
  jax.tree.map(np.testing.assert_array_equal, unbroken, pieces)


def test_padding_repeats_the_last():
  assert fit.pad([1, 2, 3], 4) == [1, 2, 3, 3] and fit.pad([1, 2], 2) == [1, 2]


def test_stacked_people_may_have_unequal_numbers_of_photos(world):
  b = world[0]
  both = subjects.stack([person(b, 0, variants=2), person(b, 1, variants=4)])
  assert both.mean.shape[:2] == (2, 4)
  np.testing.assert_array_equal(both.mean[0, :2], both.mean[0, 2:])
  assert jnp.isfinite(both.mean).all()
