"""The ControlNet against diffusers' ControlNetModel; an untrained one changes nothing."""

import dataclasses
import functools
import json
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from support.fakes import fill, nchw, nhwc, relative_error, scramble, state_dict

from idejax import tree
from idejax.model import families
from idejax.nets import controlnet, unet
from idejax.storage import weights

TINY = dict(norm_num_groups=4, layers_per_block=1, cross_attention_dim=12)
CONFIGS = {
  "sd": TINY
  | dict(
    block_out_channels=(8, 16),
    attention_head_dim=2,
    conditioning_embedding_out_channels=(4, 6, 8, 10),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
  ),
  "sdxl": TINY
  | dict(
    block_out_channels=(8, 16),
    attention_head_dim=(1, 2),
    use_linear_projection=True,
    conditioning_embedding_out_channels=(4, 6),
    conditioning_channels=1,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    transformer_layers_per_block=(1, 2),
    addition_embed_type="text_time",
    addition_time_embed_dim=4,
    projection_class_embeddings_input_dim=10 + 6 * 4,
  ),
}


@functools.cache
def twin(name):
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    module = scramble(ControlNetModel(**CONFIGS[name]))
  cfg = controlnet.ControlNetConfig.from_json(dict(module.config))
  return module, cfg, weights.from_torch(controlnet.shapes(cfg), state_dict(module))


@functools.partial(jax.jit, static_argnums=0)
def run(cfg, params, *args, **kwargs):
  return controlnet.ControlNet(cfg).apply({"params": params}, *args, **kwargs)


def inputs(cfg, rng, batch, hw, length):
  """x, t, context, control image, added; the image is `factor` times the size of the latents."""
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  image = rng.uniform(0, 1, (batch, *(cfg.factor * side for side in hw), cfg.control_channels))
  added = (normal(batch, 10), np.full((batch, 6), 64, np.float32)) if cfg.unet.added_dims else None
  return (
    normal(batch, *hw, 4),
    np.array([1, 500, 999], np.float32)[:batch],
    normal(batch, length, 12),
    image.astype(np.float32),
    added,
  )


def theirs(module, x, t, context, control, added, scale):
  tensor = torch.from_numpy
  more = added and dict(text_embeds=tensor(added[0]), time_ids=tensor(added[1]))
  with torch.no_grad():
    out = module(nchw(x), tensor(t), tensor(context), nchw(control), scale, added_cond_kwargs=more)
  return [nhwc(r) for r in (*out.down_block_res_samples, out.mid_block_res_sample)]


# 16 tokens: a context that is no text, such as FaceSnap's faces. 5 x 8: odd at the first level.
@pytest.mark.parametrize("name, batch, hw, length", [("sd", 3, (5, 8), 16), ("sdxl", 3, (6, 4), 7)])
def test_equal_to_diffusers(name, batch, hw, length, rng):
  module, cfg, params = twin(name)
  args, before = inputs(cfg, rng, batch, hw, length), run._cache_size()
  for scale in (1.0, 0.35):  # a traced number: one program
    down, mid = run(cfg, params, *args, scale=scale)
    for ours, want in zip((*down, mid), theirs(module, *args, scale), strict=True):
      assert np.abs(want).max() > 0.01 and relative_error(ours, want) < 1e-5
  assert run._cache_size() <= before + 1


def test_a_controlnet_with_zero_convolutions_leaves_the_unet_alone(rng):
  """As ControlNet starts: exactly zero, with everything before those convolutions at work."""
  _, cfg, params = twin("sd")
  zeroed = {
    k: jax.tree.map(np.zeros_like, v) if k.startswith("controlnet_") and "embedding" not in k else v
    for k, v in params.items()
  }
  down, mid = run(cfg, zeroed, *inputs(cfg, rng, 3, (5, 8), 16), scale=1.0)
  assert len(down) == 4 and not any(r.any() for r in (*down, mid))


