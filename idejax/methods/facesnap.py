"""FaceSnap (arXiv 2602.00627): a person from one forward pass, by what was trained once for everybody.

    f_mix = Mixer(recogniser's embedding, CLIP's tokens of the portrait)             eq. 1, 2: `nets.mixer`
    r     = FFRNet(z_t, t, landmarks drawn, f_mix)                                   a ControlNet; its context is f_mix
    L     = mean ||M (eps - eps_theta(z_t, t, text; r))||^2 + lambda (1 - cos(phi(face), phi(L-T2I(z_T, f_mix, text))))

Mixer and FFRNet train (eq. 3 to 5), all else is frozen. M is the face's region. L-T2I are a few plain steps
from pure noise, of which the last has a gradient; they run on every `identity_every`-th step, with a weight that
makes up for it. The text alone is sometimes dropped, so both branches of guidance have the same f_mix.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from idejax import draws
from idejax.errors import UserError
from idejax.methods.contract import Export, Identity, Metrics, Needs, Rates, Scope
from idejax.model import backbone, conditioning, diffusion
from idejax.model.backbone import Backbone, Conditioning, Nets, predict
from idejax.model.conditioning import Prompts
from idejax.nets import controlnet, mixer
from idejax.nets.controlnet import ControlNetConfig
from idejax.nets.mixer import MixerConfig
from idejax.person import control, likeness, recogniser, subject
from idejax.person.subject import Frozen
from idejax.ranges import above, at_least, between, from_to_below

scope: Scope = "dataset"


@dataclasses.dataclass(frozen=True)
class Config:
  """FaceSnap."""

  dim: Annotated[int, at_least(1)] = 1280
  """Features of the mixer's tokens, a multiple of --head_dim."""
  head_dim: Annotated[int, at_least(1)] = 64
  """Features of each of its attention heads."""
  identity_tokens: Annotated[int, at_least(1)] = 20
  """Tokens that are made of the recogniser's embedding."""
  tokens: Annotated[int, at_least(1)] = 16
  """Tokens that the ControlNet reads."""
  layers: Annotated[int, at_least(1)] = 4
  """Layers of the mixer's decoder."""
  fuse: Literal["mixer", "concat", "identity", "clip"] = "mixer"
  """The mixer, or what the paper compares it with."""
  blank: Annotated[float, between(0, 1)] = 0.05
  """Share of black control pictures, so that a face without a pose works too; 1: no landmarks at all."""
  empty: Annotated[float, between(0, 1)] = 0.1
  """Share of examples without text, for guidance."""
  outside: Annotated[float, between(0, 1)] = 0.0
  """Weight of the error outside the face's region; 0 in the paper."""
  photos: Annotated[int, at_least(1)] = 1
  """Most reference photos that the mixer reads at once: each example has 1 to so many, of the same person. 1 in the
  paper; then several photos are the mean of their tokens, which nobody trained the ControlNet to read."""
  cross: Annotated[float, between(0, 1)] = 0.0
  """Share of examples whose face is from another picture of the person; 0 in the paper."""
  augment: Annotated[float, between(0, 1)] = 0.0
  """Share of the pictures that are scaled, turned and set elsewhere in a black frame, anew in every step; in the paper
  0.8, 160,000 pictures made 800,000. Their latents are computed as they are needed."""
  zoom: Annotated[float, at_least(1)] = 1.5
  """How many times they are enlarged or shrunk at most; the face stays in the frame."""
  turn: Annotated[float, between(0, 180)] = 15.0
  """How many degrees they are turned at most."""
  identity_weight: Annotated[float, at_least(0)] = 0.5
  """Weight of the identity loss; 0: none."""
  identity_every: Annotated[int, at_least(1)] = 4
  """It is computed on every so manieth step, with so many times the weight."""
  identity_after: Annotated[float, between(0, 1)] = 0.2
  """Share of the training before it begins."""
  identity_steps: Annotated[int, at_least(1)] = 4
  """Steps of its sampling."""
  contrast: Annotated[float, at_least(0)] = 0.0
  """Weight, beside the identity loss, of InfoNCE: a face shall be nearer to its own reference than to those of the
  batch's other people; 0 in the paper."""
  temperature: Annotated[float, above(0)] = 0.1
  """Its temperature: the smaller, the more the most alike of the others count."""
  steps: Annotated[int, at_least(1)] = 360_000
  """Training steps."""
  batch: Annotated[int, at_least(1)] = 14
  """Faces in a step."""
  lr: Annotated[float, between(0, 1)] = 1e-5
  """Learning rate."""
  weight_decay: Annotated[float, between(0, 1)] = 1e-2
  """Weight decay, AdamW's."""
  ema: Annotated[float, from_to_below(0, 1)] = 0.0
  """Momentum of an average over the steps, which is validated and kept in place of the last weights; 0: none."""
  warm: Annotated[float, between(0, 1)] = 0.0
  """Share of the steps in which the rate rises from 0."""
  fall: Annotated[float, between(0, 1)] = 0.0
  """Share of the steps, the last, in which it falls to a hundredth."""


