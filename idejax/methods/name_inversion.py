"""Name inversion: several vectors that begin as an average celebrity's name and stay as long as names are.

    L = mean ||eps - eps_theta(z_t, t, c(v*))||^2 + norm mean_p (|v_p| / n_p - 1)^2

n_p is the root mean square length of celebrities' first (p even) and second (p odd) embeddings. Textual Inversion
with several vectors tends to grow until the word drowns the rest of the prompt; here a penalty, which vanishes
where vectors are as long as names, holds their length. The method is this project's own: no paper describes it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

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
from idejax.ranges import at_least, between, with_person

scope: Scope = "person"


@dataclasses.dataclass(frozen=True)
class Config:
  """Name inversion."""

  vectors: Annotated[int, at_least(1)] = 2
  """Vectors of the word in every text encoder; they begin as first and second names in turn."""
  norm: Annotated[float, at_least(0)] = 0.1
  """Weight of the penalty on lengths that differ from names'."""
  templates: Annotated[tuple[str, ...], with_person] = templates.TEMPLATES
  """Training captions; {} is where the word goes."""
  steps: Annotated[int, at_least(1)] = 500
  """Training steps."""
  batch: Annotated[int, at_least(1)] = 8
  """Examples in a step."""
  lr: Annotated[float, between(0, 1)] = 1e-3
  """Learning rate of the vectors."""


PRESETS = {"paper": Config(), "miniature": Config(templates=templates.PHOTO, steps=150, lr=2e-2)}


def needs(cfg: Config, nets: Nets) -> Needs:
  return Needs(captions=cfg.templates, tokens=cfg.vectors, constants=constants, words_only=True)


def constants(b: Backbone, tokenizers: Sequence[Tokenizer], names: Sequence[str], cfg: Config) -> dict[str, Any]:
  """{"start": [P, d], "length": [P]} per text encoder: the average name, and the length n_p of names."""
  alternate = np.arange(cfg.vectors) % 2
  pick = lambda rows: tuple(r[alternate] for r in rows)
  return {"start": pick(anchors.mean(b, tokenizers, names)), "length": pick(anchors.lengths(b, tokenizers, names))}


def init(key: jax.Array, frozen: Frozen, cfg: Config) -> dict[str, Any]:
  """{"rows": [P, d] per text encoder}. Noise of a hundredth of the length tells vectors of one start apart."""
  keys = jax.random.split(key, len(frozen.constants["start"]))

  def begin(key, start, length):
    noise = jax.random.normal(key, start.shape) * (0.01 * length / start.shape[-1] ** 0.5)[:, None]
    return start.astype(jnp.float32) + noise

  return {"rows": tuple(map(begin, keys, frozen.constants["start"], frozen.constants["length"]))}


def represent(params: Mapping[str, Any], frozen: Frozen, cfg: Config) -> dict[str, Any]:
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
  params: Mapping[str, Any], frozen: Frozen, batch: Mapping[str, Any], keys: jax.Array, cfg: Config
) -> tuple[jax.Array, Metrics]:
  """mean ||eps - eps_theta(z_t, t, c(v*))||^2 + norm * `penalty`."""
  e = subject.draw(frozen, keys)
  prompts = subject.prompts(frozen, e)
  cond = condition([represent(params, frozen, cfg)], frozen.backbone, prompts, cfg, remat=True)
  error = diffusion.mse(predict(frozen.backbone, e.noisy, e.t, cond), e.target).mean()
  deviation = penalty(params["rows"], frozen.constants["length"])
  return error + cfg.norm * deviation, {"diffusion": error, "length": deviation}


def rates(cfg: Config) -> Rates:
  return ((r"^rows", optax.adam(cfg.lr, b1=0.9, b2=0.999)),)
