"""ID-EA (arXiv 2507.11990): two words, tokens of the face, and an adapter that puts them into a prompt.

    E_f = W_f phi(x)                                 the photo's face embedding as M tokens
    E_r = MHA(E_f; anchor, anchor)                   ID-Enhancer: seen by an average celebrity's name
    c'  = c + beta tanh(gamma) MHA([c; W_p E_r])     ID-Adapter, once per prompt, text rows only
    K', V' of every cross-attention                  learned too, as changes of the base model's

The two words begin as the text encoder's output for the average name (cross-initialisation). The text
encoder, the VAE and the rest of the UNet do not train. A prompt without the person is not adapted.

With several people in a prompt, each adapter reads the plain prompt and their changes are added; the
changes of K' and V' are averaged. The identities must share one Config.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax

from idejax import tree
from idejax.errors import UserError
from idejax.methods.contract import Adapter, Export, Identity, Metrics, Needs, Rates, Scope
from idejax.model import anchors, backbone, conditioning, diffusion, kernel_changes
from idejax.model.backbone import Backbone, Conditioning, Nets, predict
from idejax.model.conditioning import Prompts
from idejax.model.tokens import Tokenizer
from idejax.nets import blocks
from idejax.person import subject, templates
from idejax.person.subject import Frozen
from idejax.ranges import above, at_least, between, with_person

_KV = r"\.attn2\.to_[kv]\.kernel$"
# What modules that were trained for many people depend on.
_STRUCTURE = ("face_tokens", "repeat", "enhancer", "enhancer_residual", "adapter", "naive_concat", "start", "start_size",
              "anchor", "anchor_space", "face_scale", "heads", "reach", "adapter_norm", "beta", "kv", "rank")  # fmt: skip

scope: Scope = "person"


@dataclasses.dataclass(frozen=True)
class Config:
  """ID-EA."""

  face_tokens: Annotated[int, at_least(1)] = 2
  """Number of tokens that the face becomes."""
  repeat: bool = False
  """Project the face to a single token and repeat it."""
  enhancer: Literal["paper", "released", "none"] = "paper"
  """Network that refines the face tokens: the paper's; the released one, with three layers more; or none, so
  that the adapter reads them as they are."""
  enhancer_residual: bool = False
  """Add the face tokens to what the enhancer makes of them; the paper's equation does not."""
  adapter: bool = True
  """Use the adapter. Without it, only the words and the keys and values train."""
  naive_concat: bool = False
  """Put the face tokens into the prompt's last places, mostly padding, without enhancer and adapter."""
  start: Literal["cross", "name"] = "cross"
  """Where the two words begin: at what the text encoder makes of the average name, or at that name itself."""
  start_size: Literal["auto", "output", "names"] = "auto"
  """Length of words that begin cross-initialised: as the encoder's output, or as names; auto: names on SDXL."""
  anchor: Literal["tokens", "words"] = "tokens"
  """What the average name averages: the first and second tokens of names, or their first and last words."""
  anchor_space: Literal["output", "input"] = "output"
  """Whether the enhancer reads the average name as the text encoder's output or as input embeddings."""
  face_scale: Literal["sqrt", "unit"] = "sqrt"
  """Size of the face embedding that is projected: a unit vector, or that times the square root of its width."""
  heads: Annotated[int, at_least(1)] = 8
  """Attention heads of enhancer and adapter."""
  reach: Literal["text", "all"] = "text"
  """Which places of a prompt the adapter reads and changes: those of its text, or all, as in the paper."""
  adapter_norm: bool = True
  """Normalise the prompt's context and the face tokens before the adapter reads them."""
  beta: Annotated[float, between(0, 1)] = 0.4
  """Largest share that the adapter's output can have."""
  kv: Literal["auto", "full", "lora", "none"] = "auto"
  """How the keys and values of cross-attention train; auto: lora for SDXL, else full."""
  rank: Annotated[int, at_least(1)] = 16
  """Rank of the low-rank change of keys and values (--kv lora)."""
  sampling: Literal["full", "rows"] = "full"
  """Make pictures with all that was learned, or with the two words alone."""
  negative: Literal["base", "person"] = "base"
  """Whose keys and values read negative prompts: the base model's or the person's."""
  strength: Annotated[float, between(0, 10)] = 1.0
  """How strongly adapter, keys and values act in pictures; `idejax sample --strength` can change it."""
  templates: Annotated[tuple[str, ...], with_person] = templates.TEMPLATES
  """Training captions; {} is where the phrase goes."""
  phrase: Annotated[str, with_person] = "face of {} person"
  """What stands for the person in a caption; {} is where the two words go."""
  steps: Annotated[int, at_least(0)] = 300
  """Training steps; 0 is enough with --shared."""
  batch: Annotated[int, at_least(1)] = 8
  """Examples in a step."""
  lr: Annotated[float, between(0, 1)] = 1.2e-2
  """Learning rate of the two words."""
  lr_modules: Annotated[float, between(0, 1)] = 1.5e-3
  """Learning rate of face projection, enhancer and adapter."""
  lr_gate: Annotated[float, between(0, 1)] = 1.5e-3
  """Learning rate of the adapter's gate."""
  lr_kv: Annotated[float, between(0, 1)] = 1e-5
  """Learning rate of keys and values with --kv full."""
  lr_lora: Annotated[float, between(0, 1)] = 1e-4
  """Learning rate of keys and values with --kv lora."""
  words_first: Annotated[float, between(0, 1)] = 0.0
  """Share of the steps in which the two words train alone, before all else trains with them."""
  shared_trains: bool = False
  """With --shared: train the shared modules too, from where they are; otherwise the words alone."""
  train_enhancer: bool = True
  """Train face projection and enhancer; otherwise they stay random."""
  weight_decay: Annotated[float, between(0, 1)] = 1e-2
  """Weight decay of all kernels."""
  rows_decay: Annotated[float, between(0, 1)] = 0.0
  """Weight decay of the two words."""
  adam_eps: Annotated[float, above(0)] = 1e-7
  """Epsilon of Adam."""
  reg: Literal["none", "l2", "mahalanobis", "mahalanobis_released"] = "none"
  """Penalty on how far the words move from where they began; the released form uses a float32 pseudo-inverse."""
  reg_weight: Annotated[float, at_least(0)] = 1e-5
  """Weight of that penalty; 8e-6 suits mahalanobis."""

  RENAMED: ClassVar[dict[str, dict[bool, dict[str, Any]]]] = {
    "no_adapter": {True: {"adapter": False}, False: {}},
    "no_enhancer": {True: {"enhancer": "none"}, False: {}},
  }
  BEFORE: ClassVar[dict[str, Any]] = {"face_scale": "unit", "reach": "all", "adapter_norm": False, "negative": "person"}

  @property
  def vectors(self) -> int:
    return 2

  @property
  def adapts(self) -> bool:
    return self.adapter and not self.naive_concat

  @property
  def enhances(self) -> bool:
    return self.adapts and self.enhancer != "none"


