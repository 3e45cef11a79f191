"""Training the miniature: tokenizer, data order, VAE and denoiser losses, and the recipe end to end."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.command import run
from transformers import CLIPTokenizer

from idejax.config import TrainMiniature
from idejax.errors import UserError
from idejax.jobs import train_miniature
from idejax.miniature.training import (
  autoencoder,
  denoiser,
  export,
  latents,
  recipe,
  tokenizer,
  training,
  vae_training,
  words_training,
)
from idejax.miniature.training import words as text_encoder
from idejax.miniature.world import captions, people, pictures
from idejax.miniature.world.data import pixels
from idejax.model import tokens
from idejax.model.backbone import Nets
from idejax.model.diffusion import NoiseSchedule
from idejax.model.families import random_params
from idejax.nets import clip, unet, vae
from idejax.training import loop

NOBODY = {"looks": np.zeros((1, text_encoder.LOOKS), np.float32), "famous": np.zeros(1, bool)}
TINY = dataclasses.replace(recipe.TINY, latent_channels=8, widths=(16, 16))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tokenizer")
  tokenizer.write(folder, recipe.LENGTH)
  return folder


def test_every_word_is_one_token_and_every_caption_fits(folder):
  words = tokens.load(folder)
  for word in captions.VOCABULARY:
    assert len(words.bpe.ids(word)) == 1, word
  name = people.celebrity_names()[7]
  got = words.encode([f"a photo of {name}, smiling", ""])
  assert got.eos.tolist() == [8, 1] and got.ids.shape == (2, recipe.LENGTH)
  assert got.ids[1].tolist() == [words.bos, words.eos] + [0] * (recipe.LENGTH - 2)


def test_other_words_encode_as_bytes_and_come_back(folder):
  words = tokens.load(folder)
  text = "zürich 北京 🙂"
  ids = words.bpe.ids(text)
  assert len(ids) > 8 and words.bpe.decode(ids).strip() == text


def test_special_tokens_are_last_and_both_files_agree(folder, tmp_path):
  vocab = json.loads((folder / "vocab.json").read_text())
  assert sorted(vocab.values()) == list(range(len(vocab)))
  assert vocab["<|startoftext|>"] == len(vocab) - 2 and vocab["<|endoftext|>"] == len(vocab) - 1
  assert vocab["!"] == 0
  for file in ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"):
    (tmp_path / file).write_bytes((folder / file).read_bytes())
  old, new = CLIPTokenizer.from_pretrained(str(tmp_path)), CLIPTokenizer.from_pretrained(str(folder))
  text = "a close-up photo of a woman's face, wearing sunglasses"
  assert old(text)["input_ids"] == new(text)["input_ids"]
  assert len(new) == len(vocab) and new.model_max_length == recipe.LENGTH


def test_an_epoch_reads_every_picture_once_in_an_order_of_its_own():
  epochs = np.concatenate([pictures.rows(i, 4, 10, 0) for i in range(5)]).reshape(2, 10)
  assert (np.sort(epochs) == np.arange(10)).all() and (epochs[0] != epochs[1]).any()
  assert (pictures.rows(3, 4, 10, 1) != pictures.rows(3, 4, 10, 0)).any()


def test_pictures_are_rendered_once_and_again_when_asked_otherwise(tmp_path, monkeypatch):
  monkeypatch.setattr(people, "split", lambda name: np.arange(3))
  first = pictures.render(tmp_path, {"train": 2}, size=16)
  assert first.images.shape == (6, 16, 16, 3) and len(first.captions) == 6
  assert first.ids.tolist() == [0, 0, 1, 1, 2, 2]
  stamp = (tmp_path / "images.npy").stat().st_mtime_ns
  assert pictures.render(tmp_path, {"train": 2}, size=16).digest == first.digest
  assert (tmp_path / "images.npy").stat().st_mtime_ns == stamp
  assert pictures.render(tmp_path, {"train": 3}, size=16).images.shape[0] == 9


@pytest.fixture(scope="module")
def coder():
  cfg = vae.VAEConfig.from_json(recipe.vae(TINY))
  return cfg, jax.tree.map(jnp.asarray, random_params(vae.shapes(cfg), 0))


def test_normalised_latents_reconstruct_the_same_and_are_alike(coder, rng):
  cfg, params = coder
  images = rng.integers(0, 256, (8, 16, 16, 3), np.uint8)
  mean, std = latents.statistics(cfg, params, images)
  new = autoencoder.normalise(params, mean, std)
  again = latents.statistics(cfg, new, images)
  np.testing.assert_allclose(again[0], 0, atol=1e-4)
  np.testing.assert_allclose(again[1], 1, rtol=1e-4)
  encode = lambda p: vae.Encoder(cfg).apply({"params": p}, pixels(images))[0]
  decode = jax.jit(lambda p: vae.Decoder(cfg).apply({"params": p}, encode(p)))
  np.testing.assert_allclose(decode(new), decode(params), atol=1e-4)


def test_the_vae_starts_with_quiet_latents(coder):
  cfg, _ = coder
  params = autoencoder.init(cfg, 0)
  _, logvar = jax.jit(vae.Encoder(cfg).apply)({"params": params}, jnp.zeros((1, 16, 16, 3)))
  assert logvar.mean() < -2


@pytest.fixture(scope="module")
def nets():
  text = clip.TextConfig.from_json(recipe.text(TINY, 20))
  return Nets(
    unet.UNetConfig.from_json(recipe.unet(TINY)),
    vae.VAEConfig.from_json(recipe.vae(TINY)),
    (text,),
    NoiseSchedule.from_json(recipe.SCHEDULER),
  )


def test_the_denoiser_starts_at_the_loss_of_saying_nothing_and_empties_captions(nets, rng):
  """An output of zero has the error E[v^2] = 1 on unit latents."""
  n = 256
  z = rng.standard_normal((n, 4, 4, 8)).astype(np.float16)
  data = {
    "mean": z,
    "logvar": np.full_like(z, -30),
    "ids": np.full((n, 40), 7, np.int32),
    "index": np.arange(n, dtype=np.int32),
  }
  params, frozen = denoiser.init(nets, 0), {"text_encoder": text_encoder.init(nets.text[0], 0)["text"]}
  keys = jax.random.split(jax.random.key(0), n)
  seen = []

  def spy(self, ids, *args):
    seen.append(ids)
    return clip.TextOutput(jnp.zeros((n, 40, 32)), None, None)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(clip.TextEncoder, "__call__", spy)
    value, metrics = denoiser.make_loss(nets, np.zeros(40, np.int32), TINY)(params, frozen, data, keys)
  np.testing.assert_allclose(metrics["v"], 1, rtol=0.05)
  np.testing.assert_allclose(value, 1, rtol=0.15)  # its weights by time vary with the few t that were drawn
  empty = np.asarray(seen[0] == 0).all(1).mean()
  assert 0.04 < empty < 0.17


def test_the_denoisers_loss_counts_by_place(nets, rng):
  z = rng.standard_normal((4, 4, 4, 8)).astype(np.float16)
  data = {
    "mean": z,
    "logvar": np.full_like(z, -30),
    "ids": np.full((4, 40), 7, np.int32),
    "index": np.arange(4, dtype=np.int32),
  }
  params, frozen = denoiser.init(nets, 0), {"text_encoder": text_encoder.init(nets.text[0], 0)["text"]}
  keys = jax.random.split(jax.random.key(0), 4)

  @jax.jit
  def value(where):
    return denoiser.make_loss(nets, np.zeros(40, np.int32), TINY, where)(params, frozen, data, keys)[0]

  left = np.zeros((4, 4, 1), np.float32)
  left[:, :2] = 1
  every, half = value(None), value(left)
  assert 0.2 * every < half < 0.8 * every
  np.testing.assert_allclose(3 * half + value(1 - left), value(1 + 2 * left), rtol=1e-5)
  np.testing.assert_allclose(half + value(1 - left), every, rtol=1e-5)


def test_faces_features_weigh_more_and_the_mean_is_one():
  where = denoiser.where_faces_are(16, 8.0, count=40)[..., 0]
  np.testing.assert_allclose(where.mean(), 1, rtol=1e-5)
  assert where[0, 0] == where.min() and 7 < where.max() / where.min() <= 9.01
  row, column = np.unravel_index(where.argmax(), where.shape)
  assert 8 < row < 12 and 6 <= column <= 9  # a mouth is below the middle
  np.testing.assert_allclose(denoiser.where_faces_are(8, 0.0, count=2), 1)


def test_words_begin_distinct(nets):
  """Drowned by the residual branches they would never be learned."""
  params = text_encoder.init(nets.text[0], 0)
  ids = np.full((2, 40), 5, np.int32)
  ids[1, 3] = 6
  a, b = clip.TextEncoder(nets.text[0]).apply({"params": params["text"]}, ids).last[:, 3]
  assert np.abs(a - b).mean() > 0.3 * np.abs(a).mean()


def test_a_text_encoder_learns_what_was_said_so_far(nets):
  """The bag's loss counts words up to each position, in any order, and specials not at all."""
  cfg = nets.text[0]
  params = text_encoder.init(cfg, 0)
  ids = np.full((1, 40), 19, np.int32)
  ids[0, :4] = 18, 3, 4, 3

  def bag(said):  # of heads that say exactly `said`, at every position
    bias = np.full(20, -50.0, np.float32)
    bias[list(said)] = 50
    heads = {"said": {"kernel": np.zeros((32, 20), np.float32), "bias": bias}}
    return text_encoder.make_loss(cfg, (0, 18, 19))(params | heads, {}, {"ids": ids, **NOBODY}, None)[1]

  right = bag({3, 4})
  np.testing.assert_allclose(right["bag"] * 40, 50 * (2 + 1), rtol=1e-5)  # nothing at 0, only 3 at 1
  np.testing.assert_allclose(bag({3, 4, 18})["bag"], right["bag"], rtol=1e-5)
  assert right["known"] == 1 and 0.4 < bag({3})["known"] < 0.6
  assert bag({3})["bag"] > right["bag"]


