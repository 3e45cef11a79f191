"""Celeb Basis: principal axes of names, coefficients of a face, their average over the steps."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import subjects, tiny_pipelines

from idejax import draws, sharding, tree
from idejax.errors import UserError
from idejax.methods import celeb_basis as cb
from idejax.model import anchors, conditioning
from idejax.person import subject
from idejax.person.subjects import stack
from idejax.training import fit, joint, step

CFG = cb.Config(templates=("a photo of the {}", "my {}"), phrase="{} person", momentum=0.75)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tiny_pipelines.write(tmp_path_factory.mktemp("tiny"), "sd21-base", "sdxl")


@pytest.fixture(scope="module")
def sd(folder):
  return subjects.frozen(folder, "sd21-base", cb, CFG)


@pytest.fixture(scope="module")
def gradient():
  return jax.jit(jax.value_and_grad(functools.partial(cb.loss, cfg=CFG), has_aux=True))


# The basis.


def names_table(rng, count=20, width=12):
  return rng.standard_normal((count, width)).astype(np.float32)


def test_axes_are_orthonormal_and_rebuild_every_name(rng):
  """The axes span the first word's names, so projecting a name on all of them changes nothing."""
  table = names_table(rng)
  columns = [np.arange(8), np.arange(9, 20)]
  result = cb.basis(table, columns, 512)
  assert result.shape == (2, 1 + 7, 12)  # the first word has 8 names: 7 directions around their mean
  for column, (mean, *axes) in zip(columns, result):
    np.testing.assert_allclose(mean, table[column].mean(0), rtol=1e-5, atol=1e-6)
    axes = np.stack(axes)
    np.testing.assert_allclose(axes @ axes.T, np.eye(len(axes)), atol=1e-5)
  off = table[columns[0]] - result[0, 0]
  np.testing.assert_allclose(off @ result[0, 1:].T @ result[0, 1:], off, atol=1e-5)


@pytest.mark.parametrize("components, width, count", [(512, 12, 10), (4, 12, 4), (512, 6, 6)])
def test_axes_are_as_many_as_there_can_be(rng, components, width, count):
  axes = cb.basis(names_table(rng, 20, width), [np.arange(11), np.arange(13)], components)
  assert axes.shape == (2, 1 + count, width)


def test_first_axes_are_those_of_the_widest_spread(rng):
  """The projector on the leading axes is that of the covariance, whatever the axes' signs."""
  table = names_table(rng) * np.linspace(3, 0.1, 12, dtype=np.float32)
  axes = cb.basis(table, [np.arange(20), np.arange(20)], 3)[0, 1:]
  _, vectors = np.linalg.eigh(np.cov(table.astype(np.float64).T))
  leading = vectors[:, -3:]
  np.testing.assert_allclose(axes.T @ axes, leading @ leading.T, atol=1e-5)


def test_the_basis_of_names(folder):
  """Tokens 1 and 2 of each name count, whatever follows, in any order of names; each encoder has its own basis."""
  b, words = subjects.opened(folder, "sdxl")
  names = ("ab", "cde", "f", "gh")  # bytes are tokens: "f" has no second one
  bases = cb.constants(b, words, names, CFG)["basis"]
  again = cb.constants(b, words, names[::-1], CFG)["basis"]
  for tokenizer, table, x, y in zip(words, anchors.tables(b), bases, again):
    np.testing.assert_array_equal(x, y)
    assert x.shape == (2, 1 + 2, table.shape[1])  # three names have a second token
    ids = anchors.name_ids(tokenizer, names)
    for e in (0, 1):
      rows = np.asarray(table)[[i[e] for i in ids if len(i) > e]]
      np.testing.assert_allclose(x[e, 0], rows.mean(0), rtol=1e-4, atol=1e-6)
  twice = cb.constants(b, words, ("ab", "ab", "cd", "ef"), CFG)["basis"][0]
  once = cb.constants(b, words, ("ab", "ab", "cd", "ef"), dataclasses.replace(CFG, dedup=True))["basis"][0]
  assert (twice.shape[1], once.shape[1]) == (4, 3)
  np.testing.assert_allclose(once, cb.constants(b, words, ("ab", "cd", "ef"), CFG)["basis"][0], atol=1e-6)
  with pytest.raises(UserError, match="names"):
    cb.constants(b, words, ("a", "b"), CFG)