_SMALL = Config(dim=128, head_dim=32, outside=0.5, cross=0.8, identity_weight=0.0, steps=4000,
                batch=8, lr=1e-3, weight_decay=1e-4, warm=0.05, fall=0.3)  # fmt: skip
_DAY = Config(steps=20_000, batch=8)  # what one accelerator does in a day, at 512 px; pictures stay as they are
PRESETS = {
  "paper": Config(augment=0.8),
  "sd15-512": _DAY,
  "sd21-512": _DAY,
  "miniature": _SMALL,
  "tiny": dataclasses.replace(_SMALL, dim=32, layers=1, identity_tokens=4, tokens=4, steps=40, batch=4),
}


@dataclasses.dataclass(frozen=True)
class Person:
  """A person by FaceSnap: what `idejax personalize` asks. Nothing is trained."""

  strength: Annotated[float, between(0, 10)] = 1.0
  """How strongly the face acts; 0 is the model alone. `idejax sample --strength` sets it again."""

  steps: ClassVar[int] = 0
  batch: ClassVar[int] = 0


class Look(NamedTuple):
  """`frozen.subject` of `represent`: a face as the mixer reads it."""

  identity: Any  # [B, 512], the recogniser's embedding
  clip: Any  # [B, T, D], the vision tower's tokens


def needs(cfg: Config, nets: Nets) -> Needs:
  return Needs(recogniser=True)


def mixer_config(cfg: Config, context_dim: int, clip_dim: int) -> MixerConfig:
  """The mixer of a UNet and of a vision tower. UserError for sizes that make none."""
  if cfg.dim % cfg.head_dim:
    raise UserError(f"--dim {cfg.dim} is no multiple of --head_dim {cfg.head_dim}")
  if cfg.photos > 1 and cfg.fuse == "concat":
    raise UserError(f"--photos {cfg.photos} are read by the mixer's decoder, which --fuse concat has not")
  return MixerConfig(
    context_dim=context_dim,
    clip_dim=clip_dim,
    **{n: getattr(cfg, n) for n in ("dim", "head_dim", "identity_tokens", "tokens", "layers", "fuse", "photos")},
  )


def init(key: jax.Array, frozen: Frozen, cfg: Config) -> dict[str, Any]:
  """{"mixer", "controlnet"}: the mixer drawn, the ControlNet the UNet's encoder with zero convolutions.

  `frozen.constants`: {"clip": a token of the vision tower [D], "recogniser": its JAX twin's parameters or None}.
  """
  b, c = frozen.backbone, _mixer(frozen, cfg)
  k_mixer, k_control = jax.random.split(key)
  unet = jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), b.params["unet"])
  return {
    "mixer": mixer.draw(c, k_mixer),
    "controlnet": controlnet.from_unet(ControlNetConfig.of(b.nets.unet, b.nets.factor), unet, k_control),
  }