_BUILT_IN = Config(
  templates=templates.PHOTO, phrase="{}", start="name", steps=150, lr=1e-2, lr_modules=2e-4, lr_gate=5e-3, lr_kv=3e-4,
  strength=0.5,
)  # fmt: skip
# The paper's equations to the letter.
LITERAL: dict[str, Any] = dict(face_scale="unit", reach="all", adapter_norm=False, negative="person")
# What the authors' code does: it trains words and adapter only, decays both, and its test script loads the words.
_RELEASED = Config(
  repeat=True, enhancer="released", kv="none", sampling="rows", steps=320, lr_modules=1.2e-2, train_enhancer=False,
  rows_decay=1e-2, reg="mahalanobis_released", reg_weight=8e-4, **LITERAL,
)  # fmt: skip
PRESETS = {
  "paper": Config(),
  "paper-sdxl": Config(lr=5e-4),  # words as long as names, which are a fortieth as long as the encoders' outputs
  "literal": Config(**LITERAL),
  "released": _RELEASED,
  "miniature": _BUILT_IN,
  "miniature-sdxl": dataclasses.replace(_BUILT_IN, lr=1e-3, lr_lora=3e-3, strength=0.4),
}


def needs(cfg: Config, nets: Nets) -> Needs:
  return Needs(
    captions=tuple(t.format(cfg.phrase) for t in cfg.templates),
    tokens=cfg.vectors,
    constants=constants,
    recogniser=True,
    override=override,
    plain_negative=cfg.negative == "base",
    unet_gradients=() if cfg.kv == "none" else (_KV,),
    own=("rows",),
    modules=("face", "enhancer", "adapter", "kv"),
    structure=_STRUCTURE,
  )


