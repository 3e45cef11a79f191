"""Makes a Conditioning from prompts with an identity's rows spliced in; every method starts from it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from idejax import tree
from idejax.model import backbone
from idejax.model.backbone import Backbone, Conditioning
from idejax.model.tokens import TokenBatch, Tokenizer

Array = Any  # numpy when tokenised, traced inside jit
Rows = tuple[Array, ...]  # per text encoder [S, W, P, d]: S stages, W = 1 or 2 (keys, values), P rows


class Prompts(NamedTuple):
  """Tokenised texts, one array per text encoder."""

  ids: tuple[Array, ...]  # int32 [B, L]
  eos: tuple[Array, ...]  # int32 [B], position of the end of text
  where: tuple[Array, ...]  # int32 [B, P], positions of the placeholders' rows, -1 where unused


def tokenise(tokenizers: Sequence[Tokenizer], texts: Sequence[str], placeholders: Mapping[str, int]) -> Prompts:
  """Prompts of texts, as numpy arrays; `placeholders` is {word: number of rows}."""
  return prompts([t.encode(texts, placeholders) for t in tokenizers])


def prompts(batches: Sequence[TokenBatch]) -> Prompts:
  """The same texts as every text encoder's tokenizer encoded them."""
  pick = lambda name: tuple(getattr(e, name) for e in batches)
  return Prompts(pick("ids"), pick("eos"), pick("where"))


def take(prompts: Prompts, index: Array) -> Prompts:
  """The prompts at `index` int32 [B]."""
  return jax.tree.map(lambda x: jnp.asarray(x)[index], prompts)


def text_places(prompts: Prompts) -> jax.Array:
  """Where the text of prompts is, its end included, start and padding not: bool [B, L]."""
  at = jnp.arange(prompts.ids[0].shape[1])[None]
  return (0 < at) & (at <= jnp.asarray(prompts.eos[0])[:, None])


def contexts(
  b: Backbone,
  prompts: Prompts,
  rows: Rows | None,
  *,
  per_row: bool = False,
  size: tuple[int, int] | None = None,
  remat: bool = False,
) -> Conditioning:
  """The text encoders' contexts of prompts [B] with learned rows in their placeholders.

  Args:
    rows: per encoder [S, W, P, d], the same for all prompts, or with `per_row` [B, S, W, P, d].
      None: there is no placeholder. W = 2 gives keys and values contexts of their own.
    size: (height, width) in pixels for SDXL's time ids; by default what the UNet was made for.

  SDXL's pooled vector comes from the pass for values.
  """
  n = prompts.ids[0].shape[0]
  if rows is None:
    stages, roles = 1, 1
  else:
    if not per_row:
      rows = tuple(jnp.broadcast_to(r, (n, *r.shape)) for r in rows)
    stages, roles = rows[0].shape[1:3]
  passes = stages * roles  # one run of the encoder over all of them
  spread = lambda x: jnp.repeat(jnp.asarray(x), passes, axis=0)
  flat = None if rows is None else tuple(r.reshape(-1, *r.shape[3:]) for r in rows)
  where = None if rows is None else tuple(spread(w) for w in prompts.where)
  context, pooled = backbone.encode_text(
    b, tuple(spread(i) for i in prompts.ids), tuple(spread(e) for e in prompts.eos), flat, where, remat
  )

  def arrange(x):  # [B S W, ...] -> [S, B, ...] of keys, of values
    x = jnp.moveaxis(x.reshape(n, stages, roles, *x.shape[1:]), (2, 1), (0, 1))
    return x[0], x[-1]

  k, v = arrange(context)
  if pooled is None:
    return Conditioning(k, v)
  pooled = arrange(pooled)[1]
  side = b.nets.unet.sample_size * b.nets.factor
  return Conditioning(k, v, pooled[0] if stages == 1 else pooled, jnp.asarray(time_ids(n, size or (side, side))))


def with_text(b: Backbone, changes: Mapping[str, Any]) -> Backbone:
  """The backbone with subtrees of its text encoders' parameters replaced: {"text_encoder"[, "text_encoder_2"]}."""
  return Backbone(b.nets, b.params | {n: tree.override(b.params[n], new) for n, new in changes.items()})


def time_ids(count: int, size: tuple[int, int]) -> np.ndarray:
  """SDXL's sizes of `count` pictures of (height, width) pixels, not cropped: float32 [count, 6]."""
  height, width = size
  return np.tile(np.array([height, width, 0, 0, height, width], np.float32), (count, 1))


def join(identities: Sequence[Mapping[str, Any]]) -> Rows | None:
  """The rows of several identities, each {"rows": Rows}, side by side as rows of one prompt.

  None if no identity has rows.
  """
  rows = [i["rows"] for i in identities if "rows" in i]
  return tuple(jnp.concatenate(per_encoder, axis=2) for per_encoder in zip(*rows)) if rows else None
