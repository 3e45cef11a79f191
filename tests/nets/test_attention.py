"""Attention: every implementation gives the same result, is chosen by platform and shape, and works under a mesh."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental import pallas
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from support.fakes import relative_error

from idejax import sharding
from idejax.nets import attention, target
from idejax.nets.attention import choose

ATTEND = jax.jit(attention.attention, static_argnames=("causal", "impl"))


def inputs(rng, b, l, s, n, d, dtype=np.float32):
  return tuple(jnp.asarray(rng.standard_normal((b, x, n, d)), dtype) for x in (l, s, s))


def reference(q, k, v, causal=False):
  """The textbook in float64."""
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  scores = np.einsum("blnd,bsnd->bnls", q, k) / math.sqrt(q.shape[-1])
  if causal:
    scores[..., ~np.tri(*scores.shape[-2:], dtype=bool)] = -np.inf
  e = np.exp(scores - scores.max(-1, keepdims=True))
  return np.einsum("bnls,bsnd->blnd", e / e.sum(-1, keepdims=True), v)


@pytest.fixture
def pallas_on_cpu(monkeypatch):
  """Runs the TPU kernels in Pallas' interpreter."""
  real = pallas.pallas_call
  interpreted = lambda *args, **kwargs: real(*args, **kwargs | {"interpret": True})
  monkeypatch.setattr(pallas, "pallas_call", interpreted)


@settings(max_examples=12, deadline=None)
@given(
  b=st.integers(1, 3),
  l=st.integers(1, 40),
  s=st.integers(1, 40),
  n=st.integers(1, 3),
  d=st.integers(1, 24),
  impl=st.sampled_from(["plain", "chunk"]),
  seed=st.integers(0, 99),
)
def test_any_shape_equals_float64(b, l, s, n, d, impl, seed):
  q, k, v = inputs(np.random.default_rng(seed), b, l, s, n, d)
  assert relative_error(ATTEND(q, k, v, impl=impl), reference(q, k, v)) < 1e-5


# 521 is prime: one query at a time. 1042 is two chunks of 521 > 512, so 2 x 521 at 2 a time.
@pytest.mark.parametrize("l, s", [(1024, 77), (521, 3), (1042, 5), (1500, 1500), (64, 2048)])
def test_chunks_of_any_length_equal_float64(l, s, rng):
  q, k, v = inputs(rng, 1, l, s, 2, 8)
  assert relative_error(ATTEND(q, k, v, impl="chunk"), reference(q, k, v)) < 1e-5


def test_chunk_has_the_gradients_of_plain(rng):
  q, k, v = inputs(rng, 2, 1024, 96, 2, 8)
  weight = jnp.asarray(rng.standard_normal(q.shape), jnp.float32)

  @functools.partial(jax.jit, static_argnames="impl")
  def gradients(qkv, impl):
    return jax.grad(lambda qkv: (weight * attention.attention(*qkv, impl=impl)).sum())(qkv)

  ours, want = gradients((q, k, v), "chunk"), gradients((q, k, v), "plain")
  for a, b in zip(ours, want):
    assert relative_error(a, b) < 1e-5


@pytest.mark.parametrize("impl", ["plain", "chunk"])
def test_scores_far_apart_do_not_overflow(impl, rng):
  q, k, v = inputs(rng, 1, 16, 16, 1, 4)
  y = ATTEND(100 * q, 100 * k, v, impl=impl)
  assert np.isfinite(y).all() and relative_error(y, reference(100 * q, 100 * k, v)) < 1e-3


@pytest.mark.parametrize("impl", ["plain", "chunk"])
def test_bfloat16_in_and_out(impl, rng):
  q, k, v = inputs(rng, 2, 128, 77, 4, 40, jnp.bfloat16)
  y = ATTEND(q, k, v, impl=impl)
  assert y.dtype == jnp.bfloat16 and relative_error(y, reference(q, k, v)) < 0.02
  # upcast_attention: scores in float32, the result in the dtype of v
  wide = ATTEND(q.astype(jnp.float32), k.astype(jnp.float32), v, impl=impl)
  assert wide.dtype == jnp.bfloat16
  assert relative_error(wide, reference(q, k, v)) <= relative_error(y, reference(q, k, v))


def test_causal(rng):
  q, k, v = inputs(rng, 2, 33, 33, 2, 8)
  for impl in (None, "chunk", "flash"):  # all are `plain` then
    y = ATTEND(q, k, v, causal=True, impl=impl)
    assert relative_error(y, reference(q, k, v, causal=True)) < 1e-5
  low = ATTEND(*(x.astype(jnp.bfloat16) for x in (q, k, v)), causal=True)
  assert np.isfinite(low.astype(jnp.float32)).all()


def test_weights_are_the_map(rng):
  q, k, v = inputs(rng, 2, 12, 7, 3, 8)
  maps = jax.jit(attention.weights)(q, k)
  assert maps.shape == (2, 3, 12, 7) and maps.dtype == jnp.float32
  np.testing.assert_allclose(maps.sum(-1), 1, atol=1e-6)
  y = np.einsum("bnls,bsnd->blnd", maps, v)
  assert relative_error(y, ATTEND(q, k, v, impl="plain")) < 1e-5