def loss(
  params: Mapping[str, Any], frozen: Frozen, batch: Mapping[str, Any], keys: jax.Array, cfg: Config
) -> tuple[jax.Array, Metrics]:
  """The masked error of the noise and, where batch["few"] is above 0, that times the identity loss.

  batch: the picture's moments "mean", "logvar" [B, h, w, C], landmarks "marks" [B, 72, 2] in its pixels (NaN:
  not known), region "mask" [B, h, w] and caption "ids", "eos" (a tuple each, one per text encoder); the
  face's "identity" [B, 512] and "clip" [B, T, D], of R photos [B, R, ...]; "few" [B]; with `contrast` who it is, "person" [B].
  Pictures that do not fill their frame have "inside" [B, h, w], beyond which nothing is learned; SDXL's may have their
  own "time_ids" [B, 6].
  """
  k_latent, k_t, k_noise, k_empty, k_blank, k_few = draws.split(keys, 6)
  b = steered(frozen.backbone, params["controlnet"])
  tokens = mix(params["mixer"], Look(batch["identity"], batch["clip"]), _mixer(frozen, cfg))
  cond = _texts(b, Prompts(batch["ids"], batch["eos"], ()), frozen.captions, draws.uniform(k_empty) < cfg.empty)
  measured = jnp.isfinite(batch["marks"]).all((1, 2))
  visible = measured & (draws.uniform(k_blank) >= cfg.blank)
  marks = jnp.where(measured[:, None, None], batch["marks"], 0.0)
  side = batch["mean"].shape[1] * b.nets.factor, batch["mean"].shape[2] * b.nets.factor
  pictures = control.raster(marks, *side) * visible[:, None, None, None]
  cond = dataclasses.replace(cond, control=pictures, control_context=tokens)
  if "time_ids" in batch:
    cond = dataclasses.replace(cond, time_ids=batch["time_ids"])
  e = subject.make_example(b, None, None, batch["mean"], batch["logvar"], (k_latent, k_t, k_noise))
  region = cfg.outside + (1 - cfg.outside) * batch["mask"].astype(jnp.float32)[..., None]
  if "inside" in batch:
    region = region * batch["inside"].astype(jnp.float32)[..., None]
  error = diffusion.mse(predict(b, e.noisy, e.t, cond), e.target, region).mean()
  if not cfg.identity_weight or frozen.constants["recogniser"] is None:
    return error, {"diffusion": error}

  def unlikeness():
    images = few_steps(b, cond, draws.normal(k_few, e.noisy.shape[1:]), cfg.identity_steps)
    faces = likeness.crop(images + 1, marks, recogniser.SIDE) - 1  # outside the picture it is black, -1
    embedding = recogniser.embed(frozen.constants["recogniser"], faces)
    mean = lambda each: (each * visible).sum() / jnp.maximum(visible.sum(), 1)
    identity = mean(likeness.identity_loss(embedding, reference))
    if not cfg.contrast:
      return identity, jnp.zeros(())
    return identity, mean(likeness.contrast(embedding, reference, batch["person"], cfg.temperature))

  weight, reference = batch["few"][0], batch["identity"]
  reference = reference[:, 0] if reference.ndim == 3 else reference
  identity, contrast = jax.lax.cond(weight > 0, unlikeness, lambda: (jnp.zeros(()),) * 2)
  # On the steps between they are not known: NaN has no gradient here, and plots leave it out.
  metrics = {"diffusion": error, "identity": jnp.where(weight > 0, identity, jnp.nan)}
  if cfg.contrast:
    metrics["contrast"] = jnp.where(weight > 0, contrast, jnp.nan)
  return error + weight * (identity + cfg.contrast * contrast), metrics


def few_steps(b: Backbone, cond: Conditioning, noise: jax.Array, count: int) -> jax.Array:
  """Pictures [B, H, W, 3] in [-1, 1] from noise [B, h, w, C] by `count` DDIM steps at trailing timesteps, without
  guidance; only the last step has a gradient."""
  schedule, abars = b.nets.schedule, jnp.asarray(b.nets.schedule.alphas_cumprod, jnp.float32)
  steps, kind = schedule.num_train_timesteps, schedule.prediction_type
  times = np.array([round(steps * (count - i) / count) - 1 for i in range(count)])  # 999, 749, 499, 249

  def advance(x, pair):
    t, after = pair
    out = predict(b, x, t, cond).astype(jnp.float32)
    clean, eps = (f(out, x, abars[t], kind) for f in (diffusion.x0_from, diffusion.eps_from))
    return diffusion.add_noise(clean, eps, abars[after]), None

  x = jax.lax.scan(advance, noise, (times[:-1], times[1:]))[0] if count > 1 else noise
  x = jax.lax.stop_gradient(x)
  clean = diffusion.x0_from(predict(b, x, times[-1], cond).astype(jnp.float32), x, abars[times[-1]], kind)
  return jax.checkpoint(backbone.decode)(b, clean)


