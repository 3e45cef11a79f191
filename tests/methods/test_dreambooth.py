"""DreamBooth: the whole UNet or LoRA, prior preservation, several people."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import subjects, tiny_pipelines

from idejax import tree
from idejax.errors import UserError
from idejax.methods import dreambooth as db
from idejax.model import anchors, backbone, conditioning
from idejax.nets import cross_attention
from idejax.person import subject
from idejax.training import step

CFG = db.Config(word="q z", trains="lora", rank=4, alpha=6.0, lora_lr=1e-2, prior=0.7)
FULL = dataclasses.replace(CFG, trains="unet", lr=1e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tiny_pipelines.write(tmp_path_factory.mktemp("tiny"), "sd21-base", "sdxl")


@pytest.fixture(scope="module")
def sd(folder):
  return subjects.frozen(folder, "sd21-base", db, CFG)


@pytest.fixture(scope="module")
def trained(sd):
  """(before, after, log) of three steps of LoRA."""
  return subjects.train(db, CFG, sd, 3)


@pytest.fixture(scope="module")
def forward(sd):
  """The UNet's output under an override, compiled once."""
  x = np.random.default_rng(0).standard_normal((2, 16, 16, 4)).astype(np.float32)
  run = jax.jit(
    lambda changes: backbone.predict(
      backbone.with_unet(sd.backbone, changes), x, jnp.array([10, 900]), sd.constants["text"]
    )
  )
  return lambda changes: np.asarray(run(jax.tree.map(jnp.asarray, changes)))


def test_the_whole_unet_trains_on_sd_and_lora_on_sdxl(folder, sd):
  auto = dataclasses.replace(CFG, trains="auto")
  shapes = lambda fz, cfg: jax.eval_shape(lambda key: db.init(key, fz, cfg), jax.random.key(0))
  full = shapes(sd, auto)
  assert set(full) == {"unet"} and tree.size(full) == tree.size(sd.backbone.params["unet"])
  b, _ = subjects.opened(folder, "sdxl")
  xl = shapes(sd._replace(backbone=b), auto)
  assert set(xl) == {"lora"}
  cross = cross_attention.attention_paths(b.params["unet"])
  result = tree.flatten(xl)
  for path, (context, width) in cross.items():  # the factors of stacked blocks are stacked
    assert result[f"lora.{path}.to_k.kernel.lora_A"].shape[-2:] == (context, 4)
    assert result[f"lora.{path}.to_k.kernel.lora_B"].shape[-2:] == (4, width)
  assert len(result) == 2 * 4 * 2 * len(cross)  # factors, projections, self- and cross-attention
  assert any(x.ndim == 3 for x in result.values())


def test_lora_begins_as_torch_begins(sd):
  """A is uniform in +-1 / sqrt(inputs), also where blocks are stacked; B is zero."""
  wide = {"attn1": {"to_q": {"kernel": np.zeros((3, 64, 32), np.float32)}}}
  b = dataclasses.replace(sd.backbone, params={"unet": {"down.0": wide}})
  leaves = tree.flatten(db.init(jax.random.key(0), sd._replace(backbone=b), dataclasses.replace(CFG, rank=256)))
  a, zero = leaves["lora.down.0.attn1.to_q.kernel.lora_A"], leaves["lora.down.0.attn1.to_q.kernel.lora_B"]
  assert a.shape == (3, 64, 256) and not zero.any()
  assert 0.124 < np.abs(a).max() <= 0.125 and abs(np.std(a) - 0.125 / 3**0.5) < 1e-3


def test_nothing_trained_is_the_base_to_the_bit(sd):
  """Untrained LoRA factors and untrained whole weights, of one person or several, leave every bit of the UNet."""
  base = sd.backbone.params["unet"]
  lora = db.represent(db.init(jax.random.key(0), sd, CFG), sd, CFG)
  for people in ([lora], [lora] * 3):
    changes = db.override(people, sd.backbone, CFG)
    assert not subjects.moved(base, tree.override(base, changes))
    assert len(tree.flatten(changes)) == 4 * 2 * len(cross_attention.attention_paths(base))
  full = db.represent(db.init(jax.random.key(0), sd, FULL), sd, FULL)
  for people in ([full], [full] * 2):
    assert not subjects.moved(base, db.override(people, sd.backbone, FULL))


