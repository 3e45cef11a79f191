"""Judges that no training listens to: the attribute classifier and the small CLIP."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from idejax import tensorfiles, tokens, weights
from idejax.families import random_params
from idejax.files import write_json
from idejax.miniature import captions, people, scene, tokenizer
from idejax.miniature.recogniser import pixels, unit
from idejax.miniature.words import WORDS_SCALE
from idejax.nets import clip, clip_vision, convnet, smallface
from idejax.step import Loss

CLASSES = {
  "expression": scene.EXPRESSIONS,
  "accessory": scene.ACCESSORIES,
  "background": scene.BACKGROUNDS,
  "hair": ("bald", *people.HAIR_COLOURS),
}
COUNTS = tuple(len(CLASSES[n]) for n in smallface.ATTRIBUTES)
BODY = smallface.attributes(COUNTS)


def labels(factors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Codes into CLASSES, int32 [N], from the codes of the world."""
  bald = factors["hair_style"] == people.HAIR_STYLES.index("bald")
  hair = np.where(bald, 0, factors["hair_colour"] + 1)
  named = {n: factors[n] for n in ("expression", "accessory", "background")} | {"hair": hair}
  return {n: x.astype(np.int32) for n, x in named.items()}


def _surprise(logits, truth) -> jax.Array:
  """Mean cross-entropy of logits [B, K] and codes [B]."""
  own = jnp.take_along_axis(logits, truth[:, None], axis=1)[:, 0]
  return (jax.nn.logsumexp(logits, -1) - own).mean()


def make_attributes_loss() -> Loss:
  """batch: images uint8 [B, 64, 64, 3] and codes int32 [B] by attribute."""

  def loss(params, frozen, batch, keys):
    x = pixels(batch["images"])
    outputs = convnet.Net(BODY).apply({"params": params}, x, mutable="moments")[0]
    pairs = list(zip(smallface.ATTRIBUTES, outputs, strict=True))
    right = {n: (o.argmax(-1) == batch[n]).mean() for n, o in pairs}
    return sum(_surprise(o, batch[n]) for n, o in pairs), right

  return loss


# The CLIP.

LENGTH = 40  # tokens of a prompt
_WIDTH, _PROJECTION = {"text": 96, "vision": 96}, 128


def clip_config(vocabulary: int, tiny: bool = False) -> dict[str, Any]:
  """transformers' config.json of a CLIPModel for pictures of 64 px and prompts of 40 tokens."""
  ends = dict(bos_token_id=vocabulary - 2, eos_token_id=vocabulary - 1, pad_token_id=0)
  common = dict(hidden_act="quick_gelu", layer_norm_eps=1e-5, attention_dropout=0.0)
  tower = lambda name, layers: dict(
    model_type=f"clip_{name}_model", hidden_size=_WIDTH[name], intermediate_size=4 * _WIDTH[name],
    num_attention_heads=4, num_hidden_layers=1 if tiny else layers, **common)  # fmt: skip
  return dict(
    architectures=["CLIPModel"], model_type="clip", projection_dim=_PROJECTION, torch_dtype="float32",
    logit_scale_init_value=2.6592,
    text_config=tower("text", 2) | dict(vocab_size=vocabulary, max_position_embeddings=LENGTH, **ends),
    vision_config=tower("vision", 4) | dict(image_size=64, patch_size=8, num_channels=3))  # fmt: skip


def towers(config: dict[str, Any]) -> tuple[clip.TextEncoder, clip_vision.VisionEncoder]:
  return (clip.TextEncoder(clip.TextConfig.from_json(config)),
          clip_vision.VisionEncoder(clip_vision.VisionConfig.from_json(config)))  # fmt: skip


def clip_init(config: dict[str, Any], seed: int) -> dict[str, Any]:
  """{"text", "vision", "logit_scale", "heads"}; heads read attributes off the image's embedding and
  are thrown away after training.
  """
  text, vision = towers(config)
  params = random_params({"text": clip.shapes(text.cfg), "vision": clip_vision.shapes(vision.cfg)}, seed)
  words = params["text"]["text_model.embeddings.token_embedding"]
  words["embedding"] *= WORDS_SCALE  # or the residual branches drown what tells words apart
  zeros = lambda n: {"kernel": np.zeros((_PROJECTION, n), np.float32), "bias": np.zeros(n, np.float32)}
  heads = {n: zeros(len(c)) for n, c in CLASSES.items()}
  return jax.tree.map(jnp.asarray, params | {"heads": heads, "logit_scale": np.float32(np.log(14))})


def embeddings(config, params, images, ids) -> tuple[jax.Array, jax.Array]:
  """Unit embeddings [B, P] of uint8 pictures [B, 64, 64, 3] and [N, P] of token ids [N, 40]."""
  text, vision = towers(config)
  seen: Any = vision.apply({"params": params["vision"]}, pixels(images))
  read: Any = text.apply({"params": params["text"]}, ids)
  return unit(seen.embeds), unit(read.pooled)


