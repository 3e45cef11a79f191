"""The training step that a configuration will run, on shapes: `idejax.training.fit` itself jits it."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from idejax import sharding
from idejax.cli.method_options import Settings
from idejax.data import celebrities
from idejax.errors import UserError
from idejax.methods import METHODS
from idejax.methods.contract import Needs, encode_captions
from idejax.model.backbone import Backbone
from idejax.person.subject import Frozen, Subject
from idejax.planning import model
from idejax.planning.topology import Topology
from idejax.runtime import flops
from idejax.training import fit
from idejax.training import step as st


class Work(NamedTuple):
  """A step and the shapes that it takes."""

  step: fit.MeshStep  # step(state, frozen, batch, key)
  args: tuple[Any, ...]
  people: int  # 0: one person, the batch over all devices
  backbone: Backbone
  settings: Settings
  fsdp: int  # devices among which large arrays are divided
  state_bytes: int  # this and the next two: on one device
  frozen_bytes: int
  gradient_bytes: int


def build(s: Settings, t: Topology, devices: list[jax.Device], people: int, fsdp: int | None = None) -> Work:
  """The work of `idejax personalize`: one person (`people` 0) or `people` at once on each device.

  fsdp: devices among which large arrays are divided; None: as `idejax personalize` divides them.
  """
  method, cfg = METHODS[s.run.method], s.cfg
  if fsdp and len(devices) % fsdp:
    raise UserError(f"--fsdp is {fsdp}; it must divide the {len(devices)} devices of {t.name}")
  mesh = sharding.make_mesh(devices, fsdp or 1)
  frozen = shapes(s, dtype_of(s, t))
  reason = method.needs(cfg, frozen.backbone.nets).alone
  if people and reason:
    raise UserError(f"{s.run.method} trains one person at a time: {reason}")
  if not people and fsdp is None:
    mesh = fit.person_mesh(method, cfg, frozen, mesh)
  total = people * len(devices)
  keys = jax.eval_shape(lambda: fit.keys(0, ["0" * 16] * max(1, total)))
  results: list[Any] = []
  how = {"plateau": s.run.plateau, "accumulate": s.run.accumulate}

  def begin(f, k):  # `fit` on shapes: everything but the devices' work
    if total:
      results.append(fit.crowd(method, cfg, f.backbone, f.constants, f.captions, f.subject, k, mesh, **how))
    else:
      results.append(fit.one(method, cfg, f, k[0], mesh, **how))
    return results[0][1:]

  if total:
    frozen = frozen._replace(subject=_many(frozen.subject, total))
  state, arrays = jax.eval_shape(begin, frozen, keys)
  index = {"index": jax.ShapeDtypeStruct((cfg.batch,), jnp.int32)}
  key = keys if total else jax.eval_shape(lambda k: k[0], keys)
  return Work(
    results[0][0],
    (state, arrays, index, key),
    total,
    frozen.backbone,
    s,
    mesh.shape["fsdp"],
    *_bytes_per_device(state, frozen, total, len(devices), mesh),
  )


def _bytes_per_device(
  state: Any, frozen: Frozen, total: int, count: int, mesh: jax.sharding.Mesh
) -> tuple[int, int, int]:
  """Bytes of state, frozen arrays and gradients on one device, where `fit` puts them."""
  if total:
    return size(state) // count, size(frozen[:-1]) + size(frozen.subject) // count, size(state.params) // count

  def part(tree):
    places = jax.tree.leaves(sharding.by_shape(tree, mesh))
    return sum(
      size(x) * math.prod(p.shard_shape(x.shape)) // max(1, math.prod(x.shape))
      for x, p in zip(jax.tree.leaves(tree), places)
    )

  return part(state), part(frozen), part(state.params)


# Words that methods may look up beside names, `Needs.words` and captions.
_WORDS = ("person", "face", "man", "woman", "photo", "of", "a")


def dtype_of(s: Settings, t: Topology) -> Any:
  """The dtype of computation: the run's, or else the platform's usual one."""
  return jnp.dtype(s.run.dtype or ("float32" if t.platform == "cpu" else "bfloat16"))


def shapes(s: Settings, dtype: Any, attention: str | None = None) -> Frozen:
  """Everything that one person's loss reads, as shapes."""
  cfg, name = s.cfg, s.run.model
  b = model.abstract(name, dtype, attention, s.run.remat)
  who = celebrities.names(name)
  needs = METHODS[s.run.method].needs(cfg, b.nets)
  words = model.tokenizers(name, [*who, *needs.words, *needs.captions, *_WORDS])
  constants = model.constants(needs, b, words, who, cfg)
  captions = encode_captions(needs, words, s.run.name)
  arrays = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), captions)
  return Frozen(b, constants, arrays, _subject(b, needs))


def _subject(b: Backbone, needs: Needs) -> Subject:
  side, channels, count = b.nets.unet.sample_size, b.nets.latent_channels, needs.augment.count
  S = lambda *shape: jax.ShapeDtypeStruct(shape, np.float32)
  prior = needs.class_pictures
  more = S(prior.count, side, side, channels) if prior else None
  latents, mask = S(count, side, side, channels), S(count, side, side)
  return Subject(latents, latents, S(512), S(count, 512), mask, mask, None, more, more)


def _many(subject: Subject, count: int) -> Subject:
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), subject)


def count_flops(s: Settings) -> int:
  """Matmuls and convolutions of one step of one person, from the jaxpr with plain attention."""
  method, cfg = METHODS[s.run.method], s.cfg
  frozen = shapes(s, jnp.float32, "plain")
  tx = st.by_path(*method.rates(cfg))
  step = st.make_step(functools.partial(method.loss, cfg=cfg), tx)
  key = jax.eval_shape(lambda: jax.random.key(0))
  state = jax.eval_shape(lambda k, f: st.init(method.init(k, f, cfg), tx), key, frozen)
  return flops.count(step, state, frozen, {"index": jax.ShapeDtypeStruct((cfg.batch,), jnp.int32)}, key)


def size(tree: Any) -> int:
  """Bytes of a tree of arrays or shapes; a key counts as two words."""
  item = lambda x: 8 if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x.dtype.itemsize
  return sum(math.prod(x.shape) * item(x) for x in jax.tree.leaves(tree))
