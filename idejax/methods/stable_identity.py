"""StableIdentity (Wang et al. 2024): a small MLP turns a face's features into a celebrity-like name.

The MLP's output is normalised and given the mean and deviation of celebrities' first and last names
(AdaIN). Above alpha T the loss is the error of the noise, below it that of the clean latents; both are
masked to the face and, with less weight, the hair. The result is the two vectors alone. SDXL has an MLP
and statistics for each of its text encoders.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax

from idejax import tree
from idejax.errors import UserError
from idejax.methods.contract import Export, Identity, Metrics, Needs, Rates, Scope
from idejax.model import anchors, backbone, conditioning, diffusion
from idejax.model.backbone import Backbone, Conditioning, Nets, predict
from idejax.model.conditioning import Prompts
from idejax.model.tokens import Tokenizer
from idejax.nets import blocks
from idejax.person import subject, templates
from idejax.person.augment import Augment
from idejax.person.subject import Example, Frozen, Subject
from idejax.ranges import above, at_least, between, with_person

_MULTIPLIER = 0.1  # scales every kernel and bias of the MLP, which acts as a slower learning rate

scope: Scope = "person"


@dataclasses.dataclass(frozen=True)
class Config:
  """StableIdentity."""

  source: Literal["vit", "recogniser"] = "vit"
  """What the MLP reads: the features of a face ViT (--vit), or the recogniser's embedding."""
  depth: Annotated[int, at_least(2)] = 2
  """Layers of the MLP."""
  alpha: Annotated[float, between(0, 1)] = 0.6
  """Timesteps above this share of all learn from the noise, the others from the clean latents."""
  hair: Annotated[float, at_least(0)] = 0.1
  """Weight of the hair in the loss, where the face has 1."""
  mask_norm: Literal["all", "area"] = "all"
  """Average errors over the whole picture, or over each mask's own area."""
  mixed: Literal["phases", "rows"] = "phases"
  """Loss of a batch with both kinds of timesteps: the sum of their averages, or the average of all examples."""
  templates: Annotated[tuple[str, ...], with_person] = templates.TEMPLATES
  """Training captions; {} is where the two vectors go."""
  augmented: bool = True
  """Vary the photo as the paper does (colours, crops, size); else it is only mirrored."""
  steps: Annotated[int, at_least(1)] = 450
  """Training steps."""
  batch: Annotated[int, at_least(1)] = 1
  """Examples in a step."""
  lr: Annotated[float, between(0, 1)] = 5e-5
  """Learning rate."""
  weight_decay: Annotated[float, between(0, 1)] = 1e-2
  """Weight decay of the MLP's kernels."""
  clip: Annotated[float, above(0)] = 1.0
  """Largest norm of the gradient."""

  usual_guidance: Annotated[float | None, between(0, 100)] = 8.5
  """Guidance of pictures where neither who asks for them nor the model's folder says another."""

  BEFORE: ClassVar[dict[str, Any]] = {"usual_guidance": None}

  @property
  def vectors(self) -> int:
    return 2


PRESETS = {
  "paper": Config(),
  "paper-sdxl": Config(alpha=0.5, steps=500, lr=1e-5),
  # The SDXL report's depth and length; its shortcuts (the encoders' last layer as the context, no
  # pooled vector, 512 px at 1024's time ids, a plain ImageNet ViT) are mistakes and not repeated.
  "delta_reference": Config(depth=6, alpha=0.5, steps=501, lr=1e-5),
  "miniature": Config(augmented=False, source="recogniser", templates=templates.PHOTO, steps=150, batch=8, lr=5e-4),
}


def needs(cfg: Config, nets: Nets) -> Needs:
  return Needs(
    captions=cfg.templates,
    tokens=cfg.vectors,
    constants=constants,
    words_only=True,
    guidance=cfg.usual_guidance,
    augment=Augment(jitter=0.2, crop=0.75, scale=(0.5, 1.0)) if cfg.augmented else Augment(),
    recogniser=True,  # with a ViT too: both presets of a table are then judged by the same network
    face_vit=cfg.source == "vit",
  )


def constants(b: Backbone, tokenizers: Sequence[Tokenizer], names: Sequence[str], cfg: Config) -> dict[str, Any]:
  """{"statistics": (mean, deviation) [2, d] per text encoder} of the two-token names."""
  return {"statistics": anchors.statistics(b, tokenizers, names)}


def features(s: Subject, cfg: Config) -> tuple[jax.Array, jax.Array]:
  """The MLP's input for the photo [F] and for each variant [V, F]. UserError without a face ViT's."""
  if cfg.source == "vit":
    if s.features is None:
      raise UserError(
        "source vit: these photos were read without a face ViT; give one with --vit FOLDER, or choose --source recogniser"
      )
    photo, variants = s.features[0], s.features
  else:
    # A unit vector, made as large as a ViT's normalised output: else the first LayerNorm sees its eps.
    size = s.face.shape[-1] ** 0.5
    photo, variants = s.face * size, s.faces * size
  return jnp.asarray(photo, jnp.float32), jnp.asarray(variants, jnp.float32)


def init(key: jax.Array, frozen: Frozen, cfg: Config) -> dict[str, Any]:
  """{"mlp": per text encoder {"layers.i", "norms.i", "norm"}}."""
  width, normal = features(frozen.subject, cfg)[0].shape[-1], jax.nn.initializers.normal(0.02)

  def make(key, out):
    params = {"norm": blocks.norm_init(out)}
    for i, k in enumerate(jax.random.split(key, cfg.depth)):
      params[f"layers.{i}"] = {"kernel": normal(k, (out if i else width, out)), "bias": jnp.zeros(out)}
      if i:
        params[f"norms.{i}"] = blocks.norm_init(out)
    return params

  text = frozen.backbone.nets.text
  return {"mlp": tuple(make(k, 2 * t.hidden_size) for k, t in zip(jax.random.split(key, len(text)), text))}


