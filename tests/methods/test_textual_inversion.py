"""Textual Inversion, and what the captions of all methods have in common."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import subjects, tiny_pipelines

from idejax import draws, tree
from idejax.errors import UserError
from idejax.methods import textual_inversion as ti
from idejax.model import anchors, conditioning, diffusion
from idejax.model.backbone import predict
from idejax.person import subject, templates
from idejax.training import step

CFG = ti.Config(vectors=2, word="f", templates=("a photo of {}", "my {}"), lr=1e-2, reg=0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tiny_pipelines.write(tmp_path_factory.mktemp("tiny"), "sd21-base", "sdxl")


@pytest.fixture(scope="module")
def sd(folder):
  return subjects.frozen(folder, "sd21-base", ti, CFG)


@pytest.fixture(scope="module")
def gradient():
  return jax.jit(jax.value_and_grad(functools.partial(ti.loss, cfg=CFG), has_aux=True))


def train(gradient, cfg, fz, steps):
  """Parameters after `steps`, with the gradient's one program and the method's own optimiser."""
  tx = step.by_path(*ti.rates(cfg))
  params = ti.init(jax.random.key(0), fz, cfg)
  opt, values = tx.init(params), []
  for i in range(steps):
    (value, _), grads = gradient(params, fz, {}, draws.keys(jax.random.key(0), i, jnp.arange(2)))
    updates, opt = tx.update(grads, opt, params)
    params = jax.tree.map(jnp.add, params, updates)
    values.append(float(value))
  return params, values


# Where rows begin.


def test_starts(folder):
  b, words = subjects.opened(folder, "sdxl")
  fz = subject.Frozen(b, None, None, None)
  begin = lambda **how: ti.init(
    jax.random.key(1),
    fz._replace(constants=ti.constants(b, words, subjects.NAMES, cfg := dataclasses.replace(CFG, **how))),
    cfg,
  )["rows"]
  widths = [t.hidden_size for t in b.nets.text]
  for row, table, d in zip(begin(vectors=3), anchors.tables(b), widths):
    assert row.shape == (3, d)
    np.testing.assert_array_equal(row, np.tile(table[words[0].bpe.ids("f")], (3, 1)))
  for row, cross in zip(begin(start="cross"), anchors.cross(b, words, subjects.NAMES)):
    np.testing.assert_array_equal(row, cross)
  noise = begin(start="normal", vectors=50)
  assert [r.shape for r in noise] == [(50, d) for d in widths]
  assert all(abs(r.std() / 0.02 - 1) < 0.1 and abs(r.mean()) < 2e-3 for r in noise)
  with pytest.raises(UserError, match="tokens"):
    begin(word="face")  # bytes are tokens here


# Steps.


def test_only_the_rows_train(sd, gradient):
  """At rate 0 nothing changes; otherwise every vector does, and nothing in the backbone."""
  before = jax.tree.map(np.array, sd)
  start = ti.init(jax.random.key(0), sd, CFG)
  still, _ = train(gradient, dataclasses.replace(CFG, lr=0.0), sd, 2)
  assert not subjects.moved(start, still)
  after, values = train(gradient, CFG, sd, 3)
  assert set(tree.flatten(after)) == {"rows.0"} and after["rows"][0].shape == (2, 32)
  assert (after["rows"][0] != start["rows"][0]).any(-1).all()  # every vector moves
  assert np.isfinite(values).all()
  assert not subjects.moved(before, sd)


def test_the_first_update_is_the_rate_and_the_decay(rng):
  """AdamW (Loshchilov & Hutter 2019): -lr (sign g + decay v); without a decay the sign alone."""
  draw = lambda: {"rows": (rng.standard_normal((2, 8)).astype(np.float32),)}
  params, grads = draw(), draw()
  for decay in (0.0, 0.5):
    tx = step.by_path(*ti.rates(dataclasses.replace(CFG, weight_decay=decay)))
    (update,) = tx.update(grads, tx.init(params), params)[0]["rows"]
    want = -CFG.lr * (np.sign(grads["rows"][0]) + decay * params["rows"][0])
    np.testing.assert_allclose(update, want, rtol=1e-4)


def test_the_loss_is_the_papers(sd, gradient):
  """mean ||target - prediction||^2 over all elements, plus the rows' distance from where they began."""
  rng = np.random.default_rng(0)
  start = sd.constants["start"][0]
  params = {"rows": (start + 0.1 * rng.standard_normal(start.shape).astype(np.float32),)}
  (value, metrics), _ = gradient(params, sd, {}, jax.random.split(jax.random.key(0), 2))
  away = np.linalg.norm(params["rows"][0] - start, axis=-1).mean()
  np.testing.assert_allclose(metrics["moved"], away, rtol=1e-5)
  np.testing.assert_allclose(value, metrics["diffusion"] + 0.1 * away, rtol=1e-6)
  e = subject.draw(sd, jax.random.split(jax.random.key(0), 2))
  noisy, target = subjects.example(sd.backbone, e)
  cond = ti.condition([ti.represent(params, sd, CFG)], sd.backbone, subject.prompts(sd, e), CFG)
  error = jax.jit(predict)(sd.backbone, noisy, e.t, cond) - target
  np.testing.assert_allclose(metrics["diffusion"], np.square(error).mean(), rtol=1e-4)


