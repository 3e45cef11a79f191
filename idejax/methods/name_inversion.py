"""Name inversion: several vectors that begin as an average celebrity's name and stay as large as names are.

    L = mean ||eps - eps_theta(z_t, t, c(v*))||^2 + norm mean_p (|v_p| / n_p - 1)^2

n_p is the root mean square length of celebrities' first (p even) and second (p odd) embeddings. Textual Inversion
with more than one vector tends to grow until the word drowns the rest of the prompt; here its size is held, by a
penalty that vanishes where the vectors are as long as names. Ours: no paper describes it in this form.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from idejax.methods.contract import Export, Identity, Metrics, Needs, Rates, Scope
from idejax.model import anchors, conditioning, diffusion
from idejax.model.backbone import Backbone, Conditioning, Nets, predict
from idejax.model.conditioning import Prompts
from idejax.model.tokens import Tokenizer
from idejax.person import subject, templates
from idejax.person.subject import Frozen

scope: Scope = "person"


@dataclasses.dataclass(frozen=True)
class Config:
  """Name inversion."""

  vectors: int = 2
  """Vectors of the word in every text encoder; they begin as first and second names in turn."""
  norm: float = 0.1
  """Weight of the penalty on lengths that differ from names'."""
  templates: tuple[str, ...] = templates.TEMPLATES
  """Training captions; {} is where the word goes."""
  steps: int = 500
  batch: int = 8
  lr: float = 1e-3
  """Learning rate of the vectors."""


PRESETS = {"paper": Config(), "miniature": Config(templates=templates.PHOTO, steps=150, lr=2e-2)}


def needs(cfg: Config, nets: Nets) -> Needs:
  return Needs(captions=cfg.templates, tokens=cfg.vectors, constants=constants)


def constants(b: Backbone, tokenizers: Sequence[Tokenizer], names: Sequence[str], cfg: Config) -> dict[str, Any]:
  """{"start": [P, d], "length": [P]} per text encoder: the average name, and how long names are."""
  in_turn = np.arange(cfg.vectors) % 2
  lengths = []
  for tokenizer, table in zip(tokenizers, anchors.tables(b)):
    square = np.square(np.asarray(table, np.float32)).sum(-1)
    ids = [[i[k] for i in anchors.name_ids(tokenizer, names) if len(i) > k] for k in (0, 1)]
    lengths.append(jnp.asarray([np.sqrt(square[np.array(i)].mean()) for i in ids])[in_turn])
  return {"start": tuple(m[in_turn] for m in anchors.mean(b, tokenizers, names)), "length": tuple(lengths)}


def init(key: jax.Array, frozen: Frozen, cfg: Config) -> dict[str, Any]:
  """{"rows": [P, d] per text encoder}. Vectors of one start are told apart by a hundredth of their length."""
  keys = jax.random.split(key, len(frozen.constants["start"]))

  def begin(key, start, length):
    noise = jax.random.normal(key, start.shape) * (0.01 * length / start.shape[-1] ** 0.5)[:, None]
    return start.astype(jnp.float32) + noise

  return {"rows": tuple(map(begin, keys, frozen.constants["start"], frozen.constants["length"]))}


def represent(params: Any, frozen: Frozen, cfg: Config) -> dict[str, Any]:
  return {"rows": tuple(r[None, None] for r in params["rows"])}


def condition(identities: Sequence[Identity], b: Backbone, prompts: Prompts, cfg: Config, **how: Any) -> Conditioning:
  return conditioning.contexts(b, prompts, conditioning.join(identities), **how)


def export(identity: Identity, b: Backbone, cfg: Config) -> Export:
  return Export(rows=identity["rows"])


def penalty(rows: Sequence[jax.Array], lengths: Sequence[jax.Array]) -> jax.Array:
  """Mean over all vectors of (|v| / n - 1)^2."""
  relative = [jnp.sqrt(jnp.square(r).sum(-1) + 1e-12) / n for r, n in zip(rows, lengths)]
  return jnp.square(jnp.concatenate(relative) - 1).mean()


def loss(
  params: Any, frozen: Frozen, batch: Mapping[str, Any], keys: jax.Array, cfg: Config
) -> tuple[jax.Array, Metrics]:
  """mean ||eps - eps_theta(z_t, t, c(v*))||^2 + norm * `penalty`."""
  e = subject.draw(frozen, keys)
  prompts = subject.prompts(frozen, e)
  cond = condition([represent(params, frozen, cfg)], frozen.backbone, prompts, cfg, remat=True)
  error = diffusion.mse(predict(frozen.backbone, e.noisy, e.t, cond), e.target).mean()
  far = penalty(params["rows"], frozen.constants["length"])
  return error + cfg.norm * far, {"diffusion": error, "length": far}


def rates(cfg: Config) -> Rates:
  return ((r"^rows", optax.adam(cfg.lr, b1=0.9, b2=0.999)),)
