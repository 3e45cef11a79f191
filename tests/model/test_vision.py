"""CLIP's tokens of a portrait: those of transformers' vision tower, by its own preprocessing."""

import json
import warnings

import numpy as np
import pytest
from support import addons

from idejax.errors import UserError
from idejax.model import vision


def test_equal_to_transformers(tmp_path):
  import torch
  from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

  folder = addons.tower(tmp_path / "tower")
  tower = vision.Tower(folder)
  portraits = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3), dtype=np.uint8)
  ours = tower.tokens(portraits)
  assert ours.shape == (3, 5, 8) and (tower.side, tower.width) == (16, 8)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    theirs = CLIPVisionModelWithProjection.from_pretrained(folder)
    reads = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
  pixels = reads(list(portraits), return_tensors="pt")["pixel_values"]
  with torch.no_grad():
    want = theirs(pixels, output_hidden_states=True).hidden_states[-2]
  np.testing.assert_allclose(ours, want, atol=2e-5)


def test_an_encoder_may_say_how_it_reads(tmp_path):
  """Without a word of it CLIP's own mean and deviation hold."""
  folder = addons.tower(tmp_path / "tower")
  white = np.full((1, 16, 16, 3), 255, np.uint8)
  usual = vision.Tower(folder)
  np.testing.assert_allclose(usual._pixels(white[0])[0, 0], (1 - np.array(vision.MEAN)) / vision.STD, rtol=1e-6)
  how = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
  (folder / "preprocessor_config.json").write_text(json.dumps(how))
  np.testing.assert_array_equal(vision.Tower(folder)._pixels(white[0]), 1)


def test_what_is_no_encoder(tmp_path):
  with pytest.raises(UserError, match="holds no CLIP image encoder: it has no config.json"):
    vision.Tower(tmp_path)
  (tmp_path / "config.json").write_text('{"model_type": "clip_vision_model", "hidden_size": "wide"}')
  with pytest.raises(UserError, match="config.json"):
    vision.Tower(tmp_path)
