"""Train one person, or many at once, by one method: the same pure step jitted, mapped or vmapped.

A person's numbers depend on the person alone: the key is folded with the photos' digest, and every
draw with step and row. So one person alone and the same person in a crowd agree to round-off.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from idejax import draws, sharding
from idejax.model.backbone import Backbone
from idejax.model.conditioning import Prompts
from idejax.person import subjects
from idejax.person.subject import Frozen, Subject
from idejax.training import loop
from idejax.training import step as st

if TYPE_CHECKING:
  from idejax.methods.contract import Method


def keys(seed: int, digests: Sequence[str]) -> jax.Array:
  """A key per person, from the seed and the digest of their photos."""
  words = jnp.array([[int(d[i : i + 8], 16) for i in (0, 8)] for d in digests], jnp.uint32)
  fold = jax.vmap(lambda w: jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), w[0]), w[1]))
  return fold(words)


def one(
  method: "Method",
  cfg: Any,
  frozen: Frozen,
  key: jax.Array,
  mesh: jax.sharding.Mesh,
  dtype: Any = None,
  plateau: int = 0,
  accumulate: int = 1,
  ema: float = 0.0,
  whole: bool = False,
):
  """(step, state, frozen) of one person: jitted, the batch split over the mesh.

  ema: momentum of an average of the parameters, `state.ema`; 0: none. whole: frozen weights are whole on each device also
    where a mesh holds the state in parts.

  accumulate: parts into which the batch is cut, computed one after another. If the devices do not divide
    the rows of a part, some devices are left out; or, if they hold parts of the weights or belong to several
    processes, groups of devices compute the same rows.
  """
  mesh, rows = _split(mesh, cfg.batch // accumulate)
  replicated = sharding.replicated(mesh)
  step, tx = _step(
    method,
    cfg,
    dtype,
    plateau=plateau,
    accumulate=accumulate,
    ema=ema or None,
    replicated=replicated if mesh.shape["fsdp"] > 1 else None,
  )
  begin = functools.partial(_begin, method, cfg, tx, plateau, ema=ema > 0)
  places = sharding.by_shape((jax.eval_shape(begin, key, frozen), frozen), mesh)
  frozen = sharding.put(frozen, replicated if whole else places[1])
  state = jax.jit(begin, out_shardings=places[0])(sharding.put(key, replicated), frozen)
  run, state, frozen = st.on_mesh(step, mesh, state, frozen, rows=rows, whole=whole)
  return MeshStep(run, mesh, rows, replicated), state, frozen


def _split(mesh: jax.sharding.Mesh, batch: int) -> tuple[jax.sharding.Mesh, jax.sharding.NamedSharding]:
  """The mesh that trains one person, and the sharding of the batch's rows on it."""
  if batch % mesh.size == 0:
    return mesh, sharding.batch(mesh)
  devices, count = list(mesh.devices.flat), int(np.gcd(batch, mesh.size))
  if mesh.shape["fsdp"] == 1:
    if jax.process_count() == 1:
      return (few := sharding.make_mesh(devices[:count])), sharding.batch(few)
    mesh = sharding.make_mesh(devices, fsdp=mesh.size // count)
  return mesh, sharding.batch(mesh, ("replica",) if batch % mesh.shape["replica"] == 0 else ())


def person_mesh(
  method: "Method", cfg: Any, frozen: Frozen, mesh: jax.sharding.Mesh, ema: float = 0.0
) -> jax.sharding.Mesh:
  """The mesh for one person. It holds a large state in parts, because a UNet's weights with their gradients and
  moments do not fit on most devices."""
  tx = _step(method, cfg, None)[1]
  state = jax.eval_shape(lambda f: st.init(method.init(jax.random.key(0), f, cfg), tx, ema=ema > 0), frozen)
  if sum(x.size for x in jax.tree.leaves(state)) < LARGE:
    return mesh
  return sharding.make_mesh(list(mesh.devices.flat), int(np.gcd(PARTS, mesh.size)))


LARGE = 1 << 28  # numbers (1 GB) in a state, moments included, above which it is held in parts
PARTS = 8  # how many parts; fewer if these do not divide the devices


def replicas(
  method: "Method", cfg: Any, frozen: Frozen, key: jax.Array, devices: Sequence[jax.Device], dtype: Any = None
):
  """`one` with `jax.pmap`: classic replicas that average gradients. Batch [devices, B / devices]."""
  step, tx = _step(method, cfg, dtype, axis="replica")
  params = method.init(init_key(key), frozen, cfg)
  state = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(devices), *jnp.shape(x))), st.init(params, tx))
  run = jax.pmap(step, axis_name="replica", in_axes=(0, None, 0, None), devices=devices, donate_argnums=0)
  return run, state, frozen