def make_clip_loss(config: dict[str, Any]) -> Loss:
  """CLIP's contrast within the batch, both ways; contrast with sentences that differ in one factor,
  because backgrounds alone tell most of a batch apart; and heads that speed sight up.

  batch: images uint8 [B, 64, 64, 3], ids int32 [B + sum(COUNTS), 40] of the captions and then of
  `contrasts`, codes int32 [B] by attribute.
  """

  def loss(params, frozen, batch, keys):
    seen, read = embeddings(config, params, batch["images"], batch["ids"])
    scores = seen @ read.T * jnp.exp(jnp.minimum(params["logit_scale"], np.log(100.0)))
    logits, *classes = jnp.split(scores, len(seen) + np.cumsum((0, *COUNTS))[:-1], axis=1)
    truth = jnp.arange(len(logits))
    contrast = (_surprise(logits, truth) + _surprise(logits.T, truth)) / 2
    pairs = list(zip(smallface.ATTRIBUTES, classes, strict=True))
    told = sum(_surprise(c, batch[n]) for n, c in pairs)
    heads = {n: 8 * seen @ h["kernel"] + h["bias"][None] for n, h in params["heads"].items()}
    named = sum(_surprise(h, batch[n]) for n, h in heads.items())
    right = {n: (c.argmax(-1) == batch[n]).mean() for n, c in pairs}
    return contrast + told + 0.25 * named, {"contrast": contrast, "told": told, "named": named} | right

  return loss


def read_clip(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """(config, float32 params) of a folder that `write_clip` wrote."""
  config = json.loads((folder / "config.json").read_text())
  text, vision = towers(config)
  tensors = dict(tensorfiles.read(folder, "model"))
  scale = tensors.pop("logit_scale")
  wanted = {"text": clip.shapes(text.cfg), "vision": clip_vision.shapes(vision.cfg)}
  # The towers' keys do not meet: each takes its own.
  params = {n: weights.from_torch(s, {k: tensors[k] for k in weights.keys(s)}, name=str(folder))
            for n, s in wanted.items()}  # fmt: skip
  return config, jax.tree.map(jnp.asarray, params) | {"logit_scale": scale}


def measure(folder: Path, faces) -> dict[str, float]:
  """Retrieval and zero-shot accuracy of a finished CLIP on some 1200 of a split's pictures."""
  at = np.arange(0, len(faces.images), max(1, len(faces.images) // 1200))
  faces = faces._replace(images=faces.images[at], captions=[faces.captions[i] for i in at],
                         factors={n: x[at] for n, x in faces.factors.items()})  # fmt: skip
  config, params = read_clip(folder)
  words = tokens.load(folder)
  embed = jax.jit(lambda p, images, ids: embeddings(config, p, images, ids))
  found = retrieval(embed, params, faces.images, words.encode(faces.captions).ids)
  return found | named(embed, params, words, faces)


def retrieval(embed, params, images, ids, among: int = 100) -> dict[str, float]:
  """How often a picture's own caption is the nearest of 100, and a caption's own picture."""
  found = []
  for start in range(0, len(images) - among + 1, among):
    part = slice(start, start + among)
    seen, read = embed(params, np.asarray(images[part]), ids[part])
    near = np.asarray(seen @ read.T)
    own = np.arange(among)
    found.append(((near.argmax(1) == own).mean(), (near.argmax(0) == own).mean()))
  if not found: return {}
  caption, picture = np.mean(found, 0)
  return {"caption_of_100": float(caption), "picture_of_100": float(picture)}


def named(embed, params, words, faces) -> dict[str, float]:
  """Zero-shot accuracy on photos: which prompt of each class is nearest to the picture."""
  photos = np.flatnonzero(faces.factors["style"] == 0)
  truth = labels(faces.factors)
  blank = words.encode(["a photo of a person"]).ids
  pad = np.zeros(-len(photos) % 100, int)
  rows = np.concatenate([photos, photos[pad]])
  seen = np.concatenate([np.asarray(embed(params, np.asarray(faces.images[rows[i : i + 100]]), blank)[0])
                         for i in range(0, len(rows), 100)])[: len(photos)]  # fmt: skip
  out = {}
  for attribute, texts in prompts().items():
    _, read = embed(params, np.asarray(faces.images[:100]), words.encode(texts).ids)
    out[attribute] = float(((seen @ np.asarray(read).T).argmax(1) == truth[attribute][photos]).mean())
  return out


def prompts(subject: str = "a person", **factors: str) -> dict[str, list[str]]:
  """One prompt for every class, by attribute; they share the subject and the other factors."""

  def line(attribute, name):
    if attribute != "hair": return captions.prompt(subject, **factors | {attribute: name})
    return captions.prompt(f"{subject} with {'a bald head' if name == 'bald' else f'{name} hair'}", **factors)

  return {a: [line(a, n) for n in CLASSES[a]] for a in smallface.ATTRIBUTES}


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
  write_json(folder / "preprocessor_config.json", dict(
    image_processor_type="CLIPImageProcessor", do_resize=True, size={"shortest_edge": 64}, resample=3,
    do_center_crop=True, crop_size={"height": 64, "width": 64}, do_rescale=True, rescale_factor=1 / 255,
    do_normalize=True, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_convert_rgb=True))  # fmt: skip
