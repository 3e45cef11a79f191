"""Pretrains the miniature's text encoders: every position learns which words came so far, and what the person
they describe looks like.

Stable Diffusion's text encoder was trained by CLIP beforehand. From random weights together with the UNet
neither would learn: a word about a person stands in one position of forty, and the UNet's attention is nearly
even over all of them. Besides, an untrained encoder's celebrities are two hundred names to learn by heart,
while CLIP knows that "red hair" and a red-haired celebrity have something in common.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from idejax import tree
from idejax.miniature.world import people
from idejax.model.families import random_params
from idejax.nets import clip
from idejax.training.step import Loss

# Words must be told apart from the first step: at CLIP's deviation of 0.02 the residual branches drown them.
WORDS_SCALE = 25.0

LOOKS = len(people.CONTINUOUS) + sum(people.SIZES)
_LOOKS_SHARE = 0.2  # weight of their loss: most captions say little about a person's looks


def init(cfg: clip.TextConfig, seed: int, with_pooled: bool = False) -> Any:
  """float32 {"text", "said", "before", "looks"[, "whole"]}; all but "text" are heads, dropped after training."""
  params: Any = random_params({"text": clip.shapes(cfg)}, seed)
  params["text"]["text_model.embeddings.token_embedding"]["embedding"] *= WORDS_SCALE
  head = lambda bias, size=cfg.vocab_size, width=cfg.hidden_size: {
    "kernel": np.zeros((width, size), np.float32),
    "bias": np.full(size, bias, np.float32),
  }
  heads = {"said": head(-5.0), "before": head(0.0), "looks": head(0.0, LOOKS)}
  if with_pooled:
    heads["whole"] = head(-5.0, width=cfg.projection_dim or cfg.hidden_size)
  return jax.tree.map(jnp.asarray, params | heads)


# The layers whose outputs are added to the residual stream; every layer reads that through its own norm.
_RESIDUAL = re.compile(r"embeddings\.|self_attn\.out_proj\.|mlp\.fc2\.")


def unit(cfg: clip.TextConfig, text: Any, ids: np.ndarray) -> Any:
  """The same encoder with a penultimate layer of root mean square 1 over prompts [N, L].

  SDXL's UNet reads that layer without a norm: at its natural size, 9, attention would start as a hard maximum.
  """

  @jax.jit
  def mean_square(params) -> jax.Array:
    out: Any = clip.TextEncoder(cfg).apply({"params": params}, ids)
    return jnp.square(out.penultimate).mean()

  factor = 1 / np.sqrt(mean_square(text))
  return tree.map_with_path(lambda path, x: x * factor if _RESIDUAL.search(path) else x, text)


def looks(ids: np.ndarray) -> np.ndarray:
  """The looks of the people with these ids, float32 [N, LOOKS]: measures, then every code one-hot."""
  who = people.people(ids)
  measures = [getattr(who, name) for name in people.CONTINUOUS]
  codes = [np.eye(n)[getattr(who, name)] for name, n in zip(people.DISCRETE, people.SIZES)]
  return np.concatenate([np.stack(measures, 1), *codes], 1).astype(np.float32)


def make_loss(cfg: clip.TextConfig, special: tuple[int, ...], with_pooled: bool = False) -> Loss:
  """The loss of predicting, from the context of each position, which words came up to it, which word came
  just before it, and what the person looks like.

  batch: ids int32 [B, L], looks [B, LOOKS], famous bool [B]: captions of celebrities, over which the
  share of the measures' variance that the last position explains is reported. `special` are the ids
  that are no words. Sum over the vocabulary of the binary cross-entropies, plus a cross-entropy, plus
  a share of the looks' squares and binary cross-entropies; the mean over positions. With `with_pooled` the
  context is the penultimate layer's, which SDXL's UNet sees, and the pooled row, made by the last
  layer, learns all words of the prompt.
  """
  word = np.ones((1, 1, cfg.vocab_size), np.float32)
  word[..., list(special)] = 0
  measures = len(people.CONTINUOUS)

  def loss(params, frozen, batch, keys):
    ids = batch["ids"]
    out: Any = clip.TextEncoder(cfg).apply({"params": params["text"]}, ids)
    context = out.penultimate if with_pooled else out.last
    logits = {n: context @ params[n]["kernel"] + params[n]["bias"][None, None] for n in ("said", "before", "looks")}
    here = jax.nn.one_hot(ids, cfg.vocab_size)
    past = jnp.minimum(jnp.cumsum(here, axis=1), 1.0)
    bag = (optax.sigmoid_binary_cross_entropy(logits["said"], past) * word).sum(-1)
    order = optax.softmax_cross_entropy_with_integer_labels(logits["before"][:, 1:], ids[:, :-1])
    recall = ((logits["said"] > 0) * past * word).sum() / (past * word).sum()
    guess, true = logits["looks"], batch["looks"][:, None]
    square = jnp.square(guess[..., :measures] - true[..., :measures]).sum(-1)
    code = optax.sigmoid_binary_cross_entropy(guess[..., measures:], true[..., measures:]).sum(-1)
    famous = batch["famous"].astype(jnp.float32)
    variance = jnp.square(batch["looks"][:, :measures]).sum(-1)
    unexplained = (square[:, -1] * famous).sum() / jnp.maximum((variance * famous).sum(), 1e-6)
    value = bag.mean() + order.mean() + _LOOKS_SHARE * (square + code).mean()
    metrics = {
      "bag": bag.mean(),
      "order": order.mean(),
      "known": recall,
      "measures": square.mean(),
      "codes": code.mean(),
      "known_looks": 1 - unexplained,
    }
    if not with_pooled:
      return value, metrics
    pooled = out.pooled @ params["whole"]["kernel"] + params["whole"]["bias"][None]
    every = past[:, -1] * word[:, 0]
    misses = (optax.sigmoid_binary_cross_entropy(pooled, every) * word[:, 0]).sum(-1).mean()
    recall_all = ((pooled > 0) * every).sum() / every.sum()
    return value + misses, metrics | {"whole": misses, "known_whole": recall_all}

  return loss
