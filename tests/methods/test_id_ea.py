"""ID-EA: enhancer, adapter, words, keys and values against the paper's equations."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import subjects, toys

from idejax import draws, tree
from idejax.errors import UserError
from idejax.methods import id_ea
from idejax.methods import textual_inversion as ti
from idejax.model import anchors, backbone, conditioning
from idejax.nets import blocks
from idejax.nets.attention import weights
from idejax.person import subject
from idejax.training import step

CAPTIONS = ("a photo of {}", "{} smiles")
CFG = id_ea.Config(templates=CAPTIONS, phrase="{}", batch=2)
LITERAL = dataclasses.replace(CFG, face_scale="unit", reach="all", adapter_norm=False)
LARGE = dict(lr=0.05, lr_modules=0.02, lr_gate=0.02, lr_kv=0.01, lr_lora=0.01)
WIDTHS = {"sd15": 768, "sd21-base": 1024, "sdxl": 2048}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("toys")


@pytest.fixture(scope="module")
def pipeline(folder):
  return toys.opened(folder, "sd21-base")


@pytest.fixture(scope="module")
def fz(pipeline):
  return toys.frozen(pipeline, id_ea, CFG, subjects.person(pipeline[0]))


@pytest.fixture(scope="module")
def gradient():
  """((loss, metrics), gradients) of (params, frozen, keys), compiled once."""
  f = jax.value_and_grad(lambda p, fz, keys: id_ea.loss(p, fz, {}, keys, CFG), has_aux=True)
  return jax.jit(f)


@pytest.fixture(scope="module")
def encode(pipeline):
  """The context of `prompts` with identities, compiled once for each number of them."""
  b, _ = pipeline
  return jax.jit(lambda identities, prompts: id_ea.condition(identities, b, prompts, CFG).k[0])


def keys(i=0, batch=2):
  return draws.keys(jax.random.key(7), i, np.arange(batch))


@functools.partial(jax.jit, static_argnames="cfg")
def _init(key, fz, cfg):
  return id_ea.init(key, fz, cfg)


def start(fz, cfg=CFG, seed=0):
  return _init(jax.random.key(seed), fz, cfg)


def trained(gradient, fz, cfg, steps, *, params=None, seed=0):
  """Parameters and losses of a run with `cfg`'s rates, whose loss is CFG's."""
  params = start(fz, seed=seed) if params is None else params
  tx = step.by_path(*id_ea.rates(cfg))
  update = jax.jit(lambda g, opt, p: (lambda u, o: (optax.apply_updates(p, u), o))(*tx.update(g, opt, p)))
  opt, log = tx.init(params), []
  for i in range(steps):
    (value, metrics), g = gradient(params, fz, keys(i))
    params, opt = update(g, opt, params)
    log.append((float(value), {k: float(v) for k, v in metrics.items()}, g))
  return params, log


def shaken(params, std=0.3, seed=1):
  """Every leaf moved by noise: gates open, changes not zero."""
  flat, shape = jax.tree.flatten(params)
  rng = np.random.default_rng(seed)
  leaves = [x + std * rng.standard_normal(np.shape(x)).astype(np.float32) for x in flat]
  return jax.tree.unflatten(shape, leaves)


def tokenised(pipeline, texts, placeholders):
  return conditioning.tokenise(pipeline[1], texts, placeholders)


# What is trained.


@pytest.mark.parametrize(
  "family, rows, enhancer, adapter, full, lora",
  [
    ("sd15", 1_536, 3_150_336, 2_952_961, 19_169_280, 792_576),
    ("sd21-base", 2_048, 5_249_024, 5_248_001, 25_559_040, 923_648),
    ("sdxl", 4_096, 18_886_656, 20_981_761, 340_787_200, 7_249_920),
  ],
)
def test_parameters_are_as_many_as_the_papers(family, rows, enhancer, adapter, full, lora):
  """The counts of words, enhancer, adapter, and keys and values, for each family and option."""
  b = toys.full_size(family)
  words = tuple(jnp.zeros((2, t.hidden_size)) for t in b.nets.text)

  def made(**how):
    def make(face):
      fz = subject.Frozen(b, {"start": words}, None, subjects.person(pair)._replace(face=face))
      return id_ea.init(jax.random.key(0), fz, id_ea.Config(**how))

    return jax.eval_shape(make, jax.ShapeDtypeStruct((512,), jnp.float32))

  pair = dataclasses.replace(b, nets=dataclasses.replace(b.nets, unet=dataclasses.replace(b.nets.unet, sample_size=16)))
  p = made(kv="full")
  assert tree.size(p["rows"]) == rows
  assert tree.size((p["face"], p["enhancer"])) == enhancer
  assert tree.size(p["adapter"]) == adapter
  assert tree.size(p["kv"]) == full
  assert tree.size(made(kv="lora")["kv"]) == lora
  assert tree.size(made()["kv"]) == (lora if family == "sdxl" else full)  # auto
  p, width = made(enhancer="released", repeat=True, kv="none"), WIDTHS[family]
  assert "kv" not in p
  assert tree.size((p["face"], p["enhancer"])) == 513 * width + 8 * width * (width + 1)
  assert tree.size(p["adapter"]) == adapter + width**2


def test_it_starts_as_the_base_model(fz, encode, pipeline):
  """At the start the adapter changes no bit of the prompt's context, and keys and values are the base model's."""
  params = start(fz)
  for row, cross in zip(params["rows"], fz.constants["start"]):
    np.testing.assert_array_equal(row, cross)
  identity = id_ea.represent(params, fz, CFG)
  assert np.abs(identity["face"]).max() > 0.01
  plain = {"rows": identity["rows"]}
  np.testing.assert_array_equal(encode([identity], fz.captions), encode([plain], fz.captions))
  other = identity | {"face": 100 * identity["face"]}
  np.testing.assert_array_equal(encode([other], fz.captions), encode([plain], fz.captions))
  unet = pipeline[0].params["unet"]
  assert not subjects.moved(
    unet, backbone.with_unet(pipeline[0], id_ea.override([identity], *fz[:1], CFG)).params["unet"]
  )


def test_only_the_gate_learns_at_first(fz, gradient):
  """In the first step gamma = 0 hides face, enhancer and adapter from the loss; in the second all of them learn."""
  params, log = trained(gradient, fz, CFG, 2)
  first, second = (tree.flatten(g) for _, _, g in log)
  assert float(first["adapter.gamma"]) != 0
  behind = [k for k in first if k.startswith(("face", "enhancer", "adapter")) and k != "adapter.gamma"]
  assert len(behind) == 2 + 8 + 6
  assert not any(np.any(first[k]) for k in behind)
  # Two equal key biases shift all scores of a query alike: softmax does not see them.
  assert all(np.any(second[k]) for k in behind if k != "enhancer.to_k.bias")
  assert all(np.any(g) for k, g in first.items() if k.startswith(("rows", "kv")))


def test_what_trains_and_what_does_not(fz, gradient, pipeline):
  """Of the UNet, exactly the keys and values of every cross-attention change."""
  before = start(fz)
  after, _ = trained(gradient, fz, CFG, 3)
  assert subjects.moved(before, after) >= {k for k in tree.flatten(before) if not k.endswith("to_k.bias")}
  assert {k.split(".")[0] for k in tree.flatten(before)} == {"rows", "face", "enhancer", "adapter", "kv"}
  unet = pipeline[0].params["unet"]
  changes = id_ea.override([id_ea.represent(after, fz, CFG)], pipeline[0], CFG)
  new = backbone.with_unet(pipeline[0], changes).params["unet"]
  want = {k for k in tree.flatten(unet) if k.endswith(("attn2.to_k.kernel", "attn2.to_v.kernel"))}
  assert len(want) == 8 and subjects.moved(unet, new) == want


def test_every_part_learns_at_its_own_rate():
  """Adam's first step is its rate, whatever the gradient; leaves of ones decay by rate times weight decay."""
  cfg = dataclasses.replace(
    CFG, lr=1e-2, lr_modules=1e-3, lr_gate=2e-3, lr_kv=1e-5, lr_lora=1e-4, weight_decay=0.1, rows_decay=0.2
  )
  one, to_k = np.ones(3, np.float32), "down_blocks.0.attentions.0.attn2.to_k"
  params = {
    "rows": (one,),
    "face": {"kernel": one, "bias": one},
    "enhancer": {"to_q": {"kernel": one}},
    "adapter": {"in_proj": {"kernel": one, "bias": one}, "gamma": one},
    "kv": {"whole": {to_k: {"kernel": one}}, "low": {to_k: {"kernel": {"A": one, "B": one}}}},
  }
  tx = step.by_path(*id_ea.rates(cfg))
  updates = tree.flatten(tx.update(params, tx.init(params), params)[0])
  rates = {
    "rows.0": 1.2e-2,
    "face.kernel": 1.1e-3,
    "face.bias": 1e-3,
    "enhancer.to_q.kernel": 1.1e-3,
    "adapter.in_proj.kernel": 1.1e-3,
    "adapter.in_proj.bias": 1e-3,
    "adapter.gamma": 2e-3,
    f"kv.whole.{to_k}.kernel": 1.1e-5,
    f"kv.low.{to_k}.kernel.A": 1.1e-4,
    f"kv.low.{to_k}.kernel.B": 1.1e-4,
  }
  assert updates.keys() == rates.keys()
  for path, rate in rates.items():
    np.testing.assert_allclose(updates[path], -rate, rtol=1e-4, err_msg=path)


