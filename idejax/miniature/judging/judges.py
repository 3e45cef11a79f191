"""Judges that no training uses: the attribute classifier and the small CLIP."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from idejax.miniature.world import captions, people, scene
from idejax.miniature.world.data import pixels
from idejax.model import tokens
from idejax.nets import clip, clip_vision, smallface
from idejax.storage import tensorfiles, weights

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
  codes = {n: factors[n] for n in ("expression", "accessory", "background")} | {"hair": hair}
  return {n: x.astype(np.int32) for n, x in codes.items()}


# The CLIP.

LENGTH = 40  # tokens of a prompt


def unit(x):
  """Rows of length one."""
  return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-12))


def towers(config: dict[str, Any]) -> tuple[clip.TextEncoder, clip_vision.VisionEncoder]:
  return (
    clip.TextEncoder(clip.TextConfig.from_json(config)),
    clip_vision.VisionEncoder(clip_vision.VisionConfig.from_json(config)),
  )


def embeddings(config, params, images, ids) -> tuple[jax.Array, jax.Array]:
  """Unit embeddings [B, P] of uint8 pictures [B, 64, 64, 3] and [N, P] of token ids [N, 40]."""
  text, vision = towers(config)
  picture: Any = vision.apply({"params": params["vision"]}, pixels(images))
  caption: Any = text.apply({"params": params["text"]}, ids)
  return unit(picture.embeds), unit(caption.pooled)


def read_clip(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """(config, float32 params) of a folder that `write_clip` wrote."""
  config = json.loads((folder / "config.json").read_text())
  text, vision = towers(config)
  tensors = dict(tensorfiles.read(folder, "model"))
  scale = tensors.pop("logit_scale")
  shapes = {"text": clip.shapes(text.cfg), "vision": clip_vision.shapes(vision.cfg)}
  # The two towers share no key: each takes its own.
  params = {
    n: weights.from_torch(s, {k: tensors[k] for k in weights.keys(s)}, name=str(folder)) for n, s in shapes.items()
  }
  return config, jax.tree.map(jnp.asarray, params) | {"logit_scale": scale}


def measure(folder: Path, faces) -> dict[str, float]:
  """Retrieval and zero-shot accuracy of a finished CLIP on some 1200 of a split's pictures."""
  at = np.arange(0, len(faces.images), max(1, len(faces.images) // 1200))
  faces = faces._replace(
    images=faces.images[at],
    captions=[faces.captions[i] for i in at],
    factors={n: x[at] for n, x in faces.factors.items()},
  )
  config, params = read_clip(folder)
  words = tokens.load(folder)
  embed = jax.jit(lambda p, images, ids: embeddings(config, p, images, ids))
  figures = retrieval(embed, params, faces.images, words.encode(faces.captions).ids)
  return figures | zero_shot(embed, params, words, faces)


def retrieval(embed, params, images, ids, among: int = 100) -> dict[str, float]:
  """How often a picture's own caption is the nearest of 100, and how often a caption's own picture is."""
  shares = []
  for start in range(0, len(images) - among + 1, among):
    part = slice(start, start + among)
    pictures, texts = embed(params, np.asarray(images[part]), ids[part])
    near = np.asarray(pictures @ texts.T)
    own = np.arange(among)
    shares.append(((near.argmax(1) == own).mean(), (near.argmax(0) == own).mean()))
  if not shares:
    return {}
  caption, picture = np.mean(shares, 0)
  return {"caption_of_100": float(caption), "picture_of_100": float(picture)}


def zero_shot(embed, params, words, faces) -> dict[str, float]:
  """Zero-shot accuracy on photos: which prompt of each class is nearest to the picture."""
  photos = np.flatnonzero(faces.factors["style"] == 0)
  truth = labels(faces.factors)
  blank = words.encode(["a photo of a person"]).ids
  pad = np.zeros(-len(photos) % 100, int)
  rows = np.concatenate([photos, photos[pad]])
  pictures = np.concatenate(
    [np.asarray(embed(params, np.asarray(faces.images[rows[i : i + 100]]), blank)[0]) for i in range(0, len(rows), 100)]
  )[: len(photos)]
  out = {}
  for attribute, texts in prompts().items():
    _, choices = embed(params, np.asarray(faces.images[:100]), words.encode(texts).ids)
    out[attribute] = float(((pictures @ np.asarray(choices).T).argmax(1) == truth[attribute][photos]).mean())
  return out


def prompts(subject: str = "a person", **factors: str) -> dict[str, list[str]]:
  """One prompt for every class, by attribute; they share the subject and the other factors."""

  def line(attribute, name):
    if attribute != "hair":
      return captions.prompt(subject, **factors | {attribute: name})
    return captions.prompt(f"{subject} with {'a bald head' if name == 'bald' else f'{name} hair'}", **factors)

  return {a: [line(a, n) for n in CLASSES[a]] for a in smallface.ATTRIBUTES}
