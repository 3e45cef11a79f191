"""Complete pipelines against diffusers: the same folder and initial latents give the same final latents."""

import dataclasses
import warnings

import jax
import numpy as np
import pytest
from support.fakes import relative_error

import idejax
from idejax.errors import UserError
from idejax.model import families
from idejax.sampling import pipeline, sampler
from idejax.sampling import texts as prompting
from idejax.sampling.pipeline import Request, Settings

FAMILIES = ("sd15", "sd21-base", "sd21", "sdxl")
# idejax's name -> diffusers' class; the stochastic ones are compared in test_sampler, on one noise
TWINS = {
  "ddim": "DDIMScheduler",
  "euler": "EulerDiscreteScheduler",
  "dpmpp_2m": "DPMSolverMultistepScheduler",
  "pndm": "PNDMScheduler",
}
PROMPTS = ["a photo of a cat", "two dogs, at night", ""]
SIZE = (32, 48)  # not square; 12 / 4 = 3 is odd at the UNet's third level


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  root = tmp_path_factory.mktemp("pipelines")
  for i, family in enumerate(FAMILIES):
    families.write_random(root / family, family, seed=10 * i)
  return root


@pytest.fixture(scope="module")
def opened(folders):
  """Pipelines by family, each loaded once; on one device, so that batches are not padded."""
  cache = {}

  def get(family):
    if family not in cache:
      cache[family] = idejax.load(folders / family, devices=jax.devices()[:1])
    return cache[family]

  return get


@pytest.fixture(scope="module")
def theirs(folders):
  import diffusers

  diffusers.utils.logging.set_verbosity_error()
  cache = {}

  def get(family):
    if family not in cache:
      with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cache[family] = diffusers.DiffusionPipeline.from_pretrained(folders / family, local_files_only=True)
      cache[family].set_progress_bar_config(disable=True)
    return cache[family]

  return get


def their_latents(pipe, scheduler: str, init: np.ndarray, steps: int, guidance: float, negative=None):
  import diffusers
  import torch

  # A config without the key means Runge-Kutta steps to PNDM, which no Stable Diffusion uses.
  more = {"skip_prk_steps": True} if scheduler == "PNDMScheduler" else {}
  pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config, **more)
  out = pipe(
    prompt=PROMPTS,
    negative_prompt=negative,
    latents=torch.from_numpy(init),
    num_inference_steps=steps,
    guidance_scale=guidance,
    height=SIZE[0],
    width=SIZE[1],
    output_type="latent",
  )
  return out.images.numpy()


# Quick: every sampler on one family, and one sampler on the others (sd21 is sd21-base with another prediction).
QUICK = [("sd15", s) for s in TWINS] + [("sd21", "ddim"), ("sdxl", "ddim")]


@pytest.mark.parametrize(
  "family, sampler",
  [pytest.param(f, s, marks=[pytest.mark.slow] * ((f, s) not in QUICK)) for f in FAMILIES for s in TWINS],
)
def test_final_latents_equal_diffusers(opened, theirs, family, sampler):
  init = np.random.default_rng(1).standard_normal((3, 4, 8, 12)).astype(np.float32)
  guidance, negative = 7.5, (None if sampler == "ddim" else ["blurry", "", "a hat"])
  requests = [Request(p, negative and negative[i], guidance=guidance) for i, p in enumerate(PROMPTS)]
  settings = Settings(10, sampler, *SIZE, batch=3)
  (batch,) = pipeline.generate(opened(family), requests, settings, init.transpose(0, 2, 3, 1))
  want = their_latents(theirs(family), TWINS[sampler], init, 10, guidance, negative)
  assert relative_error(batch.latents.transpose(0, 3, 1, 2), want) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_equal_diffusers(opened, theirs, family):
  """The decoder and the rounding to bytes: at most one level off, and rarely."""
  import torch

  z = np.random.default_rng(2).standard_normal((3, 4, 8, 12)).astype(np.float32)
  pixels = np.asarray(pipeline.decode(opened(family).backbone, z.transpose(0, 2, 3, 1), False))
  pipe = theirs(family)
  with torch.no_grad():
    decoded = pipe.vae.decode(torch.from_numpy(z) / pipe.vae.config.scaling_factor).sample
  want = pipe.image_processor.postprocess(decoded, output_type="np")
  off = np.abs(pixels.astype(int) - np.round(want * 255).astype(int))
  assert off.max() <= 1 and (off > 0).mean() < 1e-3


def test_the_folder_sampler_is_diffusers_default(opened, theirs):
  """By default: the folder's scheduler, guidance 7.5 (5 for SDXL), and an empty negative prompt or zeros."""
  for family, kind in (("sd15", "PNDMScheduler"), ("sdxl", "EulerDiscreteScheduler")):
    init = np.random.default_rng(3).standard_normal((3, 4, 8, 12)).astype(np.float32)
    pipe = opened(family)
    requests = [Request(p, guidance=pipeline.default_guidance(pipe)) for p in PROMPTS]
    settings = Settings(10, height=SIZE[0], width=SIZE[1], batch=3)
    (batch,) = pipeline.generate(pipe, requests, settings, init.transpose(0, 2, 3, 1))
    want = their_latents(theirs(family), kind, init, 10, requests[0].guidance)
    assert relative_error(batch.latents.transpose(0, 3, 1, 2), want) < 1e-4


