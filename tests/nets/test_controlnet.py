"""The ControlNet against diffusers' ControlNetModel; an untrained one changes nothing."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from support.fakes import fill, nchw, nhwc, relative_error, scramble, state_dict

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
