"""The training step of a configuration as it will run, on shapes: jitted by `idejax.fit` itself."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from idejax import conditioning, fit, flops, sharding
from idejax import step as st
from idejax.backbone import Backbone
from idejax.errors import UserError
from idejax.method_options import Settings
from idejax.methods import METHODS
from idejax.planning import model
from idejax.planning.topology import Topology
from idejax.subject import Frozen, Subject


class Work(NamedTuple):
  """A step and the shapes that it takes."""

  step: Any  # jitted: step(state, frozen, batch, key)
  args: tuple[Any, ...]
  people: int  # 0: one person, the batch over all devices
  backbone: Backbone
  settings: Settings
  fsdp: int  # devices among which large arrays are divided
  state_bytes: int  # on one device, as the next two
  frozen_bytes: int
  gradient_bytes: int


def build(s: Settings, t: Topology, devices: list[Any], people: int, fsdp: int | None = None) -> Work:
  """What `idejax personalize` would run: one person (`people` 0) or `people` at once on each device.

  fsdp: devices among which large arrays are divided; None: as `idejax personalize` divides them.
  """
  module, cfg = METHODS[s.run.method], s.cfg
  if fsdp and len(devices) % fsdp: raise UserError(f"--fsdp is {fsdp}; it must divide the {len(devices)} devices of {t.name}")
  if people and (reason := module.alone(cfg)): raise UserError(f"{s.run.method} trains one person at a time: {reason}")
  mesh = sharding.make_mesh(devices, fsdp or 1)
  frozen = shapes(s, dtype_of(s, t))
  if not people and fsdp is None: mesh = fit.parted(module, cfg, frozen, mesh)
  total = people * len(devices)
  keys = jax.eval_shape(lambda: fit.keys(0, ["0" * 16] * max(1, total)))
  made: list[Any] = []
  how = {"plateau": s.run.plateau, "accumulate": s.run.accumulate}

  def begin(f, k):  # everything of `fit` but the devices' work: its arrays are shapes here
    if total: made.append(fit.crowd(module, cfg, f.backbone, f.constants, f.captions, f.subject, k, mesh, **how))
    else: made.append(fit.one(module, cfg, f, k[0], mesh, **how))
    return made[0][1:]

  if total: frozen = frozen._replace(subject=_many(frozen.subject, total))
  state, placed = jax.eval_shape(begin, frozen, keys)
  index = {"index": jax.ShapeDtypeStruct((cfg.batch,), jnp.int32)}
  key = keys if total else jax.eval_shape(lambda k: k[0], keys)
  return Work(made[0][0], (state, placed, index, key), total, frozen.backbone, s, mesh.shape["fsdp"],
              *_held(state, frozen, total, len(devices), mesh))  # fmt: skip


def _held(state: Any, frozen: Frozen, total: int, count: int, mesh: Any) -> tuple[int, int, int]:
  """Bytes of state, frozen arrays and gradients on one device, where `fit` puts them."""
  if total: return size(state) // count, size(frozen[:-1]) + size(frozen.subject) // count, size(state.params) // count

  def part(tree):
    places = jax.tree.leaves(sharding.by_shape(tree, mesh))
    return sum(size(x) * math.prod(p.shard_shape(x.shape)) // max(1, math.prod(x.shape))
               for x, p in zip(jax.tree.leaves(tree), places))  # fmt: skip

  return part(state), part(frozen), part(state.params)


# Words that methods look up beside names, their own `word` and captions.
_ASKED = ("person", "face", "man", "woman", "photo", "of", "a")


def dtype_of(s: Settings, t: Topology) -> Any:
  return jnp.dtype(s.run.dtype or ("float32" if t.platform == "cpu" else "bfloat16"))


def shapes(s: Settings, dtype: Any, attention: str | None = None) -> Frozen:
  """All that one person's loss reads, as shapes."""
  module, cfg, name = METHODS[s.run.method], s.cfg, s.run.model
  b = model.abstract(name, dtype, attention, s.run.remat)
  who = model.names(name)
  words = model.tokenizers(name, [*who, getattr(cfg, "word", ""), *module.captions(cfg, "person"), *_ASKED])
  constants = model.constants(module, b, words, who, cfg)
  captions = conditioning.tokenise(words, module.captions(cfg, s.run.name), {s.run.name: cfg.vectors})
  arrays = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), captions)
  return Frozen(b, constants, arrays, _subject(b, module, cfg))


def _subject(b: Backbone, module: Any, cfg: Any) -> Subject:
  side, channels, count = b.nets.unet.sample_size, b.nets.latent_channels, module.augment(cfg).count
  S = lambda *shape: jax.ShapeDtypeStruct(shape, np.float32)
  prior = module.prior(cfg)
  more = S(prior[1], side, side, channels) if prior else None
  latents, mask = S(count, side, side, channels), S(count, side, side)
  return Subject(latents, latents, S(512), S(count, 512), mask, mask, None, more, more)


def _many(subject: Subject, count: int) -> Subject:
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), subject)


def count_flops(s: Settings) -> int:
  """Matmuls and convolutions of one step of one person, from the jaxpr with plain attention."""
  module, cfg = METHODS[s.run.method], s.cfg
  frozen = shapes(s, jnp.float32, "plain")
  tx = st.by_path(*module.rates(cfg))
  step = st.make_step(functools.partial(module.loss, cfg=cfg), tx)
  key = jax.eval_shape(lambda: jax.random.key(0))
  state = jax.eval_shape(lambda k, f: st.init(module.init(k, f, cfg), tx), key, frozen)
  return flops.count(step, state, frozen, {"index": jax.ShapeDtypeStruct((cfg.batch,), jnp.int32)}, key)


def size(tree: Any) -> int:
  """Bytes of a tree of arrays or shapes; a key counts as two words."""
  item = lambda x: 8 if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x.dtype.itemsize
  return sum(math.prod(x.shape) * item(x) for x in jax.tree.leaves(tree))