# Coefficients and words.


def test_sizes(sd):
  """525,312 numbers are trained and 1,024 coefficients averaged, per encoder."""
  fz = sd._replace(constants={"basis": (np.zeros((2, 513, 768)), np.zeros((2, 513, 1280)))})
  params = jax.eval_shape(lambda key: cb.init(key, fz, CFG), jax.random.key(0))
  assert [tree.size(p) for p in params["layer"]] == [525_312] * 2
  assert [p.size for p in params["average"]] == [1024] * 2
  identity = jax.eval_shape(lambda p: cb.represent(p, fz, CFG), params)
  assert [r.shape for r in identity["rows"]] == [(1, 1, 2, 768), (1, 1, 2, 1280)]


@pytest.mark.parametrize("radius", [1.0, 0.3])
def test_a_face_is_at_distance_one_from_the_mean_name(sd, radius):
  """The distance is `radius`, and a scaled embedding gives the same words."""
  cfg = dataclasses.replace(CFG, keep="last", radius=radius)
  params = cb.init(jax.random.key(0), sd, cfg)
  rows = cb.represent(params, sd, cfg)["rows"][0][0, 0]
  np.testing.assert_allclose(np.linalg.norm(rows - sd.constants["basis"][0][:, 0], axis=-1), radius, rtol=1e-5)
  larger = sd._replace(subject=sd.subject._replace(face=7 * sd.subject.face))
  np.testing.assert_allclose(cb.represent(params, larger, cfg)["rows"][0][0, 0], rows, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.floats(-2, 3, width=32), st.integers(0, 99))
def test_words_are_affine_in_the_coefficients(sd, weight, seed):
  rng = np.random.default_rng(seed)
  count = sd.constants["basis"][0].shape[1] - 1
  x, y = rng.standard_normal((2, 2, count)).astype(np.float32)
  word = lambda z: np.asarray(cb.compose((z,), sd, CFG)[0])
  mixed = word(np.float32(weight) * x + np.float32(1 - weight) * y)
  np.testing.assert_allclose(mixed, weight * word(x) + (1 - weight) * word(y), atol=1e-4)


# The average.


def train_average(cfg, start, predictions):
  """The average after descending on `follow` alone, [B, 2, K] predictions a step."""
  params, tx = {"average": (jnp.asarray(start),)}, step.by_path(*cb.rates(cfg))
  run = jax.jit(step.make_step(lambda p, frozen, batch, keys: (cb.follow(p["average"], (batch["x"],)), {}), tx))
  state = step.init(params, tx)
  for x in predictions:
    state, metrics = run(state, None, {"x": x, "index": np.arange(len(x))}, jax.random.key(0))
    assert metrics["loss"] == 0
  return np.asarray(state.params["average"][0])


def test_the_average_is_exponential(rng):
  """With momentum m the average after n steps weighs the start by m^n; momentum 0 gives the last step's mean."""
  start = rng.standard_normal((2, 5)).astype(np.float32)
  xs = rng.standard_normal((6, 3, 2, 5)).astype(np.float32)
  expected = start
  for x in xs:
    expected = 0.75 * expected + 0.25 * x.mean(0)
  np.testing.assert_allclose(train_average(CFG, start, xs), expected, rtol=1e-5, atol=1e-6)
  none = dataclasses.replace(CFG, momentum=0.0)
  np.testing.assert_allclose(train_average(none, start, xs), xs[-1].mean(0), rtol=1e-5, atol=1e-6)
  fixed = np.broadcast_to(start, (6, 3, 2, 5))
  np.testing.assert_array_equal(train_average(CFG, start, fixed), start)
  left = train_average(CFG, start, np.zeros((6, 3, 2, 5), np.float32)) / start
  np.testing.assert_allclose(left, 0.75**6, rtol=1e-5)  # the start value's weight


def test_the_average_starts_at_the_first_prediction(sd):
  params = cb.init(jax.random.key(0), sd, CFG)
  first = cb.predicted(params["layer"], jnp.asarray(sd.subject.face))
  np.testing.assert_array_equal(params["average"][0], first[0])
  identity = cb.represent(params, sd, CFG)
  np.testing.assert_array_equal(identity["coefficients"][0], first[0])
  np.testing.assert_array_equal(identity["rows"][0][0, 0], cb.compose(first, sd, CFG)[0])


