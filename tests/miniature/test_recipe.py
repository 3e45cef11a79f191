"""How the miniature's UNet is trained: Muon's groups and updates, weights by time, a UNet that grows, and
what is measured of its pictures."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers
from support.fakes import fill, nchw, nhwc, relative_error

from idejax import faces
from idejax.miniature.judging import distances, looks, regularity
from idejax.miniature.training import denoiser, growth, optimiser, recipe, training
from idejax.miniature.world import data, people, scene
from idejax.model import backbone
from idejax.model.families import random_params
from idejax.nets import clip, unet
from idejax.storage import weights


def config(**changes):
  return unet.UNetConfig.from_json(recipe.unet(dataclasses.replace(recipe.TINY, **changes)))


def test_muon_takes_matrices_and_convolutions_but_neither_ends_nor_vectors():
  shapes = unet.shapes(unet.UNetConfig.from_json(recipe.unet(recipe.TINY_SDXL)))
  is_leaf = lambda x: x is None or isinstance(x, MuonDimensionNumbers)
  specs = jax.tree_util.tree_leaves(optimiser.matrices({"unet": shapes}), is_leaf=is_leaf)
  paths = jax.tree_util.tree_leaves_with_path({"unet": shapes})
  seen = set()
  for (path, x), spec in zip(paths, specs, strict=True):
    name = ".".join(k.key for k in path)
    if not name.endswith("kernel") or ".conv_in." in name or ".conv_out." in name:
      assert spec is None, name
      continue
    assert spec.output_axis == x.ndim - 1, name
    kind = {2: (0,), 3: (1,), 4: (0, 1, 2)}[x.ndim]  # 3: transformer blocks, scanned; each its own matrix
    assert tuple(np.atleast_1d(spec.reduction_axis)) == kind, name
    seen.add(x.ndim)
  assert seen == {2, 3, 4}


def test_an_update_by_muon_is_orthogonal_whatever_the_gradient(rng):
  """All singular values of each flattened matrix are about alike, though the gradient's span five decades."""
  r = dataclasses.replace(recipe.TINY, lr=1e-2, muon=True)
  params = {"conv1": {"kernel": np.zeros((3, 3, 8, 16), np.float32), "bias": np.zeros(16, np.float32)},
            "blocks": {"kernel": np.zeros((2, 12, 20), np.float32)}, "conv_in": {"kernel": np.zeros((3, 3, 4, 8), np.float32)}}  # fmt: skip
  steep = lambda *shape: rng.standard_normal(shape) * np.logspace(0, -2, shape[-1])
  grads = jax.tree.map(lambda x: steep(*x.shape).astype(np.float32), params)
  tx = optimiser.make(r, 100)
  state = tx.init(params)
  tick = jax.jit(tx.update)
  for _ in range(20):
    updates, state = tick(grads, state, params)  # to the end of the warm-up: the rate is r.lr
  matrices = [updates["conv1"]["kernel"].reshape(-1, 16), *updates["blocks"]["kernel"]]
  for m, g in zip(matrices, (grads["conv1"]["kernel"].reshape(-1, 16), *grads["blocks"]["kernel"])):
    values = np.linalg.svd(m, compute_uv=False) / (r.lr * 0.2 * max(m.shape) ** 0.5)
    assert 0.5 < values.min() and values.max() < 1.4
    assert (m * g).sum() < 0  # downhill
  for name, leaf in (("bias", updates["conv1"]["bias"]), ("conv_in", updates["conv_in"]["kernel"])):
    np.testing.assert_allclose(np.abs(leaf), r.lr, rtol=0.05, err_msg=name)  # Adam's, of a constant gradient


def test_without_muon_everything_is_adams(rng):
  r = dataclasses.replace(recipe.TINY, muon=False)
  params = {"kernel": rng.standard_normal((8, 8)).astype(np.float32)}
  ours, wanted = optimiser.make(r, 100), optax.adam(training.flat(r.lr, 100, r.decay), b2=0.99)
  states = [tx.init(params) for tx in (ours, wanted)]
  for _ in range(5):
    found = [tx.update(params, state, params) for tx, state in zip((ours, wanted), states)]
    states = [state for _, state in found]
  (mine, _), (theirs, _) = found
  np.testing.assert_array_equal(mine["kernel"], theirs["kernel"])
  assert np.abs(mine["kernel"]).min() > 0


def test_weights_by_time_are_min_snr_and_never_vanish():
  abar = np.linspace(0.999, 0.001, 50)
  snr = abar / (1 - abar)
  weight = denoiser.time_weights(abar, 5.0, 0.1)
  bare = np.minimum(snr, 5) / (snr + 1)
  assert weight.mean() == pytest.approx(1) and weight.dtype == np.float32
  np.testing.assert_allclose(weight / weight.max(), np.maximum(bare, 0.1) / bare.max(), rtol=1e-5)


