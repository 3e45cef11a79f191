"""SeFi-IDE (arXiv 2402.00631): for each stage of diffusion one word for keys and one for values.

    (P_i^K, P_i^V), i = 1..5       computed from the class word by a small self-attention block
    A_t = softmax(Q (W_k c_K)^T)   maps of the person's prompt, in every cross-attention
    A_r = softmax(Q (W_k c_r)^T)   maps of the same prompt with the class word: same Q, no second pass
    L   = mean ||eps - eps_theta(z_t, t, c_K, c_V)||^2 + lambda ||mean over layers of A_r - A_t||^2

Stage 1 is the noisiest fifth of the timesteps, as everywhere in idejax (ProSpect counts from the
clean end; which number a stage has does not matter to what is learned). The face-wise attention loss
keeps the word from swallowing the background, or the other words. UNet, VAE and text encoder do not
train. The method is not limited to faces: with `word` dog and the caption "a photo of {}" it learns a dog.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

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
from idejax.nets.attention import weights
from idejax.person import subject, templates
from idejax.person.augment import Augment
from idejax.person.subject import Frozen
from idejax.ranges import at_least, between, one_word, with_person

HEADS, INNER = 8, 512  # heads and width of the block's self-attention
ENTRIES = 8 * 32 * 32 * 77  # heads, queries and tokens of a map of the paper's: what sums are scaled to everywhere

scope: Scope = "person"


@dataclasses.dataclass(frozen=True)
class Config:
  """SeFi-IDE."""

  stages: Annotated[int, between(1, 1000)] = 5
  """Stages of diffusion that have words of their own."""
  tie_kv: bool = False
  """Use one word for keys and values."""
  parameterisation: Literal["module", "direct"] = "module"
  """Train the block that makes the words, or the table of words itself."""
  init: Literal["anchor", "prospect"] = "anchor"
  """Where words begin: as the class word, or as what a random block makes of it."""
  word: Annotated[str, one_word] = "person"
  """Class of what is learned; a single token."""
  templates: Annotated[tuple[str, ...], with_person] = ("a photo of the face of {}",)
  """Training captions; {} is where the word goes. For other classes than people: "a photo of {}"."""
  weight: Annotated[float, at_least(0)] = 0.003
  """Weight of the attention loss (lambda); with 0 there is none."""
  option: Literal[1, 2, 3] = 3
  """Which maps the attention loss compares: of the word (1), of the prompt (2), or of all tokens (3)."""
  reduction: Literal["sum", "mean"] = "sum"
  """How the squared differences of a picture's maps are reduced."""
  layers: Literal["all", "native"] = "all"
  """Compare the attention maps of all layers, or only of those whose resolution is --target."""
  every: Annotated[int, at_least(1)] = 1
  """Compare only every n-th block in stacks deeper than this; less memory and time for SDXL."""
  target: Annotated[int, between(1, 128)] = 32
  """Width and height to which maps are resized."""
  stop_reference: bool = True
  """Let no gradient through the class word's maps."""
  augmented: bool = True
  """Vary the photo as the paper does (colours, size); else it is only mirrored."""
  steps: Annotated[int, at_least(1)] = 1000
  """Training steps."""
  batch: Annotated[int, at_least(1)] = 1
  """Examples in a step."""
  lr: Annotated[float, between(0, 1)] = 5e-3
  """Learning rate."""
  clip: Annotated[float, at_least(0)] = 0.0
  """Largest norm of the gradient; 0: any."""

  @property
  def vectors(self) -> int:
    return 1


_OBJECT = ("a photo of {}",)
PRESETS = {
  "paper": Config(),
  "paper-sdxl": Config(every=4),
  "stable": Config(lr=1e-4, clip=1.0),  # 5e-3 may move a word by several units in a step
  "object": Config(word="dog", templates=_OBJECT),
  **{f"pairs-{n}": Config(stages=n) for n in (1, 3, 5, 7, 9, 10)},
  "option-1": Config(option=1),
  "option-2": Config(option=2),
  "option-3": Config(option=3),
  **{f"lambda-{x:g}": Config(weight=x) for x in (0.0001, 0.001, 0.003, 0.01, 0.05)},
  "ti+attention_loss": Config(stages=1, tie_kv=True),
  "ti+per_stage": Config(weight=0.0),
  "prospect": Config(stages=10, tie_kv=True, weight=0.0, init="prospect", lr=1e-4, steps=600),
  "miniature": Config(
    augmented=False,
    parameterisation="direct",
    templates=templates.PHOTO,
    weight=1e-4,  # a development person's prompts were obeyed as well as with the paper's, the face kept better
    target=8,
    steps=150,
    batch=8,
    lr=1e-2,
  ),
}


def needs(cfg: Config, nets: Nets) -> Needs:
  return Needs(
    captions=cfg.templates,
    tokens=cfg.vectors,
    words=(cfg.word, *(t.format(cfg.word) for t in cfg.templates)),
    constants=constants,
    words_only=True,
    augment=Augment(jitter=0.2, scale=(0.1, 1.0)) if cfg.augmented else Augment(),
  )


