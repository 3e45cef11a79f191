"""DreamBooth (Ruiz et al. 2023): the UNet itself learns that a rare word means this person.

Pictures of the class, which the model makes beforehand, keep it from forgetting what a person is. The
whole UNet trains, or low-rank changes of its attention (LoRA, the default on SDXL). The text encoder
trains only if asked; otherwise both prompts are encoded once. The placeholder stands for the rare word and the class
noun, "sks person", so prompts written for other methods can be used unchanged.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from idejax import draws, tree
from idejax.errors import UserError
from idejax.methods.contract import ClassPictures, Export, Identity, Metrics, Needs, Rates, Scope
from idejax.model import anchors, conditioning, diffusion
from idejax.model.backbone import Backbone, Conditioning, Nets, predict, with_unet
from idejax.model.conditioning import Prompts
from idejax.model.tokens import Tokenizer
from idejax.person import subject
from idejax.person.augment import Augment
from idejax.person.subject import Example, Frozen, Subject
from idejax.ranges import above, at_least, between, from_to_below, not_empty, with_person

LORA = (r"\.attn[12]\.(to_[qkv]|to_out\.0)\.kernel$",)
TEXT_LORA = (r"\.self_attn\.(q|k|v|out)_proj\.kernel$",)
_TABLE = "text_model.embeddings.token_embedding"

scope: Scope = "person"


@dataclasses.dataclass(frozen=True)
class Config:
  """DreamBooth."""

  trains: Literal["auto", "unet", "lora"] = "auto"
  """Train all of the UNet, or low-rank changes of its attention; auto: the UNet, but LoRA on SDXL."""
  word: Annotated[str, not_empty] = "sks person"
  """What training captions call the person: a rare word and a class noun, each a single token."""
  templates: Annotated[tuple[str, ...], with_person] = ("a photo of {}",)
  """Training captions; {} is where the word goes."""
  class_prompt: Annotated[str, not_empty] = "a photo of a person"
  """Caption of the class pictures, and the prompt that they are made with."""
  class_pictures: Annotated[int, at_least(1)] = 200
  """How many pictures of the class the model makes before training, for prior preservation."""
  prior: Annotated[float, at_least(0)] = 1.0
  """Weight of the class pictures in the loss; with 0 none are made."""
  text_encoder: bool = False
  """Train the text encoder too, on SDXL both: all of it, or with LoRA low-rank changes of its attention."""
  face_weight: Annotated[float, at_least(0)] = 0.0
  """How much more the loss of the person's pictures counts where the face is; 0: alike everywhere, as in the paper."""
  variants: bool = False
  """Train on the mirrored and pasted variants too, not on the photo alone."""
  rank: Annotated[int, at_least(1)] = 16
  """Rank of the low-rank changes (LoRA)."""
  alpha: Annotated[float, above(0)] = 16.0
  """LoRA's change is alpha / rank times the product of its factors."""
  steps: Annotated[int, at_least(1)] = 800
  """Training steps."""
  batch: Annotated[int, at_least(1)] = 1
  """Examples of the person in a step; as many of the class come with them."""
  lr: Annotated[float, between(0, 1)] = 5e-6
  """Learning rate of the UNet, when all of it trains."""
  lora_lr: Annotated[float, between(0, 1)] = 1e-4
  """Learning rate of the low-rank changes."""
  text_lr: Annotated[float | None, between(0, 1)] = None
  """Learning rate of the text encoder, or of its low-rank changes. Default: the UNet's."""
  schedule: Literal["constant", "cosine"] = "constant"
  """Whether the learning rate stays, as in the paper, or falls to zero along half a cosine."""
  ema: Annotated[float, from_to_below(0, 1)] = 0.0
  """Momentum of an average over the steps that is kept in place of the last step's weights; 0: none."""
  weight_decay: Annotated[float, between(0, 1)] = 1e-2
  """Weight decay of everything that trains."""
  clip: Annotated[float, above(0)] = 1.0
  """Largest norm of the gradient."""
  strength: Annotated[float, between(0, 10)] = 1.0
  """Share of the change that acts in pictures; `idejax sample --strength` can change it."""
  negative: Literal["person", "base"] = "person"
  """Whose weights read negative prompts: the person's or the base model's."""

  @property
  def vectors(self) -> int:
    return len(self.word.split())


PRESETS = {
  "paper": Config(),
  "lora": Config(trains="lora"),
  # No caption of the miniature has the letter q as a word: its embedding was never trained.
  "miniature": Config(
    trains="lora", word="q person", steps=300, batch=4, lora_lr=5e-4, schedule="cosine", ema=0.95, negative="base"
  ),
}


