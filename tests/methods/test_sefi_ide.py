"""SeFi-IDE: words by stage for keys and for values, and the attention loss, against the paper's equations."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import subjects, toys

from idejax import draws, ranges, tree
from idejax.errors import UserError
from idejax.methods import sefi_ide as sefi
from idejax.methods import textual_inversion as ti
from idejax.model import backbone, conditioning
from idejax.model.backbone import Conditioning
from idejax.nets.attention import weights
from idejax.person import subject
from idejax.training import step

CAPTIONS = ("a photo of {}", "{} smiles")
# "x" is one token of the byte tokenizer.
CFG = sefi.Config(word="x", templates=CAPTIONS, target=16, batch=2, parameterisation="direct")
MODULE = dataclasses.replace(CFG, parameterisation="module")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("toys")


@pytest.fixture(scope="module")
def pipeline(folder):
  return toys.opened(folder, "sd15")


@pytest.fixture(scope="module")
def fz(pipeline):
  return toys.frozen(pipeline, sefi, CFG, subjects.person(pipeline[0]))


@pytest.fixture(scope="module")
def gradient():
  """((loss, metrics), gradients) of (table, frozen, keys), compiled once."""
  return jax.jit(jax.value_and_grad(lambda p, fz, keys: sefi.loss(p, fz, {}, keys, CFG), has_aux=True))


@pytest.fixture(scope="module")
def look(pipeline):
  """(output, captured) of the UNet for noisy latents [2, ...], t [2] and contexts k, v [S, 2, L, D]."""
  b = pipeline[0]
  return jax.jit(lambda x, t, k, v: backbone.predict(b, x, t, Conditioning(k, v), capture=True))


@functools.partial(jax.jit, static_argnames="cfg")
def _init(key, fz, cfg):
  return sefi.init(key, fz, cfg)


def start(fz, cfg=CFG, seed=0):
  return _init(jax.random.key(seed), fz, cfg)


def keys(i=0, batch=2):
  return draws.keys(jax.random.key(7), i, np.arange(batch))


def noise(*shape, seed=0, std=1.0):
  return (std * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def attention_of(captured, fz, caption, cfg=CFG):
  """L_att [B] of captured queries and keys."""
  reference = {p: jnp.take(k, caption, axis=-3) for p, k in fz.constants["keys"].items()}
  prompts = conditioning.take(fz.captions, caption)
  return sefi.attention_loss(captured, reference, sefi.columns(prompts, cfg.option), (16, 16), cfg)


def contexts(fz, rows, caption):
  return conditioning.contexts(fz.backbone, conditioning.take(fz.captions, caption), rows)


# What is trained.


@pytest.mark.parametrize(
  "family, counts", [("sd15", [31_477_248]), ("sd21-base", [54_552_576]), ("sdxl", [31_477_248, 83_919_360])]
)
def test_the_module_is_as_large_as_the_papers(family, counts):
  b = toys.full_size(family)
  fz = subject.Frozen(b, {"word": tuple(jnp.zeros((1, t.hidden_size)) for t in b.nets.text)}, None, None)
  params = jax.eval_shape(lambda key: sefi.init(key, fz, sefi.Config()), jax.random.key(0))
  assert [tree.size(m) for m in params["module"]] == counts
  rows = jax.eval_shape(lambda p: sefi.represent(p, fz, sefi.Config()), params)["rows"]
  assert [r.shape for r in rows] == [(5, 2, 1, t.hidden_size) for t in b.nets.text]


def test_it_starts_as_the_class_word(fz, look):
  """Rows, contexts and attention maps begin as those of the prompt with the class word."""
  identity = sefi.represent(start(fz, MODULE), fz, MODULE)
  assert identity["rows"][0].shape == (5, 2, 1, 32)
  assert (np.asarray(identity["rows"][0]) == np.asarray(fz.constants["word"][0])).all()
  cond = jax.jit(lambda i: sefi.condition([i], fz.backbone, fz.captions, MODULE))(identity)
  np.testing.assert_array_equal(cond.k, cond.v)
  _, queries_keys = look(noise(2, 16, 16, 4), np.array([900, 30]), cond.k, cond.v)
  assert float(attention_of(queries_keys, fz, np.arange(2)).max()) < 1e-7


def test_init_prospect_starts_elsewhere(fz):
  cfg = dataclasses.replace(MODULE, init="prospect")
  rows = sefi.represent(start(fz, cfg), fz, cfg)["rows"][0]
  rows = np.asarray(rows)[:, :, 0]
  spread = np.abs(rows - np.asarray(fz.constants["word"][0])[None]).max(-1)
  assert (spread > 1e-2).all() and np.ptp(rows, axis=(0, 1)).min() > 0


def test_table_and_module_agree(fz):
  """A table begins with the module's output, and a copy of that output represents the same identity."""
  cfg = dataclasses.replace(MODULE, init="prospect")
  direct = dataclasses.replace(cfg, parameterisation="direct")
  params = start(fz, cfg)
  np.testing.assert_allclose(start(fz, direct)["table"][0], sefi.table(params, fz, cfg)[0], atol=1e-6)
  copied = {"table": sefi.table(params, fz, cfg)}
  a, b = (sefi.represent(p, fz, c)["rows"][0] for p, c in ((params, cfg), (copied, direct)))
  np.testing.assert_array_equal(a, b)