def test_what_a_name_means_is_scored_against_how_its_owner_looks(nets):
  cfg = nets.text[0]
  params = text_encoder.init(cfg, 0)
  true = text_encoder.looks(np.array([7, 300]))
  who = people.person(7)
  np.testing.assert_allclose(true[0, :20], [getattr(who, n) for n in people.CONTINUOUS])
  assert true.shape == (2, text_encoder.LOOKS) and (true[:, 20:].sum(1) == 9).all()
  assert true[0, 22 + int(who.hair_style)] == 1  # after two codes of gender

  def score(measures, famous):  # of a head that says these measures whatever was said
    bias = np.zeros(text_encoder.LOOKS, np.float32)
    bias[:20] = measures
    head = {"looks": params["looks"] | {"bias": bias}}
    batch = {"ids": np.full((2, 40), 5, np.int32), "looks": true, "famous": np.array(famous)}
    return text_encoder.make_loss(cfg, (0, 18, 19))(params | head, {}, batch, None)[1]

  right = score(true[0, :20], [True, False])
  np.testing.assert_allclose(right["known_looks"], 1, atol=1e-5)
  np.testing.assert_allclose(right["measures"], np.square(true[1, :20] - true[0, :20]).sum() / 2, rtol=1e-5)
  np.testing.assert_allclose(right["codes"], np.log(2) * sum(people.SIZES), rtol=1e-5)
  assert score(np.zeros(20), [True, False])["known_looks"] == 0
  assert score(true[0, :20], [True, True])["known_looks"] < 0.6


