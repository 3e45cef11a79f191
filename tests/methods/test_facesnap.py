"""FaceSnap's loss: what it reads, what it ignores, where its gradient goes; its few-step branch; a person."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import toys
from support.fakes import fill, relative_error

from idejax import draws, tree
from idejax.errors import UserError
from idejax.faces import predictor
from idejax.methods import ADDONS, contract, facesnap
from idejax.methods.facesnap import Config, Look
from idejax.model import backbone, conditioning, diffusion
from idejax.nets import controlnet, iresnet, mixer
from idejax.nets.mixer import MixerConfig
from idejax.person import recogniser, subject
from idejax.person.subject import Frozen
from idejax.sampling import sampler

CFG = Config(dim=8, head_dim=4, identity_tokens=3, tokens=4, layers=1, identity_weight=0.0, steps=10, batch=2)
CLIP, ROWS = 6, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("facesnap")


def frozen_of(folder, family, twin=None):
  b, words = toys.opened(folder, family)
  nothing = conditioning.tokenise(words, [""], {})
  constants = {"clip": np.zeros(CLIP, np.float32), "recogniser": twin}
  return jax.tree.map(jnp.asarray, Frozen(b, constants, nothing, None)), words


def batch_of(frozen, words, texts=("a b", "c d"), seed=0):
  rng, n = np.random.default_rng(seed), frozen.backbone.nets
  side = n.unet.sample_size
  normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  prompts = conditioning.tokenise(words, texts, {})
  pixels = side * n.factor
  return {
    "mean": normal(ROWS, side, side, n.latent_channels), "logvar": jnp.full((ROWS, side, side, n.latent_channels), -6.0),
    "mask": jnp.ones((ROWS, side, side)), "marks": jnp.stack([predictor.pose(p, pixels, pixels) for p in ("left", "happy")]),
    "ids": prompts.ids, "eos": prompts.eos, "identity": normal(ROWS, 512), "clip": normal(ROWS, 5, CLIP),
    "few": jnp.zeros(ROWS), "index": jnp.arange(ROWS),
  }  # fmt: skip


INIT = jax.jit(facesnap.init, static_argnames="cfg")
REPRESENT = jax.jit(facesnap.represent, static_argnames="cfg")
CONDITION = jax.jit(facesnap.condition, static_argnames="cfg")
KEYS = draws.keys(jax.random.key(0), 0, jnp.arange(ROWS))


@functools.partial(jax.jit, static_argnames="cfg")
def value(params, frozen, batch, cfg):
  return facesnap.loss(params, frozen, batch, KEYS, cfg)[0]


@functools.partial(jax.jit, static_argnames="cfg")
def slope(params, frozen, batch, cfg):
  return jax.value_and_grad(lambda p: facesnap.loss(p, frozen, batch, KEYS, cfg)[0])(params)


@pytest.fixture(scope="module")
def ready(folder):
  return prepare(folder, "sd15")


@pytest.fixture(scope="module", params=["sd15", pytest.param("sdxl", marks=pytest.mark.slow)])
def family(request, folder):
  return prepare(folder, request.param)


@functools.cache
def prepare(folder, name):
  """(frozen, batch, params, params whose every weight is random, the zero convolutions' too)"""
  frozen, words = frozen_of(folder, name)
  params = INIT(jax.random.key(1), frozen, CFG)
  shapes = jax.eval_shape(lambda: params)
  noise = {"mixer": fill(shapes["mixer"], 3, 0.3), "controlnet": fill(shapes["controlnet"], 2, 0.05)}
  moved = jax.tree.map(jnp.add, params, noise)
  return frozen, batch_of(frozen, words), params, moved


def test_untrained_it_is_the_base_model(family):
  """Every zero convolution is zero: the loss is that of the UNet without a ControlNet."""
  frozen, batch, params, _ = family
  b = frozen.backbone

  @jax.jit
  def plain(b, batch):
    k_latent, k_t, k_noise, k_empty, _, _ = draws.split(KEYS, 6)
    e = subject.make_example(b, None, None, batch["mean"], batch["logvar"], (k_latent, k_t, k_noise))
    texts = conditioning.Prompts(batch["ids"], batch["eos"], ())
    cond = facesnap._texts(b, texts, frozen.captions, draws.uniform(k_empty) < CFG.empty)
    return diffusion.mse(backbone.predict(b, e.noisy, e.t, cond), e.target).mean()

  np.testing.assert_allclose(value(params, frozen, batch, CFG), plain(b, batch), rtol=1e-6)


def test_the_error_outside_the_region_does_not_count(ready):
  """A region of nothing: no loss and no gradient. The paper's weight of the rest is 0; others weigh it."""
  frozen, batch, _, moved = ready
  nowhere = batch | {"mask": jnp.zeros_like(batch["mask"])}
  loss, gradient = slope(moved, frozen, nowhere, CFG)
  assert loss == 0 and optax_norm(gradient) == 0
  whole, _ = slope(moved, frozen, batch, CFG)
  half = value(moved, frozen, nowhere, dataclasses.replace(CFG, outside=0.5))
  np.testing.assert_allclose(half, whole / 4, rtol=1e-5)


def test_beyond_the_picture_nothing_is_learned(ready):
  """Half of the frame covered: as a region of that half; whatever weight the rest of the picture has."""
  frozen, batch, _, moved = ready
  left = jnp.zeros_like(batch["mask"]).at[:, :, :8].set(1.0)
  outside = dataclasses.replace(CFG, outside=0.5)
  covered, _ = slope(moved, frozen, batch | {"inside": left}, CFG)
  whole, _ = slope(moved, frozen, batch, CFG)
  assert 0 < covered < whole
  np.testing.assert_allclose(covered, value(moved, frozen, batch | {"mask": left}, CFG), rtol=1e-6)
  part = value(moved, frozen, batch | {"mask": 0 * left, "inside": left}, outside)
  np.testing.assert_allclose(part, covered / 4, rtol=1e-5)


@pytest.mark.slow  # SDXL's
def test_a_picture_has_its_own_place_in_its_photo(folder):
  frozen, batch, _, moved = prepare(folder, "sdxl")
  side = batch["mean"].shape[1] * frozen.backbone.nets.factor
  ids = jnp.asarray(conditioning.time_ids(ROWS, (side, side)))
  at = lambda **more: float(value(moved, frozen, batch | more, CFG))
  np.testing.assert_allclose(at(time_ids=ids), at(), rtol=1e-6)
  assert abs(at(time_ids=ids.at[:, 2:4].set(40.0)) - at()) > 1e-6


def optax_norm(gradient):
  return float(sum(jnp.abs(x).sum() for x in jax.tree.leaves(gradient)))


def test_every_part_learns(family):
  frozen, batch, params, moved = family
  _, gradient = slope(moved, frozen, batch, CFG)
  silent = [path for path, x in tree.flatten(gradient).items() if not np.abs(x).max() > 0]
  # What a softmax or a norm takes back has no gradient: biases of keys, and none else.
  assert all(path.endswith("to_k.bias") for path in silent), silent
  _, first = slope(params, frozen, batch, CFG)  # before the first step the zero convolutions alone
  assert all(("controlnet_" in p) == bool(np.abs(x).max() > 0) or "cond_embedding" in p for p, x in tree.flatten(first).items())  # fmt: skip


def test_faces_landmarks_and_words_are_read(ready):
  """Each changes the loss; landmarks do not where the control picture is black, and those not known are black."""
  frozen, batch, _, moved = ready
  at = lambda cfg=CFG, **change: float(value(moved, frozen, batch | change, cfg))
  other = jax.tree.map(lambda x: x[::-1], {k: batch[k] for k in ("identity", "clip", "marks", "ids", "eos")})
  plain = at()
  for name in ("identity", "clip", "marks"):
    assert abs(at(**{name: other[name]}) - plain) > 1e-7, name
  assert abs(at(ids=other["ids"], eos=other["eos"]) - plain) > 1e-7
  unknown = {"marks": batch["marks"].at[:, 3, 0].set(jnp.nan)}
  black = dataclasses.replace(CFG, blank=1.0)
  assert at(black, marks=other["marks"]) == at(black) == at(**unknown)


def test_text_is_dropped_at_its_rate(folder):
  """Of 4000 rows 0.1, within three standard deviations; a dropped row is the empty prompt's."""
  frozen, words = frozen_of(folder, "sd15")
  keys = draws.keys(jax.random.key(3), 0, jnp.arange(4000))
  dropped = draws.uniform(draws.split(keys, 6)[3]) < Config().empty
  assert abs(float(dropped.mean()) - 0.1) < 3 * (0.09 / 4000) ** 0.5
  prompts, nothing = conditioning.tokenise(words, ["a b"], {}), frozen.captions
  texts = jax.jit(lambda b, empty: facesnap._texts(b, prompts, nothing, empty).k)
  said, silent = (texts(frozen.backbone, jnp.array([x])) for x in (False, True))
  empty = jax.jit(lambda b: conditioning.contexts(b, nothing, None).k)(frozen.backbone)
  np.testing.assert_array_equal(silent, empty)
  assert relative_error(said, empty) > 1e-3


# The few-step branch.


@pytest.fixture(scope="module")
def twin():
  """A small recogniser; variances are positive."""
  params = fill(iresnet.shapes(iresnet.IResNetConfig((1,), (4,), 512)), 5, 0.2)
  return jax.tree_util.tree_map_with_path(lambda p, x: abs(x) + 0.1 if "running_var" in str(p) else x, params)


def test_a_few_steps_are_the_samplers(ready):
  """DDIM at trailing timesteps without guidance, step by step."""
  frozen, batch, _, moved = ready
  b = facesnap.steered(frozen.backbone, moved["controlnet"])
  texts = conditioning.Prompts(batch["ids"], batch["eos"], ())
  cond = jax.jit(facesnap._texts)(b, texts, frozen.captions, jnp.array([False, True]))
  noise = jnp.asarray(np.random.default_rng(0).standard_normal(batch["mean"].shape), jnp.float32)
  ours = jax.jit(facesnap.few_steps, static_argnums=3)(b, cond, noise, 4)
  table = sampler.table("ddim", b.nets.schedule, 4, timestep_spacing="trailing")
  keys = jax.vmap(jax.random.key)(jnp.arange(ROWS))
  run = lambda b, z, table: sampler.sample(lambda x, t: backbone.predict(b, x, t, cond), z, table, keys)
  latents = jax.jit(run)(b, noise, table)
  theirs = jax.jit(backbone.decode)(b, latents)
  # diffusers' last step goes to the first alpha, not to 1.
  assert relative_error(ours, theirs) < 0.05 and relative_error(ours, theirs) > 0


@pytest.mark.slow
def test_the_identity_loss_teaches_mixer_and_controlnet(folder, twin):
  """It counts where the batch says so, by its weight; lies in [0, 2]; and is not the diffusion loss' gradient."""
  frozen, words = frozen_of(folder, "sd15", twin)
  batch = batch_of(frozen, words)
  params = INIT(jax.random.key(1), frozen, CFG)
  shapes = jax.eval_shape(lambda: params["controlnet"])
  params["controlnet"] = jax.tree.map(jnp.add, params["controlnet"], fill(shapes, 2, 0.05))
  cfg = dataclasses.replace(CFG, identity_weight=0.5, identity_steps=2, blank=0.0)
  both = jax.jit(
    jax.value_and_grad(lambda p, few: facesnap.loss(p, frozen, batch | {"few": few}, KEYS, cfg), has_aux=True)
  )
  (idle, quiet), none = both(params, jnp.zeros(ROWS))
  (total, told), some = both(params, jnp.full(ROWS, 2.0))
  assert np.isnan(quiet["identity"]) and idle == quiet["diffusion"]
  assert 0 <= told["identity"] <= 2
  np.testing.assert_allclose(total, told["diffusion"] + 2 * told["identity"], rtol=1e-6)
  for name in ("mixer", "controlnet"):
    moved = jax.tree.map(jnp.subtract, some[name], none[name])
    assert 0 < optax_norm(moved) < np.inf, name


@pytest.mark.slow  # a gradient through the few steps
def test_contrast_is_a_part_of_the_identity_loss(folder, twin):
  """Off it changes nothing and has no metric; on, it is added by its weight, and counts only other people."""
  frozen, words = frozen_of(folder, "sd15", twin)
  batch, params = batch_of(frozen, words) | {"few": jnp.full(ROWS, 2.0)}, INIT(jax.random.key(1), frozen, CFG)
  cfg = dataclasses.replace(CFG, identity_weight=0.5, identity_steps=1, blank=0.0)
  at = lambda cfg, who: facesnap.loss(params, frozen, batch | {"person": jnp.array(who)}, KEYS, cfg)
  off, plain = at(cfg, [0, 1])
  with_it = dataclasses.replace(cfg, contrast=0.25)
  on, told = at(with_it, [0, 1])
  assert "contrast" not in plain and told["contrast"] > 0
  np.testing.assert_allclose(on, off + 2 * 0.25 * told["contrast"], rtol=1e-6)
  np.testing.assert_allclose(at(with_it, [5, 5])[0], off, rtol=1e-6)


def test_a_mixer_of_several_photos_reads_them_at_once(ready):
  frozen, batch, params, _ = ready
  look = Look(batch["identity"], batch["clip"])
  fused, mean = (REPRESENT(params, frozen._replace(subject=look), dataclasses.replace(CFG, photos=n))["tokens"] for n in (2, 1))  # fmt: skip
  assert fused.shape == mean.shape and np.abs(fused - mean).max() > 1e-4
  several = batch | {n: jnp.stack([batch[n], batch[n]], axis=1) for n in ("identity", "clip")}
  np.testing.assert_allclose(value(params, frozen, several, CFG), value(params, frozen, batch, CFG), rtol=1e-5)
  with pytest.raises(UserError, match="--photos 2 are read by the mixer's decoder"):
    facesnap.mixer_config(dataclasses.replace(CFG, photos=2, fuse="concat"), 8, 8)


def test_the_step_says_when_the_identity_loss_is_due():
  cfg = dataclasses.replace(CFG, identity_weight=0.5, identity_every=4, identity_after=0.2, steps=100)
  due = {i: facesnap.identity_weight(cfg, i) for i in range(100) if facesnap.identity_weight(cfg, i)}
  assert list(due) == list(range(20, 100, 4)) and set(due.values()) == {2.0}


# Sizes, rates and people.


def test_presets_and_protocol():
  assert set(ADDONS) == {"facesnap"} and facesnap.scope == "dataset"
  for name in (n for n in vars(contract.Method) if callable(getattr(contract.Method, n)) and n[0] != "_"):
    assert callable(getattr(facesnap, name)), name
  paper = facesnap.PRESETS["paper"]
  assert (paper.lr, paper.batch, paper.steps, paper.empty, paper.identity_weight) == (1e-5, 14, 360_000, 0.1, 0.5)
  assert (paper.cross, paper.outside, paper.weight_decay) == (0, 0, 1e-2)
  assert (paper.contrast, paper.photos) == (0, 1)
  assert paper.augment == 0.8 and Config().augment == 0  # 160,000 pictures made 800,000
  with pytest.raises(UserError, match="--dim 10 is no multiple of --head_dim 4"):
    facesnap.mixer_config(dataclasses.replace(CFG, dim=10), 8, 8)


def test_rates():
  """Constant in the paper; in the miniature's preset it rises, stays and falls to a hundredth."""

  def moves(cfg, steps):
    ((_, tx),) = facesnap.rates(dataclasses.replace(cfg, weight_decay=0.0))
    state, out = tx.init(jnp.zeros(1)), []
    for _ in range(steps):
      update, state = tx.update(jnp.ones(1), state, jnp.zeros(1))
      out.append(float(-update[0]))
    return out

  np.testing.assert_allclose(moves(Config(), 3), 1e-5, rtol=1e-4)
  cfg = dataclasses.replace(CFG, lr=1e-3, warm=0.2, fall=0.3, steps=10)
  got = moves(cfg, 10)
  np.testing.assert_allclose(got[:7], [0, 5e-4, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3], atol=1e-8)
  assert got[7] > got[8] > got[9] > 1e-5


def test_one_photo_is_one_pass_of_the_mixer_and_several_are_their_mean(ready):
  frozen, batch, params, _ = ready
  look = Look(batch["identity"], batch["clip"])
  tokens = [REPRESENT(params, frozen._replace(subject=Look(*(x[i : i + 1] for x in look))), CFG)["tokens"] for i in (0, 1)]  # fmt: skip
  both = REPRESENT(params, frozen._replace(subject=look), CFG)["tokens"]
  np.testing.assert_allclose(both, (tokens[0] + tokens[1]) / 2, atol=1e-5)
  assert both.shape == (CFG.tokens, frozen.backbone.nets.unet.context_dim)
  prompts = conditioning.Prompts(batch["ids"], batch["eos"], ())
  people = [{"tokens": t} for t in tokens]
  cond = CONDITION(people, frozen.backbone, prompts, CFG)
  np.testing.assert_array_equal(cond.control_context, np.stack(tokens))
  alone = CONDITION(people[:1], frozen.backbone, prompts, CFG)
  np.testing.assert_array_equal(alone.control_context, np.stack(tokens[:1] * 2))
  with pytest.raises(UserError, match="3 faces for 2 prompts"):
    facesnap.condition(people + people[:1], frozen.backbone, prompts, CFG)
  with pytest.raises(UserError, match="not exported alone"):
    facesnap.export(people[0], frozen.backbone, CFG)


def test_the_controlnet_begins_as_the_unets_encoder(ready):
  frozen, _, params, _ = ready
  unet = frozen.backbone.params["unet"]
  np.testing.assert_array_equal(params["controlnet"]["conv_in"]["kernel"], unet["conv_in"]["kernel"])
  want = controlnet.shapes(facesnap.steered(frozen.backbone, {}).nets.controlnet)
  assert jax.tree.map(lambda s: s.shape, want) == jax.tree.map(jnp.shape, params["controlnet"])


def test_the_mixer_is_drawn_as_its_layers_say():
  """The paper's deviation at its 1280 features, twice as much at a quarter of them."""
  cfg = MixerConfig(dim=320, context_dim=32, clip_dim=48, head_dim=32, identity_tokens=4, layers=1)
  drawn = mixer.draw(cfg, jax.random.key(0))
  assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(lambda s: s.shape, mixer.shapes(cfg))
  flat = tree.flatten(drawn)
  kernel = flat["layers.0.ff.net.0.kernel"]
  assert np.abs(kernel).max() <= 0.08 and abs(float(kernel.std()) - 0.04 * 0.8796) < 3e-4
  assert abs(float(flat["queries"].std()) * 320**0.5 - 1) < 0.05
  assert not np.abs(flat["clip_proj.bias"]).any() and (flat["norm_out.scale"] == 1).all()


def test_the_recognisers_depth_is_read_from_its_weights(twin):
  crops = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 112, 112, 3)), jnp.float32)
  net = iresnet.IResNet(iresnet.IResNetConfig((1,), (4,), 512))
  want = jax.jit(lambda p, x: net.apply({"params": p}, x))(twin, crops)
  np.testing.assert_allclose(jax.jit(recogniser.embed)(twin, crops), want, rtol=1e-6)
