"""One picture of several prompts: each in its box, and nothing else changes."""

import jax
import numpy as np
import pytest
from support import tiny_pipelines

import idejax
from idejax.errors import UserError
from idejax.methods import METHODS
from idejax.sampling import pipeline, regions
from idejax.sampling.learned import Learned
from idejax.sampling.regions import Part
from idejax.sampling.requests import Request, Settings

SETTINGS = Settings(3, "ddim", batch=1)
LEFT, RIGHT, ALL = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0), (0.0, 0.0, 1.0, 1.0)


@pytest.fixture(scope="module", params=["sd21-base", pytest.param("sdxl", marks=pytest.mark.slow)])
def pipe(tmp_path_factory, request):
  root = tiny_pipelines.write(tmp_path_factory.mktemp("regions"), request.param)
  return idejax.load(root / request.param, devices=jax.devices()[:1], notify=lambda _: None)


def picture(pipe, r: Request) -> np.ndarray:
  (batch,) = pipeline.generate(pipe, [r], SETTINGS)
  return batch.images[0]


def test_boxes_share_the_picture_among_the_prompts():
  w = regions.weights([LEFT, (0.25, 0.5, 1.0, 1.0)], 4, 8, share=0.2)[..., 0]
  assert np.allclose(w.sum(0), 1) and w.shape == (3, 4, 8)
  assert np.allclose(w[:, 0, 0], (0.8, 0, 0.2)) and np.allclose(w[:, 0, 7], (0, 0, 1))
  assert np.allclose(w[:, 3, 3], (0.4, 0.4, 0.2)) and np.allclose(w[:, 3, 7], (0, 0.8, 0.2))


def test_one_box_over_all_is_the_prompts_own_picture(pipe):
  """Guided and not, with the pipeline's noise; the whole prompt has no share."""
  for guidance in (7.5, 1.0):
    r = Request("a cat at sea", "blurred", seed=3, index=1, guidance=guidance)
    whole = Request("a dog", "blurred", seed=3, index=1, guidance=guidance)
    one = regions.compose(pipe, whole, [Part(r.prompt, ALL)], SETTINGS, share=0.0)
    assert np.abs(one.astype(int) - picture(pipe, r)).max() <= 1
    alone = regions.compose(pipe, whole, [], SETTINGS)
    assert np.abs(alone.astype(int) - picture(pipe, whole)).max() <= 1


def test_what_is_asked_on_one_side_decides_that_side_most(pipe):
  whole = Request("a street", seed=5)
  base = regions.compose(pipe, whole, [Part("a cat", LEFT), Part("a dog", RIGHT)], SETTINGS)
  other = regions.compose(pipe, whole, [Part("a cat", LEFT), Part("red water at night", RIGHT)], SETTINGS)
  change = np.abs(base.astype(float) - other).mean((0, 2))
  half = change.size // 2
  assert change[half:].mean() > 2 * change[:half].mean()


def test_people_are_read_with_their_own_rows_and_weights(pipe):
  if pipe.backbone.nets.xl:
    pytest.skip("the tiny SDXL pipeline has two encoders; one is enough here")
  rows = lambda seed: (0.5 * np.random.default_rng(seed).standard_normal((1, 1, 2, 32)).astype(np.float32),)
  cfg = METHODS["textual-inversion"].PRESETS["paper"]
  who = [Learned(f"<{n}>", "textual-inversion", cfg, {"rows": rows(i)}, str(pipe.folder), pipe.digest) for i, n in enumerate("ab")]  # fmt: skip
  both = pipe.with_people(*who)
  r = Request("<a> at sea", seed=2)
  one = regions.compose(both, Request("a person", seed=2), [Part(r.prompt, ALL)], SETTINGS, share=0.0)
  assert np.abs(one.astype(int) - picture(both, r)).max() <= 1
  sides = lambda a, b: regions.compose(both, Request("people", seed=2), [Part(a, LEFT), Part(b, RIGHT)], SETTINGS)
  assert np.abs(sides("<a>", "<b>").astype(int) - sides("<b>", "<a>")).max() > 3


def test_several_devices_make_the_same_picture(pipe):
  if len(jax.devices()) < 2:
    pytest.skip("one device")
  two = idejax.load(pipe.folder, devices=jax.devices()[:2], notify=lambda _: None)
  ask = lambda p: regions.compose(p, Request("a street", seed=5), [Part("a cat", LEFT), Part("a dog", RIGHT)], SETTINGS)
  assert np.abs(ask(pipe).astype(int) - ask(two)).max() <= 1


def test_whole_weights_cannot_share_a_picture(pipe, monkeypatch):
  monkeypatch.setattr(regions.Weights, "needs_own_batch", lambda self, g: bool(g))
  monkeypatch.setattr(regions.tokens, "placeholders_in", lambda text, people: ("<a>",) if "<a>" in text else ())
  with pytest.raises(UserError, match="<a> has weights of their own"):
    regions.compose(pipe, Request("a person"), [Part("<a>", ALL)], SETTINGS)