def test_it_is_initialised_so():
  _, cfg, _ = twin("sd")
  example = unet.example_inputs(cfg.unet)
  control = jax.ShapeDtypeStruct((1, 2 * cfg.factor, 2 * cfg.factor, 3), jnp.float32)
  args = jax.tree.map(lambda s: jnp.ones(s.shape), (*example[:3], control))

  def last_layers(key):  # all else is pruned from the program, so this compiles at once
    params = controlnet.ControlNet(cfg).init(key, *args)["params"]
    zero = {k: v for k, v in params.items() if k.startswith(("controlnet_down", "controlnet_mid"))}
    embedding = params["controlnet_cond_embedding"]
    return zero, embedding["conv_out"], embedding["conv_in"]["kernel"]

  zero, conv_out, kernel = jax.jit(last_layers)(jax.random.key(0))
  assert len(zero) == 5 and not any(leaf.any() for leaf in jax.tree.leaves((zero, conv_out)))
  assert kernel.all()


@pytest.mark.parametrize("name, factor", [("sd", 8), ("sdxl", 2)])
def test_the_control_image_is_larger_by_the_factor(name, factor):
  _, cfg, _ = twin(name)
  assert cfg.factor == factor
  embed = controlnet.ControlEmbedding(cfg)
  image = jax.ShapeDtypeStruct((2, 5 * factor, 3 * factor, cfg.control_channels), jnp.float32)
  variables = jax.eval_shape(embed.init, jax.random.key(0), image)
  assert jax.eval_shape(embed.apply, variables, image).shape == (2, 5, 3, 8)


def test_its_residuals_fit_the_unet_of_the_same_config(rng):
  """Traced only; the numbers of a UNet with residuals are in test_unet."""
  _, cfg, params = twin("sd")
  x, t, context, control, _ = inputs(cfg, rng, 1, (5, 8), 16)

  def both(params, unet_params):
    residuals = controlnet.ControlNet(cfg).apply({"params": params}, x, t, context, control)
    return unet.UNet(cfg.unet).apply({"params": unet_params}, x, t, context, None, residuals)

  assert jax.eval_shape(both, params, unet.shapes(cfg.unet)).shape == (1, 5, 8, 4)


def test_bfloat16_residuals():
  cfg = controlnet.ControlNetConfig.from_json(CONFIGS["sd"], dtype=jnp.bfloat16)
  x, t, context, _ = unet.example_inputs(cfg.unet)
  control = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
  apply = functools.partial(controlnet.ControlNet(cfg).apply, scale=0.5)
  out = jax.eval_shape(apply, {"params": fill(controlnet.shapes(cfg))}, x, t, context, control)
  assert {r.dtype for r in jax.tree.leaves(out)} == {jnp.dtype(jnp.bfloat16)}


def test_config():
  with torch.device("meta"), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    module = ControlNetModel()
  assert controlnet.ControlNetConfig.from_json(dict(module.config)) == controlnet.ControlNetConfig.from_json({})
  assert len({twin("sd")[1], twin("sdxl")[1], controlnet.ControlNetConfig.from_json(CONFIGS["sd"])}) == 2
  with pytest.raises(ValueError, match="controlnet_conditioning_channel_order is 'bgr'; supported: 'rgb'"):
    controlnet.ControlNetConfig.from_json({"controlnet_conditioning_channel_order": "bgr"})
  with pytest.raises(ValueError, match="global_pool_conditions is True; supported: False"):
    controlnet.ControlNetConfig.from_json({"global_pool_conditions": True})


# Made of a UNet.


