"""StableIdentity: AdaIN to the celebrities' names, the two masked phases, SD and SDXL."""

import dataclasses
import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import subjects, tiny_pipelines

from idejax import draws, ranges, tree
from idejax.errors import UserError
from idejax.methods import stable_identity as si
from idejax.model import anchors, conditioning
from idejax.model.backbone import Backbone
from idejax.nets.clip import TextConfig
from idejax.person import subject
from idejax.training import step

PAIRS = ("ab", "cd", "ef", "gh", "ij", "kl")  # two tokens each, of a tokenizer without merges
CFG = si.Config(source="recogniser", templates=("a photo of {}", "{} smiles"), lr=1e-2, batch=2)
WIDTHS = {"sd15": (768,), "sd21-base": (1024,), "sdxl": (768, 1280)}


def make_frozen(folder, family, cfg=CFG, **how):
  with mock.patch.object(subjects, "NAMES", PAIRS):
    return subjects.frozen(folder, family, si, cfg, **how)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tiny_pipelines.write(tmp_path_factory.mktemp("tiny"), "sd21-base", "sdxl")


@pytest.fixture(scope="module")
def sd(folder):
  return make_frozen(folder, "sd21-base")


@pytest.fixture(scope="module")
def stepped():
  """(first parameters, parameters and metrics after a step); one program for all data of the small pipeline."""
  tx = step.by_path(*si.rates(CFG))
  run = jax.jit(step.make_step(functools.partial(si.loss, cfg=CFG), tx))

  def once(fz, seed=0):
    params = si.init(jax.random.key(0), fz, CFG)
    state = step.init(params, tx)
    state, metrics = run(state, fz, {"index": np.arange(1, dtype=np.int32)}, jax.random.key(seed))
    return params, state.params, metrics

  return once


def of_width(sd, family):
  """A Frozen whose text encoders have a real family's widths, without weights."""
  widths = WIDTHS[family]
  text = tuple(TextConfig(hidden_size=w, num_attention_heads=4) for w in widths)
  b = Backbone(dataclasses.replace(sd.backbone.nets, text=text), {})
  statistics = tuple(
    (np.full((2, w), 0.5, np.float32), np.linspace(0.1, 2, 2 * w, dtype=np.float32).reshape(2, w)) for w in widths
  )
  vit = np.random.default_rng(1).standard_normal((2, 768)).astype(np.float32)
  return sd._replace(backbone=b, constants={"statistics": statistics}, subject=sd.subject._replace(features=vit))


# The two words.


@pytest.mark.parametrize(
  "family, depth, count",
  [
    ("sd15", 2, 3_548_160),
    ("sd15", 6, 13_003_776),
    ("sd21-base", 2, 5_779_456),
    ("sd21-base", 6, 22_581_248),
    ("sdxl", 2, 12_083_200),
    ("sdxl", 6, 47_783_936),
  ],
)
def test_the_mlp_has_the_papers_size(sd, family, depth, count):
  cfg = si.Config(depth=depth)
  fz = of_width(sd, family)
  params = jax.eval_shape(lambda key: si.init(key, fz, cfg), jax.random.key(0))
  assert tree.size(params) == count
  identity = jax.eval_shape(lambda p: si.represent(p, fz, cfg), params)
  assert [r.shape for r in identity["rows"]] == [(1, 1, 2, w) for w in WIDTHS[family]]


@pytest.mark.parametrize("depth", [2, 3])
def test_words_begin_with_the_names_statistics(sd, depth):
  """The z-scores of both words together have mean 0 and variance 1."""
  fz, cfg = of_width(sd, "sdxl"), si.Config(depth=depth)
  params = si.init(jax.random.key(0), fz, cfg)
  for row, (mean, deviation) in zip(si.represent(params, fz, cfg)["rows"], fz.constants["statistics"]):
    z = (np.asarray(row[0, 0]) - mean) / deviation
    assert abs(z.mean()) < 1e-5 and abs(z.var() - 1) < 0.01
    assert abs(z[0].mean()) > 1e-3  # jointly, not word by word


def test_an_mlp_that_says_nothing_gives_the_mean_name(sd):
  params = si.init(jax.random.key(0), sd, CFG)
  params["mlp"][0]["layers.1"]["kernel"] *= 0
  np.testing.assert_array_equal(si.represent(params, sd, CFG)["rows"][0][0, 0], sd.constants["statistics"][0][0])