def test_words_may_train_first():
  """With words_first 0.5 nothing but the words moves in the first half of the steps, and all does afterwards."""
  cfg = dataclasses.replace(CFG, words_first=0.5, steps=4)
  params = {
    "rows": (np.ones(3, np.float32),),
    "adapter": {"out_proj": {"kernel": np.ones(3, np.float32)}, "gamma": np.ones(1)},
  }
  tx = step.by_path(*id_ea.rates(cfg))
  opt, paths = tx.init(params), []
  for _ in range(4):
    updates, opt = tx.update(params, opt, params)
    paths.append({k for k, x in tree.flatten(updates).items() if np.any(x)})
  assert paths == [{"rows.0"}] * 2 + [set(tree.flatten(params))] * 2


def test_released_trains_words_and_adapter_only(fz):
  """With gradients of one everywhere, only words and adapter move; sampling has the words alone."""
  cfg = dataclasses.replace(id_ea.PRESETS["released"], templates=CAPTIONS)
  params = shaken(start(fz, cfg))
  tx = step.by_path(*id_ea.rates(cfg))
  ones = jax.tree.map(jnp.ones_like, params)
  updates = jax.jit(lambda p: tx.update(ones, tx.init(p), p)[0])(params)
  paths = subjects.moved(params, optax.apply_updates(params, updates))
  assert paths == {k for k in tree.flatten(params) if k.startswith(("rows", "adapter"))}
  assert not any(k.startswith("kv") for k in tree.flatten(params))
  assert set(id_ea.represent(params, fz, cfg)) == {"rows"}  # its test script loads the words alone
  identity = id_ea.identity_of(params, fz, cfg)
  assert identity["face"].shape == (2, 64)
  np.testing.assert_array_equal(identity["face"][0], identity["face"][1])  # equal in, equal out


