"""Names as anchors: a text encoder's embeddings of an average celebrity's first and last name.

`mean`, cross-initialisation and statistics work for any text encoder and any list of names.
"""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from idejax.errors import UserError
from idejax.model.backbone import Backbone
from idejax.model.tokens import Tokenizer
from idejax.nets import clip

ZETA = 2e-5  # added to the diagonal of the covariance in a Mahalanobis distance


def tables(b: Backbone) -> tuple[jax.Array, ...]:
  """The input embedding table [V, d] of each text encoder."""
  names = ["text_encoder", "text_encoder_2"][: len(b.nets.text)]
  return tuple(b.params[n]["text_model.embeddings.token_embedding"]["embedding"] for n in names)


def word_rows(b: Backbone, tokenizers: Sequence[Tokenizer], word: str) -> tuple[jax.Array, ...]:
  """The input embedding [1, d] of a single-token word in each encoder. UserError if it is several tokens."""
  out = []
  for tokenizer, table in zip(tokenizers, tables(b)):
    ids = tokenizer.bpe.ids(word)
    if len(ids) != 1:
      raise UserError(f"{word!r} is {len(ids)} tokens of this model's tokenizer; choose a word that is one")
    out.append(table[np.array(ids)].astype(jnp.float32))
  return tuple(out)


def name_ids(tokenizer: Tokenizer, names: Sequence[str]) -> list[list[int]]:
  """Token ids of each name."""
  return [tokenizer.bpe.ids(n) for n in names]


def mean(
  b: Backbone, tokenizers: Sequence[Tokenizer], names: Sequence[str], *, by: str = "tokens"
) -> tuple[jax.Array, ...]:
  """The average name [2, d] of each encoder's input embeddings.

  by="tokens": row 0 averages every name's first token, row 1 the second (a name of one token counts
  for row 0 only). by="words": row 0 the mean tokens of the first word, row 1 those of the last.
  """
  if not names:
    raise UserError("no celebrity names: this method needs a list of names that the model knows")
  out = []
  for tokenizer, table in zip(tokenizers, tables(b)):
    rows = np.asarray(table, np.float32)
    if by == "tokens":
      ids = [[[i] for i in name] for name in name_ids(tokenizer, names)]
    else:
      ids = [name_ids(tokenizer, _ends(n)) for n in names]
    columns = [[rows[i[k]].mean(0) for i in ids if len(i) > k] for k in (0, 1)]
    if not all(columns):
      raise UserError("the celebrity names have no second token: give first and last names")
    # Summed in float64 and in sorted order: the anchor does not depend on the order of the file.
    out.append(
      jnp.asarray(np.stack([np.sort(np.stack(c).astype(np.float64), axis=0).mean(0) for c in columns]), jnp.float32)
    )
  return tuple(out)


def _ends(name: str) -> list[str]:
  """First and last word, or the only one."""
  parts = name.split()
  return parts if len(parts) < 2 else [parts[0], parts[-1]]


def read(
  b: Backbone, tokenizers: Sequence[Tokenizer], names: Sequence[str], *, by: str = "tokens"
) -> tuple[jax.Array, ...]:
  """What the UNet reads of the average name [2, d]: each encoder's output at its two positions."""
  return tuple(_layer(b, o)[0, 1:3].astype(jnp.float32) for o in _encode_mean(b, tokenizers, names, by))


def cross(
  b: Backbone,
  tokenizers: Sequence[Tokenizer],
  names: Sequence[str],
  *,
  by: str = "tokens",
  size: Literal["auto", "output", "names"] = "auto",
) -> tuple[jax.Array, ...]:
  """Cross-initialisation [2, d]: each encoder's last layer, after its norm, for the average name.

  size: as it is (output), or as long as the input embeddings of names (names). auto: as it is where the
  UNet reads a normalised layer. SDXL reads the penultimate one as it is, where a word some 40 to 130 times
  as long as others drowns the prompt.
  """
  out = tuple(o.last[0, 1:3].astype(jnp.float32) for o in _encode_mean(b, tokenizers, names, by))
  if size == "output" or size == "auto" and not b.nets.xl:
    return out
  unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)
  return tuple(unit(x) * n[:, None] for x, n in zip(out, lengths(b, tokenizers, names)))