def test_the_module_follows_its_equations(fz):
  """One token attends to itself alone, so each attention is a linear map."""
  cfg = dataclasses.replace(MODULE, init="prospect")
  p, x = start(fz, cfg)["module"][0], noise(1, 32)
  p = jax.tree.map(np.asarray, p)
  p["norm1"]["scale"] = p["norm1"]["scale"] + 0.5
  norm = lambda n, x: (x - x.mean()) / np.sqrt(x.var() + 1e-5) * p[n]["scale"][None] + p[n]["bias"][None]
  want = x
  for i in "12":
    a = p[f"attn{i}"]
    want = want + norm(f"norm{i}", want) @ a["to_v"]["kernel"] @ a["to_out"]["kernel"] + a["to_out"]["bias"][None]
  y, gate = np.split(norm("norm3", want) @ p["ff"]["proj"]["kernel"] + p["ff"]["proj"]["bias"][None], 2, axis=-1)
  want = (y * jax.nn.gelu(gate, approximate=False)) @ p["ff"]["out"]["kernel"] + p["ff"]["out"]["bias"][None]
  np.testing.assert_allclose(sefi.block(p, x), want, atol=1e-4)


def test_only_the_words_train(fz):
  """All parameters on which the module's output depends have a gradient, and the UNet is not changed."""
  params = start(fz, dataclasses.replace(MODULE, init="prospect"))
  assert set(params) == {"module"}
  cfg = dataclasses.replace(MODULE, init="prospect")
  g = jax.jit(jax.grad(lambda p: (sefi.table(p, fz, cfg)[0] ** 2).sum()))(params)
  dead = {k for k, x in tree.flatten(g).items() if not np.any(x)}
  assert all(".to_q." in k or ".to_k." in k for k in dead)  # a softmax over one key
  override = sefi.needs(cfg, fz.backbone.nets).override
  assert override([sefi.represent(params, fz, cfg)], fz.backbone, cfg) == {}


def test_words_of_several_tokens_are_refused(pipeline):
  cfg = dataclasses.replace(CFG, word="person")  # six bytes
  with pytest.raises(UserError, match="6 tokens"):
    sefi.constants(*pipeline, (), cfg)
  with pytest.raises(UserError, match="stages is 0"):
    ranges.check(dataclasses.replace(CFG, stages=0))


# Stages; keys and values apart.


def test_stages_are_fifths_noisiest_first():
  """Stages are counted from 0, the noisiest; training timesteps and DDIM's 50 steps are shared equally."""
  at = np.asarray(backbone.stage(jnp.arange(1000), 5, 1000))
  assert [at[t] for t in (999, 800, 799, 200, 199, 0)] == [0, 0, 1, 3, 4, 4]
  assert np.bincount(at).tolist() == [200] * 5
  assert np.bincount(at[np.arange(1, 1000, 20)]).tolist() == [10] * 5  # DDIM, 50 steps, offset 1