def needs(cfg: Config, nets: Nets) -> Needs:
  """The class prompt is the last caption."""
  return Needs(
    captions=(*cfg.templates, cfg.class_prompt),
    tokens=cfg.vectors,
    words=(cfg.word,),
    constants=constants,
    augment=Augment(flip=cfg.variants),
    override=override,
    plain_negative=cfg.negative == "base",
    class_pictures=ClassPictures(cfg.class_prompt, cfg.class_pictures) if cfg.prior else None,
    unet_gradients=LORA if _low_rank(cfg, nets) else ("",),
    alone="" if _low_rank(cfg, nets) else "it trains the whole UNet, a copy for each",
  )


def _low_rank(cfg: Config, nets: Nets) -> bool:
  return cfg.trains == "lora" or cfg.trains == "auto" and nets.xl


def constants(b: Backbone, tokenizers: Sequence[Tokenizer], names: Sequence[str], cfg: Config) -> dict[str, Any]:
  """{"rows": the name's embeddings [1, 1, P, d] per encoder, "text": Conditioning of the captions}.

  In place of "text", where the text encoder trains: {"prompts": the captions, "ids": the name's tokens [P] per encoder}.
  """
  parts = [anchors.word_rows(b, tokenizers, w) for w in cfg.word.split()]
  if not parts:
    raise UserError("word is empty; DreamBooth needs a rare word and a class noun, such as sks person")
  rows = tuple(jnp.concatenate(r)[None, None] for r in zip(*parts))
  texts = [c.replace("{}", "<id>") for c in (*cfg.templates, cfg.class_prompt)]
  prompts = conditioning.tokenise(tokenizers, texts, {"<id>": cfg.vectors})
  if not cfg.text_encoder:
    return {"rows": rows, "text": conditioning.contexts(b, prompts, rows)}
  ids = tuple(np.array([t.bpe.ids(w)[0] for w in cfg.word.split()]) for t in tokenizers)
  return {"rows": rows, "prompts": prompts, "ids": ids}


def init(key: jax.Array, frozen: Frozen, cfg: Config) -> dict[str, Any]:
  """{"unet": all its parameters} or {"lora": {path: {"lora_A" [I, r], "lora_B" [r, O]}}}, float32.

  With the text encoder, {"text": ...} or {"text_lora": ...} beside it, the same of {"text_encoder"[, "text_encoder_2"]}.
  With an average, {"average": all of that} too.
  """
  b = frozen.backbone
  if cfg.prior:
    _class_pictures(frozen.subject)
  if not _low_rank(cfg, b.nets):
    parts = {"unet": b.params["unet"]} | ({"text": _encoders(b)} if cfg.text_encoder else {})
    return _averaged(jax.tree.map(lambda w: jnp.array(w, jnp.float32), parts), cfg)
  weights = {"lora": _draw_factors(key, _attention(b), cfg)}
  if cfg.text_encoder:
    weights["text_lora"] = _draw_factors(jax.random.fold_in(key, 1), _text_attention(b), cfg)
  return _averaged(weights, cfg)


def _draw_factors(key: jax.Array, of: Mapping[str, Any], cfg: Config) -> Any:
  """Factors for a tree of kernels, whose product is zero at first."""
  kernels, structure = jax.tree.flatten(of)

  def factors(key, w):  # [I, O], or [depth, I, O] where blocks are scanned
    *stack, inputs, outputs = w.shape
    uniform = jax.nn.initializers.variance_scaling  # as torch's Kaiming with a = sqrt(5)
    kaiming = uniform(1 / 3, "fan_in", "uniform", batch_axis=tuple(range(len(stack))))
    return {"lora_A": kaiming(key, (*stack, inputs, cfg.rank)), "lora_B": jnp.zeros((*stack, cfg.rank, outputs))}

  pairs = [factors(k, w) for k, w in zip(jax.random.split(key, len(kernels)), kernels)]
  return jax.tree.unflatten(structure, pairs)


def _averaged(weights: dict[str, Any], cfg: Config) -> dict[str, Any]:
  return weights | {"average": jax.tree.map(jnp.array, weights)} if cfg.ema else weights


def _attention(b: Backbone) -> dict[str, Any]:
  """The subtree of kernels that LoRA changes."""
  return tree.split(b.params["unet"], LORA)[0]


def _encoders(b: Backbone) -> dict[str, Any]:
  """The text encoders' parameters, by component."""
  return {n: p for n, p in b.params.items() if n.startswith("text_encoder")}


def _text_attention(b: Backbone) -> dict[str, Any]:
  """The subtrees of the text encoders' kernels that LoRA changes."""
  return {n: tree.split(p, TEXT_LORA)[0] for n, p in _encoders(b).items()}


