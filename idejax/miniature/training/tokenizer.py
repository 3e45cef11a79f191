"""The miniature's CLIP tokenizer: every word of the captions is one token, other text becomes bytes."""

import collections
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from idejax.miniature.world.captions import VOCABULARY

_BOS, _EOS, _PAD = "<|startoftext|>", "<|endoftext|>", "!"


def write(folder: Path, length: int) -> int:
  """Writes the folder that transformers' CLIPTokenizer reads; returns the number of tokens.

  vocab.json and merges.txt are for every release of transformers, tokenizer.json for those that
  no longer write the other two. Special tokens come last; "!", id 0, pads, as in SD 2.1.
  """
  merges = _merges(VOCABULARY)
  characters = list(_byte_characters().values())
  tokens = characters + [c + "</w>" for c in characters] + ["".join(m) for m in merges] + [_BOS, _EOS]
  special = dict(bos_token=_BOS, eos_token=_EOS, unk_token=_EOS, pad_token=_PAD)
  _json(folder / "vocab.json", {t: i for i, t in enumerate(tokens)})
  (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n")
  _json(folder / "special_tokens_map.json", special)
  _json(
    folder / "tokenizer_config.json",
    dict(
      tokenizer_class="CLIPTokenizer",
      model_max_length=length,
      do_lower_case=True,
      add_prefix_space=False,
      errors="replace",
      **special,
    ),
  )
  _write_fast(folder)
  return len(tokens)


def _merges(words) -> list[tuple[str, str]]:
  """Byte-pair merges, the commonest pair first, until every word is a single token."""
  splits = [[*w[:-1], w[-1] + "</w>"] for w in words]
  merges: list[tuple[str, str]] = []
  while True:
    pairs = collections.Counter(p for s in splits for p in zip(s, s[1:]))
    if not pairs:
      return merges
    best = max(pairs, key=lambda p: (pairs[p], p))
    merges.append(best)
    splits = [_merge(s, best) for s in splits]


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
  out: list[str] = []
  i = 0
  while i < len(parts):
    if tuple(parts[i : i + 2]) == pair:
      out.append(parts[i] + parts[i + 1])
      i += 2
    else:
      out.append(parts[i])
      i += 1
  return out


def _byte_characters() -> dict[int, str]:
  """GPT-2's printable stand-in for each byte, in CLIP's order of ids."""
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [b for b in range(256) if b not in printable]
  return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def _write_fast(folder: Path):
  from transformers import CLIPTokenizer

  with tempfile.TemporaryDirectory() as temporary:
    CLIPTokenizer.from_pretrained(str(folder), local_files_only=True).save_pretrained(temporary)
    shutil.copy(Path(temporary) / "tokenizer.json", folder / "tokenizer.json")


def _json(path: Path, value: Any):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