def test_a_grown_unet_computes_what_the_old_one_did(rng):
  """Exactly up to the middle; behind it groups of norms shift, and copies part as soon as they are trained."""
  old_cfg = config(fine=(False, False), widths=(16, 48), heads=(1, 2))
  cfg = config(fine=(False, True), widths=(32, 48), heads=(2, 2))
  old = fill(unet.shapes(old_cfg), 1, 0.1)
  new = growth.grow(old_cfg, old, cfg, 0)
  x, t = rng.standard_normal((3, 8, 8, 4)).astype(np.float32), np.array([5, 400, 900])
  context = rng.standard_normal((3, 7, 32)).astype(np.float32)

  def run(cfg, params):
    middle = lambda module, _: module.path == ("mid_block.resnets.1",)
    out, seen = jax.jit(lambda p: unet.UNet(cfg).apply({"params": p}, x, t, context, capture_intermediates=middle))(
      params
    )
    return np.asarray(out), np.asarray(jax.tree.leaves(seen)[0])

  (out, middle), (grown, grown_middle) = run(old_cfg, old), run(cfg, new)
  assert relative_error(grown_middle, middle) < 1e-4
  assert np.corrcoef(grown.ravel(), out.ravel())[0, 1] > 0.7
  kernel = np.asarray(new["down_blocks.0.resnets.0"]["conv1"]["kernel"])
  assert np.abs(kernel[..., 0::2, :] - kernel[..., 1::2, :]).max() > 0.01  # what reads two copies tells them apart


def test_a_unet_grows_into_sdxls_architecture_and_computes_the_same(rng):
  """More transformer blocks, pooled text and time ids begin silent; other text encoders' context is read by a matrix."""
  old_cfg = config(fine=(False, False))
  cfg = unet.UNetConfig.from_json(recipe.unet(dataclasses.replace(recipe.TINY_SDXL, depths=(1, 3))))
  assert cfg.added_dims and cfg.mid_depth == 3 and cfg.context_dim == 48 > old_cfg.context_dim == 32
  old = fill(unet.shapes(old_cfg), 1, 0.1)
  x, t = rng.standard_normal((3, 8, 8, 4)).astype(np.float32), np.array([5, 400, 900])
  new_context = rng.standard_normal((3, 7, 48)).astype(np.float32)
  matrix = rng.standard_normal((48, 32)).astype(np.float32) / 7
  added = rng.standard_normal((3, 16)).astype(np.float32), np.tile(np.float32([64, 64, 0, 0, 64, 64]), (3, 1))
  new = growth.grow(old_cfg, old, cfg, 0, matrix)
  want = jax.jit(unet.UNet(old_cfg).apply)({"params": old}, x, t, new_context @ matrix)
  got = jax.jit(unet.UNet(cfg).apply)({"params": new}, x, t, new_context, added=added)
  assert relative_error(got, want) < 1e-5
  with pytest.raises(ValueError, match="text of width 32 does not grow into one for 48"):
    growth.grow(old_cfg, old, cfg, 0)


def test_the_context_map_is_what_makes_one_encoders_context_of_anothers(rng):
  """Of an encoder whose last layer's norm is undone the map is the exact one; of random encoders it explains a part."""
  texts = recipe.texts(recipe.TINY_SDXL, 20)
  nets = backbone.Nets.from_json(
    {
      "unet": recipe.unet(recipe.TINY_SDXL),
      "scheduler": recipe.scheduler(recipe.TINY_SDXL),
      "vae": recipe.vae(recipe.TINY_SDXL),
    }
    | texts,
    zero_empty_negative=True,
  )
  params = {n: random_params(clip.shapes(cfg), i) for i, (n, cfg) in enumerate(zip(texts, nets.text))}
  new = backbone.Backbone(nets, params)
  ids = np.concatenate([np.full((40, 1), 18), rng.integers(1, 18, (40, 6)), np.full((40, 1), 19)], 1).astype(np.int32)
  same, explained = growth.context_map(new, new, ids, ids)
  assert explained == pytest.approx(1, abs=1e-6)
  np.testing.assert_allclose(same, np.eye(48), atol=1e-3)
  other = backbone.Backbone(
    nets, {n: random_params(clip.shapes(cfg), i + 9) for i, (n, cfg) in enumerate(zip(texts, nets.text))}
  )
  matrix, part = growth.context_map(other, new, ids, ids)
  assert matrix.shape == (48, 48) and 0.1 < part < 0.99