@pytest.mark.parametrize(
  "how",
  [
    dict(naive_concat=True, reg="l2"),
    dict(enhancer="none", kv="lora"),
    dict(adapter=False, reg="mahalanobis"),
    dict(enhancer_residual=True, face_tokens=3),
    dict(enhancer="released", repeat=True, kv="none", reg="mahalanobis_released"),
  ],
)
def test_every_variant_has_a_loss_and_rates_for_all(fz, how):
  cfg = dataclasses.replace(CFG, **how)
  params = jax.eval_shape(lambda key: id_ea.init(key, fz, cfg), jax.random.key(0))
  value, metrics = jax.eval_shape(lambda p, k: id_ea.loss(p, fz, {}, k, cfg), params, keys())
  assert value.shape == () and value.dtype == np.float32 and {"diffusion", "moved"} <= set(metrics)
  jax.eval_shape(step.by_path(*id_ea.rates(cfg)).init, params)
  names = {k.split(".")[0] for k in tree.flatten(params)}
  assert ("adapter" in names) == (not how.keys() & {"naive_concat", "adapter"})
  assert ("enhancer" in names) == (not how.keys() & {"naive_concat", "adapter"} and how.get("enhancer") != "none")
  assert ("kv" in names) == (how.get("kv") != "none")


@pytest.mark.parametrize(
  "how, said", [(dict(heads=7), "7 heads"), (dict(enhancer="released", enhancer_residual=True), "twice as wide")]
)
def test_what_cannot_be_built_is_refused(fz, how, said):
  with pytest.raises(UserError, match=said):
    start(fz, dataclasses.replace(CFG, **how))


# Enhancer and adapter.


