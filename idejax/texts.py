"""The texts of a job: tokenised once, all of them; encoded when a batch needs them."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from idejax.tokens import Tokenizer

KEPT = 256  # encodings kept, the last used: a job of many prompts does not fill the memory
CHUNK = 8  # texts per call of the encoder, always: one shape, however many there are


class Texts:
  """Contexts by text. The text None is SDXL's missing negative prompt, whose context is zero."""

  def __init__(self, texts: Iterable[str | None], tokenizers: Sequence[Tokenizer],
               encoder: Callable[..., Any], notify: Callable[[str], None]):  # fmt: skip
    """`encoder`: (ids, eos), each a tuple with one array per tokenizer -> (contexts, pooled)."""
    self.encoder, self.kept = encoder, dict[str | None, Any]()
    distinct = [t for t in dict.fromkeys(texts) if t is not None]
    self.row = {t: i for i, t in enumerate(distinct)}
    self.tokens = [t.encode(distinct) for t in tokenizers]
    for text, cut in zip(distinct, self.tokens[0].cut):
      if cut: notify(f"warning: the prompt is longer than {tokenizers[0].length - 2} tokens; "
                     f"cut off: {cut!r} (from {text[:60]!r}...)")  # fmt: skip

  def encode(self, wanted: Sequence[str | None]):
    """(contexts [N, L, D], pooled [N, P] or None) of N texts, float32 on the host."""
    missing = [t for t in dict.fromkeys(wanted) if t is not None and t not in self.kept]
    for at in range(0, len(missing), CHUNK):
      some = missing[at : at + CHUNK]
      rows = np.resize([self.row[t] for t in some], CHUNK)
      ids, eos = tuple(t.ids[rows] for t in self.tokens), tuple(t.eos[rows] for t in self.tokens)
      out = jax.device_get(self.encoder(ids, eos))
      self.kept |= {t: jax.tree.map(lambda x, i=i: x[i], out) for i, t in enumerate(some)}
    if None in wanted: self.kept[None] = jax.tree.map(np.zeros_like, next(iter(self.kept.values())))
    found = [self.kept[t] for t in wanted]
    self.kept = dict(list(self.kept.items())[-KEPT:])
    return jax.tree.map(lambda *xs: np.stack(xs), *found)
