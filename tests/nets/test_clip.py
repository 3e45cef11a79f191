"""The text encoders against transformers, and prompts with spliced rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from support.fakes import relative_error, scramble, state_dict
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from idejax.nets import clip
from idejax.storage import weights

VOCAB, EOS = 50, 49
TINY = dict(
  vocab_size=VOCAB,
  hidden_size=24,
  intermediate_size=40,
  num_hidden_layers=3,
  num_attention_heads=3,
  max_position_embeddings=16,
  bos_token_id=48,
)
L = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
H = dict(
  hidden_size=1024,
  intermediate_size=4096,
  num_hidden_layers=23,
  num_attention_heads=16,
  hidden_act="gelu",
  eos_token_id=2,
)
BIGG = dict(
  hidden_size=1280,
  intermediate_size=5120,
  num_hidden_layers=32,
  hidden_act="gelu",
  num_attention_heads=20,
  projection_dim=1280,
  eos_token_id=2,
)
# name: (transformers class, config)
CONFIGS = {
  "clip_l": (CLIPTextModel, dict(hidden_act="quick_gelu", eos_token_id=EOS)),
  "open_h": (CLIPTextModel, dict(hidden_act="gelu", eos_token_id=2, num_attention_heads=2)),
  "big_g": (
    CLIPTextModelWithProjection,
    dict(hidden_act="gelu", eos_token_id=2, projection_dim=20, layer_norm_eps=1e-3),
  ),
}


def config(cls, json):
  return {**json, "architectures": [cls.__name__]}


def twin(name, extra_tokens=0):
  cls, json = CONFIGS[name]
  module = scramble(cls(CLIPTextConfig(**TINY | json | {"vocab_size": VOCAB + extra_tokens})))
  cfg = clip.TextConfig.from_json(config(cls, TINY | json))
  tensors = dict(weights.rename_clip(state_dict(module)))
  table = "text_model.embeddings.token_embedding.weight"
  rows, tensors[table] = tensors[table][VOCAB:], tensors[table][:VOCAB]
  return module, cfg, weights.from_torch(clip.shapes(cfg), tensors), rows


def prompts(rng, batch, length):
  """bos, words, eos at a different place in each row, padding with eos."""
  ids = rng.integers(1, 48, (batch, length)).astype(np.int32)
  ids[:, 0] = 48
  for i in range(batch):
    ids[i, 3 + i :] = EOS
  return ids


def theirs(module, ids):
  with torch.no_grad():
    out = module(torch.from_numpy(ids).long(), output_hidden_states=True)
  return out.last_hidden_state, out.hidden_states[-2], out[0 if hasattr(out, "text_embeds") else 1]


@functools.partial(jax.jit, static_argnums=0)
def run(cfg, params, *args, **kwargs):
  return clip.TextEncoder(cfg).apply({"params": params}, *args, **kwargs)


@pytest.mark.parametrize("batch, length", [(1, 16), (3, 9)])
@pytest.mark.parametrize("name", CONFIGS)
def test_equal_to_transformers(name, batch, length, rng):
  module, cfg, params, _ = twin(name)
  ids = prompts(rng, batch, length)
  out = run(cfg, params, ids)
  for ours, ref in zip(out, theirs(module, ids), strict=True):
    assert relative_error(ours, ref) < 1e-5
  assert out.pooled.shape == (batch, cfg.projection_dim or cfg.hidden_size)


def test_pooling_without_an_end_token_is_transformers_too(rng):
  module, cfg, params, _ = twin("clip_l")
  ids = rng.integers(1, 48, (2, 7)).astype(np.int32)
  assert relative_error(run(cfg, params, ids).pooled, theirs(module, ids)[2]) < 1e-5


@pytest.mark.parametrize("name", CONFIGS)
def test_spliced_rows_equal_tokens_added_to_the_table(name, rng):
  module, cfg, params, rows = twin(name, extra_tokens=3)
  ids = prompts(rng, 2, 10)
  ids[0, 1], ids[1, 2], ids[1, 3] = VOCAB + 1, VOCAB, VOCAB + 2
  where = np.array([[1, -1], [2, 3]])
  slots = np.stack([rows[[1, 1]], rows[[0, 2]]])
  # transformers' legacy rule pools at the placeholder, ours at the end token unless told.
  stock = ids.argmax(-1) if cfg.eos_token_id == 2 else None
  out = run(cfg, params, ids, slots, where, stock)
  for ours, ref in zip(out, theirs(module, ids), strict=True):
    assert relative_error(ours, ref) < 1e-5
  out = run(cfg, params, ids, slots, where)
  eos = run(cfg, params, ids, slots, where, np.array([3, 4]))
  np.testing.assert_array_equal(out.pooled, eos.pooled)
  # The id at a replaced position is never read.
  np.testing.assert_array_equal(run(cfg, params, np.where(ids < VOCAB, ids, 7), slots, where)[2], out.pooled)


def test_splicing_the_tables_own_rows_changes_no_bit(rng):
  _, cfg, params, _ = twin("open_h")
  ids = prompts(rng, 3, 12)
  table = params["text_model.embeddings.token_embedding"]["embedding"]
  where = np.array([[1, 2], [2, -1], [3, 1]])
  rows = table[np.take_along_axis(ids, np.maximum(where, 0), 1)]
  plain, spliced = run(cfg, params, ids), run(cfg, params, ids, rows, where)
  jax.tree.map(np.testing.assert_array_equal, plain, spliced)


def test_unused_slots_are_ignored_and_the_first_of_equal_slots_wins(rng):
  _, cfg, params, _ = twin("clip_l")
  ids, rows = prompts(rng, 2, 8), rng.standard_normal((2, 2, 24)).astype(np.float32)
  plain = run(cfg, params, ids)
  for where in ([[-1, -1], [-1, -1]], [[8, -9], [100, -1]]):
    jax.tree.map(np.testing.assert_array_equal, plain, run(cfg, params, ids, rows, np.array(where)))
  twice = run(cfg, params, ids, rows, np.array([[1, 1], [2, 2]]))
  once = run(cfg, params, ids, rows, np.array([[1, -1], [2, -1]]))
  jax.tree.map(np.testing.assert_array_equal, twice, once)
  assert np.abs(once.last - plain.last).max() > 1e-3


def test_gradient_reaches_used_rows_only(rng):
  _, cfg, params, _ = twin("big_g")
  ids, rows = prompts(rng, 2, 8), rng.standard_normal((2, 3, 24)).astype(np.float32)
  where = np.array([[1, 2, -1], [-1, 1, 8]])
  used = np.array([[1, 1, 0], [0, 1, 0]], bool)

  def loss(rows, params, remat):
    out = clip.TextEncoder(cfg, remat=remat).apply({"params": params}, ids, rows, where)
    return sum(jnp.square(x).mean() for x in out)

  d_rows, d_params = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)(rows, params, False)
  size = np.abs(d_rows).max(-1)
  assert (size[used] > 1e-5).all() and (size[~used] == 0).all()
  # A row of the table gets a gradient only from the places where it is still read.
  replaced = np.zeros(ids.shape, bool)
  replaced[[0, 0, 1], [1, 2, 1]] = True
  d_table = np.abs(d_params["text_model.embeddings.token_embedding"]["embedding"]).max(-1)
  assert set(np.flatnonzero(d_table)) == set(ids[~replaced])
  again = jax.jit(jax.grad(loss), static_argnums=2)(rows, params, True)
  np.testing.assert_allclose(again, d_rows, atol=1e-6)


def test_ids_outside_the_table_are_clamped(rng):
  _, cfg, params, _ = twin("clip_l")
  wild = np.array([[48, 10**6, -3, EOS]], np.int32)
  tame = np.array([[48, VOCAB - 1, 0, EOS]], np.int32)
  eos = np.array([3])
  ours, want = (run(cfg, params, x, eos=eos) for x in (wild, tame))
  jax.tree.map(np.testing.assert_array_equal, ours, want)


def test_later_tokens_do_not_reach_earlier_ones(rng):
  _, cfg, params, _ = twin("clip_l")
  ids = prompts(rng, 1, 8)
  other = ids.copy()
  other[0, 6] = 5
  a, b = run(cfg, params, ids), run(cfg, params, other)
  np.testing.assert_array_equal(a.last[:, :6], b.last[:, :6])
  assert np.abs(a.last[:, 6:] - b.last[:, 6:]).max() > 1e-3


def test_too_long_a_prompt_and_half_a_splice_are_refused():
  _, cfg, params, _ = twin("clip_l")
  with pytest.raises(ValueError, match="17 tokens.*16"):
    clip.TextEncoder(cfg).apply({"params": params}, np.zeros((1, 17), np.int32))
  with pytest.raises(ValueError, match="together"):
    clip.TextEncoder(cfg).apply({"params": params}, np.zeros((1, 4), np.int32), np.zeros((1, 1, 24)))


def test_compute_dtype(rng):
  _, cfg, params, _ = twin("clip_l")
  ids = prompts(rng, 2, 8)
  low = jax.jit(clip.TextEncoder(cfg, dtype=jnp.bfloat16).apply)({"params": params}, ids)
  assert {x.dtype for x in low} == {jnp.dtype(jnp.bfloat16)}
  assert 0 < relative_error(low.last.astype(jnp.float32), run(cfg, params, ids).last) < 0.05


@pytest.mark.parametrize(
  "cls, json, count",
  [(CLIPTextModel, L, 123_060_480), (CLIPTextModel, H, 340_387_840), (CLIPTextModelWithProjection, BIGG, 694_659_840)],
  ids=["L", "H", "bigG"],
)
def test_full_size_keys_and_shapes(cls, json, count):
  with torch.device("meta"):
    module = cls(CLIPTextConfig(**json))
  tensors = weights.rename_clip({k: tuple(v.shape) for k, v in module.state_dict().items()})
  ours = weights.keys(clip.shapes(clip.TextConfig.from_json(config(cls, json))))
  assert ours == dict(tensors)
  assert sum(map(np.prod, ours.values())) == count


def test_config_defaults_nesting_and_hash():
  plain = clip.TextConfig.from_json({})
  assert plain == clip.TextConfig.from_json(CLIPTextConfig().to_dict()) == clip.TextConfig()
  fields = {"text_config": TINY, "projection_dim": 30, "architectures": ["CLIPModel"]}
  assert clip.TextConfig.from_json(fields).projection_dim == 30
  assert clip.TextConfig.from_json(fields).hidden_size == 24
  assert len({plain, clip.TextConfig.from_json(fields)}) == 2


@pytest.mark.parametrize(
  "change, said",
  [
    ({"hidden_act": "gelu_new"}, "gelu_new"),
    ({"eos_token_id": [1, 2]}, "eos_token_id"),
    ({"model_type": "t5"}, "t5"),
    ({"num_attention_heads": 5}, "5 heads"),
  ],
)
def test_unsupported_configs_are_named(change, said):
  with pytest.raises(ValueError, match=said):
    clip.TextConfig.from_json(TINY | change)