@pytest.mark.parametrize(
  "platform, l, s, d, dtype, want",
  [
    ("cpu", 4096, 4096, 40, "float32", "chunk"),
    ("cpu", 4096, 77, 40, "float32", "chunk"),
    ("cpu", 1024, 77, 80, "float32", "plain"),
    ("cpu", 512, 512, 64, "bfloat16", "chunk"),
    ("cpu", 511, 512, 64, "float32", "plain"),
    ("cuda", 4096, 4096, 40, "bfloat16", "cudnn"),
    ("gpu", 4096, 4096, 64, "float16", "cudnn"),
    ("cuda", 4096, 4096, 40, "float32", "plain"),
    ("cuda", 4096, 4096, 160, "bfloat16", "plain"),
    ("cuda", 4096, 4096, 36, "bfloat16", "plain"),
    ("cuda", 256, 256, 64, "bfloat16", "plain"),
    ("cuda", 4095, 4095, 64, "bfloat16", "plain"),
    ("cuda", 4096, 77, 64, "bfloat16", "plain"),
    ("tpu", 4096, 4096, 40, "bfloat16", "flash"),
    ("tpu", 1024, 1024, 160, "float32", "flash"),
    ("tpu", 4096, 77, 40, "bfloat16", "plain"),
    ("tpu", 4095, 4095, 40, "bfloat16", "plain"),
    ("tpu", 256, 256, 40, "bfloat16", "plain"),
    ("rocm", 4096, 4096, 64, "bfloat16", "plain"),
  ],
)
def test_choice(platform, l, s, d, dtype, want):
  shaped = lambda length: jax.ShapeDtypeStruct((2, length, 8, d), dtype)
  assert choose(platform, shaped(l), shaped(s)) == want


def test_the_backend_or_the_planned_platform_decides(rng, monkeypatch):
  calls = []
  for name in ("plain", "chunk", "flash"):
    monkeypatch.setitem(attention._IMPLEMENTATIONS, name, lambda q, k, v, name=name: calls.append(name) or v)
  q, k, v = inputs(rng, 1, 512, 512, 1, 4)
  attention.attention(q, k, v)  # the tests run on the CPU
  for planned in ("tpu", "cuda"):
    with target.compiling_for(planned):
      attention.attention(q, k, v)
  attention.attention(q, k, v, impl="plain")
  assert calls == ["chunk", "flash", "plain", "plain"]


def test_an_unknown_name_is_an_error():
  x = jnp.ones((1, 2, 1, 4))
  with pytest.raises(ValueError, match="'flesh'; known: plain, chunk, cudnn, flash, splash"):
    attention.attention(x, x, x, impl="flesh")
  with pytest.raises(ValueError, match="'flesh'"):
    attention.attention(x, x, x, causal=True, impl="flesh")


@pytest.mark.parametrize("gradient", [False, True])
def test_chunk_holds_no_score_matrix(gradient):
  """The scores 4096 x 4096 of 8 heads are 537 MB; beside its arguments it holds a few MB."""

  def attend(q, k, v):
    return attention.attention(q, k, v, impl="chunk").sum() if gradient else attention.attention(q, k, v, impl="chunk")

  shaped = [jax.ShapeDtypeStruct((1, 4096, 8, 40), jnp.float32)] * 3
  program = jax.jit(jax.grad(attend, argnums=(0, 1, 2)) if gradient else attend)
  scores, memory = 8 * 4096**2 * 4, program.lower(*shaped).compile().memory_analysis().temp_size_in_bytes
  assert memory < (scores / 5 if gradient else scores / 20)
  assert "4096,4096" not in str(jax.make_jaxpr(program)(*shaped))


@pytest.mark.parametrize("impl", ["flash", "splash"])
@pytest.mark.parametrize("l, s, d", [(128, 128, 40), (256, 128, 160)])
def test_tpu_kernels_equal_plain(pallas_on_cpu, impl, l, s, d, rng):
  q, k, v = inputs(rng, 2, l, s, 2, d)
  assert relative_error(ATTEND(q, k, v, impl=impl), reference(q, k, v)) < 1e-5


def test_flash_has_the_gradients_of_plain(pallas_on_cpu, rng):
  q, k, v = inputs(rng, 1, 128, 128, 1, 8)
  loss = lambda impl: lambda *qkv: jnp.square(attention.attention(*qkv, impl=impl)).sum()
  gradients = lambda impl: jax.jit(jax.grad(loss(impl), (0, 1, 2)))(q, k, v)
  for a, b in zip(gradients("flash"), gradients("plain")):
    assert relative_error(a, b) < 1e-5