def test_merged_factors_equal_factors_beside_the_kernel(rng):
  """x (W + s A B) = x W + s (x A) B, also for stacked blocks."""
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  w, a, b, x = normal(3, 8, 6), normal(3, 8, 4), normal(3, 4, 6), normal(3, 5, 8)
  merged = db.merge({"k": w}, [{"k": {"lora_A": a, "lora_B": b}}], [0.5], CFG)["k"]
  np.testing.assert_allclose(x @ np.asarray(merged), x @ w + 0.5 * 6 / 4 * (x @ a) @ b, rtol=1e-5, atol=1e-5)


def test_steps_of_lora(sd, trained):
  """Every factor moves; the text encoder cannot, as it is no parameter; the loss is the sum of its two parts."""
  before, after, log = trained
  assert subjects.moved(before, after) == set(tree.flatten(before))
  assert all(p.startswith("lora.") for p in tree.flatten(before))
  for m in log:
    assert np.isfinite(list(m.values())).all()
    np.testing.assert_allclose(m["loss"], m["diffusion"] + 0.7 * m["class"], rtol=1e-5)


def test_scale_is_a_runtime_knob(sd, trained, forward):
  identity = db.represent(trained[1], sd, CFG)
  at = lambda scale: db.override([identity | {"scale": jnp.float32(scale)}], sd.backbone, CFG)
  untrained = db.represent(trained[0], sd, CFG)
  base, full = forward(db.override([untrained], sd.backbone, CFG)), forward(at(1.0))
  np.testing.assert_array_equal(forward(at(0.0)), base)
  assert np.abs(full - base).max() > 1e-3
  assert np.abs(forward(at(0.1)) - base).max() < np.abs(full - base).max()


def test_several_people_share_the_mean_of_their_changes(sd, trained):
  rng = np.random.default_rng(0)
  noisy = lambda params: jax.tree.map(lambda x: x + rng.standard_normal(x.shape).astype(np.float32), params)
  kernels = tree.flatten(db._attention(sd.backbone))
  a, c = (db.represent(noisy(trained[1]), sd, CFG) for _ in range(2))
  change = lambda *people: {
    p: np.asarray(x) - kernels[p] for p, x in tree.flatten(db.override(people, sd.backbone, CFG)).items()
  }
  both, first, second = change(a, c), change(a), change(c)
  for path in both:
    np.testing.assert_allclose(both[path], (first[path] + second[path]) / 2, atol=1e-4)

  base = sd.backbone.params["unet"]
  x, y = ({"unet": noisy(base), "rows": (), "scale": jnp.ones(())} for _ in range(2))
  mixed = db.override([x, y], sd.backbone, FULL)
  mean = jax.tree.map(lambda p, q: (p + q) / 2, x["unet"], y["unet"])
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), mixed, mean)
  alone = db.override([x], sd.backbone, FULL)
  assert not subjects.moved(alone, x["unet"])  # to the bit


# The loss.


@pytest.fixture(scope="module")
def objective(sd):
  params = db.init(jax.random.key(3), sd, CFG)
  compiled = functools.cache(lambda cfg: jax.jit(functools.partial(db.objective, cfg=cfg)))
  return lambda own, of_class, cfg=CFG: compiled(cfg)(params, sd, own, of_class)


def example(sd, seed, caption=0):
  s, index = sd.subject, np.array([0, 1])
  keys = tuple(jax.random.split(jax.random.key(seed + i), 2) for i in range(3))
  captions = jnp.full(2, caption, jnp.int32)
  return subject.make_example(sd.backbone, jnp.asarray(index), captions, s.mean[index], s.logvar[index], keys)


