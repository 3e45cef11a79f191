"""A pipeline without its weights: nets from config files or a family's name, parameters as shapes."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from idejax.errors import UserError
from idejax.methods.contract import Needs
from idejax.model import families
from idejax.model.backbone import Backbone, Nets, read_json
from idejax.model.tokens import Tokenizer
from idejax.nets import clip, unet, vae
from idejax.storage import hub, weights


def configs(model: str) -> tuple[dict[str, Any], Path | None]:
  """(component configs, folder) of a family, a known hub id, the built-in model or a folder."""
  family = families.KNOWN.get(model, model)
  if family in families.FAMILIES:
    return families.FAMILIES[family], None
  if not Path(model).is_dir() and model not in hub.BUILT_IN:
    raise UserError(
      f"--model is {model!r}; to plan, give one of {', '.join(families.FAMILIES)}, a known hub id such "
      "as stabilityai/stable-diffusion-2-1-base, or a pipeline folder (its config files suffice)"
    )
  folder = hub.BUILT_IN.get(model, Path(model))
  index = read_json(folder / "model_index.json")
  parts = {
    p: read_json(folder / p / "config.json")
    for p in ("unet", "vae", "text_encoder", "text_encoder_2")
    if None not in (index.get(p) or [None])
  }
  return parts | {"scheduler": read_json(folder / "scheduler" / "scheduler_config.json")}, folder


def abstract(model: str, dtype: Any, attention: str | None, remat: bool = False) -> Backbone:
  """The backbone with ShapeDtypeStructs in place of parameters; only configs are read."""
  parts, folder = configs(model)
  try:
    nets = Nets.from_json(parts, dtype=dtype, attention=attention, remat=remat)
  except (UserError, ValueError, TypeError, KeyError) as e:
    raise UserError(f"{folder or model}: {e}") from e
  text = [n for n in ("text_encoder", "text_encoder_2") if n in parts]
  shapes = {
    "unet": weights.with_dtype(unet.shapes(nets.unet), dtype),
    "vae": weights.with_dtype(vae.shapes(nets.vae), nets.vae_dtype),
  }
  shapes |= {n: weights.with_dtype(clip.shapes(t), dtype) for n, t in zip(text, nets.text)}
  return Backbone(nets, shapes)


class _Words:
  """A vocabulary in which every word is one token; see `tokens.Vocabulary`."""

  def __init__(self):
    self.words: dict[str, int] = {"": 0, "<end>": 1}

  def ids(self, text: str) -> list[int]:
    tokens = re.findall(r"\w+|[^\w\s]", text.lower())
    return [self.words.setdefault(w, len(self.words)) for w in tokens]

  def size(self) -> int:
    return len(self.words)

  def decode(self, ids: Sequence[int]) -> str:
    return " ".join(list(self.words)[i] for i in ids)


def tokenizers(model: str, words: Sequence[str]) -> tuple[Tokenizer, ...]:
  """A tokenizer for each text encoder in which every word is one token: shapes depend on no more.

  `words`: all texts that will be tokenised, so that the vocabulary's size is known.
  """
  parts, _ = configs(model)
  bpe = _Words()
  for text in words:
    bpe.ids(text)
  length = parts["text_encoder"]["max_position_embeddings"]
  return (Tokenizer(bpe, length, 0, 1, 1),) * sum(k.startswith("text") for k in parts)


def constants(needs: Needs, b: Backbone, words: Sequence[Tokenizer], who: Sequence[str], cfg: Any) -> Any:
  """Shapes of a method's constants. Embedding tables, which methods read on the host, are zeros."""
  sizes = [t.bpe.size() for t in words]
  nets = dataclasses.replace(
    b.nets, text=tuple(dataclasses.replace(t, vocab_size=n) for t, n in zip(b.nets.text, sizes))
  )
  key = "text_model.embeddings.token_embedding"
  encoders = ["text_encoder", "text_encoder_2"][: len(words)]
  tables = {n: np.zeros((size, t.hidden_size), np.float32) for n, t, size in zip(encoders, nets.text, sizes)}

  def run(params):
    replacements = {n: {**params[n], key: {"embedding": table}} for n, table in tables.items()}
    return needs.constants(Backbone(nets, {**params, **replacements}), words, who, cfg)

  return jax.eval_shape(run, b.params)