def test_an_average_of_unit_vectors_may_be_made_one_again(sd):
  params = cb.init(jax.random.key(0), sd, CFG)
  params["average"] = (0.25 * params["average"][0],)
  norm = lambda cfg: np.linalg.norm(cb.represent(params, sd, cfg)["coefficients"][0], axis=-1)
  np.testing.assert_allclose(norm(CFG), 0.25, rtol=1e-5)
  np.testing.assert_allclose(norm(dataclasses.replace(CFG, renormalise=True)), 1, rtol=1e-5)


# Through the networks.


def test_steps(sd, gradient):
  """Three steps move the layer and the average, which is the average of the steps' predictions."""
  tx = step.by_path(*cb.rates(CFG))
  params = start = cb.init(jax.random.key(0), sd, CFG)
  opt, expected = tx.init(params), np.asarray(params["average"][0])
  for i in range(3):
    keys = draws.keys(jax.random.key(1), i, jnp.arange(2))
    (value, metrics), grads = gradient(params, sd, {}, keys)
    assert value == metrics["diffusion"] > 0  # the average adds nothing to it
    predictions = cb.predicted(params["layer"], sd.subject.faces[subject.draw(sd, keys).variant])[0]
    expected = 0.75 * expected + 0.25 * np.asarray(predictions).mean(0)
    updates, opt = tx.update(grads, opt, params)
    params = jax.tree.map(jnp.add, params, updates)
  assert subjects.moved(start, params) == set(tree.flatten(start))
  np.testing.assert_allclose(params["average"][0], expected, rtol=1e-4, atol=1e-5)


def test_the_face_of_the_variant_that_is_shown_is_read(sd, gradient):
  params = cb.init(jax.random.key(0), sd, CFG)
  keys = lambda seed: jax.random.split(jax.random.key(seed), 2)
  key = next(k for k in map(keys, range(40)) if (subject.draw(sd, k).variant == 1).all())
  value = lambda v: float(
    gradient(
      params,
      sd._replace(
        subject=sd.subject._replace(
          faces=np.where(np.arange(2)[:, None] == v, np.nan, sd.subject.faces).astype(np.float32)
        )
      ),
      {},
      key,
    )[0][0]
  )
  assert np.isfinite(value(0)) and np.isnan(value(1))


@pytest.mark.slow
def test_people_train_side_by_side_on_sdxl(folder):
  """Under vmap, another neighbour changes no bit of a person's layer or average."""
  fz = subjects.frozen(folder, "sdxl", cb, CFG)
  people = lambda *seeds: jax.tree.map(lambda *x: np.stack(x), *(subjects.person(fz.backbone, s) for s in seeds))
  one = lambda s: fz._replace(subject=s)
  tx = step.by_path(*cb.rates(CFG))
  train = step.make_step(functools.partial(cb.loss, cfg=CFG), tx)
  keys = jax.random.split(jax.random.key(0), 2)

  @jax.jit
  @jax.vmap
  def run(key, s):
    params = cb.init(key, one(s), CFG)
    state, metrics = train(step.init(params, tx), one(s), {"index": jnp.arange(2)}, key)
    return params, state.params, metrics

  start, a, metrics = run(keys, people(0, 1))
  _, other, _ = run(keys, people(7, 1))
  assert np.isfinite(metrics["loss"]).all() and len(a["layer"]) == 2
  assert subjects.moved(start, a) == set(tree.flatten(start))
  for path, x in tree.flatten(a).items():
    y = tree.flatten(other)[path]
    np.testing.assert_array_equal(x[1], y[1], path)
    assert (x[0] != y[0]).any(), path