def test_equal_stages_with_one_word_are_textual_inversion(fz, look):
  """With one word in all stages, for keys and values, predictions are textual inversion's at every timestep."""
  row = noise(1, 32, std=0.1)
  ours = {"rows": (np.tile(row, (5, 2, 1, 1)),)}
  many = sefi.condition([ours], fz.backbone, fz.captions, CFG)
  one = ti.condition([{"rows": (row[None, None],)}], fz.backbone, fz.captions, ti.Config())
  x = noise(2, 16, 16, 4)
  spread = lambda c: jnp.broadcast_to(c, many.k.shape)
  for t in ([999, 0], [700, 500], [300, 150]):
    a, b = look(x, np.array(t), many.k, many.v), look(x, np.array(t), spread(one.k), spread(one.v))
    np.testing.assert_allclose(a[0], b[0], atol=1e-5)


def test_keys_and_values_go_their_own_ways(fz, look):
  """Values do not change the first layer's map, keys do, and both change the output."""
  x, t = noise(2, 16, 16, 4), np.array([500, 100])
  rows = [(noise(5, 1, 1, 32, seed=i, std=0.3),) for i in (0, 1)]
  p, q = (contexts(fz, r, np.arange(2)).k for r in rows)
  first = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.qk."
  maps = lambda out: np.asarray(weights(*(tree.flatten(out[1])[first + i] for i in "01")))
  base, values, swapped = look(x, t, p, p), look(x, t, p, q), look(x, t, q, p)
  plain = jax.jit(lambda p: backbone.predict(fz.backbone, x, t, Conditioning(p, p)))(p)
  np.testing.assert_allclose(base[0], plain, atol=1e-5)
  np.testing.assert_array_equal(maps(values), maps(base))
  assert np.abs(maps(swapped) - maps(base)).max() > 1e-4
  assert min(np.abs(o[0] - base[0]).max() for o in (values, swapped)) > 1e-4
  np.testing.assert_allclose(maps(base).sum(-1), 1, atol=1e-5)  # a map is a distribution over tokens


def test_a_prompt_takes_each_path_through_the_whole_encoder(fz):
  """The keys' context comes from P^K alone, the values' from P^V alone."""
  rows = noise(5, 2, 1, 32, std=0.3)
  cond = sefi.condition([{"rows": (rows,)}], fz.backbone, fz.captions, CFG)
  for i, got in enumerate((cond.k, cond.v)):
    want = contexts(fz, (rows[:, i : i + 1],), np.arange(2)).k
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_two_people_in_a_prompt(pipeline):
  """Each person has their own rows, and the text encoder is causal: a later person does not change what precedes."""
  b, words = pipeline
  one, two, three = ({"rows": (noise(5, 2, 1, 32, seed=i, std=0.3),)} for i in range(3))
  rows = conditioning.join([one, two])[0], conditioning.join([one, three])[0]
  np.testing.assert_array_equal(rows[0][:, :, 0], rows[1][:, :, 0])
  prompts = conditioning.tokenise(words, ["<a> x <b>", "<b> x <a>"], {"<a>": 1, "<b>": 1})
  context, other = (sefi.condition([one, i], b, prompts, CFG).k for i in (two, three))
  at, to = prompts.where[0][0]
  np.testing.assert_allclose(context[:, 0, :to], other[:, 0, :to], atol=1e-6)
  assert np.abs(context[:, 0, to:] - other[:, 0, to:]).max() > 1e-3
  assert np.abs(context[:, 1, prompts.where[0][1, 0]] - other[:, 1, prompts.where[0][1, 0]]).max() > 1e-3


# The attention loss.