def test_the_denoiser_takes_a_unet_as_it_is(nets):
  half = jax.tree.map(lambda x: np.asarray(x, np.float16), denoiser.init(nets, 0))
  jax.tree.map(np.testing.assert_array_equal, denoiser.init(nets, 1, half["unet"]), half)


def test_a_finished_pipelines_vae_is_taken_as_it_is(tmp_path, rng, monkeypatch):
  images = rng.integers(0, 255, (4, 64, 64, 3), np.uint8)
  drawn = pictures.Pictures(images, ["a man"] * 4, np.arange(4), "digest")
  monkeypatch.setattr(training, "data", lambda *_: drawn)
  monkeypatch.setattr(training, "held_out", lambda *_: drawn)
  start, out = tmp_path / "start", tmp_path / "out"
  config = recipe.vae(recipe.TINY) | {"scaling_factor": 0.7}
  export.write_net(start, "vae", config, random_params(vae.shapes(vae.VAEConfig.from_json(config)), 0))
  c = TrainMiniature(out=out, tiny=True, start=start)
  vae_training.train(c, recipe.TINY)
  ready = vae_training.ready(c, recipe.TINY, out / "pipeline", drawn, drawn)
  for file in ("config.json", "diffusion_pytorch_model.safetensors"):
    assert (out / "pipeline" / "vae" / file).read_bytes() == (start / "vae" / file).read_bytes()
  assert ready.scale == pytest.approx(1 / 0.7) and ready.moments.mean.shape[0] == 4
  with pytest.raises(UserError, match="is not of this recipe's size"):
    vae_training.train(c, recipe.FULL)


