"""The vision transformer against transformers, and faces through it."""

import json

import jax
import numpy as np
import pytest
import torch
from support.fakes import nchw, relative_error, scramble
from transformers import ViTConfig, ViTForImageClassification, ViTModel

from idejax.errors import UserError
from idejax.nets import vit
from idejax.person import face_vit
from idejax.storage import tensorfiles, weights

TINY = dict(
  hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=3, image_size=24, patch_size=8
)


def write(folder, kind=ViTModel, **change):
  module = scramble(kind(ViTConfig(**TINY | change)))
  module.save_pretrained(folder)
  return module.eval()


@pytest.mark.parametrize("batch, change", [(1, {}), (3, dict(qkv_bias=False, patch_size=5, layer_norm_eps=1e-3))])
def test_equal_to_transformers(batch, change, rng, tmp_path):
  module = write(tmp_path, **change)  # 24 = 4 * 5 + 4: patches need not cover the image
  cfg = vit.ViTConfig.from_json(json.loads((tmp_path / "config.json").read_text()))
  params = weights.from_torch(vit.shapes(cfg), tensorfiles.read(tmp_path, "model"), ignore=["^pooler"])
  x = rng.standard_normal((batch, 24, 24, 3)).astype(np.float32)
  out = jax.jit(vit.ViT(cfg).apply)({"params": params}, x)
  with torch.no_grad():
    want = module(nchw(x)).last_hidden_state
  assert relative_error(out, want) < 1e-5


def test_full_size_keys_and_shapes():
  cfg = vit.ViTConfig.from_json({"model_type": "vit"})
  with torch.device("meta"):
    module = ViTModel(ViTConfig(), add_pooling_layer=False)
  ours = weights.keys(vit.shapes(cfg))
  assert sum(np.prod(s) for s in ours.values()) == sum(p.numel() for p in module.parameters()) == 85_798_656


def test_a_face_is_the_same_for_a_model_and_a_classifier(tmp_path, rng):
  write(tmp_path / "classifier", ViTForImageClassification)
  portrait = rng.integers(0, 256, (512, 512, 3), np.uint8)
  features = face_vit.load(tmp_path / "classifier")([portrait, portrait[:, ::-1]])
  assert features.shape == (2, 24) and features.dtype == np.float32 and not np.allclose(features[0], features[1])
  tensors = {k.removeprefix("vit."): v for k, v in tensorfiles.read(tmp_path / "classifier", "model").items()}
  (tmp_path / "bare").mkdir()
  config = json.loads((tmp_path / "classifier/config.json").read_text())
  (tmp_path / "bare/config.json").write_text(json.dumps(config))
  tensorfiles.write(
    tmp_path / "bare/model.safetensors", {k: v for k, v in tensors.items() if not k.startswith("classifier")}
  )
  np.testing.assert_array_equal(face_vit.load(tmp_path / "bare")([portrait])[0], features[0])
  edges = portrait.copy()
  edges[:70], edges[446:], edges[:, :64], edges[:, 440:] = 0, 0, 0, 0  # the cut that StableIdentity makes
  np.testing.assert_array_equal(face_vit.load(tmp_path / "bare")([edges])[0], features[0])


@pytest.mark.parametrize(
  "config",
  [
    None,
    "[]",
    '{"model_type": "clip"}',
    '{"model_type": "vit", "hidden_act": "relu"}',
    '{"model_type": "vit", "num_attention_heads": 7}',
    '{"model_type": "vit", "hidden_size": "x"}',
  ],
)
def test_other_folders_are_refused(tmp_path, config):
  if config is not None:
    (tmp_path / "config.json").write_text(config)
  with pytest.raises(UserError, match="no folder of a vision transformer"):
    face_vit.load(tmp_path)


def test_other_sizes_are_refused(tmp_path):
  with pytest.raises(ValueError, match="24 x 32.*24 x 24"):
    vit.ViT(vit.ViTConfig(**TINY)).init(jax.random.key(0), np.zeros((1, 24, 32, 3), np.float32))