@given(st.integers(0, 10_000), st.sampled_from([4, 8, 16, 32]), st.sampled_from([8, 16]))
@settings(max_examples=12, deadline=None)
def test_resized_maps_keep_their_sums_and_constants(seed, side, target):
  """Resized attention maps still sum to 1 over tokens, and constants stay; halving is the mean of 2 x 2 cells."""
  maps = np.random.default_rng(seed).dirichlet(np.ones(7), (2, 3, side, side)).astype(np.float32)
  resized = np.asarray(sefi.resize(maps, target))
  assert resized.shape == (2, 3, target, target, 7)
  np.testing.assert_allclose(resized.sum(-1), 1, atol=1e-5)
  np.testing.assert_allclose(sefi.resize(np.full((3, 3, 2), 0.3, np.float32), target), 0.3, atol=1e-6)
  if side == 2 * target:
    np.testing.assert_allclose(resized, maps.reshape(2, 3, target, 2, target, 2, 7).mean((3, 5)), atol=1e-6)


def captured_maps(heads=(8, 8), side=(16, 8), length=77, batch=2, width=4, depth=0):
  """Random queries and keys of two layers, and reference keys, as `attention_loss` takes them."""
  queries_keys, reference = {}, {}
  for i, (n, s) in enumerate(zip(heads, side)):
    lead = (depth,) if depth and i else ()
    q, k = noise(*lead, batch, s * s, n, width, seed=i), noise(*lead, batch, length, n, width, seed=9 + i)
    queries_keys[f"block.{i}"] = {"attn2": {"qk": (q, k)}}
    reference[f"block.{i}.attn2"] = noise(*lead, batch, length, n * width, seed=90 + i)
  return queries_keys, reference


def by_hand(captured, reference, side, target, average):
  """(mean over layers of the resized A_r - A_t)^2, all tokens."""
  total, count = 0, 0
  for i, class_keys in enumerate(reference.values()):
    arrays = (*captured[f"block.{i}"]["attn2"]["qk"], class_keys)
    blocks = zip(*arrays) if class_keys.ndim == 4 else [arrays]
    for q, k, kr in blocks:
      d = weights(q, kr.reshape(k.shape)) - weights(q, k)
      if average:
        d = d.mean(1, keepdims=True)
      d = d.reshape(*d.shape[:2], side[i], side[i], -1)
      total, count = total + sefi.resize(d, target), count + 1
  return (total / count) ** 2


@pytest.mark.parametrize("heads, depth", [((8, 8), 0), ((2, 4), 0), ((8, 8), 3), ((2, 4), 3)])
def test_attention_loss_of_random_maps(heads, depth):
  """Layers, stacked blocks and heads average as they should; sums are scaled to the paper's entries."""
  queries_keys, reference = captured_maps(heads, depth=depth)
  cfg, ones = sefi.Config(target=8), jnp.ones((2, 77))
  got = sefi.attention_loss(queries_keys, reference, ones, (16, 16), cfg)
  want = by_hand(queries_keys, reference, (16, 8), 8, heads[0] != heads[1])
  scale = 8 * 32 * 32 * 77 / want[0].size  # however many heads, queries and tokens there are
  np.testing.assert_allclose(got, scale * want.sum((1, 2, 3, 4)), rtol=1e-4)
  if not depth:
    return
  sparse = sefi.attention_loss(queries_keys, reference, ones, (16, 16), dataclasses.replace(cfg, every=2))
  pick = lambda x: x[::2]
  queries_keys["block.1"] = {"attn2": {"qk": tuple(map(pick, queries_keys["block.1"]["attn2"]["qk"]))}}
  reference["block.1.attn2"] = pick(reference["block.1.attn2"])
  np.testing.assert_allclose(sparse, sefi.attention_loss(queries_keys, reference, ones, (16, 16), cfg), rtol=1e-5)


def test_native_layers_alone():
  queries_keys, reference = captured_maps()
  native = sefi.Config(target=8, layers="native")
  got = sefi.attention_loss(queries_keys, reference, jnp.ones((2, 77)), (16, 16), native)
  of = lambda i: ({f"block.{i}": queries_keys[f"block.{i}"]}, {f"block.{i}.attn2": reference[f"block.{i}.attn2"]})
  np.testing.assert_allclose(
    got, sefi.attention_loss(*of(1), jnp.ones((2, 77)), (16, 16), sefi.Config(target=8)), rtol=1e-6
  )
  with pytest.raises(UserError, match="32 x 32"):
    sefi.attention_loss(queries_keys, reference, jnp.ones((2, 77)), (16, 16), sefi.Config(layers="native"))