def constants(b: Backbone, tokenizers: Sequence[Tokenizer], names: Sequence[str], cfg: Config) -> dict[str, Any]:
  """{"start": [2, d] per text encoder, "anchor": [2, D] of the context's width}."""
  of_name = anchors.read if cfg.anchor_space == "output" else anchors.mean
  anchor = of_name(b, tokenizers, names, by=cfg.anchor)
  if cfg.start == "name":
    start = anchors.mean(b, tokenizers, names, by=cfg.anchor)
  else:
    start = anchors.cross(b, tokenizers, names, by=cfg.anchor, size=cfg.start_size)
  return {"start": start, "anchor": jnp.concatenate(anchor, axis=-1)}


# What is trained.


def init(key: jax.Array, frozen: Frozen, cfg: Config) -> dict[str, Any]:
  """{"rows"[, "face", "enhancer", "adapter", "kv"]}; without what is shared, unless that trains on."""
  b, width = frozen.backbone, frozen.backbone.nets.unet.context_dim
  if width % cfg.heads:
    raise UserError(f"{cfg.heads} heads do not divide this model's text width, {width}")
  if cfg.enhancer_residual and cfg.enhancer == "released":
    raise UserError("the released enhancer's output is twice as wide as the face tokens: no enhancer_residual")
  k_face, k_enhancer, k_adapter, k_kv = jax.random.split(key, 4)
  params: dict[str, Any] = {"rows": tuple(jnp.array(r, jnp.float32) for r in frozen.constants["start"])}
  if cfg.adapts or cfg.naive_concat:
    count = 1 if cfg.repeat else cfg.face_tokens
    params["face"] = blocks.dense_init(k_face, frozen.subject.face.shape[-1], count * width)
  if cfg.enhances:
    params["enhancer"] = _init_enhancer(k_enhancer, width, cfg)
  if cfg.adapts:
    params["adapter"] = _init_adapter(k_adapter, width, cfg)
  kv = cfg.kv if cfg.kv != "auto" else "lora" if b.nets.xl else "full"
  if kv != "none":
    kernels = tree.split(b.params["unet"], [_KV])[0]
    params["kv"] = kernel_changes.whole(kernels) if kv == "full" else kernel_changes.low_rank(k_kv, kernels, cfg.rank)
  shared = frozen.constants.get("modules", {})
  rest = {k: v for k, v in params.items() if k not in shared}
  return rest | jax.tree.map(lambda x: jnp.array(x, jnp.float32), shared) if cfg.shared_trains else rest


def _init_enhancer(key, width: int, cfg: Config):
  layers = {"to_q": blocks.xavier, "to_k": blocks.xavier, "to_v": blocks.xavier, "to_out": blocks.lecun}
  if cfg.enhancer == "released":
    layers |= dict.fromkeys(("before_q", "before_kv", "after"), blocks.lecun)
  keys = jax.random.split(key, len(layers))
  return {
    name: blocks.dense_init(k, width, 2 * width if name == "after" else width, kernel)
    for k, (name, kernel) in zip(keys, layers.items())
  }


def _init_adapter(key, width: int, cfg: Config):
  k_project, k_in, k_out = jax.random.split(key, 3)
  inputs = 2 * width if cfg.enhances and cfg.enhancer == "released" else width
  return {
    "project": blocks.dense_init(k_project, inputs, width),
    "in_proj": blocks.dense_init(k_in, width, 3 * width, blocks.xavier),
    "out_proj": blocks.dense_init(k_out, width, width),
    "gamma": jnp.zeros(()),
  }


# Forward.


def face_rows(p: Mapping[str, Any], face: jax.Array, cfg: Config) -> jax.Array:
  """E_f [M, D] of a face embedding [512], a unit vector: of one so small the enhancer's attention stays flat."""
  size = face.shape[-1] ** 0.5 if cfg.face_scale == "sqrt" else 1.0
  tokens = blocks.dense(p, size * face).reshape(1 if cfg.repeat else cfg.face_tokens, -1)
  return jnp.broadcast_to(tokens, (cfg.face_tokens, tokens.shape[-1]))