@pytest.mark.parametrize("impl", ["flash", "splash"])
@pytest.mark.parametrize("batch", [8, 3])
def test_tpu_kernels_under_a_mesh(pallas_on_cpu, impl, batch, rng):
  """Eight rows are split over 4 x 2 devices; three are computed by all of them."""
  mesh = sharding.make_mesh(fsdp=2)
  qkv = inputs(rng, batch, 128, 128, 1, 8)
  if batch == 8:
    qkv = jax.device_put(qkv, sharding.batch(mesh))
  with jax.set_mesh(mesh):
    # Inside a scan, as in the UNets whose blocks are stacked.
    loop = lambda q, k, v: jax.lax.scan(lambda y, _: (attention.attention(y, k, v, impl=impl), None), q, length=2)[0]
    y = jax.jit(loop)(*qkv)
  want = reference(reference(*qkv), *qkv[1:])
  assert relative_error(y, want) < 1e-5
  split = y.sharding.shard_shape(y.shape)[0]
  assert split == (1 if batch == 8 else 3)


UNET_SHAPES = [(4096, 8, 40), (4096, 5, 64), (4096, 10, 64), (4096, 8, 80), (1024, 8, 160), (4096, 1, 512)]


def lowered(impl, shape, dtype, gradient=False):
  """StableHLO for a TPU, lowered on this machine."""
  attend = lambda *qkv: attention.attention(*qkv, impl=impl)
  if gradient:
    attend = jax.grad(lambda *qkv: attention.attention(*qkv, impl=impl).sum(), (0, 1, 2))
  shaped = [jax.ShapeDtypeStruct(shape, dtype)] * 3
  return jax.jit(attend).trace(*shaped).lower(lowering_platforms=("tpu",)).as_text()


@pytest.mark.parametrize("impl", ["flash", "splash"])
@pytest.mark.parametrize("l, n, d", UNET_SHAPES)
def test_tpu_kernels_lower_at_the_shapes_of_unets_and_vaes(impl, l, n, d):
  for dtype in (jnp.bfloat16, jnp.float32):
    assert lowered(impl, (2, l, n, d), dtype).count("tpu_custom_call") == 1
  assert lowered(impl, (2, l, n, d), jnp.bfloat16, gradient=True).count("tpu_custom_call") == 3


@pytest.mark.parametrize("impl", ["flash", "splash"])
def test_tpu_kernels_lower_under_a_mesh(impl):
  """Without a shard_map XLA refuses: "Mosaic kernels cannot be automatically partitioned"."""
  mesh = jax.sharding.AbstractMesh((4, 2), sharding.AXES, axis_types=(AxisType.Auto,) * 2)
  for batch, rows in ((16, 2), (3, 3)):
    with jax.sharding.use_abstract_mesh(mesh):
      text = lowered(impl, (batch, 4096, 8, 40), jnp.bfloat16)
    [call] = [line for line in text.splitlines() if "tpu_custom_call" in line]
    assert f"-> tensor<{rows}x8x4096x40xbf16>" in call or f"tensor<{rows}x8x4096x40xbf16>" in call
    assert "sdy.manual_computation" in text or "SPMDFullToShardShape" in text


def test_flash_in_a_shard_map_of_the_caller(pallas_on_cpu, rng):
  """Axes that are mapped already are left alone, or eight rows a device would be divided once more."""
  mesh, rows = sharding.make_mesh(fsdp=2), P(sharding.AXES)
  qkv = inputs(rng, 64, 128, 128, 1, 4)
  attend = functools.partial(attention.attention, impl="flash")
  with jax.set_mesh(mesh):
    mapped = jax.shard_map(attend, in_specs=(rows,) * 3, out_specs=rows, check_vma=False)
    y = jax.jit(mapped)(*qkv)
  assert relative_error(y, ATTEND(*qkv, impl="plain")) < 1e-5


def test_flash_in_a_vmap_over_identities(pallas_on_cpu, rng):
  """One identity a device, by vmap's `spmd_axis_name`; each identity's row is not divided."""
  mesh = sharding.make_mesh(fsdp=2)
  qkv = [x[:, None] for x in inputs(rng, 8, 128, 128, 1, 8)]
  over = lambda impl, **kw: jax.jit(jax.vmap(functools.partial(attention.attention, impl=impl), **kw))
  with jax.set_mesh(mesh):
    y = over("flash", spmd_axis_name=sharding.AXES)(*qkv)
  assert relative_error(y, over("plain")(*qkv)) < 1e-5
  assert y.sharding.shard_shape(y.shape)[0] == 1


def test_cudnn_lowers(monkeypatch):
  """There is no GPU here, so the version of cuDNN is invented and the call is not run."""
  from jax._src.cudnn import fused_attention_stablehlo

  monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
  for l, n, d in UNET_SHAPES[:4]:
    shaped = [jax.ShapeDtypeStruct((2, l, n, d), jnp.bfloat16)] * 3
    with target.compiling_for("cuda"):
      traced = jax.jit(attention.attention).trace(*shaped)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmhaSoftmax" in text and f"{l}x{l}" not in text