def enhancer(seed=0, width=16, **how):
  """(params, face tokens [2, D], anchor [2, D], cfg), all random."""
  cfg, rng = id_ea.Config(heads=4, **how), np.random.default_rng(seed)
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  p = {n: {"kernel": normal(width, width) / 4, "bias": normal(width)} for n in ("to_q", "to_k", "to_v", "to_out")}
  return p, normal(2, width), normal(2, width), cfg


@given(st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_the_enhancer_mixes_the_two_anchor_values(seed):
  """With W_o = I each head's output lies between the values of the two anchor rows."""
  p, faces, anchor, cfg = enhancer(seed)
  p["to_out"] = {"kernel": np.eye(16, dtype=np.float32), "bias": np.zeros(16, np.float32)}
  mix = np.asarray(id_ea.enhance(p, faces, anchor, cfg), np.float64).reshape(2, 4, 4)
  a, z = ((anchor @ p["to_v"]["kernel"])[i].astype(np.float64) + p["to_v"]["bias"] for i in (0, 1))
  a, z = a.reshape(4, 4), z.reshape(4, 4)
  share = ((mix - a) * (z - a)).sum(-1) / np.square(z - a).sum(-1)  # [M, heads]
  assert (share > -1e-5).all() and (share < 1 + 1e-5).all()
  np.testing.assert_allclose(mix, a + share[..., None] * (z - a), atol=1e-5)
  project = lambda n, x: (x @ p[n]["kernel"] + np.tile(p[n]["bias"], (2, 1))).reshape(1, 2, 4, 4)
  shares = np.asarray(weights(project("to_q", faces), project("to_k", anchor)))  # [1, heads, M, 2]
  np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-6)
  np.testing.assert_allclose(shares[0, ..., 1].T, share, atol=1e-5)


def test_equal_anchors_hide_the_face_and_equal_faces_stay_equal():
  """Attention over two equal rows gives that row's value; the residual adds the face tokens."""
  p, faces, anchor, cfg = enhancer()
  same = np.stack([anchor[0]] * 2)
  a, b = (id_ea.enhance(p, f, same, cfg) for f in (faces, 5 * faces[::-1]))
  np.testing.assert_allclose(a, b, atol=1e-5)
  assert np.abs(id_ea.enhance(p, faces, anchor, cfg) - id_ea.enhance(p, 5 * faces[::-1], anchor, cfg)).max() > 1e-2
  twice = id_ea.enhance(p, np.stack([faces[0]] * 2), anchor, cfg)
  np.testing.assert_array_equal(twice[0], twice[1])
  residual = dataclasses.replace(cfg, enhancer_residual=True)
  np.testing.assert_allclose(
    id_ea.enhance(p, faces, anchor, residual), id_ea.enhance(p, faces, anchor, cfg) + faces, atol=1e-6
  )


def swapped(params, anchor, faces, cfg):
  """How much of E_r another face changes, as a share of its size."""
  look = lambda face: np.asarray(
    id_ea.enhance(params["enhancer"], id_ea.face_rows(params["face"], face, cfg), anchor, cfg), np.float64
  )
  own, other = map(look, faces)
  return np.linalg.norm(own - other) / np.linalg.norm(own)


def unit_faces():
  rows = np.random.default_rng(0).standard_normal((2, 512)).astype(np.float32)
  return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.mark.parametrize("width", [128, 1024, 2048])
def test_the_enhancer_sees_the_face(width):
  """Another person's face changes E_r by a tenth of its size and more, at every family's width, before training; at
  the length of a unit vector by less than a fifth of that."""
  rng = np.random.default_rng(1)
  anchor = rng.standard_normal((2, width)).astype(np.float32)  # as long as a normalised layer's
  k_face, k_enhancer = jax.random.split(jax.random.key(0))
  params = {"face": blocks.dense_init(k_face, 512, 2 * width), "enhancer": id_ea._init_enhancer(k_enhancer, width, CFG)}
  share, literal = (swapped(params, anchor, unit_faces(), cfg) for cfg in (CFG, LITERAL))
  assert share > 0.1 and literal < share / 5


def test_the_enhancer_still_sees_the_face_after_training(fz, gradient):
  params, _ = trained(gradient, fz, dataclasses.replace(CFG, lr_modules=2e-3), 10)
  assert float(np.abs(params["adapter"]["gamma"])) > 0  # the modules did train
  assert swapped(params, fz.constants["anchor"], unit_faces(), CFG) > 0.05


@pytest.fixture(scope="module")
def opened(fz):
  """An identity whose gate is open and whose changes are not zero."""
  return id_ea.represent(shaken(start(fz)), fz, CFG)


