"""FaceSnap's pretraining on chips that are not there, from shapes alone: nothing is compiled, minutes become seconds.

What is exact: FLOPs of a step (the jaxpr's matmuls and convolutions, recomputation by --remat included), bytes of state
and frozen weights on a device (by the rule that places them), bytes that collectives move (by that placement, each
once). What is not: activations are all that the jaxpr keeps for the backward pass, of which a compiler keeps less;
weights in parts are joined for the loss, all at once in the worst case, one after another in the best. So memory is
told as a range.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType

from idejax import draws, sharding
from idejax.methods import facesnap
from idejax.model import backbone, conditioning
from idejax.model.conditioning import Prompts
from idejax.nets import target
from idejax.person import likeness, recogniser
from idejax.person.subject import Frozen
from idejax.planning import figures, model, topology, work
from idejax.planning.topology import Chip
from idejax.runtime import flops
from idejax.training import fit
from idejax.training import step as st

TOKENS, WIDTH = 257, 1280  # of CLIP ViT-H/14, whose tokens the mixer reads
ASSUMPTIONS = (
  "not compiled: FLOPs are the jaxpr's matmuls and convolutions, at dense bfloat16 peak; memory traffic is the least "
  "that a step must move; collectives are not overlapped; CLIP's tokens come from idejax prepare, and latents too "
  "unless pictures move, whose encoding counts as if it ran at the step's speed; the identity loss counts with its "
  "recogniser, that of a pack by name being IResNet-50"
)


class Device(NamedTuple):
  """A topology by name: chips of a kind, and how many devices jax sees."""

  name: str
  kind: str
  chip: Chip
  devices: int


def read(name: str) -> Device:
  """A topology as --topology names it. UserError for others."""
  t = topology.read(name)
  chip = topology.chip(t.kind)
  share = chip.devices  # jax sees several devices in a chip
  one = Chip(chip.flops / share, chip.memory / share, chip.bandwidth / share, chip.links / share)
  return Device(t.name, t.kind, one, t.size)


@dataclasses.dataclass(frozen=True)
class Shapes:
  """A step's arguments as shapes, at some rows."""

  cfg: facesnap.Config
  frozen: Frozen
  state: st.State

  def batch(self, rows: int) -> dict[str, Any]:
    b = self.frozen.backbone
    side, channels, S = b.nets.unet.sample_size, b.nets.latent_channels, jax.ShapeDtypeStruct
    f32 = lambda *shape: S((rows, *shape), np.float32)
    i32 = lambda *shape: S((rows, *shape), np.int32)
    text = b.nets.text
    return {
      "mean": f32(side, side, channels),
      "logvar": f32(side, side, channels),
      "mask": f32(side, side),
      "marks": f32(72, 2),
      "ids": tuple(i32(t.max_position_embeddings) for t in text),
      "eos": tuple(i32() for _ in text),
      "identity": f32(512),
      "clip": f32(TOKENS, WIDTH),
      "few": f32(),
      "index": i32(),
    }


def shapes(cfg: facesnap.Config, name: str, dtype: Any, attention: str | None, remat: bool, twin: Any = None) -> Shapes:
  """Of a model by name. twin: the recogniser's parameters as shapes, if the identity loss has one."""
  b = model.abstract(name, dtype, attention, remat)
  S = jax.ShapeDtypeStruct
  nothing = Prompts(
    tuple(S((1, t.max_position_embeddings), np.int32) for t in b.nets.text),
    tuple(S((1,), np.int32) for _ in b.nets.text),
    (),
  )
  frozen = Frozen(b, {"clip": S((WIDTH,), np.float32), "recogniser": twin}, nothing, None)  # type: ignore[arg-type]
  tx = st.by_path(*facesnap.rates(cfg))
  begin = lambda k, f: st.init(facesnap.init(k, f, cfg), tx, ema=cfg.ema > 0)
  return Shapes(cfg, frozen, jax.eval_shape(begin, jax.eval_shape(lambda: jax.random.key(0)), frozen))


