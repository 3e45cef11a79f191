"""Training the judges: the attribute classifier's loss, the small CLIP's weights, loss and files."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from idejax.miniature.judging.judges import BODY, CLASSES, COUNTS, LENGTH, embeddings, prompts, towers
from idejax.miniature.training import tokenizer
from idejax.miniature.training.words import WORDS_SCALE
from idejax.miniature.world import captions, scene
from idejax.miniature.world.data import pixels
from idejax.model.families import random_params
from idejax.nets import clip, clip_vision, convnet, smallface
from idejax.storage import tensorfiles, weights
from idejax.storage.files import write_json
from idejax.training.step import Loss

_WIDTH, _PROJECTION = {"text": 96, "vision": 96}, 128


def clip_config(vocabulary: int, tiny: bool = False) -> dict[str, Any]:
  """transformers' config.json of a CLIPModel for pictures of 64 px and prompts of 40 tokens."""
  ends = dict(bos_token_id=vocabulary - 2, eos_token_id=vocabulary - 1, pad_token_id=0)
  common = dict(hidden_act="quick_gelu", layer_norm_eps=1e-5, attention_dropout=0.0)
  tower = lambda name, layers: dict(
    model_type=f"clip_{name}_model",
    hidden_size=_WIDTH[name],
    intermediate_size=4 * _WIDTH[name],
    num_attention_heads=4,
    num_hidden_layers=1 if tiny else layers,
    **common,
  )
  return dict(
    architectures=["CLIPModel"],
    model_type="clip",
    projection_dim=_PROJECTION,
    torch_dtype="float32",
    logit_scale_init_value=2.6592,
    text_config=tower("text", 2) | dict(vocab_size=vocabulary, max_position_embeddings=LENGTH, **ends),
    vision_config=tower("vision", 4) | dict(image_size=64, patch_size=8, num_channels=3),
  )


def clip_init(config: dict[str, Any], seed: int) -> dict[str, Any]:
  """{"text", "vision", "logit_scale", "heads"}. The heads predict attributes from the image's embedding
  and are dropped after training.
  """
  text, vision = towers(config)
  params = random_params({"text": clip.shapes(text.cfg), "vision": clip_vision.shapes(vision.cfg)}, seed)
  words = params["text"]["text_model.embeddings.token_embedding"]
  words["embedding"] *= WORDS_SCALE  # otherwise the residual branches drown the words
  zeros = lambda n: {"kernel": np.zeros((_PROJECTION, n), np.float32), "bias": np.zeros(n, np.float32)}
  heads = {n: zeros(len(c)) for n, c in CLASSES.items()}
  return jax.tree.map(jnp.asarray, params | {"heads": heads, "logit_scale": np.float32(np.log(14))})


def make_attributes_loss() -> Loss:
  """batch: images uint8 [B, 64, 64, 3] and codes int32 [B] by attribute."""

  def loss(params, frozen, batch, keys):
    x = pixels(batch["images"])
    outputs = convnet.Net(BODY).apply({"params": params}, x, mutable="moments")[0]
    pairs = list(zip(smallface.ATTRIBUTES, outputs, strict=True))
    right = {n: (o.argmax(-1) == batch[n]).mean() for n, o in pairs}
    return sum(_surprise(o, batch[n]) for n, o in pairs), right

  return loss


def make_clip_loss(config: dict[str, Any]) -> Loss:
  """CLIP's contrast within the batch, both ways; contrast with sentences that differ in one factor, because
  backgrounds alone tell most pictures of a batch apart; and attribute heads, which speed up training.

  batch: images uint8 [B, 64, 64, 3], ids int32 [B + sum(COUNTS), 40] of the captions and then of
  `contrasts`, codes int32 [B] by attribute.
  """

  def loss(params, frozen, batch, keys):
    pictures, texts = embeddings(config, params, batch["images"], batch["ids"])
    scores = pictures @ texts.T * jnp.exp(jnp.minimum(params["logit_scale"], np.log(100.0)))
    logits, *classes = jnp.split(scores, len(pictures) + np.cumsum((0, *COUNTS))[:-1], axis=1)
    truth = jnp.arange(len(logits))
    contrast = (_surprise(logits, truth) + _surprise(logits.T, truth)) / 2
    pairs = list(zip(smallface.ATTRIBUTES, classes, strict=True))
    factors = sum(_surprise(c, batch[n]) for n, c in pairs)
    heads = {n: 8 * pictures @ h["kernel"] + h["bias"][None] for n, h in params["heads"].items()}
    attributes = sum(_surprise(h, batch[n]) for n, h in heads.items())
    right = {n: (c.argmax(-1) == batch[n]).mean() for n, c in pairs}
    return contrast + factors + 0.25 * attributes, {"contrast": contrast, "told": factors, "named": attributes} | right

  return loss


def _surprise(logits, truth) -> jax.Array:
  """Mean cross-entropy of logits [B, K] and codes [B]."""
  own = jnp.take_along_axis(logits, truth[:, None], axis=1)[:, 0]
  return (jax.nn.logsumexp(logits, -1) - own).mean()


def contrasts(rng: np.random.Generator) -> list[str]:
  """Prompts for all classes about one drawn subject and scene, in the order of ATTRIBUTES."""
  factors = {n: str(rng.choice(c)) for n, c in CLASSES.items() if n != "hair" and rng.random() < 0.5}
  factors["style"] = str(rng.choice(scene.STYLES))
  return sum(prompts(f"a {rng.choice(captions.NOUNS)}", **factors).values(), [])


def write_clip(folder: Path, config: dict[str, Any], params: Any):
  """A folder that transformers' CLIPModel, CLIPTokenizer and CLIPImageProcessor read."""
  tokenizer.write(folder, LENGTH)
  tensors = weights.to_torch(params["text"]) | weights.to_torch(params["vision"])
  tensors["logit_scale"] = np.asarray(params["logit_scale"], np.float32)
  write_json(folder / "config.json", config)
  tensorfiles.write(folder / "model.safetensors", tensors)
  write_json(
    folder / "preprocessor_config.json",
    dict(
      image_processor_type="CLIPImageProcessor",
      do_resize=True,
      size={"shortest_edge": 64},
      resample=3,
      do_center_crop=True,
      crop_size={"height": 64, "width": 64},
      do_rescale=True,
      rescale_factor=1 / 255,
      do_normalize=True,
      image_mean=[0.5] * 3,
      image_std=[0.5] * 3,
      do_convert_rgb=True,
    ),
  )
