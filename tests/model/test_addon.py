"""Add-on folders: mixer, ControlNet and card, written, opened, and refused beside another family."""

import dataclasses
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusers import ControlNetModel
from safetensors.numpy import load_file
from support.fakes import fill
from support.toys import configs

from idejax.errors import UserError
from idejax.model import addon, backbone, diffusion, families
from idejax.nets import controlnet, mixer
from idejax.nets.controlnet import ControlNetConfig
from idejax.nets.mixer import MixerConfig
from idejax.storage import weights
from idejax.storage.files import write_json

ABOUT = addon.About("toy", "green", "none", "toy ViT", "drawn people", 3)
SIZES = dict(identity_dim=10, clip_dim=7, dim=8, head_dim=4, identity_tokens=5, tokens=3, layers=1)


@pytest.fixture(scope="module", params=[pytest.param("sd15", marks=pytest.mark.slow), "sdxl"])
def opened(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp("pipelines") / request.param
  families.write_random(folder, request.param, configs=configs(request.param))
  return backbone.load(folder)


def parts(b):
  m, c = MixerConfig(b.nets.unet.context_dim, **SIZES), ControlNetConfig.of(b.nets.unet, b.nets.factor)
  return (m, fill(mixer.shapes(m), 1)), (c, fill(controlnet.shapes(c), 2))


def same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  assert jax.tree.all(jax.tree.map(np.array_equal, a, b))


def test_what_is_written_comes_back(opened, tmp_path, rng):
  folder = tmp_path / "snap"
  (m, m_params), (c, c_params) = parts(opened)
  addon.write(folder, (m, m_params), (c, c_params), ABOUT)
  a = addon.load(opened, folder)
  assert (a.mixer, a.about) == (m, ABOUT)
  assert a.backbone.nets.controlnet.to_json() == c.to_json()
  same(a.params, m_params)
  same(a.backbone.params["controlnet"], c_params)
  identity, clip = rng.standard_normal((2, 10), np.float32), rng.standard_normal((2, 4, 7), np.float32)
  tokens = addon.tokens(a, identity, clip)
  assert tokens.shape == (2, 3, opened.nets.unet.context_dim)
  np.testing.assert_allclose(tokens, mixer.Mixer(m).apply({"params": m_params}, identity, clip), rtol=1e-6)


def test_its_parts_are_stock_files(opened, tmp_path):
  """The ControlNet opens in diffusers; the mixer is safetensors under a PyTorch module's names, here in float16."""
  folder = tmp_path / "snap"
  mixed, steering = parts(opened)
  addon.write(folder, mixed, steering, ABOUT, np.float16)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    stock = ControlNetModel.from_pretrained(folder / "controlnet", low_cpu_mem_usage=False)
  want = weights.to_torch(steering[1])["mid_block.resnets.0.conv1.weight"]
  have = stock.state_dict()["mid_block.resnets.0.conv1.weight"].float().numpy()
  np.testing.assert_array_equal(have, want.astype(np.float16).astype(np.float32))
  file = load_file(folder / "mixer" / "diffusion_pytorch_model.safetensors")
  assert set(file) == set(weights.to_torch(mixed[1])) and {x.dtype for x in file.values()} == {np.dtype(np.float16)}
  card = (folder / "README.md").read_text()
  assert "green; licence: none" in card and "toy ViT" in card and "3 tokens" in card
  assert addon.load(opened, folder).params["queries"].dtype == np.float32  # the backbone's dtype


def test_beside_another_family(opened, tmp_path):
  folder = tmp_path / "snap"
  addon.write(folder, *parts(opened), ABOUT)
  n = opened.nets
  other = dataclasses.replace(n, unet=dataclasses.replace(n.unet, context_dim=n.unet.context_dim + 1))
  with pytest.raises(UserError, match="snap: an add-on of another family: its tokens .* it was made for toy"):
    addon.load(backbone.Backbone(other, opened.params), folder)
  wider = dataclasses.replace(n, unet=dataclasses.replace(n.unet, widths=(16, 24)))
  with pytest.raises(UserError, match="controlnet: a ControlNet of another family"):
    addon.load(backbone.Backbone(wider, opened.params), folder)


def test_what_is_no_add_on(opened, tmp_path):
  folder = tmp_path / "snap"
  with pytest.raises(UserError, match="is no add-on folder: it has no addon.json"):
    addon.load(opened, folder)
  (m, m_params), steering = parts(opened)
  with pytest.raises(UserError, match="the mixer's tokens have 5 features, the ControlNet reads"):
    addon.write(folder, (dataclasses.replace(m, context_dim=5), m_params), steering, ABOUT)
  assert not folder.exists()
  addon.write(folder, (m, m_params), steering, ABOUT)
  about = json.loads((folder / "addon.json").read_text())
  for change, words in [
    ({"version": 2}, "its version is 2, not 1"), ({"vision": None}, "vision is None, not text"),
    ({"steps": 1.5}, "steps is 1.5, not a whole number"),
  ]:  # fmt: skip
    write_json(folder / "addon.json", about | change)
    with pytest.raises(UserError, match=f"addon.json: {words}"):
      addon.load(opened, folder)


def test_a_write_that_fails_leaves_no_add_on(opened, tmp_path):
  """Over an old one too: what is half new must not pass for whole."""
  folder = tmp_path / "snap"
  mixed, (c, params) = parts(opened)
  addon.write(folder, mixed, (c, params), ABOUT)
  uneven = dataclasses.replace(c, unet=dataclasses.replace(c.unet, layers=(1, 2)))
  with pytest.raises(ValueError, match="one number"):
    addon.write(folder, mixed, (uneven, params), ABOUT)
  with pytest.raises(UserError, match="no addon.json"):
    addon.load(opened, folder)


@pytest.mark.slow  # a gradient through a ControlNet and a UNet
def test_a_loss_reaches_mixer_and_controlnet_and_nothing_else_has_to_change(opened, rng):
  """The masked loss of a picture steered by two faces: its gradient is where training is, row by row."""
  (m, m_params), (c, c_params) = parts(opened)
  n = opened.nets
  b = backbone.Backbone(dataclasses.replace(n, controlnet=c), opened.params)
  normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  pooled, ids = (normal(2, 24), jnp.full((2, 6), 64.0)) if n.xl else (None, None)
  text, side = normal(1, 2, 4, n.unet.context_dim), 8
  x, noise, identity, clip = normal(2, side, side, 4), normal(2, side, side, 4), normal(2, 10), normal(2, 4, 7)
  image = jnp.asarray(rng.uniform(0, 1, (2, 4 * side, 4 * side, 3)), jnp.float32)

  def loss(trained, identity, mask):
    both = addon.Addon(
      backbone.Backbone(b.nets, b.params | {"controlnet": trained["controlnet"]}), m, trained["mixer"], ABOUT
    )
    context = addon.tokens(both, identity, clip)
    cond = backbone.Conditioning(text, text, pooled, ids, image, context)
    return diffusion.mse(backbone.predict(both.backbone, x, jnp.array([700.0, 20.0]), cond), noise, mask).mean()

  slope = jax.jit(jax.grad(loss, (0, 1)))
  trained = {"mixer": m_params, "controlnet": c_params}
  first = jnp.array([1.0, 0.0])[:, None, None, None]
  by_params, by_identity = slope(trained, identity, first)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(by_params))
  size = lambda tree: max(float(np.abs(g).max()) for g in jax.tree.leaves(tree))
  assert size(by_params["mixer"]) > 1e-9 and size(by_params["controlnet"]) > 1e-6
  assert by_identity[0].any() and not by_identity[1].any()  # the second row is masked out
  by_params, _ = slope(trained, identity, 0 * first)
  assert not any(g.any() for g in jax.tree.leaves(by_params))