def crowd(
  method: "Method",
  cfg: Any,
  backbone: Backbone,
  constants: Any,
  captions: Prompts,
  people: Subject,
  key: jax.Array,
  mesh: jax.sharding.Mesh,
  dtype: Any = None,
  plateau: int = 0,
  accumulate: int = 1,
):
  """(step, state, frozen) of N people, who train side by side: the step has no collective.

  `people` and `key` have a leading axis N, which is split over the mesh; N is a multiple of its devices.
  """
  step, tx = _step(method, cfg, dtype, plateau=plateau, accumulate=accumulate)
  axes = Frozen(None, None, None, 0)  # type: ignore[arg-type]
  frozen = Frozen(backbone, constants, captions, people)
  begin = functools.partial(_begin, method, cfg, tx, plateau)
  each, replicated = sharding.batch(mesh), sharding.replicated(mesh)
  places = Frozen(replicated, replicated, replicated, each)  # type: ignore[arg-type]
  frozen = sharding.put(frozen, places)
  begin_all = jax.vmap(begin, in_axes=(0, axes), spmd_axis_name=sharding.AXES)
  state = jax.jit(begin_all, out_shardings=each)(sharding.put(key, each), frozen)
  # Each device runs its people as if it were alone. If XLA divided the people instead, jax would refuse
  # kernels that divide rows themselves (`nets.attention`).
  specs = jax.tree.map(lambda place: place.spec, (each, places, replicated, each))
  here = jax.shard_map(
    jax.vmap(step, in_axes=(0, axes, None, 0)),
    mesh=mesh,
    in_specs=specs,
    out_specs=(each.spec, each.spec),
    check_vma=False,
  )
  run = jax.jit(here, in_shardings=(each, places, replicated, each), out_shardings=(each, each), donate_argnums=0)
  return MeshStep(run, mesh, replicated, each), state, frozen


def together(
  method: "Method",
  cfg: Any,
  backbone: Backbone,
  constants: Any,
  captions: Prompts,
  people: Sequence[Subject],
  keys: jax.Array,
  mesh: jax.sharding.Mesh,
  plateau: int = 0,
  accumulate: int = 1,
):
  """(step, state, frozen, key) of everybody in `people`: `one` for a single person, else a `crowd`, padded.

  keys: one per person, [N]; the key given back is what the step takes: a scalar, or one per row of the crowd.
  """
  how: dict[str, Any] = {"plateau": plateau, "accumulate": accumulate}
  if len(people) == 1:
    frozen = Frozen(backbone, constants, captions, people[0])
    return *one(method, cfg, frozen, keys[0], person_mesh(method, cfg, frozen, mesh), **how), keys[0]
  order = pad(range(len(people)), mesh.size)
  key = keys[np.array(order)]
  everybody = subjects.stack([people[i] for i in order])
  return *crowd(method, cfg, backbone, constants, captions, everybody, key, mesh, **how), key


@dataclasses.dataclass(frozen=True)
class MeshStep:
  """A compiled step that is lowered and called under its mesh, as kernels on TPU need it."""

  run: Any
  mesh: jax.sharding.Mesh
  rows: jax.sharding.NamedSharding  # where the batch lies
  keys: jax.sharding.NamedSharding

  def __call__(self, state: st.State, frozen: Any, batch: st.Batch, key: jax.Array) -> tuple[st.State, st.Metrics]:
    with jax.set_mesh(self.mesh):
      return self.run(state, frozen, batch, key)

  def lower(self, *args):
    with jax.set_mesh(self.mesh):
      return self.run.lower(*args)


