"""Celeb Basis (Yuan et al. 2023): a person as coefficients on the principal axes of celebrities' names.

One layer turns the recogniser's embedding into a unit vector of coefficients for each of two words,
and the average of these coefficients over the training steps is the result. Each person trains their
own layer, or several people train one layer jointly, as the original offers for ten: then only that
average is each person's own, and it follows the steps in which the person has an example.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from idejax import tree
from idejax.errors import UserError
from idejax.methods.contract import Export, Identity, Metrics, Needs, Rates, Scope
from idejax.model import anchors, conditioning, diffusion
from idejax.model.backbone import Backbone, Conditioning, Nets, predict
from idejax.model.conditioning import Prompts
from idejax.model.tokens import Tokenizer
from idejax.nets import blocks
from idejax.person import subject, templates
from idejax.person.augment import Augment
from idejax.person.subject import Frozen
from idejax.ranges import above, at_least, between, from_to_below, with_person

scope: Scope = "person"


@dataclasses.dataclass(frozen=True)
class Config:
  """Celeb Basis."""

  components: Annotated[int, at_least(1)] = 512
  """Number of axes for each word; fewer where the names or the encoder's width do not give as many."""
  dedup: bool = False
  """Count a token once, however many names have it. The original means to, but does not."""
  radius: Annotated[float, above(0)] = 1.0
  """Distance of a word from the average name. 1 is the original's and suits CLIP's embeddings."""
  keep: Literal["ema", "last"] = "ema"
  """Which coefficients are kept: their average over the steps, or those that the photo gives at the end."""
  momentum: Annotated[float, from_to_below(0, 1)] = 0.99
  """Momentum of the average that --keep ema keeps."""
  renormalise: bool = False
  """Scale the average of unit vectors back to length 1."""
  phrase: Annotated[str, with_person] = "face of {} person"
  """What stands for the person in a caption; {} is where the two vectors go."""
  templates: Annotated[tuple[str, ...], with_person] = templates.TEMPLATES
  """Training captions; {} is where the phrase goes."""
  augmented: bool = True
  """Vary the photo as the paper does (colours, crops, size); else it is only mirrored."""
  steps: Annotated[int, at_least(1)] = 400
  """Training steps."""
  batch: Annotated[int, at_least(1)] = 2
  """Examples in a step."""
  lr: Annotated[float, between(0, 1)] = 1e-2
  """Learning rate."""
  weight_decay: Annotated[float, between(0, 1)] = 1e-2
  """Weight decay of the MLP."""

  usual_guidance: Annotated[float | None, between(0, 100)] = 10.0
  """Guidance of pictures where neither who asks for them nor the model's folder says another."""

  BEFORE: ClassVar[dict[str, Any]] = {"usual_guidance": None}

  @property
  def vectors(self) -> int:
    return 2


PRESETS = {
  "paper": Config(),
  "miniature": Config(augmented=False, phrase="{}", templates=templates.PHOTO, steps=150, batch=8, lr=2e-2),
}


def needs(cfg: Config, nets: Nets) -> Needs:
  return Needs(
    captions=tuple(t.format(cfg.phrase) for t in cfg.templates),
    tokens=cfg.vectors,
    constants=constants,
    recogniser=True,
    words_only=True,
    guidance=cfg.usual_guidance,
    augment=Augment(jitter=0.2, scale=(0.1, 1.0)) if cfg.augmented else Augment(),
    own=("average",),
  )


def constants(b: Backbone, tokenizers: Sequence[Tokenizer], names: Sequence[str], cfg: Config) -> dict[str, Any]:
  """{"basis": [2, 1 + K, d] per text encoder}: for each word the mean, then K orthonormal axes."""
  bases = []
  for tokenizer, table in zip(tokenizers, anchors.tables(b)):
    ids = anchors.name_ids(tokenizer, names)
    # Sorted: the axes, and their signs, do not depend on the order of the names.
    columns = [np.sort([i[e] for i in ids if len(i) > e]).astype(np.int64) for e in (0, 1)]
    if cfg.dedup:
      columns = [np.unique(c) for c in columns]
    bases.append(jnp.asarray(basis(np.asarray(table), columns, cfg.components), jnp.float32))
  return {"basis": tuple(bases)}