def test_words_and_captions(folder):
  assert cb.needs(cb.PRESETS["paper"], nets=None).captions[0] == "a photo of a face of {} person"
  assert cb.needs(cb.PRESETS["miniature"], nets=None).captions[0] == "a photo of {}"
  assert all(c.count("{}") == 1 for p in cb.PRESETS.values() for c in cb.needs(p, nets=None).captions)
  b, words = subjects.opened(folder, "sd21-base")
  prompts = conditioning.tokenise(words, ["<a> and <b>"], {"<a>": CFG.vectors, "<b>": CFG.vectors})
  rng = np.random.default_rng(0)
  people = [{"rows": (rng.standard_normal((1, 1, 2, 32)).astype(np.float32),)} for _ in range(2)]
  cond = cb.condition(people, b, prompts, CFG)
  second = cb.condition([people[0], people[0]], b, prompts, CFG)
  where = prompts.where[0][0]
  assert len(set(where.tolist())) == 4
  same = (cond.k == second.k).all(-1)[0, 0]  # causal: what precedes the second person does not see her
  assert same[: where[2]].all() and not same[where[2]]


# Several people jointly.


@pytest.fixture
def no_unet(monkeypatch):
  """A UNet that is a gain for each picture, by its context: its gradient compiles in a moment."""
  monkeypatch.setattr(cb, "predict", lambda b, x, t, cond: x * (1 + cond.k.mean((0, 2, 3)))[:, None, None, None])


def jointly(sd, people, steps=3):
  """(joint, state before, states after each step, whose the rows were, frozen) of a joint training."""
  mesh, key = sharding.make_mesh(jax.devices()[:1]), jax.random.key(5)
  together, run, state, frozen = joint.together(
    cb, CFG, sd.backbone, sd.constants, sd.captions, stack(people), key, mesh
  )
  states, batch = [jax.device_get(state)], joint.rows(run, CFG.batch, len(people), 0)
  for i in range(steps):
    state, _ = run(state, frozen, batch(i), key)
    states.append(jax.device_get(state))
  return together, states, frozen, key


def test_one_person_jointly_is_that_person_alone(sd, no_unet):
  _, states, _, key = jointly(sd, [sd.subject])
  run, alone, frozen = fit.one(cb, CFG, sd, key, sharding.make_mesh(jax.devices()[:1]))
  for i in range(3):
    alone, _ = run(alone, frozen, fit.rows(run, CFG.batch)(i), key)
  joined = states[-1].params
  np.testing.assert_allclose(joined["layer"][0]["kernel"], alone.params["layer"][0]["kernel"], rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(joined["average"][0][0], alone.params["average"][0], rtol=1e-3, atol=1e-5)


def test_ten_people_have_one_layer_and_an_average_each(sd, no_unet):
  """The average of a person follows their own rows, and stays in steps that have none; each is an identity."""
  people = [sd.subject] + [subjects.person(sd.backbone, seed=i) for i in range(1, 10)]
  together, states, frozen, _ = jointly(sd, people)
  before, *after = [s.params for s in states]
  assert before["layer"][0]["kernel"].ndim == 2 and before["average"][0].shape[0] == 10
  assert np.abs(after[0]["layer"][0]["kernel"] - before["layer"][0]["kernel"]).max() > 0
  previous = before
  for i, now in enumerate(after):
    seen = set(joint.turns(i, CFG.batch, 10, 0).tolist())
    moved = np.abs(now["average"][0] - previous["average"][0]).max((1, 2)) > 0
    assert set(np.flatnonzero(moved).tolist()) == seen and len(seen) == CFG.batch
    for n in seen:  # one row of theirs: one of their pictures' coefficients, by the layer as it was
      of_pictures = np.asarray(cb.predicted(previous["layer"], people[n].faces)[0])
      wanted = previous["average"][0][n] + (1 - CFG.momentum) * (of_pictures - previous["average"][0][n])
      assert min(np.abs(now["average"][0][n] - w).max() for w in wanted) < 1e-5
    previous = now
  who = joint.represent_all(together, CFG, frozen, after[-1], 10)
  rows = np.stack([x["rows"][0] for x in who])
  assert (
    rows.shape[1:] == (1, 1, 2, 32) and min(np.abs(a - b).max() for i, a in enumerate(rows) for b in rows[:i]) > 1e-4
  )
  fourth = sd._replace(subject=people[3])
  np.testing.assert_allclose(
    rows[3], cb.represent(together.person(after[-1], 3), fourth, CFG)["rows"][0], rtol=1e-5, atol=1e-6
  )
  assert cb.export(who[3], sd.backbone, CFG).rows[0].shape == (1, 1, 2, 32)
