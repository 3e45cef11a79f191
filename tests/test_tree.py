"""idejax.tree: paths, first match wins, splits that merge back."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from idejax import tree

PARAMS = {"unet": {"mid.0": {"kernel": 1, "bias": 2}, "out": {"kernel": 3}}, "text": {"embedding": 4}}


def test_paths_join_with_dots_through_dicts_and_named_tuples():
  from idejax.training.step import State

  assert tree.flatten(PARAMS) == {
    "unet.mid.0.kernel": 1,
    "unet.mid.0.bias": 2,
    "unet.out.kernel": 3,
    "text.embedding": 4,
  }
  assert list(tree.flatten(State(0, {"a": 1}, (5,), 2))) == ["step", "params.a", "opt.0", "skipped"]
  with pytest.raises(ValueError, match="two leaves have the path a.b"):
    tree.flatten({"a.b": 1, "a": {"b": 2}})


def test_unflatten_inverts_flatten():
  assert tree.unflatten(PARAMS, tree.flatten(PARAMS)) == PARAMS


def test_the_first_matching_rule_wins_and_every_leaf_needs_one():
  labels = tree.label(PARAMS, [("bias", "b"), (r"^unet\.", "u"), ("", "rest")])
  assert labels == {
    "unet": {"mid.0": {"kernel": "u", "bias": "b"}, "out": {"kernel": "u"}},
    "text": {"embedding": "rest"},
  }
  with pytest.raises(ValueError, match="no rule for the parameter text.embedding"):
    tree.label(PARAMS, [("^unet", 1)])


def test_split_and_merge_are_inverse_and_leave_no_empty_branches():
  inside, outside = tree.split(PARAMS, ["mid", "embedding$"])
  assert inside == {"unet": {"mid.0": {"kernel": 1, "bias": 2}}, "text": {"embedding": 4}}
  assert outside == {"unet": {"out": {"kernel": 3}}}
  assert tree.merge(inside, outside) == tree.merge(outside, inside) == PARAMS


def test_a_pattern_that_selects_nothing_is_an_error():
  with pytest.raises(ValueError, match="no parameter matches 'atention'"):
    tree.split(PARAMS, ["mid", "atention"])


def test_merge_refuses_a_leaf_on_both_sides():
  with pytest.raises(ValueError, match="both trees hold 'kernel'"):
    tree.merge({"a": {"kernel": 1}}, {"a": {"kernel": 2}})


def test_cast_leaves_integers_alone():
  out = tree.cast({"w": np.ones(2, np.float32), "i": np.arange(2)}, jnp.bfloat16)
  assert out["w"].dtype == jnp.bfloat16 and out["i"].dtype == np.arange(2).dtype
  assert tree.size(out) == 4


def test_override():
  params = {"a": {"b": np.zeros(2), "c": np.zeros(3)}, "d": np.zeros(1)}
  new = np.ones(2)
  out = tree.override(params, {"a": {"b": new}})
  assert out["a"]["b"] is new and out["a"]["c"] is params["a"]["c"] and out["d"] is params["d"]
  assert params["a"]["b"] is not new  # the tree itself stays
  assert tree.override(params, {}) == params
  for changes, message in (
    ({"x": new}, "no parameter 'x'"),
    ({"a": {"x": new}}, "no parameter 'x'"),
    ({"a": {"b": np.ones(3)}}, r"'b' has shape (2,), not (3,)"),
  ):
    with pytest.raises(ValueError, match=re.escape(message)):
      tree.override(params, changes)