def test_equal_batches_count_one_plus_prior_times(sd, objective):
  """With the same example for person and class the loss is 1 + prior times the person's."""
  e = example(sd, 0)
  single, _ = objective(e, None)
  double, metrics = objective(e, e)
  np.testing.assert_allclose(double, 1.7 * single, rtol=1e-5)
  np.testing.assert_allclose(metrics["class"], metrics["diffusion"], rtol=1e-5)


def test_each_half_has_its_own_pictures_and_caption(sd, objective):
  person, other, same = example(sd, 0), example(sd, 5), example(sd, 0)
  _, m = objective(person, other)
  _, alone = objective(other, None)
  np.testing.assert_allclose(m["class"], alone["diffusion"], rtol=1e-5)
  _, renamed = objective(person, same._replace(caption=jnp.ones(2, jnp.int32)))
  assert abs(renamed["class"] / renamed["diffusion"] - 1) > 1e-6  # the class has another caption
  assert db.needs(CFG, sd.backbone.nets).captions == ("a photo of {}", "a photo of a person")


def test_the_class_prompt_goes_with_class_pictures_and_the_word_with_the_persons(sd):
  """NaN in one caption's context reaches that caption's part of the loss, and no other."""
  run, params = jax.jit(functools.partial(db.loss, cfg=CFG)), db.init(jax.random.key(3), sd, CFG)
  text = sd.constants["text"]

  def broken(caption):
    k = text.k.at[:, caption].set(np.nan)
    mute = sd._replace(constants=sd.constants | {"text": dataclasses.replace(text, k=k, v=k)})
    value, m = run(params, mute, {}, jax.random.split(jax.random.key(0), 4))
    assert np.isnan(value)
    return {name for name in ("diffusion", "class") if np.isnan(m[name])}

  assert broken(1) == {"class"} and broken(0) == {"diffusion"}


def test_factors_and_whole_weights_learn_at_rates_of_their_own():
  """Adam's first step is its rate, whatever the gradient; kernels of ones decay by rate times weight decay."""
  cfg = dataclasses.replace(CFG, lr=1e-6, lora_lr=1e-3, weight_decay=0.1)
  params = {"unet": {"kernel": np.ones(3, np.float32)}, "lora": {"lora_A": np.ones(3, np.float32)}}
  tx = step.by_path(*db.rates(cfg))
  update, _ = tx.update(jax.tree.map(lambda x: 0.1 * x, params), tx.init(params), params)
  np.testing.assert_allclose(update["unet"]["kernel"], -1.1e-6, rtol=1e-4)
  np.testing.assert_allclose(update["lora"]["lora_A"], -1.1e-3, rtol=1e-4)


def test_the_rate_may_fall_along_a_cosine():
  """From lr at the first step by way of half of it to nothing; by default it stays."""
  params = {"lora": {"lora_A": np.ones(3, np.float32)}}

  def rates(schedule):
    cfg = dataclasses.replace(CFG, lora_lr=1e-3, weight_decay=0.0, schedule=schedule, steps=4)
    tx = step.by_path(*db.rates(cfg))
    opt, out = tx.init(params), []
    for _ in range(5):
      update, opt = tx.update(jax.tree.map(lambda x: 0.1 * x, params), opt, params)
      out.append(-float(update["lora"]["lora_A"][0]))
    return out

  np.testing.assert_allclose(rates("constant"), [1e-3] * 5, rtol=1e-4)
  np.testing.assert_allclose(rates("cosine"), 1e-3 * (1 + np.cos(np.pi * np.arange(5) / 4)) / 2, rtol=1e-3, atol=1e-9)


