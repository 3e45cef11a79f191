"""Conversion both ways, bit for bit, and the errors of a wrong checkpoint."""

import collections.abc
import math
import re
import tracemalloc

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fakes import fill, state_dict

from idejax.errors import UserError
from idejax.nets.layers import Conv, Dense, GroupNorm
from idejax.storage import weights


class Block(nn.Module):
  @nn.compact
  def __call__(self, x, _):
    x = x + Dense(x.shape[-1], use_bias=False, name="attn1.to_q")(x)
    return Dense(x.shape[-1], name="ff.net.0.proj")(x), None


class Odd(nn.Module):
  """Every kind of leaf: dotted names, a scanned run, an embedding, a verbatim parameter."""

  @nn.compact
  def __call__(self, ids, image):
    x = nn.Embed(5, 6, name="token_embedding")(ids)
    x = x + self.param("class_embedding", nn.initializers.ones, (6,))[None, None]
    run = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
    x, _ = run(name="transformer_blocks.*")(x, None)
    h = Conv(6, name="down_blocks.0.resnets.1.conv1")(image)
    h = GroupNorm(3, name="down_blocks.0.resnets.1.norm1")(h)
    return Dense(2, name="proj")(x), h


def odd_shapes():
  ids, image = jnp.zeros((1, 4), jnp.int32), jnp.zeros((1, 4, 4, 2))
  return jax.eval_shape(Odd().init, jax.random.key(0), ids, image)["params"]


def same(a, b) -> bool:
  assert jax.tree.structure(a) == jax.tree.structure(b)
  return jax.tree.all(
    jax.tree.map(lambda x, y: x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes(), a, b)
  )


def test_odd_net_has_the_expected_keys_and_round_trips():
  shapes = odd_shapes()
  assert weights.keys(shapes) == {
    "token_embedding.weight": (5, 6),
    "class_embedding": (6,),
    **{f"transformer_blocks.{i}.attn1.to_q.weight": (6, 6) for i in range(3)},
    **{f"transformer_blocks.{i}.ff.net.0.proj.weight": (6, 6) for i in range(3)},
    **{f"transformer_blocks.{i}.ff.net.0.proj.bias": (6,) for i in range(3)},
    "down_blocks.0.resnets.1.conv1.weight": (6, 2, 3, 3),
    "down_blocks.0.resnets.1.conv1.bias": (6,),
    "down_blocks.0.resnets.1.norm1.weight": (6,),
    "down_blocks.0.resnets.1.norm1.bias": (6,),
    "proj.weight": (2, 6),
    "proj.bias": (2,),
  }
  params = fill(shapes)
  tensors = weights.to_torch(params)
  assert {k: v.shape for k, v in tensors.items()} == weights.keys(shapes)
  assert all(v.flags.c_contiguous for v in tensors.values())
  back = weights.from_torch(shapes, tensors)
  assert same(back, params)
  assert all(x.flags.c_contiguous for x in jax.tree.leaves(back))
  Odd().apply({"params": back}, jnp.zeros((1, 4), jnp.int32), jnp.zeros((1, 4, 4, 2)))


def test_wrapped_trees_are_unwrapped():
  shapes, params = odd_shapes(), fill(odd_shapes())
  tensors = weights.to_torch({"params": params})
  assert same(weights.from_torch({"params": shapes}, tensors), params)