def test_layers_follow_the_papers_equations():
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  norm = lambda: {"scale": normal(6), "bias": normal(6)}
  dense = lambda i: {"kernel": normal(i, 6), "bias": normal(6)}
  params = {
    "layers.0": dense(4),
    "layers.1": dense(6),
    "layers.2": dense(6),
    "norms.1": norm(),
    "norms.2": norm(),
    "norm": norm(),
  }
  relu = lambda x: np.where(x > 0, x, 0.2 * x)
  linear = lambda i, x: 0.1 * (x @ params[f"layers.{i}"]["kernel"] + params[f"layers.{i}"]["bias"])

  def ln(name, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * params[name]["scale"] + params[name]["bias"]

  with jax.numpy_rank_promotion("allow"):
    x = normal(5, 4)
    y = relu(linear(0, x))
    y = y + relu(linear(1, ln("norms.1", y)))
    y = ln("norm", linear(2, ln("norms.2", y)))
  np.testing.assert_allclose(si.mlp(params, x, 3), y.reshape(5, 2, 3), rtol=2e-4, atol=2e-5)


def test_the_source_of_features(sd):
  vit = sd._replace(subject=sd.subject._replace(features=np.eye(2, 7, dtype=np.float32)))
  photo, variants = si.features(vit.subject, si.Config())
  np.testing.assert_array_equal(photo, vit.subject.features[0])
  np.testing.assert_array_equal(variants, vit.subject.features)
  photo, variants = si.features(sd.subject, CFG)
  assert photo.shape == (512,) and variants.shape == (2, 512)
  np.testing.assert_allclose(np.square(photo).mean(), 1, rtol=1e-5)
  with pytest.raises(UserError, match="face ViT"):
    si.init(jax.random.key(0), sd, si.Config())
  with pytest.raises(UserError, match="depth is 1"):
    ranges.check(si.Config(depth=1))


# The loss.


def example(b, t, seed=0):
  """Random latents at timesteps t."""
  rng = np.random.default_rng(seed)
  s = subjects.person(b, seed)
  index = np.zeros(len(t), np.int32)
  keys = jax.random.split(jax.random.key(seed), len(t))
  e = subject.make_example(b, index, index, s.mean[index], s.logvar[index], draws.split(keys, 3))
  t = np.array(t, np.int32)
  abar = jnp.asarray(b.nets.schedule.alphas_cumprod, jnp.float32)[t]
  wide = abar[:, None, None, None]
  noisy = jnp.sqrt(wide) * e.latents + jnp.sqrt(1 - wide) * e.noise
  v = jnp.sqrt(wide) * e.noise - jnp.sqrt(1 - wide) * e.latents
  target = v if b.nets.schedule.prediction_type == "v_prediction" else e.noise
  e = e._replace(t=t, abar=abar, noisy=noisy, target=target)
  return e, s.face_mask[index], s.hair_mask[index], rng.standard_normal(e.noisy.shape).astype(np.float32)


def predicting(b, kind):
  return Backbone(
    dataclasses.replace(b.nets, schedule=dataclasses.replace(b.nets.schedule, prediction_type=kind)), b.params
  )


@pytest.fixture(params=["epsilon", "v_prediction"])
def b(request, sd):
  return predicting(sd.backbone, request.param)


def test_the_phases_meet_at_alpha(b):
  """Timesteps above alpha T are in the noise's phase, and a perfect prediction has no error in either."""
  e, face, hair, _ = example(b, [0, 599, 600, 601, 999])
  error, noisy = si.errors(b, e.target, e, face, hair, CFG)
  np.testing.assert_array_equal(noisy, [False, False, False, True, True])
  np.testing.assert_allclose(error, 0, atol=1e-7)
  assert si.errors(b, e.target, e, face, hair, dataclasses.replace(CFG, alpha=0.5))[1].tolist() == [False] + [True] * 4


def test_pixels_outside_the_masks_do_not_count(b):
  """Neither error nor gradient sees pixels outside face and hair; with weight 0 the hair does not count."""
  e, face, hair, out = example(b, [300, 800])
  total = lambda out, cfg: si.errors(b, out, e, face, hair, cfg)[0].sum()
  outside = ((face + hair) == 0)[..., None]
  assert outside.any() and not (face * hair).any()
  assert total(out, CFG) == total(out + 100 * outside, CFG) > 0
  g = jax.grad(total)(out, CFG)
  assert not g[np.broadcast_to(outside, g.shape)].any()
  in_face, in_hair = (np.broadcast_to(m[..., None] > 0, g.shape) for m in (face, hair))
  assert (g[in_face] != 0).all() and (g[in_hair] != 0).all()
  bald = jax.grad(total)(out, dataclasses.replace(CFG, hair=0.0))
  assert not bald[in_hair].any() and (bald[in_face] == g[in_face]).all()


def test_the_error_of_latents_is_a_weighted_error_of_noise(sd):
  """Below alpha T the error is the noise's times (1 - abar) / (abar scale^2), above it the noise's itself."""
  b, t = sd.backbone, [50, 400, 700]
  e, face, hair, out = example(b, t)
  error, _ = si.errors(b, out, e, face, hair, dataclasses.replace(CFG, hair=0.3))
  mse = lambda mask: np.square((np.asarray(e.noise) - out) * mask[..., None]).mean((1, 2, 3))
  abar, scale = np.asarray(e.abar, np.float64), b.nets.vae.scaling_factor
  weight = np.where(np.array(t) > 600, 1, (1 - abar) / (abar * scale**2))
  np.testing.assert_allclose(error, weight * (mse(face) + 0.3 * mse(hair)), rtol=1e-4)


def test_area_norm_divides_by_the_masks_part_of_the_picture(sd):
  e, face, hair, out = example(sd.backbone, [700, 100])
  area = dataclasses.replace(CFG, mask_norm="area", hair=0.0)
  plain = si.errors(sd.backbone, out, e, face, hair, dataclasses.replace(CFG, hair=0.0))[0]
  np.testing.assert_allclose(si.errors(sd.backbone, out, e, face, hair, area)[0], plain / face.mean((1, 2)), rtol=1e-6)
  assert np.isfinite(si.errors(sd.backbone, out, e, 0 * face, hair, area)[0]).all()


def test_no_gradient_is_infinite_at_the_ends_of_the_schedule(sd):
  """At abar 0 (zero terminal SNR) the clean latents that the noise implies, which are infinite, are not used."""
  e, face, hair, out = example(sd.backbone, [0, 999])
  e = e._replace(abar=jnp.array([1.0, 0.0]))
  g = jax.grad(lambda out: si.errors(predicting(sd.backbone, "epsilon"), out, e, face, hair, CFG)[0].sum())(out)
  assert np.isfinite(g).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 9, width=32), st.booleans()), min_size=1, max_size=6))