def identity_weight(cfg: Config, step: int) -> float:
  """batch["few"] of a step: 0 where the identity loss is not computed."""
  due = step >= cfg.identity_after * cfg.steps and step % cfg.identity_every == 0
  return cfg.identity_weight * cfg.identity_every if due else 0.0


def mix(params: Mapping[str, Any], look: Look, cfg: MixerConfig) -> jax.Array:
  """f_mix [B, tokens, context_dim]."""
  out: Any = mixer.Mixer(cfg).apply({"params": params}, look.identity, look.clip.astype(jnp.float32))
  return out


def steered(b: Backbone, params: Any) -> Backbone:
  """The backbone with an FFRNet of its own kind."""
  nets = dataclasses.replace(b.nets, controlnet=ControlNetConfig.of(b.nets.unet, b.nets.factor))
  return Backbone(nets, {**b.params, "controlnet": params})


def _mixer(frozen: Frozen, cfg: Config) -> MixerConfig:
  return mixer_config(cfg, frozen.backbone.nets.unet.context_dim, frozen.constants["clip"].shape[-1])


def _texts(b: Backbone, prompts: Prompts, nothing: Prompts, empty: jax.Array) -> Conditioning:
  """Contexts of prompts [B]; in the rows where `empty` [B] those of `nothing` [1], or zeros where the model
  is called so."""
  if not b.nets.zero_empty_negative:
    ids = tuple(jnp.where(empty[:, None], n, i) for i, n in zip(prompts.ids, nothing.ids))
    eos = tuple(jnp.where(empty, n, i) for i, n in zip(prompts.eos, nothing.eos))
    return conditioning.contexts(b, Prompts(ids, eos, ()), None)
  cond, keep = conditioning.contexts(b, prompts, None), 1.0 - empty
  pooled = None if cond.pooled is None else cond.pooled * keep[:, None]
  k, v = (x * keep[None, :, None, None] for x in (cond.k, cond.v))
  return dataclasses.replace(cond, k=k, v=v, pooled=pooled)


def rates(cfg: Config) -> Rates:
  warm, fall = round(cfg.warm * cfg.steps), round(cfg.fall * cfg.steps)
  parts = (
    optax.linear_schedule(0.0 if warm else cfg.lr, cfg.lr, max(1, warm)),
    optax.constant_schedule(cfg.lr),
    optax.linear_schedule(cfg.lr, 0.01 * cfg.lr if fall else cfg.lr, max(1, fall)),
  )
  rate = optax.join_schedules(parts, [warm, cfg.steps - fall])
  return ((".*", optax.adamw(rate, b1=0.9, b2=0.999, weight_decay=cfg.weight_decay)),)


def represent(params: Mapping[str, Any], frozen: Frozen, cfg: Config) -> dict[str, Any]:
  """{"tokens": f_mix [tokens, context_dim]} of `frozen.subject`, a Look of one or several photos of one person.

  Of several it is what the mixer makes of all of them, if it was trained on several; else the plain mean of their
  tokens, which nobody trained the ControlNet to read.
  """
  look: Any = frozen.subject
  look = jax.tree.map(lambda x: x[None], look) if cfg.photos > 1 else look
  return {"tokens": mix(params["mixer"], look, _mixer(frozen, cfg)).mean(0)}


def condition(identities: Sequence[Identity], b: Backbone, prompts: Prompts, cfg: Config, **how) -> Conditioning:
  """The prompts' contexts, and as the ControlNet's the face of each: one identity for all, or one per prompt."""
  cond, count = conditioning.contexts(b, prompts, None, **how), prompts.ids[0].shape[0]
  if len(identities) not in (1, count):
    raise UserError(f"{len(identities)} faces for {count} prompts: give one for all, or one each")
  tokens = jnp.stack([jnp.asarray(i["tokens"]) for i in identities])
  return dataclasses.replace(cond, control_context=jnp.broadcast_to(tokens, (count, *tokens.shape[1:])))


def export(identity: Identity, b: Backbone, cfg: Config) -> Export:
  """UserError: a face alone is of no use to diffusers; the add-on folder is what it opens."""
  raise UserError("a face of FaceSnap is not exported alone: its add-on folder opens in diffusers, see its README.md")