def basis(table: np.ndarray, columns: Sequence[np.ndarray], components: int) -> np.ndarray:
  """[2, 1 + K, d] of embeddings `table[column]`, K = min(components, fewest rows - 1, d).

  The axes are right singular vectors, not scaled by how much the names spread along them.
  """
  fewest = min(len(c) for c in columns)
  if fewest < 2:
    raise UserError("fewer than two of the celebrity names have a first and a last name: no basis")
  count = min(components, fewest - 1, table.shape[1])
  out = []
  for column in columns:
    rows = table[column].astype(np.float64)
    mean = rows.mean(0)
    axes = np.linalg.svd(rows - mean, full_matrices=False)[2][:count]
    out.append(np.concatenate([mean[None], axes]))
  return np.stack(out)


def predicted(layers: Sequence[Mapping[str, Any]], faces: jax.Array) -> tuple[jax.Array, ...]:
  """Unit coefficients [..., 2, K] per text encoder of the recogniser's embeddings [..., 512]."""

  def coefficients(layer):
    y = jax.nn.leaky_relu(blocks.dense(layer, faces.astype(jnp.float32)), 0.2)
    return _unit(y.reshape(*y.shape[:-1], 2, -1))

  return tuple(coefficients(layer) for layer in layers)


def _unit(x):
  return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-24))


def compose(coefficients: Sequence[jax.Array], frozen: Frozen, cfg: Config) -> tuple[jax.Array, ...]:
  """The two words [..., 2, d] per text encoder: mean + radius sum_k x_k B_k."""

  def words(x, basis):
    mean, axes = basis[:, 0].astype(jnp.float32), basis[:, 1:].astype(jnp.float32)
    offset = cfg.radius * jnp.einsum("...ek,ekd->...ed", x, axes)
    return jnp.broadcast_to(mean, offset.shape) + offset

  return tuple(words(x, b) for x, b in zip(coefficients, frozen.constants["basis"]))


def init(key: jax.Array, frozen: Frozen, cfg: Config) -> dict[str, Any]:
  """{"layer": per text encoder, "average": coefficients [2, K] per text encoder}."""
  bases, face = frozen.constants["basis"], frozen.subject.face
  width = lambda b: 2 * (b.shape[1] - 1)
  layers = tuple(
    {"kernel": jax.random.normal(k, (face.shape[-1], width(b))), "bias": jnp.zeros(width(b))}
    for k, b in zip(jax.random.split(key, len(bases)), bases)
  )
  if cfg.keep == "last":
    return {"layer": layers}
  return {"layer": layers, "average": predicted(layers, jnp.asarray(face))}  # upstream: from noise


def represent(params: Mapping[str, Any], frozen: Frozen, cfg: Config) -> dict[str, Any]:
  """The two words, and the coefficients from which they are composed."""
  if cfg.keep == "last":
    coefficients = predicted(params["layer"], jnp.asarray(frozen.subject.face))
  else:
    coefficients = tuple(_unit(x) if cfg.renormalise else x for x in params["average"])
  return {"rows": tuple(r[None, None] for r in compose(coefficients, frozen, cfg)), "coefficients": coefficients}


def condition(identities: Sequence[Identity], b: Backbone, prompts: Prompts, cfg: Config, **how) -> Conditioning:
  return conditioning.contexts(b, prompts, conditioning.join(identities), **how)


def export(identity: Identity, b: Backbone, cfg: Config) -> Export:
  return Export(rows=identity["rows"])


def loss(
  params: Mapping[str, Any], frozen: Frozen, batch: Mapping[str, Any], keys: jax.Array, cfg: Config
) -> tuple[jax.Array, Metrics]:
  """mean ||eps - eps_theta(z_t, t, c(z_1, z_2))||^2, each row with the words of its own face."""
  e = subject.draw(frozen, keys)
  x = predicted(params["layer"], jnp.asarray(frozen.subject.faces)[e.variant])
  identity = {"rows": tuple(r[:, None, None] for r in compose(x, frozen, cfg))}
  cond = condition([identity], frozen.backbone, subject.prompts(frozen, e), cfg, per_row=True, remat=True)
  error = diffusion.mse(predict(frozen.backbone, e.noisy, e.t, cond), e.target).mean()
  total = error if cfg.keep == "last" else error + follow(params["average"], x)
  return total, {"diffusion": error}


def follow(average: Sequence[jax.Array], x: Sequence[jax.Array]) -> jax.Array:
  """Zero, by whose gradient `average` [2, K] follows the mean of predictions [B, 2, K]; see `tree.follow`."""
  return tree.follow(tuple(average), tuple(p.mean(0) for p in x))


def rates(cfg: Config) -> Rates:
  adam = lambda decay: optax.adamw(cfg.lr, b1=0.9, b2=0.999, eps=1e-8, weight_decay=decay)
  return ((r"^average", optax.sgd(1 - cfg.momentum)), (r"bias$", adam(0.0)), (r".*", adam(cfg.weight_decay)))