def test_the_order_of_identity_tokens_does_not_matter(fz, opened, encode):
  """Swapped face tokens give the same context; scaled ones do not."""
  a, b = encode([opened], fz.captions), encode([opened | {"face": opened["face"][::-1]}], fz.captions)
  np.testing.assert_allclose(a, b, atol=2e-5)
  assert np.abs(a - encode([opened | {"face": 2 * opened["face"]}], fz.captions)).max() > 1e-3


def test_the_adapter_is_bounded_by_its_gate(fz, opened, encode):
  """|c' - c| <= beta tanh(gamma) max|MHA|, it is linear in the strength, and strength 0 gives the prompt's context."""
  plain = encode([{"rows": opened["rows"]}], fz.captions)
  adapted = encode([opened], fz.captions)
  ungated = opened["adapter"] | {"gamma": jnp.float32(100.0)}  # tanh = 1
  mha = id_ea.adapt(ungated, plain, opened["face"], conditioning.text_places(fz.captions), CFG)
  gate = abs(float(jnp.tanh(opened["adapter"]["gamma"])))
  change = np.abs(adapted - plain)
  assert 0 < change.max() <= CFG.beta * gate * float(np.abs(mha).max()) * 1.0001
  np.testing.assert_allclose(change, CFG.beta * gate * np.abs(mha), atol=1e-5)
  np.testing.assert_allclose(
    encode([opened | {"scale": jnp.float32(0.5)}], fz.captions), (plain + adapted) / 2, atol=1e-5
  )
  np.testing.assert_array_equal(encode([opened | {"scale": jnp.float32(0)}], fz.captions), plain)
  none = id_ea.condition([opened], fz.backbone, fz.captions, dataclasses.replace(CFG, beta=0.0)).k[0]
  np.testing.assert_allclose(none, plain, atol=1e-6)


def test_the_strength_is_of_pictures_not_of_training(fz):
  """The identity carries the strength; the loss is computed at full strength."""
  half, params = dataclasses.replace(CFG, strength=0.5), shaken(start(fz))
  assert float(id_ea.represent(params, fz, half)["scale"]) == 0.5
  assert "scale" not in id_ea.represent(params, fz, dataclasses.replace(half, sampling="rows"))
  assert float(id_ea.identity_of(params, fz, half)["scale"]) == 1.0


@pytest.mark.parametrize("cfg", [LITERAL, CFG], ids=["literal", "ours"])
def test_the_adapter_is_attention_over_text_and_face(fz, opened, cfg):
  """Attention over C~, of which the prompt's rows are taken afterwards: the paper's equation over all of them; ours
  over the places of the text and normalised rows, and zero in other places."""
  p, rng = opened["adapter"], np.random.default_rng(0)
  context = rng.standard_normal((2, 7, 32)).astype(np.float32)
  linear = lambda n, x: x @ np.asarray(p[n]["kernel"]) + np.tile(p[n]["bias"], (*x.shape[:-1], 1))
  faces = np.tile(linear("project", np.asarray(opened["face"]))[None], (2, 1, 1))
  text = np.array([[0, 1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 1, 1]], bool)
  want = np.zeros((2, 7, 32))
  for i in range(2):  # with the places of the text alone, row by row
    places = np.flatnonzero(text[i]) if cfg.reach == "text" else np.arange(7)
    rows = np.concatenate([context[i, places], faces[i]])[None]
    if cfg.adapter_norm:
      rows = (rows - rows.mean(-1, keepdims=True)) / rows.std(-1, keepdims=True)
    q, k, v = (x.reshape(1, -1, 8, 4) for x in np.split(linear("in_proj", rows), 3, -1))
    mixed = np.einsum("bnls,bsnd->blnd", weights(q, k), v).reshape(1, -1, 32)
    want[i, places] = (np.tanh(p["gamma"]) * linear("out_proj", mixed))[0, : len(places)]
  np.testing.assert_allclose(id_ea.adapt(p, context, opened["face"], text, cfg), want, atol=5e-5)


