"""The vision towers against transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from support.fakes import nchw, relative_error, scramble, state_dict
from transformers import CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

from idejax.nets import clip_vision
from idejax.storage import weights

TINY = dict(
  hidden_size=24,
  intermediate_size=40,
  num_hidden_layers=3,
  num_attention_heads=3,
  image_size=24,
  patch_size=8,
  projection_dim=20,
)
B32 = dict(architectures=["CLIPVisionModelWithProjection"])
L14 = B32 | dict(
  hidden_size=1024,
  intermediate_size=4096,
  num_hidden_layers=24,
  patch_size=14,
  num_attention_heads=16,
  projection_dim=768,
)
H14 = L14 | dict(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, projection_dim=1024, hidden_act="gelu")


def twin(**change):
  module = scramble(CLIPVisionModelWithProjection(CLIPVisionConfig(**TINY | change)))
  cfg = clip_vision.VisionConfig.from_json(TINY | change | B32)
  tensors = weights.rename_clip(state_dict(module))
  return module, cfg, weights.from_torch(clip_vision.shapes(cfg), tensors)


@pytest.mark.parametrize(
  "batch, change", [(1, {}), (3, {}), (2, dict(hidden_act="gelu", patch_size=5, layer_norm_eps=1e-3))]
)
def test_equal_to_transformers(batch, change, rng):
  module, cfg, params = twin(**change)  # 24 = 4 * 5 + 4: patches need not cover the image
  x = rng.standard_normal((batch, 24, 24, 3)).astype(np.float32)
  out = jax.jit(clip_vision.VisionEncoder(cfg).apply)({"params": params}, x)
  with torch.no_grad():
    ref = module(nchw(x), output_hidden_states=True)
    pooled = module.vision_model(nchw(x)).pooler_output
  want = ref.last_hidden_state, ref.hidden_states[-2], pooled, ref.image_embeds
  for ours, theirs in zip(out, want, strict=True):
    assert relative_error(ours, theirs) < 1e-5


def test_without_projection(rng):
  module = scramble(CLIPVisionModel(CLIPVisionConfig(**TINY)))
  cfg = clip_vision.VisionConfig.from_json(TINY | {"architectures": ["CLIPVisionModel"]})
  tensors = weights.rename_clip(state_dict(module))
  params = weights.from_torch(clip_vision.shapes(cfg), tensors)
  x = rng.standard_normal((1, 24, 24, 3)).astype(np.float32)
  out = jax.jit(clip_vision.VisionEncoder(cfg).apply)({"params": params}, x)
  with torch.no_grad():
    theirs = module(nchw(x)).pooler_output
  assert out.embeds is None and relative_error(out.pooled, theirs) < 1e-5


def test_remat_and_gradient(rng):
  _, cfg, params = twin()
  x = rng.standard_normal((1, 24, 24, 3)).astype(np.float32)

  def loss(x, remat):
    out = clip_vision.VisionEncoder(cfg, remat=remat).apply({"params": params}, x)
    return jnp.square(out.embeds).sum()

  grad = jax.jit(jax.grad(loss), static_argnums=1)
  assert np.abs(grad(x, False)).min() > 0  # every pixel counts
  np.testing.assert_allclose(grad(x, False), grad(x, True), rtol=1e-4, atol=1e-6)


def test_other_sizes_are_refused():
  _, cfg, params = twin()
  with pytest.raises(ValueError, match="24 x 32 pixels.*24 x 24"):
    clip_vision.VisionEncoder(cfg).apply({"params": params}, np.zeros((1, 24, 32, 3), np.float32))


@pytest.mark.parametrize(
  "json, count", [(B32, 87_849_216), (L14, 303_966_208), (H14, 632_076_800)], ids=["B32", "L14", "H14"]
)
def test_full_size_keys_and_shapes(json, count):
  with torch.device("meta"):
    module = CLIPVisionModelWithProjection(CLIPVisionConfig(**json))
  tensors = weights.rename_clip({k: tuple(v.shape) for k, v in module.state_dict().items()})
  ours = weights.keys(clip_vision.shapes(clip_vision.VisionConfig.from_json(json)))
  assert ours == dict(tensors)
  assert sum(map(np.prod, ours.values())) == count


def test_config_defaults_nesting_and_errors():
  plain = clip_vision.VisionConfig.from_json({})
  assert plain == clip_vision.VisionConfig.from_json(CLIPVisionConfig().to_dict())
  config = {"vision_config": TINY, "projection_dim": 33}
  assert clip_vision.VisionConfig.from_json(config).projection_dim == 33
  assert hash(plain) == hash(clip_vision.VisionConfig())
  with pytest.raises(ValueError, match="image_size"):
    clip_vision.VisionConfig.from_json(TINY | {"image_size": [224, 224]})
  with pytest.raises(ValueError, match="relu"):
    clip_vision.VisionConfig.from_json(TINY | {"hidden_act": "relu"})
