"""Leaves by dotted path: one regex language for freezing, learning rates, sharding and export.

The path of a leaf is its keys joined by dots, as in `unet.mid_block.resnets.0.conv1.kernel`.
Rules are `[(regex, value), ...]`; a regex is searched for in the path and the first match wins.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def path_of(path) -> str:
  """A jax key path as a dotted path."""
  return ".".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def flatten(tree) -> dict[str, Any]:
  """{dotted path: leaf} of any pytree. Raises ValueError if two leaves have one path."""
  out: dict[str, Any] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    name = path_of(path)
    if name in out:
      raise ValueError(f"two leaves have the path {name}")
    out[name] = leaf
  return out


def unflatten(like, leaves: Mapping[str, Any]):
  """A tree shaped as `like` with the leaves of `flatten`. Raises KeyError for a missing path."""
  return map_with_path(lambda path, _: leaves[path], like)


def map_with_path(f: Callable[..., Any], tree, *rest):
  """`jax.tree.map` whose function gets the dotted path first."""
  return jax.tree_util.tree_map_with_path(lambda p, *xs: f(path_of(p), *xs), tree, *rest)


def choose(path: str, rules: Sequence[tuple[str, Any]]) -> Any:
  """The value of the first rule whose regex is found in the path. Raises ValueError if none is."""
  for pattern, value in rules:
    if re.search(pattern, path):
      return value
  raise ValueError(f"no rule for the parameter {path}; the rules are {[p for p, _ in rules]}")


def label(tree, rules: Sequence[tuple[str, Any]]):
  """A tree of the same structure with each leaf's value by `choose`."""
  return map_with_path(lambda path, _: choose(path, rules), tree)


def split(tree: Mapping[str, Any], patterns: Iterable[str]) -> tuple[dict, dict]:
  """Nested dicts into (leaves in whose path a pattern is found, all others); no empty branches.

  Raises ValueError for a pattern that selects nothing, which is always a misspelling.
  """
  matches = {re.compile(p): False for p in patterns}

  def walk(node, prefix):
    inside, outside = {}, {}
    for key, child in node.items():
      path = f"{prefix}{key}"
      if isinstance(child, Mapping):
        for out, part in zip((inside, outside), walk(child, path + ".")):
          if part:
            out[key] = part
      else:
        hits = [p for p in matches if p.search(path)]
        matches.update(dict.fromkeys(hits, True))
        (inside if hits else outside)[key] = child
    return inside, outside

  parts = walk(tree, "")
  if idle := [p.pattern for p, hit in matches.items() if not hit]:
    raise ValueError(f"no parameter matches {', '.join(map(repr, idle))}")
  return parts


def merge(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict:
  """The inverse of `split`: nested dicts, united. Raises ValueError where both have a leaf."""
  out = dict(a)
  for key, child in b.items():
    if key not in out:
      out[key] = child
    elif isinstance(child, Mapping) and isinstance(out[key], Mapping):
      out[key] = merge(out[key], child)
    else:
      raise ValueError(f"both trees hold {key!r}")
  return out


def override(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
  """A tree with some subtrees replaced: `changes` has the same nesting and wins leaf by leaf.

  ValueError for a path or shape that the tree does not have.
  """
  out = dict(tree)
  for key, new in changes.items():
    if key not in tree:
      raise ValueError(f"no parameter {key!r} to override")
    if isinstance(new, Mapping):
      out[key] = override(tree[key], new)
    elif jnp.shape(new) != jnp.shape(tree[key]):
      raise ValueError(f"{key!r} has shape {jnp.shape(tree[key])}, not {jnp.shape(new)}")
    else:
      out[key] = new
  return out


def cast(tree, dtype):
  """Floating leaves as `dtype`; integers, keys and everything else as they are."""
  change = lambda x: x.astype(dtype) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else x
  return jax.tree.map(change, tree)


def size(tree) -> int:
  """Number of elements in all leaves."""
  return sum(x.size for x in jax.tree.leaves(tree))


def follow(average: Any, now: Any) -> jax.Array:
  """Zero, with gradient average - now with respect to `average`, and none with respect to `now`.

  A step of gradient descent at rate 1 - momentum then gives the exponential moving average exactly. It lives in the
  trained parameters, so it is skipped and resumed with them.
  """
  offsets = jax.tree.map(lambda a, x: a - jax.lax.stop_gradient(x), average, now)
  square = sum((0.5 * jnp.square(o).sum() for o in jax.tree.leaves(offsets)), start=jnp.zeros(()))
  return square - jax.lax.stop_gradient(square)
