"""ControlNet folders: diffusers opens ours, we open diffusers', and one of another family is refused."""

import dataclasses
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from support.fakes import fill, nchw, nhwc, relative_error, scramble, state_dict
from support.toys import configs

from idejax.errors import UserError
from idejax.model import backbone, controlnets, families
from idejax.nets import controlnet
from idejax.nets.controlnet import ControlNetConfig
from idejax.storage import weights
from idejax.storage.files import write_json


@pytest.fixture(scope="module", params=[pytest.param("sd15", marks=pytest.mark.slow), "sdxl"])
def opened(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp("pipelines") / request.param
  families.write_random(folder, request.param, configs=configs(request.param))
  return backbone.load(folder)


def of(b):
  return ControlNetConfig.of(b.nets.unet, b.nets.factor)


def stock(folder):
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    return ControlNetModel.from_pretrained(folder, low_cpu_mem_usage=False).eval()


def test_diffusers_opens_what_we_write_and_sees_the_same(opened, tmp_path, rng):
  """The miniature's factor 4, 16 tokens in place of text; residuals within 1e-4."""
  cfg, b = of(opened), opened
  params = fill(controlnet.shapes(cfg), 5, 0.1)
  controlnets.write(tmp_path, cfg, params)
  assert cfg.factor == 4
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  x, t, tokens = normal(2, 4, 4, 4), np.array([900.0, 10.0], np.float32), normal(2, 16, cfg.unet.context_dim)
  image = rng.uniform(0, 1, (2, 16, 16, 3)).astype(np.float32)
  added = (normal(2, 24), np.full((2, 6), 64, np.float32)) if b.nets.xl else None
  again = controlnets.with_controlnet(b, tmp_path)
  down, mid = jax.jit(backbone.control)(again, x, t, tokens, image, added, np.array([1.0, 0.5], np.float32))
  more = added and dict(text_embeds=torch.from_numpy(added[0]), time_ids=torch.from_numpy(added[1]))
  with torch.no_grad():
    args = nchw(x), torch.from_numpy(t), torch.from_numpy(tokens), nchw(image)
    out = stock(tmp_path)(*args, added_cond_kwargs=more)
  strength = np.array([1.0, 0.5])[:, None, None, None]
  for ours, want in zip((*down, mid), (*out.down_block_res_samples, out.mid_block_res_sample), strict=True):
    assert np.abs(nhwc(want)).max() > 0.01 and relative_error(ours, strength * nhwc(want)) < 1e-4


def test_we_open_what_diffusers_writes(opened, tmp_path):
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    module = scramble(ControlNetModel.from_config(of(opened).to_json()))
    module.save_pretrained(tmp_path)
  b = controlnets.with_controlnet(opened, tmp_path)
  there, ours = state_dict(module), weights.to_torch(b.params["controlnet"])
  assert set(there) == set(ours) and all(np.array_equal(there[k], ours[k]) for k in there)
  assert b.params["unet"] is opened.params["unet"]


def test_an_untrained_one_leaves_every_picture_as_it_was(opened, tmp_path, rng):
  """For any face, landmarks and prompt: its residuals are exactly zero."""
  b = opened
  controlnets.write(tmp_path, of(b), controlnet.from_unet(of(b), b.params["unet"], jax.random.key(0)))
  b = controlnets.with_controlnet(b, tmp_path)
  normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  n = b.nets.unet
  pooled, ids = (normal(1, 24), jnp.full((1, 6), 64.0)) if b.nets.xl else (None, None)
  plain = backbone.Conditioning(text := normal(1, 1, 6, n.context_dim), text, pooled, ids)
  image = jnp.asarray(rng.uniform(0, 1, (1, 32, 32, 3)), jnp.float32)
  steered = dataclasses.replace(plain, control=image, control_context=normal(1, 16, n.context_dim))
  x, predict = normal(1, 8, 8, 4), functools.partial(jax.jit(backbone.predict), b)
  np.testing.assert_allclose(predict(x, 500, steered), predict(x, 500, plain), rtol=0, atol=1e-6)
  residuals = jax.jit(backbone.control)(
    b, x, jnp.array([500.0]), steered.control_context, image, None if pooled is None else (pooled, ids)
  )
  assert not any(leaf.any() for leaf in jax.tree.leaves(residuals))


def test_it_has_the_backbones_dtype(opened, tmp_path):
  cfg = of(opened)
  controlnets.write(tmp_path, cfg, fill(controlnet.shapes(cfg)))
  nets = dataclasses.replace(opened.nets, dtype=jnp.bfloat16)
  b = controlnets.with_controlnet(backbone.Backbone(nets, opened.params), tmp_path)
  assert b.nets.controlnet.unet.dtype == jnp.bfloat16
  assert {x.dtype for x in jax.tree.leaves(b.params["controlnet"])} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize(
  "change, words",
  [
    (dict(cross_attention_dim=40), "its context features are 40, the model's"),
    (dict(block_out_channels=[16, 24]), r"its widths are \[16, 24\], the model's \[16, 16\]"),
    (dict(layers_per_block=2), r"its layers per level are \[2, 2\]"),
    (dict(conditioning_embedding_out_channels=[4, 8]), "its control pixels per latent pixel are 2, the model's 4"),
    (dict(conditioning_channels=1), "its control channels are 1, the model's 3"),
    (dict(in_channels=9), "its latent channels are 9, the model's 4"),
  ],
)
def test_one_of_another_family_is_refused_before_its_weights_are_read(opened, tmp_path, change, words):
  write_json(tmp_path / "config.json", of(opened).to_json() | change)
  with pytest.raises(UserError, match=f"{tmp_path.name}: a ControlNet of another family: {words}") as e:
    controlnets.with_controlnet(opened, tmp_path)
  assert "\n" not in str(e.value)


def test_sdxl_beside_sd(opened, tmp_path):
  other = "sd15" if opened.nets.xl else "sdxl"
  families.write_random(tmp_path / "p", other, configs=configs(other))
  b = backbone.load(tmp_path / "p")
  write_json(tmp_path / "c" / "config.json", of(b).to_json())
  with pytest.raises(UserError, match="another family"):
    controlnets.with_controlnet(opened, tmp_path / "c")


def test_what_is_no_controlnet(opened, tmp_path):
  open_ = functools.partial(controlnets.with_controlnet, opened)
  with pytest.raises(UserError, match="is no ControlNet folder in diffusers' layout: it has no config.json"):
    open_(tmp_path)
  write_json(tmp_path / "config.json", {"_class_name": "UNet2DConditionModel"})
  with pytest.raises(UserError, match="describes a UNet2DConditionModel, not a ControlNetModel"):
    open_(tmp_path)
  write_json(tmp_path / "config.json", of(opened).to_json())
  with pytest.raises(UserError, match="no diffusion_pytorch_model.safetensors here"):
    open_(tmp_path)