def enhance(p: Mapping[str, Any], faces: jax.Array, anchor: jax.Array, cfg: Config) -> jax.Array:
  """E_r [M, D] ([M, 2 D] as released): the face tokens [M, D] attend to the anchor [2, D]."""
  anchor = anchor.astype(faces.dtype)
  x, y = faces[None], anchor[None]
  if "before_q" in p:
    x, y = blocks.dense(p["before_q"], x), blocks.dense(p["before_kv"], y)
  out = blocks.multihead(p, x, y, cfg.heads)[0]
  if "after" in p:
    out = blocks.dense(p["after"], out)
  return out + faces if cfg.enhancer_residual else out


def adapt(p: Mapping[str, Any], context: jax.Array, faces: jax.Array, text: jax.Array, cfg: Config) -> jax.Array:
  """tanh(gamma) MHA([c; W_p E_r]) in the prompt's rows: [B, L, D] from context [B, L, D] and tokens [M, R].

  text: `conditioning.text_places` [B, L]. With reach text MHA reads no other place of the prompt and gives zero there.
  """
  faces = blocks.dense(p["project"], faces)
  x = context.astype(faces.dtype)
  faces = jnp.broadcast_to(faces, (x.shape[0], *faces.shape))
  rows = jnp.concatenate([x, faces], axis=1)
  if cfg.adapter_norm:
    rows = blocks.normalise(rows)
  q, k, v = jnp.split(blocks.dense(p["in_proj"], rows), 3, axis=-1)
  q = q[:, : x.shape[1]]
  if cfg.reach == "all":
    attended = blocks.heads_attend(q, k, v, cfg.heads)
  else:
    attended = blocks.heads_attend(
      q, k, v, cfg.heads, jnp.pad(text, ((0, 0), (0, faces.shape[1])), constant_values=True)
    )
  change = jnp.tanh(p["gamma"]) * blocks.dense(p["out_proj"], attended)
  return change if cfg.reach == "all" else jnp.where(text[..., None], change, 0)


def identity_of(params: Mapping[str, Any], frozen: Frozen, cfg: Config) -> dict[str, Any]:
  """Everything that was learned about a person: {"rows"[, "face", "adapter", "kv", "scale"]}."""
  params = {**frozen.constants.get("modules", {}), **params}
  out: dict[str, Any] = {"rows": tuple(r[None, None] for r in params["rows"])}
  if "face" in params:
    out["face"] = face_rows(params["face"], frozen.subject.face, cfg)
    if cfg.enhances:
      out["face"] = enhance(params["enhancer"], out["face"], frozen.constants["anchor"], cfg)
  out |= {k: params[k] for k in ("adapter", "kv") if k in params}
  return out | {"scale": jnp.ones(())} if "adapter" in out or "kv" in out else out


def represent(params: Mapping[str, Any], frozen: Frozen, cfg: Config) -> dict[str, Any]:
  """`learned` at the strength for sampling, or the two words alone."""
  out = identity_of(params, frozen, cfg)
  if cfg.sampling == "rows":
    return {"rows": out["rows"]}
  return out | {"scale": jnp.float32(cfg.strength)} if "scale" in out else out


def condition(identities: Sequence[Identity], b: Backbone, prompts: Prompts, cfg: Config, **how) -> Conditioning:
  cond = conditioning.contexts(b, prompts, conditioning.join(identities), **how)
  plain = adapted = cond.k[0]
  first, last = 0, plain.shape[1]
  for identity in identities:
    count = identity["rows"][0].shape[2]
    is_named = (jnp.asarray(prompts.where[0])[:, first : first + count] >= 0).any(-1)[:, None, None]
    first += count
    if "adapter" in identity:
      change = adapt(identity["adapter"], plain, identity["face"], conditioning.text_places(prompts), cfg)
      change = cfg.beta * identity["scale"] * change
      adapted = jnp.where(is_named, adapted + change, adapted).astype(plain.dtype)
    elif "face" in identity:
      # In place of text, not behind it: under guidance both prompts need the same length.
      end, last = last, last - identity["face"].shape[0]
      adapted = jnp.where(is_named, adapted.at[:, last:end].set(identity["face"].astype(plain.dtype)[None]), adapted)
  return dataclasses.replace(cond, k=adapted[None], v=adapted[None])


