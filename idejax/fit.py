"""Train one person, or many at once, by one method: the same pure step jitted, mapped or vmapped.

A person's numbers depend on the person alone: the key is folded with the photos' digest, and every
draw with step and row. So one person alone and the same person in a crowd agree to round-off.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from idejax import loop, sharding
from idejax import step as st
from idejax.backbone import Backbone
from idejax.checkpoint import Checkpoints
from idejax.conditioning import Prompts
from idejax.subject import Frozen, Subject


def keys(seed: int, digests: Sequence[str]) -> jax.Array:
  """A key per person, from the seed and the digest of their photos."""
  words = jnp.array([[int(d[i : i + 8], 16) for i in (0, 8)] for d in digests], jnp.uint32)
  fold = jax.vmap(lambda w: jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), w[0]), w[1]))
  return fold(words)


def one(module: Any, cfg: Any, frozen: Frozen, key: jax.Array, mesh: jax.sharding.Mesh,
        dtype: Any = None):  # fmt: skip
  """(step, state, frozen) of one person: jitted, the batch split over the mesh."""
  step, tx = _step(module, cfg, dtype)
  params = jax.jit(lambda f: module.init(_init_key(key), f, cfg))(frozen)
  if cfg.batch % mesh.size: mesh = sharding.make_mesh(list(mesh.devices.flat)[: np.gcd(cfg.batch, mesh.size)])
  run, state, frozen = st.on_mesh(step, mesh, st.init(params, tx), frozen)
  return Meshed(run, mesh), state, frozen


def mapped(module: Any, cfg: Any, frozen: Frozen, key: jax.Array, devices: Sequence[Any], dtype: Any = None):
  """The same with `jax.pmap`: classic replicas that average gradients. Batch [devices, B / devices]."""
  step, tx = _step(module, cfg, dtype, axis="replica")
  params = module.init(_init_key(key), frozen, cfg)
  state = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(devices), *jnp.shape(x))), st.init(params, tx))
  run = jax.pmap(step, axis_name="replica", in_axes=(0, None, 0, None), devices=devices, donate_argnums=0)
  return run, state, frozen


def crowd(module: Any, cfg: Any, backbone: Backbone, constants: Any, captions: Prompts, people: Subject,
          key: jax.Array, mesh: jax.sharding.Mesh, dtype: Any = None):  # fmt: skip
  """(step, state, frozen) of N people, `people` and `key` with a leading axis N that is split over
  the mesh; N must be a multiple of its devices. Nobody waits for anybody: the step has no collective."""
  step, tx = _step(module, cfg, dtype)
  axes = Frozen(None, None, None, 0)  # type: ignore[arg-type]
  frozen = Frozen(backbone, constants, captions, people)
  begin = lambda k, f: st.init(module.init(_init_key(k), f, cfg), tx)
  each, whole = sharding.batch(mesh), sharding.replicated(mesh)
  places = Frozen(whole, whole, whole, each)  # type: ignore[arg-type]
  vmapped = functools.partial(jax.vmap, spmd_axis_name=sharding.AXES)
  state = jax.jit(vmapped(begin, in_axes=(0, axes)), out_shardings=each)(key, frozen)
  run = jax.jit(vmapped(step, in_axes=(0, axes, None, 0)), in_shardings=(each, places, whole, each),
                out_shardings=(each, each), donate_argnums=0)  # fmt: skip
  return Meshed(run, mesh), state, jax.device_put(frozen, places)


class Meshed(NamedTuple):
  """A compiled step that is lowered and called under its mesh, as kernels on TPU want it."""

  run: Any
  mesh: jax.sharding.Mesh

  def __call__(self, *args):
    with jax.set_mesh(self.mesh): return self.run(*args)

  def lower(self, *args):
    with jax.set_mesh(self.mesh): return self.run.lower(*args)


def train(step: st.Step, state: st.State, frozen: Frozen, cfg: Any, key: jax.Array, run: loop.Run,
          facts: dict[str, Any]) -> Iterator[tuple[int, st.State]]:  # fmt: skip
  """Steps with checkpoints; yields as `loop.train` and, when there is nothing left to do, once."""
  index = {"index": np.arange(cfg.batch, dtype=np.int32)}
  with Checkpoints(run.folder / "checkpoints") as checkpoints:
    state = loop.resume(checkpoints, state, facts)
    done = int(np.max(jax.device_get(state.step)))
    if done >= run.steps: yield done, state
    else:
      yield from loop.train(step, state, frozen, lambda i: index, key=key, run=run,
                            checkpoints=checkpoints, facts=facts)  # fmt: skip


def represent(module: Any, cfg: Any, frozen: Frozen, params: Any) -> dict[str, Any]:
  """What sampling needs of one person, as numpy."""
  return jax.device_get(jax.jit(lambda p, f: module.represent(p, f, cfg))(params, frozen))


def person(tree: Any, i: int) -> Any:
  """Person i of a crowd's state, parameters or subject."""
  return jax.tree.map(lambda x: x[i], tree)


def pad(people: Sequence[Any], devices: int) -> list[Any]:
  """People repeated at the end so that every device has as many."""
  return [*people, *[people[-1]] * (-len(people) % devices)]


def _step(module: Any, cfg: Any, dtype: Any, axis: str | None = None):
  tx = st.by_path(*module.rates(cfg))
  return st.make_step(functools.partial(module.loss, cfg=cfg), tx, dtype=dtype, axis=axis), tx


def _init_key(key: jax.Array) -> jax.Array:
  return jax.random.fold_in(key, 2**31)  # steps fold in smaller numbers