@functools.cache
def unet_twin(family):
  """diffusers' small UNet of a family, and our parameters of it."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    module = scramble(UNet2DConditionModel.from_config(families.small(family)["unet"]))
  cfg = unet.UNetConfig.from_json(dict(module.config))
  return module, cfg, weights.from_torch(unet.shapes(cfg), state_dict(module))


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
@pytest.mark.parametrize("factor", [4, 8])
def test_made_of_a_unet_it_is_what_diffusers_makes_of_it(family, factor):
  """The same config, and the same weights but for those that are drawn."""
  module, unet_cfg, params = unet_twin(family)
  cfg = controlnet.ControlNetConfig.of(unet_cfg, factor)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    stock = ControlNetModel.from_unet(module, conditioning_embedding_out_channels=cfg.control_widths)
    reread = ControlNetModel.from_config(cfg.to_json())
  ours, theirs = weights.to_torch(controlnet.from_unet(cfg, params, jax.random.key(3))), state_dict(stock)
  assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
  assert {k: v.shape for k, v in state_dict(reread).items()} == {k: v.shape for k, v in theirs.items()}
  drawn = re.compile(r"controlnet_cond_embedding\.(conv_in|blocks)")
  assert all(np.array_equal(ours[k], theirs[k]) for k in ours if not drawn.match(k))
  kernels = [ours[k] for k in ours if drawn.match(k) and k.endswith("weight")]
  assert len(kernels) == (5 if factor == 4 else 7) and all(k.all() for k in kernels)
  skip = {
    "_use_default_values",
    "_name_or_path",
    "attention_head_dim",
    "transformer_layers_per_block",
    "num_attention_heads",
  }
  assert all(reread.config[k] == v or tuple(reread.config[k]) == tuple(v) for k, v in stock.config.items()
             if k not in skip and not k.startswith("_"))  # fmt: skip


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
def test_a_config_comes_back_as_it_was(family):
  for config in (families.FAMILIES, {family: families.small(family)}):
    cfg = controlnet.ControlNetConfig.of(unet.UNetConfig.from_json(config[family]["unet"]), 4)
    back = controlnet.ControlNetConfig.from_json(json.loads(json.dumps(cfg.to_json())))
    assert back == dataclasses.replace(cfg, unet=dataclasses.replace(cfg.unet, sample_size=back.unet.sample_size))


def test_another_unets_parameters_and_odd_factors_are_refused():
  _, cfg, params = unet_twin("sd15")
  make = lambda p: controlnet.from_unet(controlnet.ControlNetConfig.of(cfg, 8), p, jax.random.key(0))
  with pytest.raises(ValueError, match="does not fit the ControlNet's config"):
    make(params | {"conv_in": unet_twin("sdxl")[2]["down_blocks.0.resnets.0"]})
  with pytest.raises(ValueError, match="the UNet's conv_in does not fit"):
    make({k: v for k, v in params.items() if k != "conv_in"})
  for factor in (0, 3, 16):
    with pytest.raises(ValueError, match=f"1, 2, 4 or 8 times the latents' size, not {factor} times"):
      controlnet.ControlNetConfig.of(cfg, factor)
  uneven = dataclasses.replace(cfg, layers=(1, 2, 1, 1))
  with pytest.raises(ValueError, match="one number"):
    controlnet.ControlNetConfig(uneven).to_json()


# Counted from the released architectures; traced only.
@pytest.mark.parametrize("family, count", [("sd15", 361_279_120), ("sd21", 364_228_240), ("sdxl", 1_251_014_160)])
def test_full_sizes(family, count):
  cfg = controlnet.ControlNetConfig.of(unet.UNetConfig.from_json(families.FAMILIES[family]["unet"]))
  params = controlnet.shapes(cfg)
  assert tree.size(params) == count
  x, t, _, added = unet.example_inputs(cfg.unet)
  tokens = jax.ShapeDtypeStruct((1, 16, cfg.unet.context_dim), jnp.float32)
  image = jax.ShapeDtypeStruct((1, *(8 * s for s in x.shape[1:3]), 3), jnp.float32)
  down, _ = jax.eval_shape(controlnet.ControlNet(cfg).apply, {"params": params}, x, t, tokens, image, added)
  assert len(down) == (9 if family == "sdxl" else 12)