class Costs(NamedTuple):
  """What one row costs: FLOPs of the masked error's step, of the identity loss where it is due, bytes that the jaxpr
  keeps for the backward pass, and FLOPs of its picture's encoding, where pictures move."""

  error: int
  identity: int
  kept: int
  encode: int = 0


def costs(cfg: facesnap.Config, name: str, remat: bool, twin: Any = None) -> Costs:
  """Of a row, on any topology: most of a plan's time. twin: see `shapes`."""
  error, identity = count_flops(cfg, name, remat, twin)
  with target.compiling_for("tpu"):  # attention by a kernel that keeps no scores
    s = shapes(cfg, name, jnp.bfloat16, None, remat)
    return Costs(error, identity, kept(s), encoding(s) if cfg.augment else 0)


def encoding(s: Shapes) -> int:
  """FLOPs of one picture through the VAE's encoder."""
  b = s.frozen.backbone
  side = b.nets.unet.sample_size * b.nets.factor
  return flops.count(backbone.encode_image, b, jax.ShapeDtypeStruct((1, side, side, 3), b.nets.vae_dtype))


def count_flops(cfg: facesnap.Config, name: str, remat: bool, twin: Any = None) -> tuple[int, int]:
  """FLOPs of a row's step: (of the masked error, of the identity loss on the steps that have it: sampling, recogniser)."""
  s = shapes(cfg, name, jnp.float32, "plain", remat, twin)
  key = jax.eval_shape(lambda: jax.random.key(0))
  plain = dataclasses.replace(cfg, identity_weight=0.0)
  step = st.make_step(functools.partial(facesnap.loss, cfg=plain), st.by_path(*facesnap.rates(cfg)))
  batch = s.batch(1)
  error = flops.count(step, s.state, s.frozen, batch, key)
  if not cfg.identity_weight:
    return error, 0

  def sampled(params, frozen, batch, key):
    b = facesnap.steered(frozen.backbone, params["controlnet"])
    mixed = facesnap.mixer_config(cfg, b.nets.unet.context_dim, WIDTH)
    tokens = facesnap.mix(params["mixer"], facesnap.Look(batch["identity"], batch["clip"]), mixed)
    prompts = Prompts(batch["ids"], batch["eos"], ())
    cond = conditioning.contexts(b, prompts, None)
    side = b.nets.unet.sample_size * b.nets.factor
    cond = dataclasses.replace(cond, control=jnp.zeros((1, side, side, 3)), control_context=tokens)
    noise = draws.normal(draws.keys(key, 0, batch["index"]), batch["mean"].shape[1:])
    images = facesnap.few_steps(b, cond, noise, cfg.identity_steps)
    return images.sum() if twin is None else read_face(frozen.constants["recogniser"], images, batch["marks"]).sum()

  return error, flops.count(jax.grad(sampled), s.state.params, s.frozen, batch, key)


def read_face(twin: Any, images: jax.Array, marks: jax.Array) -> jax.Array:
  """The recogniser's embeddings of pictures, as `facesnap.loss` takes them."""
  return recogniser.embed(twin, likeness.crop(images + 1, marks, recogniser.SIDE) - 1)


def kept(s: Shapes) -> int:
  """Bytes that the jaxpr keeps of a row for the backward pass: what a second row adds."""
  plain = dataclasses.replace(s.cfg, identity_weight=0.0)
  key = jax.eval_shape(lambda: jax.random.key(0))

  def backward(params, frozen, batch, key):
    keys = draws.keys(key, 0, batch["index"])
    return jax.vjp(lambda p: facesnap.loss(p, frozen, batch, keys, plain)[0], params)[1]

  size = lambda rows: work.size(jax.eval_shape(backward, s.state.params, s.frozen, s.batch(rows), key))
  return size(2) - size(1)


class Placed(NamedTuple):
  """Bytes on a device: of state and frozen weights in parts, of what joining them adds, of gradients joined."""

  fsdp: int
  state: int
  frozen: int
  joined: int
  largest: int  # leaf, joined
  gradients: int
  moved: float  # bytes that a device sends in a step's collectives