def test_the_average_of_the_steps_is_kept(sd):
  """With ema m the kept factors are m times themselves plus 1 - m times the step's; what learns is as without."""
  cfg = dataclasses.replace(CFG, ema=0.75)
  params, tx = db.init(jax.random.key(0), sd, cfg), step.by_path(*db.rates(cfg))
  run = jax.jit(step.make_step(functools.partial(db.loss, cfg=cfg), tx))
  state, average = step.init(jax.tree.map(np.asarray, params), tx), params["lora"]
  for _ in range(3):
    average = jax.tree.map(lambda a, x: 0.75 * a + 0.25 * x, average, state.params["lora"])
    state, _ = run(state, sd, {"index": np.arange(2, dtype=np.int32)}, jax.random.key(0))
  assert subjects.moved(params, state.params) >= {k for k in tree.flatten(params) if k.startswith("lora")}
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), state.params["average"]["lora"], average)
  kept = db.represent(state.params, sd, cfg)
  assert set(kept) == {"rows", "lora", "scale"} and not subjects.moved(kept["lora"], state.params["average"]["lora"])


def test_the_strength_is_of_pictures(sd):
  params = db.init(jax.random.key(0), sd, CFG)
  assert float(db.represent(params, sd, CFG)["scale"]) == 1
  assert float(db.represent(params, sd, dataclasses.replace(CFG, strength=0.7))["scale"]) == np.float32(0.7)


def test_without_a_prior_class_pictures_are_not_read(sd):
  """NaN in class pictures and in the mirrored variant changes nothing; NaN in the photo does."""
  cfg = dataclasses.replace(CFG, prior=0.0)
  run, params = jax.jit(functools.partial(db.loss, cfg=cfg)), db.init(jax.random.key(3), sd, cfg)
  value = lambda s: float(run(params, sd._replace(subject=s), {}, jax.random.split(jax.random.key(0), 4))[0])
  s = sd.subject
  mirrored = np.where(np.arange(2).reshape(2, 1, 1, 1) == 1, np.nan, s.mean).astype(np.float32)
  assert np.isfinite(value(s))
  assert value(s._replace(prior_mean=np.full_like(s.prior_mean, np.nan), mean=mirrored)) == value(s)
  assert np.isnan(value(s._replace(mean=np.full_like(s.mean, np.nan))))


def test_with_a_prior_they_are_needed(sd):
  bare = sd._replace(subject=sd.subject._replace(prior_mean=None, prior_logvar=None))
  with pytest.raises(UserError, match="pictures of the class"):
    db.init(jax.random.key(0), bare, CFG)
  db.init(jax.random.key(0), bare, dataclasses.replace(CFG, prior=0.0))


def test_the_word_is_its_tokens(folder, sd):
  """With the rows of the rare word and the class noun, prompts give the context of the written words."""
  b, words = subjects.opened(folder, "sd21-base")
  assert CFG.vectors == 2 and db.Config().vectors == 2
  identity = db.represent(db.init(jax.random.key(0), sd, CFG), sd, CFG)
  prompts = conditioning.tokenise(words, ["a photo of <id>", "my <id> here"], {"<id>": CFG.vectors})
  plain = conditioning.contexts(b, conditioning.tokenise(words, ["a photo of q z", "my q z here"], {}), None)
  np.testing.assert_array_equal(db.condition([identity], b, prompts, CFG).k, plain.k)
  np.testing.assert_allclose(sd.constants["text"].k[:, :1], plain.k[:, :1], atol=1e-5)
  with pytest.raises(UserError, match="tokens"):
    db.constants(b, words, (), dataclasses.replace(CFG, word="sks z"))
  with pytest.raises(UserError, match="empty"):
    db.constants(b, words, (), dataclasses.replace(CFG, word=" "))
  assert anchors.word_rows(b, words, "q")[0].shape == (1, 32)


@pytest.mark.slow
def test_a_step_of_the_whole_unet(sd):
  """Every parameter of the UNet moves; the backbone's own stay."""
  before = jax.tree.map(np.array, sd.backbone.params)
  params, after, log = subjects.train(db, FULL, sd, 2)
  assert subjects.moved(params, after) == set(tree.flatten(params))
  assert np.isfinite(log[-1]["loss"]) and log[0]["grad_norm"] > 0
  assert not subjects.moved(before, sd.backbone.params)
  identity = db.represent(after, sd, FULL)
  assert not subjects.moved(db.override([identity], sd.backbone, FULL), after["unet"])