def test_both_phases_of_a_batch_are_averaged_and_added(pairs):
  error, noisy = np.array([p[0] for p in pairs], np.float32), np.array([p[1] for p in pairs])
  parts = [error[m].mean() for m in (noisy, ~noisy) if m.any()]
  np.testing.assert_allclose(si.combine(error, noisy, CFG), sum(parts), rtol=1e-5, atol=1e-6)
  rows = si.combine(error, noisy, dataclasses.replace(CFG, mixed="rows"))
  np.testing.assert_allclose(rows, error.mean(), rtol=1e-5, atol=1e-6)


# Through the networks.


def test_a_step_moves_the_mlp_and_nothing_else(sd, stepped):
  """Every leaf of the MLP moves; backbone, subject and constants stay."""
  before = jax.tree.map(np.array, sd)
  params, after, metrics = stepped(sd)
  assert subjects.moved(params, after) == set(tree.flatten(params))
  assert not subjects.moved(before, sd)
  assert all(np.isfinite(m) for m in metrics.values())
  assert metrics["grad_norm"] > 0 and metrics["skipped"] == 0


def test_a_variants_picture_masks_and_features_go_together(sd, stepped):
  """An example of the mirrored variant reads latents, face features and masks of that variant only."""
  seeds = range(20)
  variant = lambda seed: int(subject.draw(sd, draws.keys(jax.random.key(seed), 0, jnp.arange(1))).variant[0])
  seed = next(s for s in seeds if variant(s) == 1)

  def spoiled(name, v):
    x = getattr(sd.subject, name)
    spoil = np.where(np.arange(2).reshape(-1, *[1] * (x.ndim - 1)) == v, np.nan, x).astype(np.float32)
    return float(stepped(sd._replace(subject=sd.subject._replace(**{name: spoil})), seed)[2]["loss"])

  for name in ("mean", "faces", "face_mask", "hair_mask"):
    assert np.isfinite(spoiled(name, 0)) and np.isnan(spoiled(name, 1)), name