def test_gradient_equals_finite_differences_through_the_encoder(folder):
  """The rows' gradient through a rematerialised text encoder, along random directions."""
  b, words = subjects.opened(folder, "sd21-base")
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  prompts = conditioning.tokenise(words, ["a <id>"], {"<id>": 2})
  weights, rows = normal(1, 1, 77, 32) / 50, normal(2, 32)

  @jax.jit
  def value(rows):
    return (ti.condition([{"rows": (rows[None, None],)}], b, prompts, CFG, remat=True).k * weights).sum()

  gradient = np.asarray(jax.jit(jax.grad(value))(rows))
  assert (np.abs(gradient).max(-1) > 1e-4).all()
  for _ in range(4):
    way = normal(2, 32)
    slope = (float(value(rows + 1e-2 * way)) - float(value(rows - 1e-2 * way))) / 2e-2
    np.testing.assert_allclose((gradient * way).sum(), slope, rtol=0.02, atol=1e-3)


def test_gradient_equals_finite_differences_through_the_unet(sd, gradient):
  """Along the gradient, where the slope is its norm."""
  params, keys = {"rows": (sd.constants["start"][0] + 0.05,)}, jax.random.split(jax.random.key(2), 2)
  _, g = gradient(params, sd, {}, keys)
  norm = float(jnp.linalg.norm(g["rows"][0]))
  value = lambda h: float(gradient({"rows": (params["rows"][0] + h / norm * g["rows"][0],)}, sd, {}, keys)[0][0])
  np.testing.assert_allclose((value(5e-3) - value(-5e-3)) / 1e-2, norm, rtol=0.05)


@pytest.mark.slow
def test_both_of_sdxls_encoders_learn_for_people_side_by_side(folder):
  """Under vmap every vector of both encoders has a gradient, which differs between people."""
  fz = subjects.frozen(folder, "sdxl", ti, CFG)
  people = jax.tree.map(lambda *x: np.stack(x), *(subjects.person(fz.backbone, seed) for seed in (0, 1)))
  params = jax.tree.map(lambda x: jnp.stack([x, x]), ti.init(jax.random.key(0), fz, CFG))
  keys = jax.vmap(lambda k: jax.random.split(k, 2))(jax.random.split(jax.random.key(0), 2))
  one = jax.grad(lambda p, s, k: ti.loss(p, fz._replace(subject=s), {}, k, CFG)[0])
  grads = jax.jit(jax.vmap(one))(params, people, keys)
  for g in grads["rows"]:
    assert (np.abs(g).max(-1) > 0).all()  # each person's every vector
    assert not np.array_equal(g[0], g[1])


# Placeholders.


def test_placeholders_expand_in_order_and_shift_what_follows(folder):
  """A placeholder takes as many positions as it has rows, and a changed row changes the context from there on."""
  b, words = subjects.opened(folder, "sd21-base")
  texts = ["x <a> y <b> z", "x <b> y <a> z"]
  one = conditioning.tokenise(words, texts, {"<a>": 1, "<b>": 1})
  many = conditioning.tokenise(words, texts, {"<a>": 3, "<b>": 2})
  np.testing.assert_array_equal(one.where[0], [[2, 4], [4, 2]])
  np.testing.assert_array_equal(many.where[0], [[2, 3, 4, 6, 7], [5, 6, 7, 2, 3]])
  np.testing.assert_array_equal(many.eos[0], one.eos[0] + 3)
  ids = lambda p: [i for i in p.ids[0][0] if i not in (words[0].eos, words[0].pad)]
  assert ids(one) == ids(many)

  rng = np.random.default_rng(0)
  rows = rng.standard_normal((5, 32)).astype(np.float32)
  person = lambda r: {"rows": (jnp.asarray(r)[None, None],)}
  cond = ti.condition([person(rows[:3]), person(rows[3:])], b, many, CFG)
  other_rows = rows.copy()
  other_rows[4] += 1  # the second row of <b>
  other = ti.condition([person(other_rows[:3]), person(other_rows[3:])], b, many, CFG)
  differs = (cond.k != other.k).any(-1)[0]
  assert [int(d.argmax()) for d in differs] == [7, 3]  # seen from its own position on, no earlier


def test_rows_that_do_not_fit_are_refused(folder):
  _, words = subjects.opened(folder, "sd21-base")
  fits = "x" * 73 + " <a>"
  assert (conditioning.tokenise(words, [fits], {"<a>": 2}).where[0] == [[74, 75]]).all()
  with pytest.raises(UserError, match="cut off"):
    conditioning.tokenise(words, ["x" + fits], {"<a>": 2})


# What all methods share.


def test_the_list_of_captions():
  """81 captions, 57 of them distinct; those without a medium of their own count three times."""
  assert len(templates.TEMPLATES) == 81 and len(set(templates.TEMPLATES)) == 57
  assert all(t.count("{}") == 1 for t in (*templates.TEMPLATES, *templates.PHOTO))
  assert all(templates.TEMPLATES.count(f"{s} {{}}") == 3 for s in templates.SHARED)
  assert sum(t.startswith("a photo of") for t in templates.TEMPLATES) == 15


def test_a_perfect_prediction_of_noise_is_one_of_v(rng):
  """The exact noise converted to v has no error against the v target, and the other way round."""
  z, eps = rng.standard_normal((2, 3, 4, 4, 2)).astype(np.float32)
  abar = np.array([0.01, 0.5, 0.99], np.float32)
  zt = diffusion.add_noise(z, eps, abar)
  v = diffusion.target(z, eps, abar, "v_prediction")
  np.testing.assert_allclose(diffusion.mse(diffusion.v_from(eps, zt, abar, "epsilon"), v), 0, atol=1e-9)
  np.testing.assert_allclose(diffusion.mse(diffusion.eps_from(v, zt, abar, "v_prediction"), eps), 0, atol=1e-9)