@pytest.mark.slow
def test_sdxl_and_people_side_by_side(folder):
  """LoRA of scanned blocks, under vmap over people, with a traced identity."""
  fz = subjects.frozen(folder, "sdxl", db, CFG)
  people = jax.tree.map(lambda *x: np.stack(x), *(subjects.person(fz.backbone, s) for s in (0, 1)))
  tx = step.by_path(*db.rates(CFG))
  train = step.make_step(functools.partial(db.loss, cfg=CFG), tx)

  @jax.jit
  @jax.vmap
  def run(key, s):
    one = fz._replace(subject=s)
    state = step.init(db.init(key, one, CFG), tx)
    for _ in range(2):
      state, metrics = train(state, one, {"index": jnp.arange(1)}, key)
    return state.params, metrics

  params, metrics = run(jax.random.split(jax.random.key(0), 2), people)
  assert np.isfinite(metrics["loss"]).all() and metrics["loss"][0] != metrics["loss"][1]
  for path, x in tree.flatten(params).items():
    assert np.isfinite(x).all() and (x[0] != x[1]).any(), path


# The text encoder, and the face's share.

TEXT = dataclasses.replace(CFG, text_encoder=True, text_lr=1e-2)


@pytest.fixture(scope="module")
def with_text(folder):
  return subjects.frozen(folder, "sd21-base", db, TEXT)


def opened_up(params, seed=0):
  """LoRA's B, which begin at zero, drawn."""
  rng = np.random.default_rng(seed)
  draw = lambda path, x: x if path.endswith("lora_A") else 0.2 * rng.standard_normal(x.shape).astype(np.float32)
  return tree.map_with_path(draw, params)


def test_text_encoders_train_like_the_unet_beside_them(folder, with_text):
  """Low-rank changes of the attention of one or of SDXL's two, or all of it; by default none."""
  shapes = lambda fz, cfg: jax.eval_shape(lambda key: db.init(key, fz, cfg), jax.random.key(0))
  b, _ = subjects.opened(folder, "sdxl")
  low = shapes(with_text._replace(backbone=b), TEXT)
  assert set(low) == {"lora", "text_lora"} and set(low["text_lora"]) == {"text_encoder", "text_encoder_2"}
  paths = {p.rsplit(".", 2)[0].split(".")[-1] for p in tree.flatten(low["text_lora"])}
  assert paths == {"q_proj", "k_proj", "v_proj", "out_proj"}
  whole = shapes(with_text, dataclasses.replace(TEXT, trains="unet", ema=0.9))
  assert tree.size(whole["text"]) == tree.size(with_text.backbone.params["text_encoder"])
  assert set(whole["average"]) == {"unet", "text"}
  assert set(shapes(with_text, dataclasses.replace(TEXT, text_encoder=False))) == {"lora"}