def run(pipe, requests, sampler="euler_ancestral", steps=3, batch=3, **settings):
  """Latents of all requests; the defaults are one compiled program for the whole module."""
  sized = Settings(steps, sampler, *SIZE, batch=batch, **settings)
  return np.concatenate([b.latents for b in pipeline.generate(pipe, requests, sized)])


def test_every_row_is_its_own(opened):
  """Prompt, negative, seed and guidance of one row do not affect another row, and neither does the batch size."""
  requests = [
    Request("a cat", None, 1, 0, 7.5),
    Request("a dog", "blurry", 2, 0, 3.0),
    Request("a cat", "a hat", 1, 5, 1.0),
    Request("a tree", None, 9, 1, 12.0),
  ]
  pipe = opened("sd15")
  together = run(pipe, requests)  # a batch of three and one padded by repetition
  assert len({z.tobytes() for z in together}) == 4
  assert relative_error(run(pipe, requests, batch=1), together) < 1e-5
  assert relative_error(run(pipe, requests[::-1])[::-1], together) < 1e-5


def test_noise_that_is_given_goes_with_its_picture(opened):
  """Also beyond the first batch, and where only some pictures are requested."""
  pipe, requests = opened("sd15"), [Request(f"picture {i}", seed=3, index=i) for i in range(4)]
  want = run(pipe, requests)
  shape = pipe.latent_shape(Settings(height=SIZE[0], width=SIZE[1]))
  noise = np.stack([pipeline.noise(3, i, shape) for i in range(4)])
  sized = Settings(3, "euler_ancestral", *SIZE, batch=3)
  every = np.concatenate([b.latents for b in pipeline.generate(pipe, requests, sized, noise)])
  np.testing.assert_array_equal(every, want)
  (last,) = pipeline.generate(pipe, requests, sized, noise, positions=[3])
  assert last.positions == [3] and relative_error(last.latents[0], want[3]) < 1e-6


def test_guidance_one_is_the_conditional_branch(opened):
  pipe = opened("sd15")
  plain = run(pipe, [Request("a cat", "fog", guidance=1.0)] * 3)
  mixed = run(pipe, [Request("a cat", "fog", guidance=g) for g in (1.0, 0.0, 4.0)])
  assert relative_error(mixed[:2], plain[:2]) < 1e-5
  assert relative_error(mixed[2:], plain[2:]) > 1e-2


def test_eight_devices_give_the_same_pictures(folders, opened):
  """Eleven pictures on eight devices: padded, sharded, and equal to one device's."""
  requests = [Request(f"picture {i}", seed=3, index=i) for i in range(11)]
  eight = idejax.load(folders / "sd15")
  assert eight.mesh.size == 8
  assert relative_error(run(eight, requests, "dpmpp_sde", batch=8), run(opened("sd15"), requests, "dpmpp_sde")) < 1e-5