def test_the_adapter_leaves_start_and_padding_alone(pipeline, fz, opened, encode):
  """What it changes are the places of the text up to its end; the paper's equations change all."""
  prompts = tokenised(pipeline, ["a <id>", "a photo of <id>"], {"<id>": 2})
  changed = np.abs(encode([opened], prompts) - encode([{"rows": opened["rows"]}], prompts)).max(-1) > 0
  at, end = np.arange(changed.shape[1]), prompts.eos[0][:, None]
  np.testing.assert_array_equal(changed, (0 < at) & (at <= end))
  assert not changed[0].all() and changed.sum(1)[0] == 4  # a, two words, the end
  literal = id_ea.condition([opened], pipeline[0], prompts, LITERAL).k[0]
  assert (np.abs(literal - encode([{"rows": opened["rows"]}], prompts)).max(-1) > 0).all()


def test_the_adapter_reads_long_and_short_contexts_alike(opened):
  """Ten times as long a context and face tokens give the same change; by the paper's equation another."""
  context = np.random.default_rng(0).standard_normal((1, 7, 32)).astype(np.float32)
  text, p = np.ones((1, 7), bool), opened["adapter"]
  p = p | {"project": {"kernel": p["project"]["kernel"], "bias": jnp.zeros(32)}}
  look = lambda cfg, by: np.asarray(id_ea.adapt(p, by * context, by * opened["face"], text, cfg))
  np.testing.assert_allclose(look(CFG, 10), look(CFG, 1), atol=1e-3 * np.abs(look(CFG, 1)).max())
  assert np.abs(look(LITERAL, 10) - look(LITERAL, 1)).max() > 0.5 * np.abs(look(LITERAL, 1)).max()


def test_prompts_without_the_person_are_not_adapted(pipeline, fz, opened, encode):
  """A prompt without the word, as in the unconditional branch, has the same context whatever the face."""
  prompts = tokenised(pipeline, ["a photo of <id>", ""], {"<id>": 2})
  a, b = encode([opened], prompts), encode([opened | {"face": 3 * opened["face"]}], prompts)
  np.testing.assert_array_equal(a[1], b[1])
  empty = conditioning.contexts(pipeline[0], tokenised(pipeline, [""], {}), None).k[0]
  np.testing.assert_allclose(a[1:], empty, atol=1e-5)
  assert np.abs(a[0] - b[0]).max() > 1e-3


def test_two_people_in_a_prompt(pipeline, fz, opened, encode):
  """Adapters add up, each in prompts with its own person; changes of keys and values are averaged."""
  other = id_ea.represent(shaken(start(fz), seed=2), fz, CFG)
  prompts = tokenised(pipeline, ["<id> and <you>", "a photo of <you>"], {"<id>": 2, "<you>": 2})
  off = lambda i: i | {"scale": jnp.float32(0)}
  both = encode([opened, other], prompts)
  first, second = encode([opened, off(other)], prompts), encode([off(opened), other], prompts)
  none = encode([off(opened), off(other)], prompts)
  np.testing.assert_allclose(both[0], first[0] + second[0] - none[0], atol=1e-5)
  np.testing.assert_array_equal(both[1], second[1])
  np.testing.assert_array_equal(first[1], none[1])
  base = tree.flatten(pipeline[0].params["unet"])
  one, two, mean = (tree.flatten(id_ea.override(i, pipeline[0], CFG)) for i in ([opened], [other], [opened, other]))
  for path, x in mean.items():
    np.testing.assert_allclose(x, (one[path] + two[path]) / 2, atol=1e-6)
    assert np.abs(one[path] - base[path]).max() > 0.1
  still = id_ea.override([off(opened)], pipeline[0], CFG)
  assert all(np.array_equal(x, base[path]) for path, x in tree.flatten(still).items())


def test_naive_concat_puts_face_tokens_in_the_last_places(pipeline):
  cfg = dataclasses.replace(CFG, naive_concat=True)
  fz = toys.frozen(pipeline, id_ea, cfg, subjects.person(pipeline[0]))
  params = shaken(start(fz, cfg))
  identity = id_ea.represent(params, fz, cfg)
  prompts = tokenised(pipeline, ["<id> and <you>", "a photo of <you>", ""], {"<id>": 2, "<you>": 2})
  other = identity | {"face": -identity["face"]}
  context = np.asarray(id_ea.condition([identity, other], pipeline[0], prompts, cfg).k[0])
  plain = conditioning.contexts(pipeline[0], prompts, conditioning.join([identity, other])).k[0]
  face = params["face"]
  want = (512**0.5 * np.asarray(fz.subject.face) @ face["kernel"] + face["bias"]).reshape(2, 32)
  np.testing.assert_allclose(context[0, -2:], want, atol=1e-4)
  np.testing.assert_allclose(context[:2, -4:-2], np.stack([-want, -want]), atol=1e-4)
  np.testing.assert_array_equal(context[1, -2:], plain[1, -2:])
  np.testing.assert_array_equal(context[:, :-4], plain[:, :-4])
  np.testing.assert_array_equal(context[2], plain[2])