def _class_pictures(s: Subject) -> tuple[Any, Any]:
  """Mean and log-variance of the class pictures' latents. UserError if there are none."""
  if s.prior_mean is None or s.prior_logvar is None:
    raise UserError("DreamBooth needs pictures of the class for prior preservation; make them, or set prior to 0")
  return s.prior_mean, s.prior_logvar


def represent(params: Mapping[str, Any], frozen: Frozen, cfg: Config) -> dict[str, Any]:
  """The name, the weights, and `scale`: how much of their change is applied when sampling."""
  weights = params.get("average", params)
  return {"rows": _rows(weights, frozen), **weights, "scale": jnp.float32(cfg.strength)}


def _rows(weights: Mapping[str, Any], frozen: Frozen) -> tuple[Any, ...]:
  """The name's embeddings, from the table as it is trained where all of the text encoder trains."""
  if "text" not in weights:
    return frozen.constants["rows"]
  tables = [p[_TABLE]["embedding"] for _, p in sorted(weights["text"].items())]
  return tuple(t[ids][None, None] for t, ids in zip(tables, frozen.constants["ids"]))


def condition(identities: Sequence[Identity], b: Backbone, prompts: Prompts, cfg: Config, **how) -> Conditioning:
  """The contexts by the people's text encoder, where theirs is changed: by the mean of their changes."""
  if changes := text_override(identities, b, cfg):
    b = conditioning.with_text(b, changes)
  return conditioning.contexts(b, prompts, conditioning.join(identities), **how)


def override(identities: Sequence[Identity], b: Backbone, cfg: Config) -> dict[str, Any]:
  """The changed UNet, all of it or its attention's kernels; several identities change it by their mean."""
  if "lora" in identities[0]:
    return merge(_attention(b), [i["lora"] for i in identities], _parts(identities), cfg)
  return _mix(b.params["unet"], [i["unet"] for i in identities], _parts(identities))


def text_override(identities: Sequence[Identity], b: Backbone, cfg: Config) -> dict[str, Any]:
  """The changed parameters of the text encoders, by component; {} where they did not train."""
  if "text_lora" in identities[0]:
    return merge(_text_attention(b), [i["text_lora"] for i in identities], _parts(identities), cfg)
  if "text" in identities[0]:
    return _mix(_encoders(b), [i["text"] for i in identities], _parts(identities))
  return {}


def _parts(identities: Sequence[Identity]) -> list[Any]:
  """How much each of several people's changes counts."""
  return [i["scale"] / len(identities) for i in identities]


def _mix(base: Any, tuned: Sequence[Any], part: Sequence[Any]) -> Any:
  """Weights between the base's and the tuned ones."""
  # Not base + change: with one identity at scale 1 these are its weights to the bit.
  mix = lambda w, *new: (1 - sum(part)) * w + sum(p * x for p, x in zip(part, new))
  return jax.tree.map(mix, base, *tuned)


def merge(kernels: Mapping[str, Any], loras: Sequence[Any], part: Sequence[Any], cfg: Config) -> dict[str, Any]:
  """Kernels + alpha / rank sum_i part_i A_i B_i, float32."""

  def add(w, *factors):
    change = sum(p * f["lora_A"].astype(jnp.float32) @ f["lora_B"].astype(jnp.float32) for p, f in zip(part, factors))
    return w.astype(jnp.float32) + cfg.alpha / cfg.rank * change

  return jax.tree.map(add, kernels, *loras)


def export(identity: Identity, b: Backbone, cfg: Config) -> Export:
  low_rank = None
  if "lora" in identity:
    low_rank = _sides(identity["lora"], identity, cfg)
  text_low_rank = {n: _sides(x, identity, cfg) for n, x in identity.get("text_lora", {}).items()}
  text = text_override([identity], b, cfg)
  rest = {k: v for k, v in identity.items() if k not in ("text", "text_lora")}
  stock = dataclasses.replace(cfg, negative="person") if cfg.negative == "base" else None
  return Export(
    identity["rows"], override([identity], b, cfg), low_rank, stock=stock, called=cfg.word,
    text=text, text_low_rank=text_low_rank, without_text=rest if text else None,
  )  # fmt: skip


def _sides(factors: Any, identity: Identity, cfg: Config) -> tuple[Any, Any]:
  """The trees of A and of B, with all scales in B."""
  pair, gain = lambda x: isinstance(x, Mapping) and "lora_A" in x, cfg.alpha / cfg.rank * identity["scale"]
  side = lambda name, by: jax.tree.map(lambda f: f[name] * by, factors, is_leaf=pair)
  return side("lora_A", 1.0), side("lora_B", gain)


