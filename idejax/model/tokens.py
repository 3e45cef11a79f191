"""Prompts to token ids, with placeholders that stand for several learned rows."""

import dataclasses
import functools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from idejax.errors import UserError


class TokenBatch(NamedTuple):
  """N tokenised prompts: ids [N, L] int32, position of the end-of-text token [N], text that did not fit.

  `where` [N, P] holds the positions of the placeholders' rows, in the order of the rows, -1 where
  a prompt does not use a row.
  """

  ids: np.ndarray
  eos: np.ndarray
  where: np.ndarray
  overflow: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """A CLIP BPE tokenizer and the ids that frame a prompt."""

  bpe: Any  # transformers.CLIPTokenizer
  length: int
  bos: int
  eos: int
  pad: int

  def encode(self, prompts: Sequence[str], placeholders: Mapping[str, int] | None = None) -> TokenBatch:
    """Token ids of prompts, truncated to the encoder's length and padded as the model expects.

    Args:
      prompts: N strings.
      placeholders: {word: number of rows}. A word stands alone in a prompt ("a photo of <id>, ...")
        and takes that many positions; rows are numbered through the placeholders in order.

    Raises:
      UserError: a placeholder's rows would be cut off by the length limit, a prompt uses one
        twice (`where` has one position a row), or a prompt is no valid Unicode.
    """
    placeholders = placeholders or {}
    first = dict(zip(placeholders, np.cumsum([0, *placeholders.values()]), strict=False))
    ids = np.full((len(prompts), self.length), self.pad, np.int32)
    where = np.full((len(prompts), sum(placeholders.values())), -1, np.int32)
    ends = np.zeros(len(prompts), np.int32)
    overflow = []
    for n, prompt in enumerate(prompts):
      body: list[int] = []
      if any(0xD800 <= ord(c) < 0xE000 for c in prompt):  # bytes of a terminal that are no UTF-8
        raise UserError(f"the prompt is not valid Unicode text: {_short(prompt)}")
      for part in _split(prompt, placeholders):
        if part in placeholders:
          count = placeholders[part]
          if where[n, first[part]] >= 0:
            raise UserError(f"{part} is used twice in {_short(prompt)}; use it once")
          where[n, first[part] : first[part] + count] = 1 + len(body) + np.arange(count)
          body += [self.eos] * count  # any valid id: the encoder reads the method's rows instead
        else:
          body += self.bpe(part, add_special_tokens=False)["input_ids"]
      room = self.length - 2
      if where[n].max(initial=-1) > room:
        raise UserError(
          f"the prompt is longer than {room} tokens and its placeholder would be cut off; "
          f"move it forward or shorten: {_short(prompt)}"
        )
      overflow.append(self.bpe.decode(body[room:]).strip() if len(body) > room else "")
      body = body[:room]
      ids[n, : len(body) + 2] = [self.bos, *body, self.eos]
      ends[n] = len(body) + 1
    return TokenBatch(ids, ends, where, tuple(overflow))


def _split(prompt: str, placeholders: Mapping[str, Any]) -> list[str]:
  """Text and placeholders, alternating; longer placeholders win where one begins with another."""
  if not placeholders:
    return [prompt]
  words = "|".join(re.escape(w) for w in sorted(placeholders, key=len, reverse=True))
  parts = re.split(rf"(?<!\w)({words})(?!\w)", prompt)
  return [p for p in parts if p]  # not stripped: some of what Python counts as space are tokens


def _short(prompt: str) -> str:
  """A prompt as messages quote it."""
  return repr(prompt if len(prompt) <= 80 else prompt[:77] + "...")


def knows(tokenizer: Tokenizer, word: str) -> bool:
  """Whether a word is one that the model learned: prompts with it would change if a person had its name."""
  return word.isalnum() and len(tokenizer.bpe(word, add_special_tokens=False)["input_ids"]) == 1


def placeholders_in(prompt: str, placeholders: Mapping[str, Any]) -> tuple[str, ...]:
  """The placeholders that a prompt contains, in the mapping's order."""
  parts = set(_split(prompt, placeholders))
  return tuple(w for w in placeholders if w in parts)


@functools.cache
def _quiet_transformers():
  os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
  import transformers

  # "PyTorch was not found": true, and no concern of a JAX user.
  transformers.logging.set_verbosity_error()
  return transformers


def load(folder: Path) -> Tokenizer:
  """The tokenizer of a pipeline folder's `tokenizer/`; no network, no code from the folder."""
  if not (folder / "tokenizer.json").exists() and not (folder / "vocab.json").exists():
    raise UserError(f"{folder} has neither tokenizer.json nor vocab.json: it is not a CLIP tokenizer")
  try:
    bpe = _quiet_transformers().CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    length, ids = int(bpe.model_max_length), (bpe.bos_token_id, bpe.eos_token_id, bpe.pad_token_id)
    if length > 100_000 or None in ids:
      raise ValueError("model_max_length or special tokens missing")
  except Exception as e:  # tokenizers raises plain Exception for broken JSON
    raise UserError(f"cannot read the tokenizer in {folder}: {str(e).splitlines()[0][:200]}") from e
  return Tokenizer(bpe, length, *ids)
