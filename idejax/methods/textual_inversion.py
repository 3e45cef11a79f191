"""Textual Inversion (Gal et al. 2022): only the input embeddings of a new word are learned.

With `start="cross"` (Pang et al. 2023) the rows begin as the text encoder's output for an average
celebrity's name: the scale at which learned embeddings end up.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax

from idejax.methods.contract import Export, Identity, Metrics, Needs, Rates, Scope
from idejax.model import anchors, conditioning, diffusion
from idejax.model.backbone import Backbone, Conditioning, Nets, predict
from idejax.model.conditioning import Prompts
from idejax.model.tokens import Tokenizer
from idejax.person import subject, templates
from idejax.person.subject import Frozen
from idejax.ranges import at_least, between, one_word, with_person

scope: Scope = "person"


@dataclasses.dataclass(frozen=True)
class Config:
  """Textual Inversion."""

  vectors: Annotated[int, at_least(1)] = 1
  """Vectors that the new word has in every text encoder."""
  start: Literal["word", "cross", "name", "normal"] = "word"
  """Where the vectors begin: at the embedding of a word (--word), at what the text encoder makes of the average
  name of a celebrity (cross-initialisation, for 2 vectors), at that name itself (2 vectors), or at noise of
  deviation 0.02."""
  start_size: Literal["auto", "output", "names"] = "auto"
  """Length of vectors that begin cross-initialised: the text encoder's output's, or that of names' embeddings;
  auto: names' on SDXL, whose UNet reads a layer without a norm, else the output's."""
  word: Annotated[str, one_word] = "face"
  """Word at whose embedding the vectors begin; a single token."""
  templates: Annotated[tuple[str, ...], with_person] = templates.TEMPLATES
  """Training captions; {} is where the new word goes."""
  steps: Annotated[int, at_least(1)] = 3000
  """Training steps."""
  batch: Annotated[int, at_least(1)] = 4
  """Examples in a step."""
  lr: Annotated[float, between(0, 1)] = 2e-3
  """Learning rate."""
  weight_decay: Annotated[float, between(0, 1)] = 0.0
  """Weight decay of the vectors; the reference implementation's 1e-2 pulls them to zero."""
  reg: Annotated[float, at_least(0)] = 0.0
  """Weight of a penalty on how far the vectors move from where they began."""


PRESETS = {
  "paper": Config(steps=5000, batch=8, lr=5e-3),
  "paper-sdxl": Config(
    steps=5000, batch=8, lr=5e-4
  ),  # its UNet reads a layer without a norm: long words drown the rest
  "diffusers": Config(),
  "cross-init": Config(vectors=2, start="cross", steps=320, batch=8, lr=5e-3, reg=1e-5),
  "miniature": Config(vectors=2, start="name", templates=templates.PHOTO, steps=150, batch=8, lr=1e-2),
  "miniature-sdxl": Config(vectors=2, start="name", templates=templates.PHOTO, steps=150, batch=8, lr=1e-3),
}


def needs(cfg: Config, nets: Nets) -> Needs:
  return Needs(captions=cfg.templates, tokens=cfg.vectors, words=(cfg.word,), constants=constants, words_only=True)


def constants(b: Backbone, tokenizers: Sequence[Tokenizer], names: Sequence[str], cfg: Config) -> dict[str, Any]:
  """{"start": [P, d] per text encoder}."""
  if cfg.start == "cross":
    return {"start": anchors.cross(b, tokenizers, names, size=cfg.start_size)}
  if cfg.start == "name":
    return {"start": anchors.mean(b, tokenizers, names)}
  if cfg.start == "word":
    rows = anchors.word_rows(b, tokenizers, cfg.word)
    return {"start": tuple(jnp.tile(r, (cfg.vectors, 1)) for r in rows)}
  return {"start": tuple(jnp.zeros((cfg.vectors, t.hidden_size)) for t in b.nets.text)}


def init(key: jax.Array, frozen: Frozen, cfg: Config) -> dict[str, Any]:
  rows = frozen.constants["start"]
  if cfg.start != "normal":
    return {"rows": tuple(jnp.array(r, jnp.float32) for r in rows)}
  keys = jax.random.split(key, len(rows))
  return {"rows": tuple(0.02 * jax.random.normal(k, r.shape) for k, r in zip(keys, rows))}


def represent(params: Mapping[str, Any], frozen: Frozen, cfg: Config) -> dict[str, Any]:
  return {"rows": tuple(r[None, None] for r in params["rows"])}


def condition(identities: Sequence[Identity], b: Backbone, prompts: Prompts, cfg: Config, **how) -> Conditioning:
  return conditioning.contexts(b, prompts, conditioning.join(identities), **how)


def export(identity: Identity, b: Backbone, cfg: Config) -> Export:
  return Export(rows=identity["rows"])


def loss(
  params: Mapping[str, Any], frozen: Frozen, batch: Mapping[str, Any], keys: jax.Array, cfg: Config
) -> tuple[jax.Array, Metrics]:
  """mean ||eps - eps_theta(z_t, t, c(v*))||^2 + reg * mean |v* - v_start|."""
  e = subject.draw(frozen, keys)
  identity = represent(params, frozen, cfg)
  cond = condition([identity], frozen.backbone, subject.prompts(frozen, e), cfg, remat=True)
  error = diffusion.mse(predict(frozen.backbone, e.noisy, e.t, cond), e.target).mean()
  distances = jnp.concatenate([anchors.distance(r, r0) for r, r0 in zip(params["rows"], frozen.constants["start"])])
  return error + cfg.reg * distances.mean(), {"diffusion": error, "moved": distances.mean()}


def rates(cfg: Config) -> Rates:
  return ((r"^rows", optax.adamw(cfg.lr, b1=0.9, b2=0.999, weight_decay=cfg.weight_decay)),)