def test_a_changed_text_encoder_reads_prompts_that_name_the_person(folder, with_text):
  """At strength 0, and untrained, it is the base's; in between it is base + strength alpha / rank A B."""
  b, words = subjects.opened(folder, "sd21-base")
  prompts = conditioning.tokenise(words, ["a photo of <id>"], {"<id>": 2})
  read = jax.jit(lambda who: db.condition([who], b, prompts, TEXT).k[0])
  start = db.represent(db.init(jax.random.key(0), with_text, TEXT), with_text, TEXT)
  base = jax.jit(lambda: conditioning.contexts(b, prompts, with_text.constants["rows"]).k[0])()
  np.testing.assert_array_equal(read(start), base)
  who = db.represent(opened_up(db.init(jax.random.key(0), with_text, TEXT)), with_text, TEXT)
  np.testing.assert_allclose(read(who | {"scale": jnp.zeros(())}), base, atol=1e-6)
  assert np.abs(read(who) - base).max() > 1e-2
  changed = db.text_override([who], b, TEXT)["text_encoder"]
  (path, w), *_ = tree.flatten(changed).items()
  factors = tree.flatten(who["text_lora"]["text_encoder"])
  want = tree.flatten(b.params["text_encoder"])[path] + 6 / 4 * factors[path + ".lora_A"] @ factors[path + ".lora_B"]
  np.testing.assert_allclose(w, want, rtol=1e-4, atol=1e-5)
  e = db.export(who, b, TEXT)
  a, up = e.text_low_rank["text_encoder"]
  np.testing.assert_allclose(tree.flatten(a)[path] @ tree.flatten(up)[path], 6 / 4 * factors[path + ".lora_A"] @ factors[path + ".lora_B"], rtol=1e-4, atol=1e-6)  # fmt: skip
  assert set(e.without_text) == {"rows", "lora", "scale"} and db.export(start, b, CFG).text.keys() == {"text_encoder"}


def test_the_name_is_read_off_the_table_as_it_is_trained(with_text):
  cfg = dataclasses.replace(TEXT, trains="unet")
  weights = {
    "text": {"text_encoder": {db._TABLE: {"embedding": np.arange(514.0 * 4).reshape(514, 4).astype(np.float32)}}}
  }
  (rows,) = db.represent(weights, with_text, cfg)["rows"]
  (ids,) = with_text.constants["ids"]
  np.testing.assert_array_equal(rows[0, 0], weights["text"]["text_encoder"][db._TABLE]["embedding"][ids])
  np.testing.assert_allclose(
    anchors.tables(with_text.backbone)[0][ids], with_text.constants["rows"][0][0, 0], rtol=1e-6
  )


@pytest.fixture
def no_unet(monkeypatch):
  """A UNet that is a gain for each picture, by its context: its gradient compiles in a moment."""
  monkeypatch.setattr(db, "predict", lambda b, x, t, cond: x * (1 + cond.k.mean((0, 2, 3)))[:, None, None, None])


def test_the_text_encoder_learns_through_the_prompt(with_text, no_unet):
  params = opened_up(db.init(jax.random.key(0), with_text, TEXT))
  keys = jax.random.split(jax.random.key(0), 2)
  gradient = jax.jit(jax.grad(lambda p: db.loss(p, with_text, {}, keys, TEXT)[0]))(params)
  sizes = {k: float(np.abs(x).max()) for k, x in tree.flatten(gradient["text_lora"]).items()}
  assert sizes and min(sizes.values()) > 0, sizes
  update = step.by_path(*db.rates(TEXT))
  moved, _ = update.update(gradient, update.init(params), params)
  assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(moved["text_lora"]))


def test_the_face_may_count_more(sd, no_unet):
  """By place, with the picture's own mean at 1; class pictures count alike everywhere."""
  cfg, e, other = dataclasses.replace(CFG, face_weight=3.0), example(sd, 0), example(sd, 5)
  region = np.asarray(db.face_region(sd.subject, e.variant, cfg)) ** 2
  mask = sd.subject.face_mask[np.asarray(e.variant)][..., None] > 0
  np.testing.assert_allclose(region.mean((1, 2, 3)), 1, rtol=1e-5)
  assert np.allclose(region[mask] / region[~mask].max(), 4, rtol=1e-5)
  params = db.init(jax.random.key(3), sd, cfg)
  _, m = db.objective(params, sd, e, other, cfg)
  _, plain = db.objective(params, sd, e, other, CFG)
  gain = 1 + np.asarray(sd.constants["text"].k[0, 0]).mean()
  want = (region * (np.asarray(e.noisy) * gain - np.asarray(e.target)) ** 2).mean()
  np.testing.assert_allclose(m["diffusion"], want, rtol=1e-4)
  np.testing.assert_allclose(m["class"], plain["class"], rtol=1e-6)
  assert abs(m["diffusion"] / plain["diffusion"] - 1) > 1e-4