def constants(b: Backbone, tokenizers: Sequence[Tokenizer], names: Sequence[str], cfg: Config) -> dict[str, Any]:
  """{"word": [1, d] per text encoder[, "keys": W_k c_r of each caption T, {path: [(depth,) T, L, C]}]}."""
  out: dict[str, Any] = {"word": anchors.word_rows(b, tokenizers, cfg.word)}
  if cfg.weight:
    reference = conditioning.tokenise(tokenizers, [t.format(cfg.word) for t in cfg.templates], {})
    keys = backbone.project(b, conditioning.contexts(b, reference, None))
    out["keys"] = {path: k.squeeze(-4) for path, (k, _) in keys.items()}  # one stage
  return out


# What is trained.


def init(key: jax.Array, frozen: Frozen, cfg: Config) -> dict[str, Any]:
  """{"module": a block per text encoder}, or {"table": [S, W, d] per text encoder}."""
  keys = jax.random.split(key, len(frozen.constants["word"]))
  module = tuple(_init_block(k, w.shape[-1], cfg) for k, w in zip(keys, frozen.constants["word"]))
  if cfg.parameterisation == "module":
    return {"module": module}
  return {"table": table({"module": module}, frozen, cfg)}


def _init_block(key, width: int, cfg: Config):
  """Weights drawn as PyTorch does for linear layers; with init anchor the last layer gives zero."""
  keys = iter(jax.random.split(key, 14))

  def dense(i, o, bias=True):
    p = blocks.dense_init(next(keys), i, o, blocks.torch_default, bias)
    if bias:
      p["bias"] = jax.random.uniform(next(keys), (o,), minval=-(i**-0.5), maxval=i**-0.5)
    return p

  def attention():
    return {n: dense(width, INNER, False) for n in ("to_q", "to_k", "to_v")} | {"to_out": dense(INNER, width)}

  norms = {f"norm{i}": blocks.norm_init(width) for i in (1, 2, 3)}
  out = dense(4 * width, cfg.stages * (1 if cfg.tie_kv else 2) * width)
  if cfg.init == "anchor":
    out = jax.tree.map(jnp.zeros_like, out)
  return norms | {"attn1": attention(), "attn2": attention(), "ff": {"proj": dense(width, 8 * width), "out": out}}


# Forward.


def block(p: Mapping[str, Any], word: jax.Array) -> jax.Array:
  """The class word's embedding [1, d] -> [1, n d]: two self-attentions and a gated layer."""
  x = word[None]
  for i in ("1", "2"):
    y = blocks.layer_norm(p[f"norm{i}"], x)
    x += blocks.multihead(p[f"attn{i}"], y, y, HEADS)
  y, gate = jnp.split(blocks.dense(p["ff"]["proj"], blocks.layer_norm(p["norm3"], x)), 2, axis=-1)
  return blocks.dense(p["ff"]["out"], y * jax.nn.gelu(gate, approximate=False))[0]


def table(params: Mapping[str, Any], frozen: Frozen, cfg: Config) -> tuple[jax.Array, ...]:
  """The words [S, W, d] for each text encoder; W is 2, keys and values, or 1."""
  if "table" in params:
    return params["table"]
  roles = 1 if cfg.tie_kv else 2

  def make(p, word):
    word = word.astype(p["norm1"]["scale"].dtype)
    rows = block(p, word).reshape(cfg.stages, roles, -1)
    return rows + jnp.broadcast_to(word, rows.shape) if cfg.init == "anchor" else rows

  return tuple(make(p, word) for p, word in zip(params["module"], frozen.constants["word"]))


def represent(params: Mapping[str, Any], frozen: Frozen, cfg: Config) -> dict[str, Any]:
  return {"rows": tuple(r[:, :, None] for r in table(params, frozen, cfg))}


def condition(identities: Sequence[Identity], b: Backbone, prompts: Prompts, cfg: Config, **how) -> Conditioning:
  return conditioning.contexts(b, prompts, conditioning.join(identities), **how)


def export(identity: Identity, b: Backbone, cfg: Config) -> Export:
  return Export(rows=identity["rows"])


# The attention loss.


def resize(maps: jax.Array, side: int) -> jax.Array:
  """[.., h, w, L] -> [.., side, side, L], bilinear between pixel centres; sums over L are kept."""
  shape = (*maps.shape[:-3], side, side, maps.shape[-1])
  return jax.image.resize(maps, shape, "bilinear", antialias=False)