def test_sum_mean_and_options(fz):
  """The sum is 630,784 times the mean, on SD 1.x without any scale; options 1, 2 and 3 are nested sets of tokens."""
  queries_keys, reference = captured_maps()
  at = lambda c, **how: np.asarray(sefi.attention_loss(queries_keys, reference, c, (16, 16), sefi.Config(**how)))
  ones = jnp.ones((2, 77))
  for target in (8, 32):
    np.testing.assert_allclose(at(ones, target=target), 630_784 * at(ones, target=target, reduction="mean"), rtol=1e-5)
  plain = by_hand(queries_keys, reference, (16, 8), 32, False)
  np.testing.assert_allclose(at(ones), plain.sum((1, 2, 3, 4)), rtol=1e-4)
  assert 8 * 77 * 32 * 32 == 630_784
  nested = [sefi.columns(fz.captions, option) for option in (1, 2, 3)]
  np.testing.assert_array_equal(nested[0].argmax(-1), fz.captions.where[0][:, 0])
  assert [n.sum(-1).tolist() for n in nested] == [[1, 1], (fz.captions.eos[0] + 1).tolist(), [77, 77]]
  for reduction in ("sum", "mean"):
    one, two, three = (at(c, reduction=reduction) for c in nested)
    assert (0 < one).all() and (one < two).all() and (two < three).all()


@pytest.mark.parametrize("stopped", [True, False])
def test_where_the_gradient_flows(stopped):
  """With A_r stopped, gradients flow through A_t only; otherwise through both."""
  queries_keys, reference = captured_maps(length=9)
  cfg, ones = sefi.Config(target=8, stop_reference=stopped), jnp.ones((2, 9))
  got = jax.grad(lambda c: sefi.attention_loss(c, reference, ones, (16, 16), cfg).sum())(queries_keys)

  def split(target, wanted):  # A_t of one pair's queries, A_r of another's
    total = 0
    for i, side in ((0, 16), (1, 8)):
      q, k = target[f"block.{i}"]["attn2"]["qk"]
      kr = reference[f"block.{i}.attn2"].reshape(k.shape)
      d = weights(wanted[f"block.{i}"]["attn2"]["qk"][0], kr) - weights(q, k)
      total += sefi.resize(d.reshape(2, 8, side, side, 9), 8)
    return ((total / 2) ** 2).sum() * 32 * 32 * 77 / (8 * 8 * 9)

  through_target, through_wanted = jax.grad(split, (0, 1))(queries_keys, queries_keys)
  want = through_target if stopped else jax.tree.map(jnp.add, through_target, through_wanted)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
    np.testing.assert_allclose(a, b, atol=1e-5)
  assert np.abs(through_wanted["block.0"]["attn2"]["qk"][0]).max() > 1e-4


def test_keys_of_the_class_word_leave_no_attention_loss(fz, look):
  """The loss is zero whatever the values, as maps depend on keys alone."""
  word = np.asarray(fz.constants["word"][0])
  k = contexts(fz, (np.tile(word, (5, 1, 1, 1)),), np.arange(2)).k
  v = contexts(fz, (noise(5, 1, 1, 32, std=0.5),), np.arange(2)).k
  x, t = noise(2, 16, 16, 4), np.array([900, 100])
  assert float(attention_of(look(x, t, k, v)[1], fz, np.arange(2)).max()) < 1e-7
  assert float(attention_of(look(x, t, v, k)[1], fz, np.arange(2)).min()) > 1e-4