def _encode_mean(b: Backbone, tokenizers: Sequence[Tokenizer], names: Sequence[str], by: str) -> list[Any]:
  """Each encoder's `clip.TextOutput` of the average name, alone in a prompt."""
  where = jnp.array([[1, 2]])
  out = []
  for i, (tokenizer, cfg, rows) in enumerate(zip(tokenizers, b.nets.text, mean(b, tokenizers, names, by=by))):
    ids = np.full((1, tokenizer.length), tokenizer.pad, np.int32)
    ids[0, :4] = [tokenizer.bos, tokenizer.eos, tokenizer.eos, tokenizer.eos]
    params = b.params["text_encoder" if i == 0 else "text_encoder_2"]
    out.append(clip.TextEncoder(cfg, b.nets.dtype).apply({"params": params}, ids, rows[None], where, jnp.array([3])))
  return out


def _layer(b: Backbone, output: Any) -> jax.Array:
  """The layer that the UNet reads: see `backbone.encode_text`."""
  return output.penultimate if b.nets.xl else output.last


def lengths(b: Backbone, tokenizers: Sequence[Tokenizer], names: Sequence[str]) -> tuple[jax.Array, ...]:
  """Root mean square length [2] of the names' first and second input embeddings, per encoder."""
  out = []
  for tokenizer, table in zip(tokenizers, tables(b)):
    square = np.square(np.asarray(table, np.float32)).sum(-1)
    ids = [[i[k] for i in name_ids(tokenizer, names) if len(i) > k] for k in (0, 1)]
    out.append(jnp.asarray([np.sqrt(square[np.array(i)].mean()) for i in ids]))
  return tuple(out)


def statistics(
  b: Backbone, tokenizers: Sequence[Tokenizer], names: Sequence[str]
) -> tuple[tuple[jax.Array, jax.Array], ...]:
  """(mean, deviation) [2, d] of the names' first and second input embeddings, per encoder.

  Only names of exactly two tokens count; the deviation is the unbiased one.
  """
  out = []
  for tokenizer, table in zip(tokenizers, tables(b)):
    ids = [i for i in name_ids(tokenizer, names) if len(i) == 2]
    if len(ids) < 2:
      raise UserError("fewer than two of the celebrity names are two tokens long: no statistics")
    rows = np.asarray(table, np.float32)[np.array(ids)]  # [names, 2, d]
    out.append((jnp.asarray(rows.mean(0)), jnp.asarray(rows.std(0, ddof=1))))
  return tuple(out)


def distance(x: jax.Array, start: jax.Array, kind: str = "l2") -> jax.Array:
  """How far rows [P, d] are from where they began, [P]; gradients are zero where they coincide.

  l2: Euclidean. Mahalanobis, of two rows: the covariance is C = u u^T + ZETA I with u = (start[0] - start[1]) / sqrt(2),
  so squares across u are weighted by 1 / ZETA and along u by 1 / (ZETA + |u|^2). A float32 pseudo-inverse of C drops
  the part across u (`mahalanobis_released`).
  """
  if kind == "l2":
    square = jnp.square(x - start).sum(-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
  u, delta = (start[0] - start[1]) / 2**0.5, x - start
  size = jnp.sqrt(jnp.square(u).sum())
  unit = u / jnp.maximum(size, jnp.finfo(jnp.float32).tiny)
  along = delta @ unit
  square = jnp.square(along) / (ZETA + size**2)
  if kind == "mahalanobis":
    square += jnp.square(delta - along[:, None] * unit[None]).sum(-1) / ZETA
  return jnp.sqrt(jnp.maximum(square, 1e-8))