def override(identities: Sequence[Identity], b: Backbone, cfg: Config) -> dict[str, Any]:
  """K' and V': the base model's plus the mean of the identities' changes."""
  changes = [kernel_changes.products(i["kv"], i["scale"]) for i in identities if "kv" in i]
  if not changes:
    return {}
  mean = jax.tree.map(lambda *c: sum(c) / len(identities), *changes)
  base = tree.split(b.params["unet"], [_KV])[0]
  return jax.tree.map(lambda w, c: (w.astype(c.dtype) + c).astype(w.dtype), base, mean)


def export(identity: Identity, b: Backbone, cfg: Config) -> Export:
  """The words, the keys and values, and the adapter or the face tokens that replace padding."""
  low_rank = kernel_changes.factors(identity["kv"], identity["scale"]) if "kv" in identity else None
  out = Export(rows=identity["rows"], unet=override([identity], b, cfg), low_rank=low_rank)
  changes: tuple[Any, ...] = ()
  if "kv" in identity and cfg.negative == "base":
    changes = low_rank or (kernel_changes.products(identity["kv"], identity["scale"]),)
    out = dataclasses.replace(out, stock=dataclasses.replace(cfg, negative="person"))
  if "face" not in identity and not changes:
    return out
  width = sum(r.shape[-1] for r in identity["rows"])
  face = jnp.asarray(identity.get("face", jnp.zeros((0, width))), jnp.float32)
  strength = cfg.beta * float(identity["scale"]) if "scale" in identity else 1.0
  config = {
    "width": width,
    "face_tokens": face.shape[0],
    "face_width": face.shape[1],
    "heads": cfg.heads,
    "strength": strength,
    "normalise": cfg.adapter_norm,
    "text_only": cfg.reach == "text",
    "replaces": "face" in identity and "adapter" not in identity,
  }
  layers = dict(identity.get("adapter", {}))
  arrays = {"face": face} | ({"gamma": jnp.reshape(layers.pop("gamma"), 1)} if layers else {})
  rest = {k: v for k, v in identity.items() if k not in ("adapter", "face")}
  adapter = Adapter("id_adapter", "IDAdapter", "id_ea", config, layers, arrays, changes)
  return dataclasses.replace(out, adapter=adapter, without_adapter=rest)


# Training.


def loss(
  params: Mapping[str, Any], frozen: Frozen, batch: Mapping[str, Any], keys: jax.Array, cfg: Config
) -> tuple[jax.Array, Metrics]:
  """mean ||eps - eps_theta'(z_t, t, c')||^2 + reg_weight * mean distance of the words from their start."""
  e = subject.draw(frozen, keys)
  identity = identity_of(params, frozen, cfg)
  cond = condition([identity], frozen.backbone, subject.prompts(frozen, e), cfg, remat=True)
  b = backbone.with_unet(frozen.backbone, override([identity], frozen.backbone, cfg))
  error = diffusion.mse(predict(b, e.noisy, e.t, cond), e.target).mean()
  kind = "l2" if cfg.reg == "none" else cfg.reg
  offset = jnp.concatenate(
    [anchors.distance(r, r0, kind) for r, r0 in zip(params["rows"], frozen.constants["start"])]
  ).mean()
  metrics = {"diffusion": error, "moved": offset}
  if cfg.adapts:
    metrics["gate"] = jnp.tanh(identity["adapter"]["gamma"])
  return error + (0.0 if cfg.reg == "none" else cfg.reg_weight) * offset, metrics


def rates(cfg: Config) -> Rates:
  adam = lambda lr, decay: optax.adamw(lr, b1=0.9, b2=0.999, eps=cfg.adam_eps, weight_decay=decay)
  first = round(cfg.words_first * cfg.steps)
  late = lambda lr, decay: adam((lambda step: jnp.where(step < first, 0.0, lr)) if first else lr, decay)
  rules = [
    (r"^rows", adam(cfg.lr, cfg.rows_decay)),
    (r"^kv.*\.[AB]$", late(cfg.lr_lora, cfg.weight_decay)),
    (r"^kv", late(cfg.lr_kv, cfg.weight_decay)),
    (r"gamma$", late(cfg.lr_gate, 0.0)),
    (r"bias$", late(cfg.lr_modules, 0.0)),
    (r"", late(cfg.lr_modules, cfg.weight_decay)),
  ]
  if not cfg.train_enhancer:
    rules.insert(0, (r"^(face|enhancer)", optax.set_to_zero()))
  return tuple(rules)