def test_what_is_kept_comes_from_the_photo_itself(sd):
  params = si.init(jax.random.key(0), sd, CFG)
  rows = si.represent(params, sd, CFG)["rows"][0]
  other = sd._replace(subject=sd.subject._replace(faces=0 * sd.subject.faces))
  np.testing.assert_array_equal(rows, si.represent(params, other, CFG)["rows"][0])
  other = sd._replace(subject=sd.subject._replace(face=-sd.subject.face))
  assert (rows != si.represent(params, other, CFG)["rows"][0]).mean() > 0.9


def letters(b, words, text):
  """An identity whose rows are the embeddings of a text's tokens."""
  return {
    "rows": tuple(
      jnp.asarray(table)[np.array(anchors.name_ids(w, [text])[0])][None, None]
      for w, table in zip(words, anchors.tables(b))
    )
  }


def test_two_words_stand_where_the_placeholder_stood(folder):
  """With the rows of real words the context is that of those words, bit for bit."""
  b, words = subjects.opened(folder, "sd21-base")
  one, two = letters(b, words, "x y"), letters(b, words, "p q")
  holders = {"v1*": 2, "v11*": 2}
  texts = ["x y and p q", "p q and x y", "x y alone"]
  plain = conditioning.contexts(b, conditioning.tokenise(words, texts, {}), None)
  prompts = conditioning.tokenise(words, ["v1* and v11*", "v11* and v1*", "v1* alone"], holders)
  mine = si.condition([one, two], b, prompts, CFG)
  np.testing.assert_array_equal(mine.k, plain.k)
  swapped = conditioning.tokenise(words, ["v1* and v11*"], {"v11*": 2, "v1*": 2})
  np.testing.assert_array_equal(swapped.where[0][0], [6, 7, 1, 2])
  np.testing.assert_allclose(si.condition([two, one], b, swapped, CFG).k[:, 0], plain.k[:, 0], atol=1e-5)
  used = prompts.where[0][0]
  assert len(set(used.tolist())) == 4 and (used >= 0).all()


@pytest.mark.slow
def test_sdxl_trains_an_mlp_per_encoder_for_people_in_one_program(folder):
  """Under vmap over people; the UNet needs pooled vector and time ids, so these reach it."""
  fz = make_frozen(folder, "sdxl")
  people = jax.tree.map(lambda *x: np.stack(x), *(subjects.person(fz.backbone, seed) for seed in (0, 1)))
  keys = jax.random.split(jax.random.key(0), 2)
  one = lambda s: fz._replace(subject=s)
  params = jax.vmap(lambda k, s: si.init(k, one(s), CFG))(keys, people)
  assert len(params["mlp"]) == 2

  def gradient(p, s, k):
    return jax.grad(lambda p: si.loss(p, one(s), {}, jax.random.split(k, 2), CFG)[0])(p)

  grads = jax.jit(jax.vmap(gradient))(params, people, keys)
  for path, g in tree.flatten(grads).items():
    assert np.isfinite(g).all() and np.abs(g).max((*range(1, g.ndim),)).min() > 0, path
    assert not np.array_equal(g[0], g[1]), path


def test_sdxls_first_encoder_alone(folder):
  """Rows of the first encoder change its part of the context only, not the pooled vector or time ids."""
  b, words = subjects.opened(folder, "sdxl")
  base, other = letters(b, words, "x y"), letters(b, words, "p q")
  mixed = {"rows": (other["rows"][0], base["rows"][1])}
  prompts = conditioning.tokenise(words, ["a photo of <id>"], {"<id>": 2})
  a, c = (si.condition([i], b, prompts, CFG) for i in (base, mixed))
  first = b.nets.text[0].hidden_size
  assert (a.k[..., :first] != c.k[..., :first]).any()
  np.testing.assert_array_equal(a.k[..., first:], c.k[..., first:])
  np.testing.assert_array_equal(a.pooled, c.pooled)
  np.testing.assert_array_equal(a.time_ids, [[32, 32, 0, 0, 32, 32]])
  plain = conditioning.contexts(b, conditioning.tokenise(words, ["a photo of x y"], {}), None)
  np.testing.assert_array_equal(a.k, plain.k)


@pytest.mark.parametrize("name", si.PRESETS)
def test_presets(name):
  cfg = si.PRESETS[name]
  assert cfg.vectors == 2 and hash(cfg) is not None
  assert all(c.count("{}") == 1 for c in si.needs(cfg, nets=None).captions)
  if name == "delta_reference":
    assert cfg.depth == 6 and cfg.alpha == 0.5
