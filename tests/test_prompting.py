"""People in prompts: mixed in a batch, delayed, stronger or weaker, with their own keys and values."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny_pipelines
from fakes import relative_error

import idejax
from idejax import learned, pipeline, prompting
from idejax.errors import UserError
from idejax.learned import Learned
from idejax.methods import METHODS
from idejax.pipeline import Request, Settings

SETTINGS = Settings(3, "ddim", batch=4)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
  root = tiny_pipelines.write(tmp_path_factory.mktemp("prompting"), "sd21-base")
  return idejax.load(root / "sd21-base", devices=jax.devices()[:1], notify=lambda _: None)


def somebody(pipe, word, method="textual-inversion", seed=0, stages=1, wide=1, **more):
  rng = np.random.default_rng(seed)
  rows = 0.5 * rng.standard_normal((stages, wide, 2, 32)).astype(np.float32)
  cfg = METHODS[method].PRESETS["paper"]
  return Learned(word, method, cfg, {"rows": (rows,)} | more, str(pipe.folder), pipe.digest)


def latents(pipe, requests, settings=SETTINGS):
  out = {}
  for batch in pipeline.generate(pipe, requests, settings): out |= dict(zip(batch.positions, batch.latents))
  return np.stack([out[i] for i in range(len(requests))])


@pytest.fixture(scope="module")
def peopled(pipe):
  return pipe.with_people(somebody(pipe, "<a>", seed=1), somebody(pipe, "<b>", seed=2),
                          somebody(pipe, "<s>", "sefi-ide", seed=3, stages=5, wide=2))  # fmt: skip


def test_company_changes_nobody(peopled):
  requests = [Request(p, seed=7) for p in ("<a> at sea", "at sea", "<b> at sea", "<a> and <b>", "<s> at sea")]
  mixed = latents(peopled, requests)
  for i, r in enumerate(requests):
    assert relative_error(latents(peopled, [r])[0], mixed[i]) < 1e-5
  assert len({x.tobytes() for x in mixed}) == len(requests)


def test_plain_prompts_are_those_of_a_pipeline_without_people(pipe, peopled):
  requests = [Request("at sea", seed=7)]
  np.testing.assert_array_equal(latents(peopled, requests), latents(pipe, requests))


def test_two_people_are_told_apart_by_their_places(peopled):
  ab, ba = latents(peopled, [Request("<a> and <b>", seed=1), Request("<b> and <a>", seed=1)])
  assert relative_error(ab, ba) > 1e-3


def test_equal_stages_are_one_stage(pipe):
  """SeFi-IDE with five equal pairs, K = V, is textual inversion with that row."""
  one = somebody(pipe, "<a>", seed=4)
  five = somebody(pipe, "<b>", "sefi-ide")
  five = dataclasses.replace(five, identity={"rows": (np.tile(one.identity["rows"][0], (5, 2, 1, 1)),)})
  a, b = latents(pipe.with_people(one, five), [Request("<a> at sea", seed=1), Request("<b> at sea", seed=1)])
  assert relative_error(a, b) < 1e-5


def test_a_late_start_draws_the_plain_prompt_first(peopled):
  make = lambda start: Request("<a> at sea", seed=7, start=start, plain="person at sea")
  never, half, always, plain = latents(peopled, [make(0.999), make(0.5), make(0.0), Request("person at sea", seed=7)])
  assert relative_error(never, plain) < 0.2 * relative_error(always, plain)  # the last step sees t = 1
  assert relative_error(half, plain) > 1e-4 and relative_error(half, always) > 1e-4
  np.testing.assert_allclose(always, latents(peopled, [Request("<a> at sea", seed=7)])[0], rtol=1e-4, atol=1e-5)


def test_other_people_prompts_and_starts_do_not_recompile(peopled, pipe):
  latents(peopled, [Request("<a>", seed=1, start=0.1, plain="x"), Request("<b>", seed=1)])
  programs = (prompting.condition, prompting.project, pipeline._run)
  before = [p._cache_size() for p in programs]
  other = pipe.with_people(somebody(pipe, "<c>", seed=8), somebody(pipe, "<s>", "sefi-ide", seed=9, stages=5, wide=2))
  latents(other, [Request("<c> in the rain", seed=2, start=0.7, plain="y"), Request("<c>", seed=3)])
  assert [p._cache_size() for p in programs] == before


def test_strength_is_a_knob_of_methods_that_have_one(pipe):
  with pytest.raises(UserError, match="no strength"): somebody(pipe, "<a>").with_strength(0.5)
  assert somebody(pipe, "<a>", scale=np.float32(1)).with_strength(0.5).identity["scale"] == 0.5


def test_people_who_do_not_fit(pipe, peopled):
  who = somebody(pipe, "<a>")
  with pytest.raises(UserError, match="two people are called <a>"): peopled.with_people(who)
  with pytest.raises(UserError, match="--other-model"): pipe.with_people(dataclasses.replace(who, digest="0" * 64))
  pipe.with_people(dataclasses.replace(who, digest="0" * 64), other=True)
  wide = dataclasses.replace(who, identity={"rows": (np.zeros((1, 1, 2, 48), np.float32),)}, model="elsewhere")
  with pytest.raises(UserError, match="elsewhere .*48.*32"): pipe.with_people(wide)
  with pytest.raises(UserError, match="different methods"): latents(peopled, [Request("<a> and <s>")])


def test_an_identity_file_holds_all_of_it(pipe, tmp_path):
  kernels = {"down_blocks.0": {"attn2.to_k": {"kernel": np.ones((3, 2), np.float32)}}}
  who = somebody(pipe, "<a>", "sefi-ide", stages=5, wide=2, scale=np.float32(0.5), unet=kernels)
  learned.save(tmp_path, who)
  back = learned.load(tmp_path)
  assert dataclasses.replace(back, identity={}) == dataclasses.replace(who, identity={})
  jax.tree.map(np.testing.assert_array_equal, dict(back.identity), dict(who.identity))


def test_files_that_are_no_identities(tmp_path):
  with pytest.raises(UserError, match="identity.safetensors"): learned.load(tmp_path)
  for content in (b"", b"\xff" * 100, (10**15).to_bytes(8, "little") + b"{}"):
    (tmp_path / learned.FILE).write_bytes(content)
    with pytest.raises(UserError, match="no identity") as e: learned.load(tmp_path)
    assert "\n" not in str(e.value)