def test_stock_diffusers_computes_the_same_with_attention_at_the_finest_level_on_the_way_up(rng):
  import torch
  from diffusers import UNet2DConditionModel

  r = dataclasses.replace(recipe.TINY, layers=(2, 1))
  cfg = unet.UNetConfig.from_json(recipe.unet(r))
  assert cfg.down_depths == (0, 1) and cfg.up_depths == (1, 1) and cfg.layers == (2, 1)
  params = fill(unet.shapes(cfg), 3, 0.1)
  stock = UNet2DConditionModel.from_config(recipe.unet(r)).eval()
  stock.load_state_dict({k: torch.from_numpy(np.array(x)) for k, x in weights.to_torch(params).items()})
  x, t = rng.standard_normal((2, 8, 8, 4)).astype(np.float32), np.array([5, 700])
  context = rng.standard_normal((2, 7, 32)).astype(np.float32)
  with torch.no_grad():
    theirs = stock(nchw(x), torch.from_numpy(t), torch.from_numpy(context)).sample
  ours = jax.jit(lambda p: unet.UNet(cfg).apply({"params": p}, x, t, context))(params)
  assert relative_error(ours, nhwc(theirs)) < 1e-4


def test_a_unet_does_not_grow_into_another_kind():
  old = config(fine=(False, False), widths=(16, 48), heads=(1, 2))
  with pytest.raises(ValueError, match="does not grow"):
    growth.grow(old, fill(unet.shapes(old)), config(widths=(32, 64), heads=(1, 2)), 0)


def test_the_kernel_distance_is_nought_for_one_kind_and_grows_with_the_difference(rng):
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  draw = lambda n, shift: unit(rng.standard_normal((n, 16)) + shift)
  same = [distances.kernel(draw(60, 1.0), draw(90, 1.0)) for _ in range(8)]
  assert min(same) < 0 < max(same) and np.abs(same).max() < 0.1
  assert 0.1 < distances.kernel(draw(60, 1.0), draw(90, 0.5)) < distances.kernel(draw(60, 1.0), draw(90, 0.0))


def test_the_frechet_distance_of_known_gaussians(rng):
  a = rng.standard_normal((20000, 3))
  b = rng.standard_normal((20000, 3)) * [1, 2, 3] + [3, 0, 0]
  assert distances.frechet(a, b) == pytest.approx(9 + 0 + 1 + 4, rel=0.03)
  assert distances.frechet(a, a) == pytest.approx(0, abs=1e-6)


@pytest.fixture(scope="module")
def portraits():
  batch = data.batch(people.split("heldout")[:60], 1, seed=78)
  return batch.images[batch.factors["style"] == 0]


def test_real_faces_are_regular_and_shifted_halves_are_not(portraits):
  pack = faces.open_pack("miniature", notify=lambda _: None)
  level = lambda images: regularity.level(pack, regularity.layout(pack, images), images)
  broken = portraits.copy()
  broken[:, :, 32:] = np.roll(portraits[:, :, 32:], 4, axis=1)
  assert level(portraits) > 0.95
  assert level(broken) < 0.3
  assert level(np.zeros_like(portraits[:2])) == 0  # no face is no regular face


def test_a_blurred_face_is_less_sharp(portraits):
  import cv2

  pack = faces.open_pack("miniature", notify=lambda _: None)
  seen = regularity.layout(pack, portraits)
  blurred = np.stack([cv2.GaussianBlur(i, (0, 0), 1.0) for i in portraits])
  assert regularity.sharpness(seen, blurred) < 0.5 * regularity.sharpness(seen, portraits)


def test_calm_scenes_keep_the_middle_the_ends_and_everything_that_words_name():
  ids = people.split("train")[:64]
  wild, calm = (scene.scenes(ids, 8, 0, c) for c in (scene.WILD, scene.CALM))
  for name in scene.Scene._fields:
    x, y = getattr(wild, name), getattr(calm, name)
    if name not in ("shift_x", "shift_y", "tilt", "scale", "yaw"):
      np.testing.assert_array_equal(x, y)
      continue
    middle, most = np.mean(scene._RANGES[name]), np.ptp(scene._RANGES[name]) / 2
    assert y.dtype == np.float32 and (np.argsort(x) == np.argsort(y)).mean() > 0.9  # the order of poses stays
    assert np.median(np.abs(y - middle)) < 0.2 * most < np.median(np.abs(x - middle))
    assert 0.9 * most < np.abs(y - middle).max() <= 1.001 * most


def test_wild_pictures_show_other_poses_and_have_the_same_captions():
  calm, wild = (data.batch(people.split("heldout")[:8], 4, seed=3, calm=c) for c in (scene.CALM, scene.WILD))
  sideways = lambda b: b.geometry.points[..., 0].mean(1).std()  # of the middle of the faces, in pixels
  assert sideways(calm) < 0.8 * sideways(wild)
  assert calm.captions == wild.captions


def test_a_look_finds_real_pictures_near_and_obedient_and_noise_far(rng):
  judge = looks.Looks(40)
  own = judge.images[:: len(judge.images) // 40][:40]
  real, noise = (judge.score(x) for x in (own, rng.integers(0, 256, own.shape, np.uint8)))
  assert abs(real["clip"]) < 100 and real["faces"] == 1 and real["background"] > 0.9 and real["accessory"] > 0.9
  assert noise["clip"] > 10 * abs(real["clip"]) and noise["background"] < 0.5