def loss(
  params: Mapping[str, Any], frozen: Frozen, batch: Mapping[str, Any], keys: jax.Array, cfg: Config
) -> tuple[jax.Array, Metrics]:
  """mean ||eps - eps_theta(z_t, t, "sks person")||^2 + prior mean ||...||^2 of class pictures."""
  k_variant, k_caption, k_latent, k_t, k_noise, k_class = draws.split(keys, 6)
  s, b = frozen.subject, frozen.backbone
  variant = draws.integers(k_variant, s.mean.shape[0] if cfg.variants else 1)
  caption = draws.integers(k_caption, len(cfg.templates))
  pick = lambda x, index: jnp.asarray(x)[index]
  of_person = subject.make_example(
    b, variant, caption, pick(s.mean, variant), pick(s.logvar, variant), (k_latent, k_t, k_noise)
  )
  if not cfg.prior:
    return objective(params, frozen, of_person, None, cfg)
  mean, logvar = _class_pictures(s)
  k_picture, *k_rest = draws.split(k_class, 4)
  picture = draws.integers(k_picture, mean.shape[0])
  last = jnp.full_like(caption, len(cfg.templates))
  of_class = subject.make_example(b, picture, last, pick(mean, picture), pick(logvar, picture), tuple(k_rest))
  return objective(params, frozen, of_person, of_class, cfg)


def objective(params: Mapping[str, Any], frozen: Frozen, of_person: Example, of_class: Example | None, cfg: Config):
  """(loss, metrics) from examples of the person and of the class, in one call of the UNet."""
  b = frozen.backbone
  changes = params["unet"] if "unet" in params else merge(_attention(b), [params["lora"]], [1.0], cfg)
  # Person and class alternate: joined end to end, rows would move between the devices that hold the batch.
  interleave = lambda x, y: jnp.stack([x, y], axis=1).reshape(-1, *x.shape[1:])
  both = of_person if of_class is None else jax.tree.map(interleave, of_person, of_class)
  cond = _encoded(params, frozen, both.caption, cfg)
  region = None
  if cfg.face_weight:
    of_face = face_region(frozen.subject, of_person.variant, cfg)
    region = of_face if of_class is None else interleave(of_face, jnp.ones_like(of_face))
  error = diffusion.mse(predict(with_unet(b, changes), both.noisy, both.t, cond), both.target, region)
  average = jnp.float32(0)
  if "average" in params:
    average = tree.follow(params["average"], {k: v for k, v in params.items() if k != "average"})
  if of_class is None:
    return error.mean() + average, {"diffusion": error.mean()}
  person, others = error.reshape(-1, 2).mean(0)
  return person + cfg.prior * others + average, {"diffusion": person, "class": others}


def _encoded(params: Mapping[str, Any], frozen: Frozen, caption: jax.Array, cfg: Config) -> Conditioning:
  """The conditioning of captions [B]: looked up, or by the text encoder as it is now."""
  if "prompts" in frozen.constants:
    whole = {"rows": _rows(params, frozen), **params, "scale": 1.0}
    return condition([whole], frozen.backbone, conditioning.take(frozen.constants["prompts"], caption), cfg, remat=True)
  text = frozen.constants["text"]
  row = lambda x: None if x is None else x[caption]
  return Conditioning(text.k[:, caption], text.v[:, caption], row(text.pooled), row(text.time_ids))


def face_region(s: Subject, variant: jax.Array, cfg: Config) -> jax.Array:
  """Square roots of the loss's weights [B, h, w, 1], whose mean over a picture is 1: `mse` squares what it is given."""
  weight = 1 + cfg.face_weight * jnp.asarray(s.face_mask)[variant].astype(jnp.float32)[..., None]
  return jnp.sqrt(weight / weight.mean((1, 2, 3), keepdims=True))


def rates(cfg: Config) -> Rates:
  def group(lr):
    rate = optax.cosine_decay_schedule(lr, cfg.steps) if cfg.schedule == "cosine" else lr
    adam = optax.adamw(rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=cfg.weight_decay)
    return optax.chain(optax.clip_by_global_norm(cfg.clip), adam)

  text = lambda lr: group(lr if cfg.text_lr is None else cfg.text_lr)
  return (
    (r"^average", optax.sgd(1 - cfg.ema)),
    (r"^unet", group(cfg.lr)),
    (r"^lora", group(cfg.lora_lr)),
    (r"^text_lora", text(cfg.lora_lr)),
    (r"^text", text(cfg.lr)),
  )