def test_with_one_layer_values_do_not_reach_the_attention_loss(folder):
  """With several layers they do, through the first layer's output."""
  pipeline = toys.opened(folder, "sd15", attends=False)
  fz = toys.frozen(pipeline, sefi, CFG, subjects.person(pipeline[0]))
  assert len(fz.constants["keys"]) == 1
  run = jax.jit(
    lambda k, v: backbone.predict(
      pipeline[0], noise(2, 16, 16, 4), jnp.array([900, 100]), Conditioning(k, v), capture=True
    )[1]
  )
  k, v, w = (contexts(fz, (noise(5, 1, 1, 32, seed=i, std=0.5),), np.arange(2)).k for i in range(3))
  a, b = (attention_of(run(k, x), fz, np.arange(2)) for x in (v, w))
  np.testing.assert_array_equal(a, b)
  assert float(a.min()) > 1e-5


# The loss.


def test_the_loss_is_its_two_parts(fz, gradient, look):
  """The loss equals the two parts computed by inference: contexts of all stages, the sampler's gather, captured maps."""
  table = {"table": (noise(5, 2, 32, std=0.3),)}
  (value, metrics), _ = gradient(table, fz, keys())
  e = subject.draw(fz, keys())
  prompts = subject.prompts(fz, e)
  cond = sefi.condition([sefi.represent(table, fz, CFG)], fz.backbone, prompts, CFG)
  noisy, target = subjects.example(fz.backbone, e)
  out, queries_keys = look(noisy, e.t, cond.k, cond.v)
  diffusion = float(jnp.square(out - target).mean())
  far = float(attention_of(queries_keys, fz, e.caption).mean())
  np.testing.assert_allclose([metrics["diffusion"], metrics["attention"]], [diffusion, far], rtol=1e-4)
  np.testing.assert_allclose(value, diffusion + CFG.weight * far, rtol=1e-5)
  np.testing.assert_allclose(metrics["ratio"], CFG.weight * far / diffusion, rtol=1e-4)
  assert far > 1e-3


def test_only_stages_of_the_batch_learn(fz, gradient):
  """Gradients reach the words of the stages that the batch's timesteps lie in, and no others."""
  table = {"table": (noise(5, 2, 32, std=0.3),)}
  stages = set()
  for i in range(6):
    used = set(np.asarray(backbone.stage(subject.draw(fz, keys(i)).t, 5, 1000)).tolist())
    g = np.asarray(gradient(table, fz, keys(i))[1]["table"][0])
    assert {s for s in range(5) if np.any(g[s])} == used
    assert all(np.any(g[s, w]) for s in used for w in (0, 1))
    stages |= used
  assert len(stages) >= 4


def test_the_error_falls(fz, gradient):
  tx = step.by_path(*sefi.rates(dataclasses.replace(CFG, lr=0.05, clip=1.0)))
  params = start(fz)
  opt, update = tx.init(params), jax.jit(tx.update)
  fixed_keys = [keys(1000 + i) for i in range(8)]
  error = lambda: float(np.mean([gradient(params, fz, k)[0][0] for k in fixed_keys]))
  before = error()
  assert gradient(params, fz, fixed_keys[0])[0][1]["attention"] < 1e-7
  for i in range(50):
    updates, opt = update(gradient(params, fz, keys(i))[1], opt, params)
    params = jax.tree.map(jnp.add, params, updates)
  assert error() < 0.97 * before
  assert (np.abs(params["table"][0] - start(fz)["table"][0]).max(-1) > 0.01).all()


def test_people_side_by_side_train_as_each_alone(pipeline, fz, gradient):
  """vmap over params, subject and keys; backbone, constants and captions shared."""
  people = [subjects.person(pipeline[0], seed) for seed in (0, 1)]
  params = [{"table": (noise(5, 2, 32, std=0.3, seed=i),)} for i in (0, 1)]
  want = [gradient(p, fz._replace(subject=s), keys(i)) for i, (p, s) in enumerate(zip(params, people))]
  stack = lambda *xs: jax.tree.map(lambda *x: jnp.stack(x), *xs)
  axes = subject.Frozen(None, None, None, 0)
  crowd = jax.jit(jax.vmap(jax.value_and_grad(functools.partial(sefi.loss, cfg=CFG), has_aux=True), (0, axes, None, 0)))
  got = crowd(stack(*params), fz._replace(subject=stack(*people)), {}, stack(keys(0), keys(1)))
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(stack(*want))):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * max(1, float(np.abs(b).max())))


