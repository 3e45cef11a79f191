"""Dew, a JAX library that opens the same folders: its UNet computes what ours does."""

import json
import sys

import jax
import numpy as np
import pytest

from idejax import config
from idejax.bench import run as bench
from idejax.errors import UserError
from idejax.sampling import pipeline


@pytest.mark.parametrize("family", ["sd15", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_the_unet_is_the_peers(tmp_path, capsys, family):
  pytest.importorskip("dew.nn.backbones", reason="pip install dewml", exc_type=ImportError)
  out = tmp_path / "bench.json"
  bench.main(config.Bench(what=("unet",), family=family, small=True, vs="dew", repeats=1, out=out))
  report = json.loads(out.read_text())
  figure = report["figures"]["unet"]
  assert figure["relative_error"] < 1e-4 and figure["ratio"] > 0 and figure["peer_first_seconds"] > 0
  assert report["versions"]["dewml"] and "dew " in capsys.readouterr().out


@pytest.mark.slow
def test_the_built_in_folder_gives_the_same_latents_there():
  """Dew opens the folder as it is; prompts, guidance, schedule and UNet agree, from the same noise."""
  dew = pytest.importorskip("dew", reason="pip install dewml", exc_type=ImportError)
  prompt, steps, scale = "a photo of a woman with red hair", 10, 7.5
  ours = pipeline.load("miniature", devices=jax.devices()[:1])
  noise = pipeline.noise(0, 0, ours.latent_shape(pipeline.Settings(steps)))
  request = pipeline.Request(prompt, None, 0, 0, scale, 0.0, prompt)
  (batch,) = pipeline.generate(ours, [request], pipeline.Settings(steps, "ddim"), noise[None])
  with jax.numpy_rank_promotion("allow"):
    theirs = dew.pipeline(str(ours.folder), dtype="float32", param_dtype="float32")
    inputs = theirs.prepare([prompt], steps=steps, initial=noise[None], key=0)
    found = np.asarray(theirs(inputs, steps=steps, guidance=scale, key=0).latents)
  assert np.abs(found - batch.latents).max() < 2e-4 * np.abs(batch.latents).max()


def test_without_dew_a_sentence_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "dew.diffusion.process", None)
  with pytest.raises(UserError, match="pip install dewml"):
    bench.main(config.Bench(what=("unet",), small=True, vs="dew"))
