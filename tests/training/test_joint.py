"""Joint training: whose example a row is, what is each person's own and what all have in common."""

import dataclasses
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from idejax import draws, sharding
from idejax.model.conditioning import Prompts
from idejax.person.subject import Frozen, Subject
from idejax.training import fit, joint, loop
from idejax.training.checkpoint import Checkpoints

PEOPLE, PICTURES = 5, 3


@dataclasses.dataclass(frozen=True)
class Config:
  steps: int = 6
  batch: int = 4
  lr: float = 0.05


class Backbone(NamedTuple):
  nets: tuple = ()


class method:
  """A word of each person and a net of all; both learn the pictures' mean from face, caption and noise."""

  @staticmethod
  def needs(cfg, nets):
    return SimpleNamespace(own=("word",))

  @staticmethod
  def init(key, frozen, cfg):
    return {"word": frozen.constants["begin"] + frozen.subject.face[:2], "net": jax.random.normal(key, (3,))}

  @staticmethod
  def loss(params, frozen, batch, keys, cfg):
    k_variant, k_noise = draws.split(keys, 2)
    variant = draws.integers(k_variant, frozen.subject.mean.shape[0])
    caption = jnp.asarray(frozen.captions.ids[0])[variant % frozen.captions.ids[0].shape[0], 0]
    target = frozen.subject.mean[variant].mean((1, 2, 3)) + 0.1 * draws.normal(k_noise)
    seen = jnp.tanh(params["net"][:2] * params["word"]).sum() + params["net"][2] * frozen.subject.face.sum()
    error = jnp.square(seen + 0.01 * caption - target).mean()
    return error, {"caption": caption.astype(jnp.float32).mean(), "face": frozen.subject.face[0]}

  @staticmethod
  def rates(cfg):
    return (("^word", optax.adamw(cfg.lr, weight_decay=1e-2)), ("", optax.adam(cfg.lr)))


def person(i):
  rng = np.random.default_rng(i)
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  mean, masks = normal(PICTURES, 2, 2, 1), np.ones((PICTURES, 2, 2), np.float32)
  return Subject(
    mean, mean, normal(4), 10 * i + np.arange(PICTURES)[:, None] + np.zeros((PICTURES, 4), np.float32), masks, masks
  )


def crowd(count=PEOPLE):
  return jax.tree.map(lambda *xs: np.stack(xs), *[person(i) for i in range(count)])


CONSTANTS = {"begin": np.float32([0.3, -0.2])}
CAPTIONS = Prompts((np.arange(7, dtype=np.int32)[:, None],), (np.arange(7, dtype=np.int32),), ())
KEY = jax.random.key(3)


def begin(people=None, captions=CAPTIONS, cfg=Config(), **how):
  mesh = sharding.make_mesh(jax.devices()[:1])
  people = crowd() if people is None else people
  return joint.together(method, cfg, Backbone(), CONSTANTS, captions, people, KEY, mesh, **how)


def train(people, cfg=Config(), **how):
  """(params before, state after, metrics of each step) of a joint training."""
  _, step, state, frozen = begin(people, cfg=cfg, **how)
  count = len(people.face)
  before, batch, log = jax.device_get(state.params), joint.rows(step, cfg.batch, count, 0), []
  for i in range(cfg.steps):
    state, metrics = step(state, frozen, batch(i), KEY)
    log.append(jax.device_get(metrics))
  return before, jax.device_get(state), log


def test_everyone_has_a_row_before_anyone_has_another():
  rows = np.concatenate([joint.turns(i, 3, PEOPLE, 1) for i in range(10)])
  for turn in rows.reshape(-1, PEOPLE):
    assert sorted(turn) == list(range(PEOPLE))
  assert len({tuple(t) for t in rows.reshape(-1, PEOPLE)}) > 1
  assert (rows != np.concatenate([joint.turns(i, 3, PEOPLE, 2) for i in range(10)])).any()
  np.testing.assert_array_equal(np.bincount(joint.turns(4, 8, 2, 0)), [4, 4])


def test_one_person_jointly_is_that_person_alone():
  """Who trains jointly with nobody draws the same random numbers."""
  people, cfg = jax.tree.map(lambda x: x[None], person(2)), Config()
  _, state, log = train(people)
  frozen = Frozen(Backbone(), CONSTANTS, CAPTIONS, person(2))
  step, alone, frozen = fit.one(method, cfg, frozen, KEY, sharding.make_mesh(jax.devices()[:1]))
  losses = []
  for i in range(cfg.steps):
    alone, metrics = step(alone, frozen, fit.rows(step, cfg.batch)(i), KEY)
    losses.append(float(metrics["loss"]))
  np.testing.assert_allclose([m["loss"] for m in log], losses, rtol=1e-6)
  np.testing.assert_allclose(state.params["word"][0], alone.params["word"], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(state.params["net"], alone.params["net"], rtol=1e-5, atol=1e-6)


def test_it_begins_as_the_method_does_for_each():
  joined, _, state, frozen = begin()
  for i in range(PEOPLE):
    alone = method.init(fit.init_key(KEY), Frozen(Backbone(), CONSTANTS, CAPTIONS, person(i)), Config())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), joined.person(state.params, i), alone)