def mlp(params: Mapping[str, Any], x: jax.Array, depth: int) -> jax.Array:
  """Features [..., F] -> [..., 2, d], at first with mean 0 and variance 1 over both tokens together."""
  norm = lambda name, x: blocks.layer_norm(params[name], x)
  dense = lambda i, x: _MULTIPLIER * blocks.dense(params[f"layers.{i}"], x)
  x = jax.nn.leaky_relu(dense(0, x), 0.2)
  for i in range(1, depth - 1):
    x += jax.nn.leaky_relu(dense(i, norm(f"norms.{i}", x)), 0.2)
  x = norm("norm", dense(depth - 1, norm(f"norms.{depth - 1}", x)))
  return x.reshape(*x.shape[:-1], 2, -1)


def rows(params: Mapping[str, Any], frozen: Frozen, x: jax.Array, cfg: Config) -> tuple[jax.Array, ...]:
  """Features [..., F] -> the two words [..., 2, d] for each text encoder: mean + normalised * deviation."""

  def adain(p, statistics):
    y = mlp(p, x, cfg.depth)
    mean, deviation = (jnp.broadcast_to(s, y.shape).astype(jnp.float32) for s in statistics)
    return mean + y * deviation

  return tuple(adain(p, s) for p, s in zip(params["mlp"], frozen.constants["statistics"]))


def represent(params: Mapping[str, Any], frozen: Frozen, cfg: Config) -> dict[str, Any]:
  """The two words from the photo itself, neither mirrored nor pasted."""
  return {"rows": tuple(r[None, None] for r in rows(params, frozen, features(frozen.subject, cfg)[0], cfg))}


def condition(identities: Sequence[Identity], b: Backbone, prompts: Prompts, cfg: Config, **how) -> Conditioning:
  return conditioning.contexts(b, prompts, conditioning.join(identities), **how)


def export(identity: Identity, b: Backbone, cfg: Config) -> Export:
  return Export(rows=identity["rows"])


def errors(b: Backbone, out: jax.Array, e: Example, face: jax.Array, hair: jax.Array, cfg: Config):
  """(error [B] of the UNet's output, whether it is that of the noise [B]); masks [B, h, w].

  t > alpha T:  mse(M_f eps_hat, M_f eps) + hair mse(M_h eps_hat, M_h eps)
  else:         the same for the clean latents as the VAE gives them, unscaled
  """
  schedule = b.nets.schedule
  noisy = e.t > cfg.alpha * schedule.num_train_timesteps
  # Either conversion is infinite at one end of the schedule, where the other is in use.
  eps = diffusion.eps_from(out, e.noisy, jnp.where(noisy, e.abar, 0.5), schedule.prediction_type)
  z0 = diffusion.x0_from(out, e.noisy, jnp.where(noisy, 0.5, e.abar), schedule.prediction_type)
  gain = backbone.scale_latents(b, jnp.ones((1, 1, 1, e.latents.shape[-1])))
  gain -= backbone.scale_latents(b, jnp.zeros_like(gain))
  difference = jnp.where(noisy[:, None, None, None], eps - e.noise, (z0 - e.latents) / gain)

  def under(mask):
    error = diffusion.mse(difference, jnp.zeros_like(difference), mask[..., None])
    if cfg.mask_norm == "all":
      return error
    return error / jnp.maximum(mask.mean((1, 2)), 1 / mask[0].size)

  return under(face) + cfg.hair * under(hair), noisy


def combine(error: jax.Array, noisy: jax.Array, cfg: Config) -> jax.Array:
  """The errors of a batch [B] as one number. For a batch of one, as in the paper, both ways are the same."""
  if cfg.mixed == "rows":
    return error.mean()
  average = lambda rows: (error * rows).sum() / jnp.maximum(rows.sum(), 1)
  return average(noisy) + average(~noisy)


def loss(
  params: Mapping[str, Any], frozen: Frozen, batch: Mapping[str, Any], keys: jax.Array, cfg: Config
) -> tuple[jax.Array, Metrics]:
  """The masked error of the noise, or of the clean latents where little noise is left (`errors`)."""
  e, b, s = subject.draw(frozen, keys), frozen.backbone, frozen.subject
  words = rows(params, frozen, features(s, cfg)[1][e.variant], cfg)  # from the variant that is shown
  identity = {"rows": tuple(r[:, None, None] for r in words)}
  size = tuple(n * b.nets.factor for n in e.latents.shape[1:3])  # SDXL learns at 512 px too
  cond = condition([identity], b, subject.prompts(frozen, e), cfg, per_row=True, size=size, remat=True)
  out = predict(b, e.noisy, e.t, cond)
  error, noisy = errors(b, out, e, s.face_mask[e.variant], s.hair_mask[e.variant], cfg)
  total = combine(error, noisy, cfg)
  return total, {"diffusion": diffusion.mse(out, e.target).mean(), "masked": error.mean()}


def rates(cfg: Config) -> Rates:
  kernels = lambda params: tree.map_with_path(lambda path, _: path.endswith("kernel"), params)
  adam = optax.adamw(cfg.lr, b1=0.9, b2=0.999, eps=1e-8, weight_decay=cfg.weight_decay, mask=kernels)
  return ((r".*", optax.chain(optax.clip_by_global_norm(cfg.clip), adam)),)