def test_lora_is_a_change_of_low_rank(pipeline):
  """With B = 0 it is the base model; afterwards K' = K + A B, also for stacked blocks."""
  cfg = dataclasses.replace(CFG, kv="lora", rank=3)
  fz = toys.frozen(pipeline, id_ea, cfg, subjects.person(pipeline[0]))
  params, base = start(fz, cfg), tree.flatten(pipeline[0].params["unet"])
  kernels = lambda p: tree.flatten(id_ea.override([id_ea.represent(p, fz, cfg)], pipeline[0], cfg))
  assert all(np.array_equal(x, base[path]) for path, x in kernels(params).items())
  for path, x in kernels(shaken(params)).items():
    assert np.linalg.matrix_rank(np.asarray(x - base[path]), tol=1e-4) == 3


# Words, regularisers, training.


def test_captions_hold_the_words_side_by_side(pipeline):
  """The two words take neighbouring positions, and a prompt in which they would be cut off is refused."""
  assert id_ea.needs(id_ea.Config(), nets=None).captions[0] == "a photo of a face of {} person"
  assert len(id_ea.needs(id_ea.Config(), nets=None).captions) == 81
  _, words = pipeline
  p = tokenised(pipeline, ["face of <id> person"], {"<id>": 2})
  first, second = p.where[0][0]
  assert second == first + 1
  with pytest.raises(UserError, match="cut off"):
    tokenised(pipeline, ["ab" * 37 + " <id>"], {"<id>": 2})


def test_the_anchor_is_one_of_four(pipeline):
  """The anchor is the mean of tokens or of words, as output or input; the words always begin cross-initialised."""
  b, words = pipeline
  names = ("ab c", "d ef")
  constants = {
    (a, s): id_ea.constants(b, words, names, id_ea.Config(anchor=a, anchor_space=s))
    for a in ("tokens", "words")
    for s in ("output", "input")
  }
  for by in ("tokens", "words"):
    np.testing.assert_array_equal(constants[by, "output"]["anchor"], anchors.cross(b, words, names, by=by)[0])
    np.testing.assert_array_equal(constants[by, "input"]["anchor"], anchors.mean(b, words, names, by=by)[0])
    np.testing.assert_array_equal(constants[by, "input"]["start"][0], constants[by, "output"]["anchor"])
  flat = [np.asarray(m["anchor"]) for m in constants.values()]
  assert min(np.abs(x - y).max() for i, x in enumerate(flat) for y in flat[:i]) > 1e-4


@given(st.integers(0, 10_000), st.floats(0.5, 3.0))
@settings(max_examples=20, deadline=None)
def test_mahalanobis_in_closed_form(seed, scale):
  """The closed forms equal a float64 solve and a float32 pseudo-inverse."""
  rng = np.random.default_rng(seed)
  start, rows = (scale * rng.standard_normal((2, 64)).astype(np.float32) for _ in range(2))
  u = (start[0].astype(np.float64) - start[1]) / 2**0.5
  delta = rows.astype(np.float64) - start
  c = np.outer(u, u) + anchors.ZETA * np.eye(64)
  want = [np.sqrt(d @ np.linalg.solve(c, d)) for d in delta]
  np.testing.assert_allclose(anchors.distance(rows, start, "mahalanobis"), want, rtol=1e-6)
  c32 = c.astype(np.float32)
  values, vectors = np.linalg.eigh(c32.astype(np.float64))  # a pinv at float32's default tolerance
  large = values > 64 * np.finfo(np.float32).eps * values.max()
  assert large.sum() == 1
  want = [np.sqrt(np.square(vectors[:, large].T @ d) / values[large])[0] for d in delta]
  np.testing.assert_allclose(anchors.distance(rows, start, "mahalanobis_released"), want, rtol=1e-4, atol=1e-4)
  pinv = np.linalg.pinv(c32, rcond=64 * np.finfo(np.float32).eps)
  want = [np.sqrt(max(d @ pinv @ d, 1e-8)) for d in delta.astype(np.float32)]
  np.testing.assert_allclose(anchors.distance(rows, start, "mahalanobis_released"), want, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("kind", ["l2", "mahalanobis", "mahalanobis_released"])
def test_a_regulariser_has_a_gradient_everywhere(kind):
  x = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)
  at = lambda rows: np.asarray(jax.grad(lambda r: anchors.distance(r, x, kind).sum())(rows))
  assert not at(x).any()
  assert np.isfinite(at(2 * x)).all() and at(2 * x).any()