def rows(step: MeshStep, count: int) -> Callable[[int], st.Batch]:
  """The batches of a person's training: only indices of rows, from which random numbers are derived."""
  index = sharding.put({"index": np.arange(count, dtype=np.int32)}, step.rows)
  return lambda i: index


def train(
  step: MeshStep,
  state: st.State,
  frozen: Frozen,
  batch: Callable[[int], st.Batch],
  key: jax.Array,
  run: loop.Run,
  facts: dict[str, Any],
  people: int | None = None,
) -> Iterator[tuple[int, st.State]]:
  """Steps with checkpoints, as `loop.resume_and_train` yields them.

  batch: the data of step i, on the devices: `rows` for people; a data set's rows, with their "index", for a
    method of scope dataset.
  people: how many of a crowd's rows are not padding, which depends on the number of devices.
  """
  key = sharding.put(key, step.keys)
  return loop.resume_and_train(step, state, frozen, batch, key=key, run=run, facts=facts, people=people)


def scorer(
  method: "Method", cfg: Any, step: MeshStep, frozen: Frozen, batches: Sequence[st.Batch], key: jax.Array
) -> Callable[[Any], float]:
  """params -> the mean loss over `batches`, which lie on the devices as the step's do, by draws of `key` that are
  always the same. Nothing trains."""
  joined = sharding.replicated(step.mesh) if step.mesh.shape["fsdp"] > 1 else None

  def run(params, frozen, batch, key, n):
    if joined is not None:  # as in `step.make_step`
      params, frozen = jax.lax.with_sharding_constraint((params, frozen), joined)
    return method.loss(params, frozen, batch, draws.keys(key, n, batch["index"]), cfg)[0].astype(jnp.float32)

  compiled, key = jax.jit(run, out_shardings=step.keys), sharding.put(key, step.keys)

  def score(params: Any) -> float:
    with jax.set_mesh(step.mesh):
      return float(np.mean([np.asarray(compiled(params, frozen, b, key, n)) for n, b in enumerate(batches)]))

  return score


def represent(method: "Method", cfg: Any, frozen: Frozen, params: Any) -> dict[str, Any]:
  """The identity of one person, as numpy arrays."""
  return jax.device_get(jax.jit(lambda p, f: method.represent(p, f, cfg))(params, frozen))


def represent_all(method: "Method", cfg: Any, frozen: Frozen, params: Any, count: int) -> list[dict[str, Any]]:
  """`represent` of each of `count` people whom `together` trained."""
  if count == 1:
    return [represent(method, cfg, frozen, params)]
  each = ((frozen._replace(subject=person(frozen.subject, i)), person(params, i)) for i in range(count))
  return [represent(method, cfg, own, own_params) for own, own_params in each]


def person(tree: Any, i: int) -> Any:
  """Person i of a crowd's state, parameters or subject."""
  return jax.tree.map(lambda x: x[i], tree)


def pad(people: Sequence[Any], devices: int) -> list[Any]:
  """People repeated at the end so that every device has as many."""
  return [*people, *[people[-1]] * (-len(people) % devices)]


def _step(method: "Method", cfg: Any, dtype: Any, **how: Any):
  tx = st.by_path(*method.rates(cfg))
  return st.make_step(functools.partial(method.loss, cfg=cfg), tx, dtype=dtype, **how), tx


def _begin(
  method: "Method",
  cfg: Any,
  tx: optax.GradientTransformation,
  plateau: int,
  key: jax.Array,
  frozen: Frozen,
  ema: bool = False,
) -> st.State:
  """The state before the first step."""
  return st.init(method.init(init_key(key), frozen, cfg), tx, ema=ema, trend=plateau > 0)


def init_key(key: jax.Array) -> jax.Array:
  """The key of the initial values."""
  return jax.random.fold_in(key, 2**31)  # steps fold in smaller numbers