def place(s: Shapes, count: int, whole: bool = False) -> Placed:
  """Where `fit.person_mesh` and `sharding.by_shape` put everything, and what their collectives move. whole: the frozen
  weights are on every device."""
  large = sum(math.prod(x.shape) for x in jax.tree.leaves(s.state)) >= fit.LARGE
  fsdp = math.gcd(fit.PARTS, count) if large else 1
  mesh = AbstractMesh((count // fsdp, fsdp), sharding.AXES, axis_types=(AxisType.Auto,) * 2)
  replicas = count // fsdp

  def parts(tree):
    for x, where in zip(jax.tree.leaves(tree), jax.tree.leaves(sharding.by_shape(tree, mesh))):
      whole = work.size(x)
      yield whole, whole * math.prod(where.shard_shape(x.shape)) // max(1, math.prod(x.shape))

  here = lambda tree: sum(part for _, part in parts(tree))
  joined = (s.state.params,) if whole else (s.state.params, s.frozen)
  joins = [all_ for tree in joined for all_, part in parts(tree) if part < all_]
  gather = sum(all_ - part for tree in joined for all_, part in parts(tree))
  scatter = sum(all_ - part for all_, part in parts(s.state.params))
  reduce = sum(2 * part * (replicas - 1) / replicas for all_, part in parts(s.state.params) if part < all_)
  reduce += sum(2 * all_ * (count - 1) / count for all_, part in parts(s.state.params) if part == all_)
  fixed = work.size(s.frozen) if whole else here(s.frozen)
  return Placed(
    fsdp, here(s.state), fixed, gather, max(joins, default=0), work.size(s.state.params),
    gather + scatter + reduce,
  )  # fmt: skip


def plan(
  s: Shapes,
  one: Costs,
  d: Device,
  *,
  accumulate: int = 1,
  images: float | None = None,
  share: float = 0.4,
  price: float | None = None,
  whole: bool = False,
) -> dict[str, Any]:
  """All figures of one topology. price: of a chip and hour; share: of the roofline's speed that a run will reach;
  whole: see `place`."""
  cfg = s.cfg
  part = cfg.batch // accumulate
  working = math.gcd(part, d.devices)
  rows = part // working  # of a part, on a device
  due = (1 - cfg.identity_after) / cfg.identity_every if cfg.identity_weight else 0.0
  total = cfg.batch * (one.error + one.encode + due * one.identity)
  p = place(s, d.devices, whole)
  activations = rows * one.kept
  fixed = p.state + p.frozen
  least, most = fixed + activations + 2 * p.largest, fixed + activations + p.joined + p.gradients
  traffic = 2 * p.state + 3 * (p.frozen + p.joined) + 2 * activations * accumulate
  compute, memory, links = total / working / d.chip.flops, traffic / d.chip.bandwidth, p.moved / d.chip.links
  seconds = max(compute, memory) + links
  steps = math.ceil((images or cfg.steps * cfg.batch) / cfg.batch)
  days = steps * seconds / share / 86400
  room = d.chip.memory * (1 - figures.SPARE)
  largest = [int(max(0.0, room - (m - activations)) // one.kept) * d.devices * accumulate for m in (most, least)]
  chips = d.devices // topology.chip(d.kind).devices
  return dict(
    topology=d.name, devices=d.devices, chip=d.kind, batch=cfg.batch, accumulate=accumulate, fsdp=p.fsdp,
    working=working, rows=rows, flops=total, row=one._asdict(), state=p.state, frozen=p.frozen,
    activations=activations, joined=p.joined, gradients=p.gradients, least=least, most=most, memory=d.chip.memory,
    fits="yes" if most <= room else "joined piece by piece" if least <= room else "no", largest_batch=largest,
    moved=p.moved, seconds=seconds, seconds_compute=compute, seconds_memory=memory, seconds_links=links,
    of_floor=compute / seconds, share=share, steps=steps, images=steps * cfg.batch, days=days, price=price,
    cost=None if price is None else price * chips * 24 * days, assumptions=ASSUMPTIONS,
  )  # fmt: skip