def test_who_has_no_row_in_a_step_stays_and_who_has_moves_as_by_their_rows_alone():
  """Neither Adam's memory nor its decay moves a person who is not seen; whose rows are few learns no slower for it."""
  _, step, state, frozen = begin()
  batch = {
    "index": np.arange(4, dtype=np.int32),
    "person": np.int32([1, 3, 1, 1]),
    "weight": np.float32([4 / 3, 4, 4 / 3, 4 / 3]),
  }
  state, _ = step(state, frozen, batch, KEY)
  first = jax.device_get(state)
  np.testing.assert_array_equal(first.params["word"][[0, 2, 4]], frozen.constants["own"]["word"][np.array([0, 2, 4])])
  only = batch | {"person": np.int32([3, 3, 3, 3]), "weight": np.float32([1, 1, 1, 1])}
  second = jax.device_get(step(state, frozen, only, KEY)[0])
  np.testing.assert_array_equal(second.params["word"][[0, 1, 2, 4]], first.params["word"][[0, 1, 2, 4]])
  assert (second.params["word"][3] != first.params["word"][3]).all()
  moments = lambda s: [x for x in jax.tree.leaves(s.opt) if np.shape(x)[:1] == (PEOPLE,)]
  assert moments(second)
  for a, b in zip(moments(first), moments(second)):
    np.testing.assert_array_equal(a[[0, 1, 2, 4]], b[[0, 1, 2, 4]])
  steps = [x for x in moments(second) if x.dtype == np.int32]
  assert steps and all((x == [0, 1, 0, 2, 0]).all() for x in steps)


def test_gradients_of_ones_own_are_means_over_ones_own_rows():
  trained = joint.Joint(method, ("word",))
  frozen = Frozen(Backbone(), CONSTANTS, CAPTIONS, jax.tree.map(jnp.asarray, crowd()))
  frozen = frozen._replace(constants=CONSTANTS | {"own": trained.begin(KEY, frozen, Config())})
  params, keys = trained.init(KEY, frozen, Config()), draws.keys(KEY, 0, np.arange(4))
  batch = {
    "index": np.arange(4, dtype=np.int32),
    "person": np.int32([1, 3, 1, 1]),
    "weight": np.float32([4 / 3, 4, 4 / 3, 4 / 3]),
  }
  got = jax.grad(lambda p: trained.loss(p, frozen, batch, keys, Config())[0])(params)["word"]
  one = frozen._replace(subject=person(1))
  want = jax.grad(lambda p: method.loss(p, one, {}, keys[np.array([0, 2, 3])], Config())[0])(trained.person(params, 1))
  np.testing.assert_allclose(got[1], want["word"], rtol=1e-5)


def test_plain_rows_train_what_all_have_in_common_and_nobodys_own():
  before, state, _ = train(crowd(), plain=1.0)
  np.testing.assert_array_equal(state.params["word"], before["word"])
  assert (state.params["net"] != before["net"]).all()
  _, mixed, _ = train(crowd(), plain=0.5)
  assert (mixed.params["word"] != before["word"]).any()


def test_faces_are_of_the_rows_person_and_of_any_of_their_pictures():
  _, _, log = train(crowd(), dataclasses.replace(Config(), batch=1, steps=30), swap=True)
  who = [int(joint.turns(i, 1, PEOPLE, 0)[0]) for i in range(30)]
  faces = np.array([m["face"] for m in log])
  np.testing.assert_array_equal(faces // 10, who)
  assert set(faces % 10) == set(range(PICTURES))
  _, _, log = train(crowd(), dataclasses.replace(Config(), batch=1, steps=2))
  np.testing.assert_allclose(log[0]["face"], person(int(joint.turns(0, 1, PEOPLE, 0)[0])).face[0])


def test_a_picture_with_a_caption_of_its_own_trains_with_that(monkeypatch):
  own = np.arange(PEOPLE * PICTURES, dtype=np.int32).reshape(PEOPLE, PICTURES, 1)
  captions = Prompts((own,), (own[..., 0],), ())
  people = crowd()._replace(mean=np.broadcast_to(own[..., None, None], (PEOPLE, PICTURES, 2, 2, 1)).astype(np.float32))
  seen = []

  def loss(params, frozen, batch, keys, cfg):
    return params["net"].sum(), {"caption": frozen.captions.ids[0][0, 0], "picture": frozen.subject.mean[0, 0, 0, 0]}

  monkeypatch.setattr(method, "loss", staticmethod(loss))
  _, _, log = train(people, dataclasses.replace(Config(), batch=1, steps=40), captions=captions)
  for m in log:
    assert m["caption"] == m["picture"]
    seen.append(int(m["caption"]))
  assert len(set(seen)) > PEOPLE  # and not always the same picture of a person


@pytest.mark.parametrize("stops", [[6], [1, 4, 6]])
def test_an_interrupted_run_equals_an_uninterrupted_one_to_the_bit(tmp_path, stops):
  cfg = Config()
  want = train(crowd(), cfg, plain=0.3, swap=True)[1]
  for stop in stops:
    _, step, state, frozen = begin(cfg=cfg, plain=0.3, swap=True)
    run = loop.Run(tmp_path, cfg.steps)
    for count, now in fit.train(step, state, frozen, joint.rows(step, cfg.batch, PEOPLE, 0), KEY, run, {"a": 1}):
      last = now
      if count == stop:
        break
  with Checkpoints(tmp_path / "checkpoints") as c:
    got = jax.device_get(c.restore(last).state)
  jax.tree.map(np.testing.assert_array_equal, got, want)


def test_a_method_without_anything_of_ones_own_trains_one_set_for_all(monkeypatch):
  monkeypatch.setattr(method, "init", staticmethod(lambda key, frozen, cfg: {"net": jnp.ones(3)}))
  loss = lambda params, frozen, batch, keys, cfg: (jnp.square(params["net"] - frozen.subject.face[0]).mean(), {})
  monkeypatch.setattr(method, "loss", staticmethod(loss))
  joined, *_ = begin()
  before, state, _ = train(crowd())
  assert joined.own == () and state.params["net"].shape == (3,) and (state.params["net"] != before["net"]).all()