def test_without_adapter_and_kv_it_is_textual_inversion(pipeline, fz, gradient):
  """With rate 0 for all but the words, losses and words are those of cross-initialised textual inversion."""
  still = dataclasses.replace(CFG, lr=1e-2, lr_modules=0.0, lr_gate=0.0, lr_kv=0.0, adam_eps=1e-8)
  ours, log = trained(gradient, fz, still, 4)
  cfg = ti.Config(vectors=2, start="cross", templates=CAPTIONS, lr=1e-2)
  theirs_fz = toys.frozen(pipeline, ti, cfg, fz.subject)
  g = jax.jit(jax.value_and_grad(lambda p, k: ti.loss(p, theirs_fz, {}, k, cfg), has_aux=True))
  params, tx = ti.init(jax.random.key(0), theirs_fz, cfg), step.by_path(*ti.rates(cfg))
  opt = tx.init(params)
  for i in range(4):
    (value, _), grads = g(params, keys(i))
    np.testing.assert_allclose(log[i][0], value, rtol=1e-5)
    updates, opt = tx.update(grads, opt, params)
    params = optax.apply_updates(params, updates)
  np.testing.assert_allclose(ours["rows"][0], params["rows"][0], atol=2e-5)
  assert subjects.moved(start(fz), ours) == {"rows.0"}


def test_the_error_falls(fz, gradient):
  """The loss at fixed draws falls within 50 steps, and the gate opens."""
  cfg = dataclasses.replace(CFG, **LARGE)
  fixed_keys = [keys(1000 + i) for i in range(8)]
  look = lambda p: float(np.mean([gradient(p, fz, k)[0][0] for k in fixed_keys]))
  after, log = trained(gradient, fz, cfg, 50)
  assert look(after) < 0.97 * look(start(fz))
  assert abs(log[-1][1]["gate"]) > 0 and log[-1][1]["moved"] > 0


def test_people_side_by_side_train_as_each_alone(pipeline, fz, gradient):
  """vmap over params, subject and keys; backbone, constants and captions shared."""
  people = [subjects.person(pipeline[0], seed) for seed in (0, 1)]
  alone = []
  for i, person in enumerate(people):
    one = fz._replace(subject=person)
    params = shaken(start(one, seed=i), seed=i)
    alone.append((params, gradient(params, one, keys(i))))
  stack = lambda *xs: jax.tree.map(lambda *x: jnp.stack(x), *xs)
  axes = subject.Frozen(None, None, None, 0)
  crowd = jax.jit(
    jax.vmap(jax.value_and_grad(functools.partial(id_ea.loss, cfg=CFG), has_aux=True), (0, axes, None, 0))
  )
  crowd_result = crowd(stack(*(p for p, _ in alone)), fz._replace(subject=stack(*people)), {}, stack(keys(0), keys(1)))
  want = stack(*(out for _, out in alone))
  for (path, a), b in zip(tree.flatten(crowd_result).items(), jax.tree.leaves(want)):
    np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5 * max(1, float(np.abs(b).max())), err_msg=path)


@pytest.mark.slow
def test_it_trains_on_sdxl(folder):
  """Every row of both encoders and every adapter moves; the pooled vector is not adapted."""
  pipeline = toys.opened(folder, "sdxl")
  cfg = dataclasses.replace(CFG, **LARGE)
  fz = toys.frozen(pipeline, id_ea, cfg, subjects.person(pipeline[0]))
  before, after, log = subjects.train(id_ea, cfg, fz, 3)
  assert np.isfinite([m["loss"] for m in log]).all()
  assert "kv" in before and all(k.endswith((".A", ".B")) for k in tree.flatten(before["kv"]))
  assert subjects.moved(before, after) >= {k for k in tree.flatten(before) if not k.endswith("to_k.bias")}
  identity = id_ea.represent(after, fz, cfg)
  a, b = (id_ea.condition([i], pipeline[0], fz.captions, cfg) for i in (identity, {"rows": identity["rows"]}))
  np.testing.assert_array_equal(a.pooled, b.pooled)
  assert a.k.shape[-1] == 72 and np.abs(a.k - b.k).max() > 0
