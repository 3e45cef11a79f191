"""The SDXL-shaped miniature: what its text encoders and its UNet are taught, and the recipe end to end."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.command import run
from support.fakes import fill, relative_error

import idejax
from idejax import config, tree
from idejax.errors import UserError
from idejax.miniature.training import denoiser, export, recipe, training, words, words_training
from idejax.model import backbone
from idejax.model.backbone import Backbone, Nets
from idejax.model.diffusion import NoiseSchedule
from idejax.nets import clip, unet, vae
from idejax.sampling import pipeline
from idejax.sampling.pipeline import Request, Settings
from idejax.storage import hub, tensorfiles
from idejax.training import loop

VOCABULARY = 20
TINY = dataclasses.replace(recipe.TINY_SDXL, widths=(16, 16))


@pytest.fixture(scope="module")
def configs():
  return {n: clip.TextConfig.from_json(x) for n, x in recipe.texts(TINY, VOCABULARY).items()}


@pytest.fixture(scope="module")
def nets(configs):
  return Nets(
    unet.UNetConfig.from_json(recipe.unet(TINY)),
    vae.VAEConfig.from_json(recipe.vae(TINY)),
    tuple(configs.values()),
    NoiseSchedule.from_json(recipe.scheduler(TINY)),
    zero_empty_negative=True,
  )


def test_both_families_have_one_shape_of_latents_and_their_own_of_everything_else():
  r = recipe.FULL_SDXL
  assert recipe.vae(r) == recipe.vae(recipe.FULL) and r.xl and not recipe.FULL.xl
  net = unet.UNetConfig.from_json(recipe.unet(r))
  text = [clip.TextConfig.from_json(x) for x in recipe.texts(r, 1000).values()]
  assert net.context_dim == sum(t.hidden_size for t in text)
  assert net.added_dims == (r.time_width, text[1].projection_dim + 6 * r.time_width)
  assert net.down_depths == (0, 2, 1) and text[0].projection_dim is None
  size = lambda r, text: (
    tree.size(unet.shapes(unet.UNetConfig.from_json(recipe.unet(r)))) + sum(tree.size(clip.shapes(t)) for t in text)
  )
  assert 2 * size(r, text) < 22e6  # bytes of float16
  plain = recipe.unet(recipe.FULL)
  assert "addition_embed_type" not in plain and "transformer_layers_per_block" not in plain


# The text encoders.


def test_positions_are_read_before_the_last_layer_and_the_pooled_row_after_it(configs):
  cfg = configs["text_encoder_2"]
  params = words.init(cfg, 0, with_pooled=True)
  rng = np.random.default_rng(0)
  heads = jax.tree.map(
    lambda x: x + 0.1 * rng.standard_normal(x.shape).astype(np.float32),
    {n: params[n] for n in ("said", "before", "looks", "whole")},
  )
  ids = np.full((2, 40), 19, np.int32)
  ids[:, :4] = [[18, 3, 4, 3], [18, 5, 6, 7]]
  loss = words.make_loss(cfg, (0, 18, 19), with_pooled=True)
  nobody = {"looks": np.zeros((2, words.LOOKS), np.float32), "famous": np.zeros(2, bool)}
  layers = "text_model.encoder.layers.*"

  @jax.jit
  def parts(scale):  # of the last layer's weights
    last = lambda x: x.at[-1].multiply(scale)
    text = params["text"] | {layers: jax.tree.map(last, params["text"][layers])}
    return loss({**heads, "text": text}, {}, {"ids": ids, **nobody}, None)[1]

  a, b = parts(1.0), parts(2.0)
  assert a["bag"] == b["bag"] and a["order"] == b["order"] and a["known"] == b["known"]
  assert a["measures"] == b["measures"]
  assert abs(a["whole"] - b["whole"]) > 1e-4


def test_the_pooled_row_is_asked_for_all_words_of_the_prompt(configs):
  cfg = configs["text_encoder_2"]
  params = words.init(cfg, 0, with_pooled=True)
  ids = np.full((1, 40), 19, np.int32)
  ids[0, :4] = 18, 3, 4, 3
  loss = jax.jit(words.make_loss(cfg, (0, 18, 19), with_pooled=True))
  nobody = {"looks": np.zeros((1, words.LOOKS), np.float32), "famous": np.zeros(1, bool)}

  def whole(said):
    bias = np.full(VOCABULARY, -50.0, np.float32)
    bias[list(said)] = 50
    kernel = np.zeros_like(params["whole"]["kernel"])
    return loss(params | {"whole": {"kernel": kernel, "bias": bias}}, {}, {"ids": ids, **nobody}, None)[1]

  right = whole({3, 4})
  np.testing.assert_allclose(right["whole"], 0, atol=1e-6)
  assert right["known_whole"] == 1 and whole({3})["known_whole"] == 0.5
  np.testing.assert_allclose(whole({3})["whole"], 50, rtol=1e-5)
  np.testing.assert_allclose(whole({3, 4, 5})["whole"], 50, rtol=1e-5)
  np.testing.assert_allclose(whole({3, 4, 18, 0})["whole"], 0, atol=1e-6)  # marks are no words


def test_contexts_are_brought_to_unit_size_and_nothing_else_changes(configs):
  cfg = configs["text_encoder_2"]
  text = dict(words.init(cfg, 0, with_pooled=True)["text"])
  table = "text_model.embeddings.token_embedding"
  text[table] = {"embedding": 8 * text[table]["embedding"]}
  ids = np.random.default_rng(0).integers(0, VOCABULARY, (8, 40)).astype(np.int32)
  new = words.unit(cfg, text, ids)
  run = jax.jit(lambda params: clip.TextEncoder(cfg).apply({"params": params}, ids))
  before, after = jax.device_get((run(text), run(new)))
  size = np.sqrt(np.square(before.penultimate).mean())
  assert size > 2
  np.testing.assert_allclose(np.square(after.penultimate).mean(), 1, rtol=1e-3)
  np.testing.assert_allclose(after.penultimate * size, before.penultimate, atol=1e-2 * size)
  assert relative_error(after.last, before.last) < 1e-2
  assert relative_error(after.pooled, before.pooled) < 1e-2


# The UNet.


@pytest.fixture(scope="module")
def arrays(nets, configs):
  params = {"unet": fill(unet.shapes(nets.unet))}
  return params, {n: words.init(c, 0, with_pooled=True)["text"] for n, c in configs.items()}


def batch(n: int, rng) -> dict:
  z = rng.standard_normal((n, 4, 4, TINY.latent_channels)).astype(np.float16)
  ids = rng.integers(1, 18, (n, 40)).astype(np.int32)
  ids[:, 0], ids[:, 20:] = 18, 19
  return {"mean": z, "logvar": np.full_like(z, -30), "ids": ids, "index": np.arange(n, dtype=np.int32)}


@pytest.fixture(scope="module")
def called(nets, arrays):
  """The batch, the conditioning with which the loss calls a UNet that says zero, and the loss."""
  data = batch(256, np.random.default_rng(0))
  keys = jax.random.split(jax.random.key(0), 256)
  loss = denoiser.make_loss(nets, np.zeros(40, np.int32), TINY)

  @jax.jit
  def run(params, frozen, data):
    calls = []
    silent = lambda b, x, t, cond: calls.append(cond) or jnp.zeros(x.shape)
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(backbone, "predict", silent)
      return loss(params, frozen, data, keys)[0], calls

  value, (cond,) = jax.device_get(run(*arrays, data))
  return data, cond, value


def test_without_a_prompt_the_unet_is_given_zeros_as_when_it_samples(nets, called):
  data, cond, value = called
  np.testing.assert_allclose(value, 1, rtol=0.05)  # an output of zero has the error E[v^2] = 1
  rows = [x.reshape(len(data["ids"]), -1) for x in (cond.k[0], cond.v[0], cond.pooled)]
  empty = (rows[0] == 0).all(1)
  assert 0.04 < empty.mean() < 0.17
  for x in rows:
    assert ((x == 0).all(1) == empty).all()
    assert (np.abs(x[~empty]).mean(1) > 0).all()
  side = nets.unet.sample_size * nets.factor
  assert (cond.time_ids == [side, side, 0, 0, side, side]).all()


def test_the_unet_sees_what_the_text_encoders_give_when_it_samples(nets, arrays, called):
  data, cond, _ = called
  eos = np.full(len(data["ids"]), 20, np.int32)
  encode = jax.jit(lambda ids: backbone.encode_text(Backbone(nets, arrays[1]), (ids, ids), (eos, eos)))
  context, pooled = jax.device_get(encode(data["ids"]))
  has_text = ~(cond.pooled == 0).all(1)
  assert has_text.sum() > 200
  np.testing.assert_allclose(cond.k[0, has_text], context[has_text], atol=1e-5)
  np.testing.assert_allclose(cond.pooled[has_text], pooled[has_text], atol=1e-5)


@pytest.mark.slow
def test_every_parameter_of_the_unet_learns(nets, arrays, rng):
  """Both blocks of a stacked run, and what reads pooled text and sizes."""
  loss = denoiser.make_loss(nets, np.zeros(40, np.int32), TINY)
  keys = jax.random.split(jax.random.key(0), 8)
  grads = jax.jit(jax.grad(lambda p: loss(p, arrays[1], batch(8, rng), keys)[0]))(arrays[0])
  flat = tree.flatten(grads)
  assert any("add_embedding" in path for path in flat) and any("*" in path for path in flat)
  for path, g in flat.items():
    blocks = np.asarray(g) if "*" in path else np.asarray(g)[None]
    assert np.isfinite(blocks).all() and all(np.abs(x).max() > 0 for x in blocks), path


# On disk.


def test_the_folder_names_what_stock_diffusers_builds(tmp_path):
  export.write_index(tmp_path / "xl", recipe.scheduler(TINY), xl=True)
  export.write_index(tmp_path / "sd", recipe.scheduler(recipe.TINY))
  xl, sd = (json.loads((tmp_path / n / "model_index.json").read_text()) for n in ("xl", "sd"))
  assert xl["_class_name"] == "StableDiffusionXLPipeline" and xl["force_zeros_for_empty_prompt"] is True
  assert xl["text_encoder_2"] == ["transformers", "CLIPTextModelWithProjection"]
  assert xl["tokenizer_2"] == ["transformers", "CLIPTokenizer"] and xl["scheduler"][1] == "EulerDiscreteScheduler"
  assert "safety_checker" not in xl and "tokenizer_2" not in sd and "force_zeros_for_empty_prompt" not in sd
  assert sd["_class_name"] == "StableDiffusionPipeline" and sd["requires_safety_checker"] is False


def test_the_name_is_a_folder_of_the_package():
  assert hub.BUILT_IN["miniature-sdxl"] == hub.BUILT_IN["miniature"].with_name("pipeline_sdxl")


def test_a_stage_before_its_text_encoders_names_the_one_that_is_missing(tmp_path, configs):
  c = config.TrainMiniature(out=tmp_path, family="sdxl")
  with pytest.raises(UserError, match="words_sdxl/result.json is missing: run --stage words first"):
    words_training.load(c, TINY, configs)
  assert training.home(dataclasses.replace(c, family="sd"), "words") == tmp_path / "words"


@pytest.mark.slow
def test_the_recipe_end_to_end(tmp_path):
  """Losses fall, and stock diffusers samples from the folder what idejax samples."""
  process = run("train-miniature", "--family", "sdxl", "--tiny", "--out", str(tmp_path), XLA_FLAGS=None, timeout=900)
  assert process.code == 0, process.err
  for stage in ("words_sdxl/text_encoder", "words_sdxl/text_encoder_2", "diffusion_sdxl"):
    loss = [r["loss"] for r in loop.records(tmp_path / stage / "metrics.jsonl")]
    assert np.mean(loss[-40:]) < 0.85 * np.mean(loss[:10]), stage
  assert list((tmp_path / "diffusion_sdxl").glob("pictures-*.png"))
  folder = tmp_path / "pipeline_sdxl"
  record = json.loads((folder / "training.json").read_text())
  assert record["digests"].keys() == {p.name for p in folder.iterdir() if p.is_dir()}
  assert set(record["words"]) == set(recipe.TEXTS) and record["diffusion"]["step"] == 100
  same_as_diffusers(folder)


def same_as_diffusers(folder):
  import torch
  from diffusers import StableDiffusionXLPipeline

  theirs = StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True)
  assert theirs.scheduler.config.prediction_type == "v_prediction" and theirs.vae_scale_factor == 4
  ours = idejax.load(folder, devices=jax.devices()[:1])
  prompts = ["a photo of a woman with red hair", "a sketch of a man"]
  z = np.random.default_rng(0).standard_normal((2, 16, 16, ours.backbone.nets.latent_channels), np.float32)
  (result,) = pipeline.generate(ours, [Request(p, guidance=3.0) for p in prompts], Settings(3, "euler", batch=2), z)
  want = theirs(
    prompt=prompts,
    latents=torch.from_numpy(z.transpose(0, 3, 1, 2).copy()),
    num_inference_steps=3,
    guidance_scale=3.0,
    output_type="latent",
  ).images
  assert relative_error(result.latents.transpose(0, 3, 1, 2), want) < 1e-4


# An identity through both text encoders, on the weights that ship.


@pytest.mark.slow
def test_stable_identity_learns_faces_through_both_text_encoders(tmp_path):
  """People of the development split, by a judge that no training saw; "a person" has about 0."""
  process = run(
    "personalize",
    "--model",
    "miniature-sdxl",
    "--method",
    "stable-identity",
    "--drawn",
    "2",
    "--split",
    "development",
    "--sample-steps",
    "12",
    "--num",
    "1",
    "--out",
    str(tmp_path / "run"),
    XLA_FLAGS=None,
    timeout=900,
  )
  assert process.code == 0, process.err
  scores = json.loads((tmp_path / "run" / "report.json").read_text())["scores"]
  assert scores["identity"]["mean"] > 0.25 and scores["detect"]["mean"] > 0.9
  folder = next(p.parent for p in (tmp_path / "run").rglob("identity.safetensors"))
  who = tensorfiles.read(folder, "identity")
  assert {k: x.shape[-2:] for k, x in who.items()} == {"rows/0": (2, 128), "rows/1": (2, 64)}  # two words for each
