"""People who train jointly: one set of modules for all of them, and beside it what stays each person's own.

A step's rows are of several people: everyone in turn, in a new order each time round. Of a row the method's own loss
is taken, with what is its person's, so a method says no more than which of its parameters are whose (`Needs.own`).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from idejax import draws, sharding
from idejax.model.backbone import Backbone
from idejax.model.conditioning import Prompts
from idejax.person.subject import Frozen, Subject
from idejax.training import fit
from idejax.training import step as st

if TYPE_CHECKING:
  from idejax.methods.contract import Method, Metrics, Rates

_PLAIN, _FACE, _PICTURE = 2**31, 2**31 + 1, 2**31 + 2  # folded into a row's key; the method splits it by small numbers
_PER_PICTURE = ("mean", "logvar", "faces", "face_mask", "hair_mask", "features")


@dataclasses.dataclass(frozen=True)
class Joint:
  """A method as the trainer sees it, for N people at once. `frozen.subject` has a leading axis N.

  Parameters are the method's own, those in `own` with a leading axis N. With captions [N, V, L] each picture has one
  of its own; with captions [T, L] all pictures have all.
  """

  method: "Method"
  own: tuple[str, ...]
  plain: float = (
    0.0  # share of rows whose person has their own as it was at the start: the modules alone carry who it is
  )
  swap: bool = False  # whether a row's face is seen as in any picture of its person, not as in their mean

  def begin(self, key: jax.Array, frozen: Frozen, cfg: Any) -> dict[str, Any]:
    """What is each person's own before training: `frozen.constants["own"]`."""

    def of(person: Subject) -> dict[str, Any]:
      return self._split(self.method.init(key, frozen._replace(subject=person), cfg))[1]

    return jax.vmap(of)(frozen.subject)

  def init(self, key: jax.Array, frozen: Frozen, cfg: Any) -> dict[str, Any]:
    first = self.method.init(key, frozen._replace(subject=fit.person(frozen.subject, 0)), cfg)
    return {**self._split(first)[0], **frozen.constants["own"]}

  def loss(
    self, params: Mapping[str, Any], frozen: Frozen, batch: Mapping[str, Any], keys: jax.Array, cfg: Any
  ) -> tuple[jax.Array, "Metrics"]:
    """The mean of the method's loss over the rows. batch: "person" int32 [B], "weight" [B] (see `rows`)."""
    shared, own = self._split(params)
    extra = lambda n: jax.vmap(jax.random.fold_in, (0, None))(keys, n)
    plain = draws.uniform(extra(_PLAIN)) < self.plain
    pictures = frozen.subject.mean.shape[1]
    face, picture = (draws.integers(extra(n), pictures) for n in (_FACE, _PICTURE))

    def row(person, weight, plain, face, picture, index, key):
      pick = lambda x, begin: jnp.where(plain, begin[person], _scale(x[person], weight))
      mine = jax.tree.map(pick, own, frozen.constants["own"])
      s, captions = fit.person(frozen.subject, person), frozen.captions
      if self.swap:
        s = s._replace(face=s.faces[face])
      if captions.ids[0].ndim == 3:
        fields = {f: x[picture][None] for f in _PER_PICTURE if (x := getattr(s, f)) is not None}
        s, captions = s._replace(**fields), jax.tree.map(lambda x: x[person, picture][None], captions)
      alone = frozen._replace(subject=s, captions=captions)
      return self.method.loss({**shared, **mine}, alone, {"index": index[None]}, key[None], cfg)

    value, metrics = jax.vmap(row)(
      batch["person"], batch["weight"], plain, face, picture, jnp.asarray(batch["index"]), keys
    )
    return value.mean(), jax.tree.map(lambda x: x.mean(0), metrics)

  def rates(self, cfg: Any) -> "Rates":
    """The method's, and of each person's own an optimiser of their own."""
    rules = self.method.rates(cfg)
    if not self.own:
      return rules
    return ((rf"^({'|'.join(self.own)})(\.|$)", each(st.by_path(*rules))), *rules)

  def person(self, params: Mapping[str, Any], i: int) -> dict[str, Any]:
    """Person i's parameters as the method has them."""
    shared, own = self._split(params)
    return {**shared, **fit.person(own, i)}

  def _split(self, params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(what all have in common, what is each person's own)."""
    common = {k: v for k, v in params.items() if k not in self.own}
    return common, {k: v for k, v in params.items() if k in self.own}


def _scale(x: jax.Array, weight: jax.Array) -> jax.Array:
  """x, whose gradient is `weight` times as large."""
  still = jax.lax.stop_gradient(x)
  return still + weight * (x - still)


def each(tx: optax.GradientTransformation) -> optax.GradientTransformation:
  """`tx` of every person's parameters [N, ...] for itself. A step without an example of theirs, whose gradient is zero,
  changes neither them nor the optimiser's memory: otherwise Adam would go on moving whoever is seldom seen."""

  def update(grads, state, params):
    updates, new = jax.vmap(tx.update)(grads, state, params)
    present = functools.reduce(jnp.logical_or, [(g != 0).reshape(len(g), -1).any(1) for g in jax.tree.leaves(grads)])
    keep = lambda n, o: jnp.where(present.reshape(-1, *[1] * (n.ndim - 1)), n, o)
    return jax.tree.map(lambda u: keep(u, jnp.zeros_like(u)), updates), jax.tree.map(keep, new, state)

  return optax.GradientTransformation(jax.vmap(tx.init), update)


def together(
  method: "Method",
  cfg: Any,
  b: Backbone,
  constants: Any,
  captions: Prompts,
  people: Subject,
  key: jax.Array,
  mesh: jax.sharding.Mesh,
  *,
  plain: float = 0.0,
  swap: bool = False,
  accumulate: int = 1,
) -> tuple[Joint, fit.MeshStep, st.State, Frozen]:
  """(joint, step, state, frozen) of N people, whose data have a leading axis N. See `Joint`, `fit.one`."""
  joint = Joint(method, method.needs(cfg, b.nets).own or (), plain, swap)
  begin = jax.jit(lambda key, f: joint.begin(key, f, cfg))
  own = begin(fit.init_key(key), Frozen(b, constants, captions, people))
  joint = dataclasses.replace(joint, own=tuple(own))  # settings may leave some out
  frozen = Frozen(b, {**constants, "own": own}, captions, people)
  trained: Any = joint  # of a Method what the trainer calls
  mesh = fit.person_mesh(trained, cfg, frozen, mesh)
  return joint, *fit.one(trained, cfg, frozen, key, mesh, accumulate=accumulate)


def represent_all(
  joint: Joint, cfg: Any, frozen: Frozen, params: Mapping[str, Any], count: int
) -> list[dict[str, Any]]:
  """The identity of each of `count` people, as numpy arrays."""
  each = ((frozen._replace(subject=fit.person(frozen.subject, i)), joint.person(params, i)) for i in range(count))
  return [fit.represent(joint.method, cfg, own, own_params) for own, own_params in each]


def rows(step: fit.MeshStep, count: int, people: int, seed: int) -> Callable[[int], st.Batch]:
  """The batches of a joint training: of each row its index, whose it is, and the weight by which the mean over all
  rows becomes one over its person's."""

  def load(i: int) -> st.Batch:
    who = turns(i, count, people, seed)
    weight = (count / np.bincount(who, minlength=people)[who]).astype(np.float32)
    return sharding.put({"index": np.arange(count, dtype=np.int32), "person": who, "weight": weight}, step.rows)

  return load


def turns(step: int, count: int, people: int, seed: int) -> np.ndarray:
  """Whose a step's rows are, int32 [count]: everyone once each time round, in an order of its own."""
  at = np.arange(step * count, (step + 1) * count)
  return np.concatenate([_order(seed, int(r), people)[at[at // people == r] % people] for r in np.unique(at // people)])


@functools.lru_cache(2)
def _order(seed: int, turn: int, people: int) -> np.ndarray:
  rng = np.random.Generator(np.random.Philox(key=[seed, turn], counter=[0, 0, 0, 21]))
  return rng.permutation(people).astype(np.int32)
