"""The miniature's text encoder before it meets a picture: every position learns what was said so far.

Stable Diffusion's was trained by CLIP beforehand. Trained with the UNet from random weights, a word
about a person stands in one position of forty, the UNet's attention is nearly even over all of them,
and neither learns: after 160,000 pictures "man" and "woman" still drew the same.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from idejax.families import random_params
from idejax.nets import clip
from idejax.step import Loss

# Words must be told apart from the first step: at CLIP's deviation of 0.02 the residual branches drown them.
WORDS_SCALE = 25.0


def init(cfg: clip.TextConfig, seed: int) -> Any:
  """float32 {"text", "said", "before"}; the two heads are thrown away after training."""
  params: Any = random_params({"text": clip.shapes(cfg)}, seed)
  params["text"]["text_model.embeddings.token_embedding"]["embedding"] *= WORDS_SCALE
  head = lambda bias: {"kernel": np.zeros((cfg.hidden_size, cfg.vocab_size), np.float32),
                       "bias": np.full(cfg.vocab_size, bias, np.float32)}  # fmt: skip
  return jax.tree.map(jnp.asarray, params | {"said": head(-5.0), "before": head(0.0)})


def make_loss(cfg: clip.TextConfig, special: tuple[int, ...]) -> Loss:
  """From the context of each position: which words have been said up to it, and which is the one before.

  batch: ids int32 [B, L]. `special` are the ids that are no words. Sum over the vocabulary of the
  binary cross-entropies, plus a cross-entropy; the mean over positions.
  """
  word = np.ones((1, 1, cfg.vocab_size), np.float32)
  word[..., list(special)] = 0

  def loss(params, frozen, batch, keys):
    ids = batch["ids"]
    context: Any = clip.TextEncoder(cfg).apply({"params": params["text"]}, ids).last
    logits = {n: context @ params[n]["kernel"] + params[n]["bias"][None, None] for n in ("said", "before")}
    here = jax.nn.one_hot(ids, cfg.vocab_size)
    said = jnp.minimum(jnp.cumsum(here, axis=1), 1.0)
    bag = (optax.sigmoid_binary_cross_entropy(logits["said"], said) * word).sum(-1)
    order = optax.softmax_cross_entropy_with_integer_labels(logits["before"][:, 1:], ids[:, :-1])
    known = ((logits["said"] > 0) * said * word).sum() / (said * word).sum()
    return bag.mean() + order.mean(), {"bag": bag.mean(), "order": order.mean(), "known": known}

  return loss