def test_orientation_is_torchs(rng):
  import torch

  conv, dense = torch.nn.Conv2d(2, 3, 3, padding=1), torch.nn.Linear(4, 5)
  image = rng.standard_normal((1, 2, 4, 4)).astype(np.float32)
  nhwc = jnp.asarray(image.transpose(0, 2, 3, 1))
  for ours, theirs, x, want in (
    (Conv(3), conv, nhwc, conv(torch.from_numpy(image)).detach().numpy().transpose(0, 2, 3, 1)),
    (Dense(5), dense, nhwc[..., 0], dense(torch.from_numpy(image[:, 0])).detach().numpy()),
  ):
    shapes = jax.eval_shape(ours.init, jax.random.key(0), x)
    params = weights.from_torch(shapes, state_dict(theirs))
    np.testing.assert_allclose(ours.apply({"params": params}, x), want, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_dtype_of_the_shapes_wins_and_bits_stay_where_it_is_equal(dtype):
  shapes = weights.with_dtype(odd_shapes(), dtype)
  wide = fill(odd_shapes())
  low = weights.from_torch(shapes, weights.to_torch(wide))
  assert same(low, weights.with_dtype(wide, dtype))
  assert same(weights.from_torch(shapes, weights.to_torch(low)), low)


def test_nan_and_infinity_pass():
  x = np.array([np.nan, np.inf, -0.0], np.float32)
  shapes = {"n": {"bias": jax.ShapeDtypeStruct((3,), np.float32)}}
  assert weights.from_torch(shapes, {"n.bias": x})["n"]["bias"].tobytes() == x.tobytes()


# Wrong checkpoints.


def test_a_dropped_a_renamed_and_a_transposed_tensor_are_each_named():
  shapes = odd_shapes()
  good = weights.to_torch(fill(shapes))
  drop, turn = "transformer_blocks.1.attn1.to_q.weight", "proj.weight"
  for change, words in (
    (lambda t: t.pop(drop), ["1 missing", drop]),
    (lambda t: t.update(extra=t.pop(drop)), ["1 missing", drop, "1 not used", "extra"]),
    (lambda t: t.update({turn: t[turn].T}), [f"1 of another shape or type: {turn}", "[6, 2]"]),
    (lambda t: t.update({drop: t[drop][:5]}), ["1 of another shape or type", drop]),
    (lambda t: t.update({turn: t[turn].astype(np.int8)}), [turn, "int8"]),
  ):
    bad = dict(good)
    change(bad)
    with pytest.raises(UserError) as e:
      weights.from_torch(shapes, bad, name="unet/x.safetensors")
    assert str(e.value).startswith("unet/x.safetensors: ")
    for word in words:
      assert word in str(e.value)
    assert "\n" not in str(e.value)


def test_all_kinds_come_in_one_error_with_counts():
  shapes = odd_shapes()
  bad = weights.to_torch(fill(shapes))
  bad = {(f"x{i}" if i % 2 else k): v for i, (k, v) in enumerate(bad.items())} | {
    "proj.weight": np.zeros((1, 1), np.float32),
    **{f"y{i}": np.zeros(1) for i in range(20)},
  }
  with pytest.raises(UserError) as e:
    weights.from_torch(shapes, bad)
  assert re.search(r"\d missing: .*; 2\d not used by the model: .* and 20 more; 1 of another", str(e.value)), e.value


def test_ignore_excuses_only_what_it_matches():
  shapes = odd_shapes()
  tensors = weights.to_torch(fill(shapes)) | {"emb.position_ids": np.arange(3)}
  with pytest.raises(UserError, match="position_ids"):
    weights.from_torch(shapes, tensors)
  weights.from_torch(shapes, tensors, ignore=[r"\.position_ids$"])


@pytest.mark.parametrize(
  "tree",
  [
    {"a": {"kernel": np.zeros((2, 2)), "scale": np.zeros(2)}},
    {"a.*": {"b.*": {"bias": np.zeros((2, 2))}}},
    {"a": {"kernel": np.zeros(2)}},
    {"a.*": {"bias": np.zeros(2)[0]}},
  ],
)
def test_a_net_with_ambiguous_names_is_a_programmers_error(tree):
  with pytest.raises(ValueError):
    weights.keys(tree)
  with pytest.raises(ValueError):
    weights.to_torch(tree)


def test_memory_is_one_copy_and_each_tensor_is_read_once():
  mb, n, reads = 1 << 20, 24, []
  shapes = {
    "blocks.*": {"to_q": {"kernel": jax.ShapeDtypeStruct((n // 2, 512, 512), np.float32)}},
    **{f"m.{i}": {"kernel": jax.ShapeDtypeStruct((512, 512), np.float32)} for i in range(n // 2)},
  }
  names = weights.keys(shapes)

  class Lazy(collections.abc.Mapping):
    def __getitem__(self, key):
      reads.append(key)
      return np.ones(names[key], np.float32)

    def __iter__(self):
      return iter(names)

    def __len__(self):
      return len(names)

    def __contains__(self, key):
      return key in names

  tracemalloc.start()
  params = weights.from_torch(shapes, Lazy())
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert sorted(reads) == sorted(names) and len(jax.tree.leaves(params)) == n // 2 + 1
  assert peak < (n + 3) * mb, peak / mb


# Every tree of this shape survives the trip to torch and back.

leaves = st.sampled_from(["kernel", "bias", "running_mean"]) | st.sampled_from(["scale"])
modules = st.sampled_from(["conv", "to_out.0", "down_blocks.1.resnets.0", "norm", "m"])
shapes_of = st.lists(st.integers(1, 4), min_size=2, max_size=4)


@st.composite
def trees(draw):
  tree, seed = {}, 0
  for outer in draw(st.lists(modules, unique=True, min_size=1, max_size=3)):
    star = draw(st.booleans())
    node = tree.setdefault(f"{outer}_{'blocks.*' if star else 'x'}", {})
    stack = (draw(st.integers(1, 3)),) if star else ()
    for inner in draw(st.lists(modules, unique=True, min_size=1, max_size=3)):
      names = draw(st.lists(leaves, unique=True, min_size=1, max_size=3))
      if "kernel" in names and "scale" in names:
        names.remove("scale")
      for leaf in names:
        shape, seed = (*stack, *draw(shapes_of)), seed + 1
        dtype = draw(st.sampled_from([np.float32, np.float16, ml_dtypes.bfloat16]))
        x = np.arange(math.prod(shape)).reshape(shape) + seed
        node.setdefault(inner, {})[leaf] = x.astype(dtype)
  return tree


@settings(max_examples=60, deadline=None)
@given(trees())
def test_there_and_back_is_the_identity(params):
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
  tensors = weights.to_torch(params)
  assert {k: v.shape for k, v in tensors.items()} == weights.keys(shapes)
  assert same(weights.from_torch(shapes, tensors), params)
  again = weights.to_torch(weights.from_torch(shapes, tensors))
  assert all(again[k].tobytes() == tensors[k].tobytes() for k in tensors)


# Historic spellings.


@pytest.mark.parametrize("tower", ["text_model", "vision_model"])
def test_clip_keys_with_once_twice_and_without_prefix_become_one(tower):
  ours = {f"{tower}.encoder.layers.0.mlp.fc1.bias": np.ones(2)}
  ours |= (
    {
      f"{tower}.embeddings.token_embedding.weight": np.ones((3, 2)),
      f"{tower}.final_layer_norm.weight": np.ones(2),
      "text_projection.weight": np.eye(2),
    }
    if tower == "text_model"
    else {
      f"{tower}.embeddings.class_embedding": np.ones(2),
      f"{tower}.embeddings.patch_embedding.weight": np.ones((2, 3, 4, 4)),
      f"{tower}.pre_layrnorm.weight": np.ones(2),
      f"{tower}.post_layernorm.bias": np.ones(2),
      "visual_projection.weight": np.eye(2),
      "concept_embeds": np.eye(2),
    }
  )
  for prefix in ("", f"{tower}.", f"{tower}.{tower}."):
    theirs = {(k if "." not in k or "projection" in k else prefix + k.split(".", 1)[1]): v for k, v in ours.items()}
    theirs[f"{prefix}embeddings.position_ids"] = np.arange(3)
    got = weights.rename_clip(theirs)
    assert set(got) == set(ours) and len(got) == len(ours)
    assert all(got[k] is ours[k] for k in ours)
  with pytest.raises(UserError, match="under two names"):
    weights.rename_clip({"encoder.x": np.ones(1), "text_model.encoder.x": np.ones(1)})


@pytest.mark.parametrize("four_dimensional", [False, True])
def test_old_vae_attention_becomes_the_new(four_dimensional, rng):
  at = "encoder.mid_block.attentions.0."
  new = {at + f"{n}.weight": rng.standard_normal((4, 4)) for n in ("to_q", "to_k", "to_v")}
  new |= {
    at + "to_out.0.weight": rng.standard_normal((4, 4)),
    at + "to_out.0.bias": np.ones(4),
    at + "to_q.bias": np.ones(4),
    at + "group_norm.weight": np.ones(4),
    "quant_conv.weight": rng.standard_normal((4, 4, 1, 1)),
  }
  names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

  def age(k, v):
    lift = four_dimensional and ".to_" in k and v.ndim == 2
    for now, then in names.items():
      k = k.replace(f".{now}.", f".{then}.")
    return k, v[:, :, None, None] if lift else v

  for theirs in (dict(age(k, v) for k, v in new.items()), new):
    got = weights.rename_vae(theirs)
    assert set(got) == set(new)
    for k in new:
      np.testing.assert_array_equal(got[k], new[k])
