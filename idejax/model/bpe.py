"""CLIP's byte-pair tokenizer on the `tokenizers` library alone: ids as of transformers' CLIPTokenizer.

transformers builds the same from the same files; importing it takes as long as all else at a start.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_END = "</w>"  # of a word, in its last token
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_USUAL = {
  "bos_token": "<|startoftext|>",
  "eos_token": "<|endoftext|>",
  "unk_token": "<|endoftext|>",
  "pad_token": "<|endoftext|>",
}


class Bpe(NamedTuple):
  """Text to ids and back, without the ids that frame a prompt."""

  core: tokenizers.Tokenizer

  def ids(self, text: str) -> list[int]:
    return self.core.encode(text, add_special_tokens=False).ids

  def decode(self, ids: Sequence[int]) -> str:
    return self.core.decode(ids, skip_special_tokens=False).replace(_END, " ").strip()

  def size(self) -> int:
    """How many tokens there are, added ones included."""
    return self.core.get_vocab_size(with_added_tokens=True)


class Files(NamedTuple):
  """A tokenizer's folder as it was read."""

  bpe: Bpe
  length: int  # tokens of a prompt, those that frame it included
  bos: int
  eos: int
  pad: int


def read(folder: Path) -> Files:
  """The tokenizer that tokenizer.json, or vocab.json and merges.txt, and the files beside them describe.

  Raises ValueError, OSError, or whatever `tokenizers` raises, for files that describe none.
  """
  config = _json(folder / "tokenizer_config.json")
  fast = _json(folder / "tokenizer.json")
  special, added = _added(folder, config, fast)
  unknown = str(special["unk_token"])
  core = tokenizers.Tokenizer(_model(folder, fast, unknown))
  core.normalizer = normalizers.Sequence(
    [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
  )
  words = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
  core.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
  core.decoder = decoders.ByteLevel()
  core.encode_special_tokens = bool(config.get("split_special_tokens", False))
  core.add_tokens(added)
  length = int(config.get("model_max_length", config.get("max_len", 10**30)))
  if not 2 <= length <= 100_000:
    raise ValueError("model_max_length is missing, or no number of tokens")

  def token(name: str) -> int:
    if (number := core.token_to_id(str(special[name]))) is None:
      raise ValueError(f"{name} is {special[name]!r}, which is no token")
    return number

  bos, eos, pad = (token(n) for n in ("bos_token", "eos_token", "pad_token"))
  return Files(Bpe(core), length, bos, eos, pad)


def _json(path: Path) -> dict[str, Any]:
  """A file's object, empty where there is no file."""
  if not path.exists():
    return {}
  value = json.loads(path.read_text("utf-8"))
  if not isinstance(value, dict):
    raise ValueError(f"{path.name} is no JSON object")
  return value


def _model(folder: Path, fast: Mapping[str, Any], unknown: str) -> models.BPE:
  settings: dict[str, Any] = dict(unk_token=unknown, continuing_subword_prefix="", end_of_word_suffix=_END)
  if fast:
    model = fast["model"]
    merges: Any = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    return models.BPE(vocab=model["vocab"], merges=merges, fuse_unk=False, **settings)
  files = folder / "vocab.json", folder / "merges.txt"
  if missing := [f.name for f in files if not f.exists()]:
    raise ValueError(f"{missing[0]} is missing")
  return models.BPE.from_file(*map(str, files), fuse_unk=False, **settings)


def _added(folder: Path, config: dict[str, Any], fast: dict[str, Any]) -> tuple[dict[str, Any], list[AddedToken]]:
  """({name of a special token: it}, tokens beyond the model's in the order in which they are added).

  tokenizer_config.json says both since transformers 4.34; before, three files beside it did. A token that is
  added again, as end-of-text is for padding, is found in text as the last one says.
  """
  given = {k: _token(v) for k, v in config.items() if k in _NAMED}
  extra = _listed(config.get("extra_special_tokens") or config.get("additional_special_tokens"))
  at: dict[int, AddedToken] = {}
  if "added_tokens_decoder" in config:
    at = {int(i): AddedToken(**t) for i, t in config["added_tokens_decoder"].items()}
  else:
    for name, value in _json(folder / "special_tokens_map.json").items():
      if name in _NAMED:
        given[name] = AddedToken(**value | {"special": True}) if isinstance(value, dict) else value
      elif name in ("extra_special_tokens", "additional_special_tokens"):
        extra = extra or _listed(value)
    named = {str(t) for t in (*given.values(), *extra)}
    for word, i in _json(folder / "added_tokens.json").items():
      at[int(i)] = AddedToken(word, normalized=word not in named, special=word in named)
    for token in fast.get("added_tokens", []):
      at[int(token["id"])] = AddedToken(**{k: v for k, v in token.items() if k != "id"})
  words = {str(t): t for t in at.values()}
  special = _USUAL | {k: words.get(str(t), t) for k, t in given.items()}
  if missing := [k for k in _USUAL if special[k] is None]:
    raise ValueError(f"no {missing[0]}")
  out: list[Any] = [at[i] for i in sorted(at)]
  for token in (*(special[k] for k in _NAMED if special.get(k)), *extra):
    if str(token) not in words and token not in out:
      out.append(token)
  out = [AddedToken(t, special=True) if isinstance(t, str) else t for t in out]
  named = {str(t) for t in special.values() if t}
  for token in out:
    token.special = token.special or str(token) in named
  return special, out


def _listed(tokens: Any) -> list[Any]:
  return [_token(t) for t in (tokens.values() if isinstance(tokens, dict) else tokens or [])]


def _token(value: Any) -> Any:
  """A token as config files write it: a string, or an object that says how it is found in text."""
  return AddedToken(**{k: v for k, v in value.items() if k != "__type"}) if isinstance(value, dict) else value