def test_one_stage_without_attention_loss_is_textual_inversion(pipeline, fz):
  """One stage, tied words and no attention loss give textual inversion's losses and gradients, draw by draw."""
  cfg = dataclasses.replace(CFG, stages=1, tie_kv=True, weight=0.0)
  assert "keys" not in sefi.constants(*pipeline, (), cfg)
  plain = ti.Config(vectors=1, word="x", templates=CAPTIONS)
  other = toys.frozen(pipeline, ti, plain, fz.subject)
  ours, theirs = start(fz, cfg), ti.init(jax.random.key(0), other, plain)
  np.testing.assert_array_equal(ours["table"][0][0], theirs["rows"][0])
  both = lambda a, b, k: (
    jax.value_and_grad(lambda p: sefi.loss(p, fz, {}, k, cfg)[0])(a),
    jax.value_and_grad(lambda p: ti.loss(p, other, {}, k, plain)[0])(b),
  )
  (v, g), (w, h) = jax.jit(both)(ours, theirs, keys())
  np.testing.assert_allclose(v, w, rtol=1e-6)
  np.testing.assert_allclose(g["table"][0][0], h["rows"][0], rtol=1e-3, atol=1e-5 * float(np.abs(h["rows"][0]).max()))


@pytest.mark.parametrize("name", ["paper", "option-1", "ti+attention_loss", "prospect", "miniature"])
def test_presets_have_a_loss(pipeline, name):
  cfg = dataclasses.replace(sefi.PRESETS[name], word="x")
  fz = toys.frozen(pipeline, sefi, cfg, subjects.person(pipeline[0]))
  params = jax.eval_shape(lambda key: sefi.init(key, fz, cfg), jax.random.key(0))
  value, metrics = jax.eval_shape(lambda p, k: sefi.loss(p, fz, {}, k, cfg), params, keys())
  assert value.shape == () and ("attention" in metrics) == bool(cfg.weight)
  jax.eval_shape(step.by_path(*sefi.rates(cfg)).init, params)
  rows = jax.eval_shape(lambda p: sefi.represent(p, fz, cfg), params)["rows"][0]
  assert rows.shape == (cfg.stages, 1 if cfg.tie_kv else 2, cfg.vectors, 32)


def test_the_papers_words():
  assert sefi.needs(sefi.PRESETS["paper"], nets=None).captions == ("a photo of the face of {}",)
  assert sefi.needs(sefi.PRESETS["object"], nets=None).captions == ("a photo of {}",)
  paper = sefi.PRESETS["paper"]
  assert (paper.stages, paper.weight, paper.option, paper.lr, paper.steps) == (5, 0.003, 3, 5e-3, 1000)
  assert {sefi.PRESETS[f"pairs-{n}"].stages for n in (1, 3, 5, 7, 9, 10)} == {1, 3, 5, 7, 9, 10}


@pytest.mark.slow
def test_it_trains_on_sdxl(folder):
  """Both encoders' words move, and the pooled vector comes from the values' pass."""
  pipeline = toys.opened(folder, "sdxl")
  cfg = dataclasses.replace(MODULE, every=1, lr=1e-3)
  fz = toys.frozen(pipeline, sefi, cfg, subjects.person(pipeline[0]))
  before, after, log = subjects.train(sefi, cfg, fz, 4)
  assert np.isfinite([m["loss"] for m in log]).all() and log[0]["attention"] < 1e-6 < log[-1]["attention"]
  for p, q in zip(sefi.table(before, fz, cfg), sefi.table(after, fz, cfg)):
    assert (np.abs(p - q).max(-1) > 0).all()
  rows = sefi.represent(after, fz, cfg)["rows"]
  pooled = sefi.condition([{"rows": rows}], pipeline[0], fz.captions, cfg).pooled
  values = sefi.condition([{"rows": tuple(r[:, 1:] for r in rows)}], pipeline[0], fz.captions, cfg).pooled
  np.testing.assert_allclose(pooled, values, atol=1e-5)