def test_knobs_do_not_recompile(opened):
  """One program over a sweep of guidance, seeds, prompts, negatives, samplers and steps."""
  programs = (prompting.encode, prompting.project, pipeline._run, pipeline.decode, pipeline._start)

  def go(prompt="a", negative=None, seed=0, guidance=5.0, sampler="ddim", steps=2):
    run(opened("sd15"), [Request(prompt, negative, seed, i, guidance) for i in range(3)], sampler, steps)

  go()
  before = [p._cache_size() for p in programs]
  go(guidance=9.5), go(seed=77), go(prompt="something else entirely"), go(negative="bad")
  for i, kind in enumerate(("ddim", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_sde", "lcm", "pndm")):
    go(sampler=kind, steps=2 + i % 3)
  assert [p._cache_size() for p in programs] == before


def test_noise_is_named_by_seed_and_index():
  a = pipeline.noise(5, 3, (8, 6, 4))
  assert a.dtype == np.float32 and a.shape == (8, 6, 4)
  np.testing.assert_array_equal(a, pipeline.noise(5, 3, (8, 6, 4)))
  assert np.abs(a - pipeline.noise(5, 4, (8, 6, 4))).max() > 0.1
  assert np.abs(a - pipeline.noise(6, 3, (8, 6, 4))).max() > 0.1
  many = np.stack([pipeline.noise(0, i, (16, 16, 4)) for i in range(64)])
  assert abs(many.mean()) < 0.01 and abs(many.std() - 1) < 0.01


def test_python_interface(opened):
  pipe, shape = opened("sd15"), dict(height=SIZE[0], width=SIZE[1])
  images = pipe.sample(["a cat", "a dog", "a tree"], seeds=4, steps=2, **shape)
  assert images.dtype == np.uint8 and images.shape == (3, *SIZE, 3)
  one = pipe.sample("a dog", seeds=[4], steps=2, batch=3, **shape)
  assert one.shape == (1, *SIZE, 3) and not np.array_equal(one[0], images[1])  # index 0, not 1
  with pytest.raises(UserError, match="2 prompts, but a list of 3"):
    pipe.sample(["a", "b"], seeds=[1, 2, 3])
  with pytest.raises(UserError, match="height 62 is not a positive multiple of 4; use 60 or 64"):
    pipe.sample("a", height=62)


def test_a_negative_prompt_of_the_python_interface_is_the_requests(opened):
  pipe, shape = opened("sd15"), dict(height=SIZE[0], width=SIZE[1])
  ask = lambda negative: pipe.sample(["a cat"] * 3, negative=negative, seeds=4, guidance=9.0, steps=2, batch=3, **shape)
  plain, one, each = ask(None), ask("fog and rain"), ask(["fog and rain", None, "x"])
  requests = [Request("a cat", "fog and rain", 4, i, 9.0) for i in range(3)]
  (want,) = pipeline.generate(pipe, requests, Settings(2, "folder", *SIZE, batch=3))
  np.testing.assert_array_equal(one, want.images)
  np.testing.assert_array_equal(each[:2], [one[0], plain[1]])
  assert not any(np.array_equal(a, b) for a, b in zip(one, plain)) and not np.array_equal(each[2], plain[2])


def test_pictures_of_one_seed_have_a_samplers_noise_of_their_own(opened):
  """From the same latents, stochastic samplers give different pictures; all 64 bits of a seed count."""
  names = [(5, 0), (5, 1), (6, 0), (6, 1), (5 + 2**32, 0), (0, 5)]
  assert len({jax.random.key_data(pipeline._key(*n)).tobytes() for n in names}) == len(names)
  z = np.stack([pipeline.noise(5, 0, (8, 12, 4))] * 3)
  requests = [Request("a cat", seed=5, index=i, guidance=2.0) for i in (0, 1, 0)]
  (batch,) = pipeline.generate(opened("sd15"), requests, Settings(3, "euler_ancestral", *SIZE, batch=3), z)
  assert relative_error(batch.latents[2], batch.latents[0]) < 1e-5
  assert relative_error(batch.latents[1], batch.latents[0]) > 1e-2


def test_tiled_decode(opened):
  """Tiles of the size that the VAE was trained at, blended; a small picture is decoded whole."""
  z = np.random.default_rng(5).standard_normal((1, 16, 40, 4)).astype(np.float32)
  decode = lambda z, tiled: np.asarray(pipeline.decode(opened("sd15").backbone, z, tiled))
  assert decode(z, True).shape == decode(z, False).shape == (1, 64, 160, 3)
  assert not np.array_equal(decode(z, True), decode(z, False))  # GroupNorm sees a tile
  np.testing.assert_array_equal(decode(z[:, :, :16], True), decode(z[:, :, :16], False))


def test_a_prompt_too_long_is_cut_with_a_notice(opened):
  heard = []
  pipe = dataclasses.replace(opened("sd15"), notify=heard.append)
  fits = "a" * 75
  run(pipe, [Request(p) for p in (fits + " tail", fits, "b")], steps=1)
  assert len(heard) == 1 and "75 tokens" in heard[0] and "'tail'" in heard[0]


def test_bfloat16_is_close_to_float32(folders, opened):
  half = idejax.load(folders / "sd15", dtype="bfloat16", devices=jax.devices()[:1])
  requests = [Request("a cat", guidance=1.5)] * 3
  a, b = run(half, requests, "ddim"), run(opened("sd15"), requests, "ddim")
  assert a.dtype == np.float32 and relative_error(a, b) < 0.1


def test_a_job_of_many_prompts_keeps_few_encodings(opened, monkeypatch):
  requests = [Request(f"prompt {i}", guidance=2.0) for i in range(9)]
  want = run(opened("sdxl"), requests, steps=1)
  monkeypatch.setattr("idejax.sampling.texts.KEPT", 2)
  np.testing.assert_array_equal(run(opened("sdxl"), requests, steps=1), want)


def test_a_folder_may_say_which_sampler_suits_its_model():
  """The built-in ones do; any other that is named is taken, and sheets of models that name none are made by 2M."""
  for name in ("miniature", "miniature-sdxl"):
    pipe = pipeline.load(name, notify=lambda _: None, devices=jax.devices()[:1])
    assert pipe.backbone.nets.sampler == sampler.for_sheets(pipe.backbone.nets.sampler) == "dpmpp_2m_sde"
    same = lambda a, b: all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    own, theirs, ddim = (pipeline.make_table(pipe, Settings(4, s)) for s in ("folder", "dpmpp_2m_sde", "ddim"))
    assert same(own, theirs) and not same(own, ddim)
  assert sampler.for_sheets(None) == "dpmpp_2m"