def attention_loss(
  queries_keys: Mapping[str, Any],
  keys: Mapping[str, jax.Array],
  columns: jax.Array,
  shape: tuple[int, int],
  cfg: Config,
) -> jax.Array:
  """|| mean over layers of (A_r - A_t) ||^2 of each row, [B].

  Args:
    queries_keys: those of each cross-attention, as `predict` captures them.
    keys: the reference's keys [(depth,) B, L, C] by path.
    columns: [B, L], 1 for the tokens that count.
    shape: (height, width) of the latents.

  Where layers differ in their number of heads, each layer's heads are averaged first. The sum is scaled to
  the paper's number of entries, so that lambda means the same on all backbones.
  """
  flat = tree.flatten(queries_keys)
  layers = {path: (flat[f"{path}.qk.0"], flat[f"{path}.qk.1"]) for path in keys}
  heads = {q.shape[-2] for q, _ in layers.values()}
  same_heads = len(heads) == 1
  h, w = shape
  side = lambda q: round((h * w / q.shape[-3]) ** 0.5)  # latents per query along a side
  if cfg.layers == "native":
    layers = {p: (q, k) for p, (q, k) in layers.items() if -(-h // side(q)) == cfg.target == -(-w // side(q))}
    if not layers:
      raise UserError(f"layers native: no cross-attention of this model is {cfg.target} x {cfg.target}")

  @functools.partial(jax.checkpoint, static_argnums=0)  # maps are large and cheap: recompute them for the gradient
  def difference(per, q, k, reference):
    q, k, reference = (x.astype(jnp.float32) for x in (q, k, reference))
    reference = reference.reshape(*reference.shape[:2], *k.shape[-2:])
    expected = weights(q, reference)
    if cfg.stop_reference:
      expected = jax.lax.stop_gradient(expected)
    maps = expected - weights(q, k)  # [B, N, h w, L]
    if not same_heads:
      maps = maps.mean(1, keepdims=True)
    maps = maps.reshape(*maps.shape[:2], -(-h // per), -(-w // per), maps.shape[-1])
    return resize(maps, cfg.target)

  total, count = jnp.zeros(()), 0
  for path, (q, k) in layers.items():
    if q.ndim == 4:
      total, count = total + difference(side(q), q, k, keys[path]), count + 1
    else:
      step = cfg.every if len(q) > cfg.every else 1
      stack = tuple(x[::step] for x in (q, k, keys[path]))
      compare = functools.partial(difference, side(q))

      def add(sum, x, compare=compare):
        return sum + compare(*x), None

      start = jnp.zeros(jax.eval_shape(compare, *(x[0] for x in stack)).shape)
      total += jax.lax.scan(add, start, stack)[0]
      count += len(stack[0])
  square = jnp.square(total / count) * columns[:, None, None, None, :]
  if cfg.reduction == "mean":
    return square.mean((1, 2, 3, 4))
  return square.sum((1, 2, 3, 4)) * (ENTRIES / square[0].size)


def columns(prompts: Prompts, option: int) -> jax.Array:
  """The tokens whose maps are compared, [B, L]: 1 the word, 2 up to the end of the text, 3 all."""
  at = jnp.arange(prompts.ids[0].shape[1])[None]
  if option == 1:
    return (at == jnp.asarray(prompts.where[0])[:, :1]).astype(jnp.float32)
  if option == 2:
    return (at <= jnp.asarray(prompts.eos[0])[:, None]).astype(jnp.float32)
  return jnp.ones(prompts.ids[0].shape)


# Training.


def loss(
  params: Mapping[str, Any], frozen: Frozen, batch: Mapping[str, Any], keys: jax.Array, cfg: Config
) -> tuple[jax.Array, Metrics]:
  """mean ||eps - eps_theta(z_t, t, c_K, c_V)||^2 + lambda * the attention loss, each row at its own stage."""
  b, e = frozen.backbone, subject.draw(frozen, keys)
  prompts = subject.prompts(frozen, e)
  # Only the passes of each row's own stage go through the text encoder: two a row.
  at = backbone.stage(e.t, cfg.stages, b.nets.schedule.num_train_timesteps)
  rows = tuple(r[at][:, None] for r in represent(params, frozen, cfg)["rows"])
  cond = conditioning.contexts(b, prompts, rows, per_row=True, remat=True)
  if not cfg.weight:
    error = diffusion.mse(predict(b, e.noisy, e.t, cond), e.target).mean()
    return error, {"diffusion": error}
  out, queries_keys = predict(b, e.noisy, e.t, cond, capture=True)
  error = diffusion.mse(out, e.target).mean()
  reference = {path: jnp.take(k, e.caption, axis=-3) for path, k in frozen.constants["keys"].items()}
  height, width = e.noisy.shape[1:3]
  distance = attention_loss(queries_keys, reference, columns(prompts, cfg.option), (height, width), cfg).mean()
  ratio = cfg.weight * distance / jnp.maximum(error, jnp.finfo(jnp.float32).tiny)
  return error + cfg.weight * distance, {"diffusion": error, "attention": distance, "ratio": ratio}


def rates(cfg: Config) -> Rates:
  adam = optax.adam(cfg.lr, b1=0.9, b2=0.999, eps=1e-8)
  return ((r"", optax.chain(optax.clip_by_global_norm(cfg.clip), adam) if cfg.clip else adam),)