def test_a_finished_pipelines_text_encoder_is_taken_as_it_is_with_no_steps(tmp_path):
  start, config = tmp_path / "start", recipe.text(recipe.TINY, 20)
  export.write_net(start, "text_encoder", config, random_params(clip.shapes(clip.TextConfig.from_json(config)), 0))
  c = TrainMiniature(out=tmp_path / "out", tiny=True, start=start, steps=0)
  words_training.train(c, recipe.TINY)
  known, digest = words_training.load(c, recipe.TINY, {"text_encoder": clip.TextConfig.from_json(config)})
  jax.tree.map(np.testing.assert_array_equal, known["text_encoder"], export.read_net(start, "text_encoder")[1])
  assert digest == json.loads((c.out / "words" / "result.json").read_text())["sha256"]


def test_a_start_that_is_no_pipeline_is_refused(tmp_path):
  with pytest.raises(UserError, match=f"{tmp_path}: no model_index.json here"):
    train_miniature.main(TrainMiniature(out=tmp_path, start=tmp_path))


def test_a_unet_to_start_from_may_lie_alone_and_is_looked_for_before_anything_is_done(tmp_path):
  """A folder with unet/ is enough; what is neither that nor a pipeline is refused."""
  export.write_json(tmp_path / "next" / "unet" / "config.json", recipe.unet(recipe.TINY))
  c = TrainMiniature(out=tmp_path / "out", tiny=True, stage="tokenizer", unet=tmp_path / "next")
  train_miniature.main(c)
  assert (tmp_path / "out" / "pipeline" / "tokenizer" / "vocab.json").is_file()
  with pytest.raises(UserError, match="model_index.json"):
    train_miniature.main(dataclasses.replace(c, unet=tmp_path / "out"))


@pytest.mark.slow
def test_the_recipe_end_to_end(tmp_path):
  """Losses fall, a second call trains nothing anew, and stock diffusers opens the folder."""
  command = ["train-miniature", "--tiny", "--out", str(tmp_path)]
  first = run(*command, XLA_FLAGS=None, timeout=900)
  assert first.code == 0, first.err
  for stage in ("vae", "words", "diffusion"):
    loss = [r["loss"] for r in loop.records(tmp_path / stage / "metrics.jsonl")]
    assert np.mean(loss[-40:]) < 0.85 * np.mean(loss[:10])  # a batch's loss scatters by a third
    assert (tmp_path / stage / "loss.png").exists()
  before = json.loads((tmp_path / "pipeline" / "training.json").read_text())
  again = run(*command, "--stage", "vae", XLA_FLAGS=None)
  assert again.code == 0 and "at step 100" in again.err
  assert json.loads((tmp_path / "pipeline" / "training.json").read_text()) == before

  from diffusers import StableDiffusionPipeline

  pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "pipeline")
  assert pipe.scheduler.config.prediction_type == "v_prediction" and pipe.vae_scale_factor == 4
  image = pipe("a photo of a woman", num_inference_steps=2, output_type="np").images
  assert image.shape == (1, 64, 64, 3)
