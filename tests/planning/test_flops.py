"""FLOPs counted from the jaxpr, against hand counts and the known floors of the released UNets."""

import jax
import jax.numpy as jnp
import pytest

from idejax.model import families
from idejax.nets import attention, target, unet
from idejax.runtime import flops

S = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)


def test_hand_counts():
  assert flops.count(jnp.dot, S(3, 5), S(5, 7)) == 2 * 3 * 5 * 7
  assert flops.count(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), S(4, 3, 5), S(4, 5, 7)) == 4 * 210
  conv = lambda x, w: jax.lax.conv_general_dilated(
    x, w, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  assert flops.count(conv, S(2, 8, 8, 3), S(3, 3, 3, 6)) == 2 * (2 * 4 * 4 * 6) * (3 * 3 * 3)


def test_loops_and_branches():
  body = lambda c, x: (c @ x, None)
  assert flops.count(lambda c, xs: jax.lax.scan(body, c, xs)[0], S(4, 4), S(10, 4, 4)) == 10 * 128
  branches = lambda p, a: jax.lax.cond(p > 0, lambda a: a @ a @ a, lambda a: a @ a, a)
  assert flops.count(jax.jit(branches), S(), S(4, 4)) == 2 * 128
  with pytest.raises(ValueError, match="number of turns"):
    flops.count(lambda a: jax.lax.while_loop(lambda a: a[0, 0] < 1, lambda a: a @ a, a), S(4, 4))


def counted(monkeypatch, platform, impl, gradient):
  """FLOPs of attention traced for a platform, lowered nowhere."""
  from jax._src.cudnn import fused_attention_stablehlo

  monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
  run = lambda q, k, v: attention.attention(q, k, v, impl=impl).astype(jnp.float32).sum()
  shaped = [jax.ShapeDtypeStruct((2, 1024, 4, 64), jnp.bfloat16)] * 3
  with target.compiling_for(platform):
    return flops.count(jax.grad(run, (0, 1, 2)) if gradient else run, *shaped)


@pytest.mark.parametrize("platform, impl", [("cuda", "cudnn"), ("tpu", "flash"), ("tpu", "splash")])
def test_kernels_count_as_what_they_compute(monkeypatch, platform, impl):
  """Forward exactly as without a kernel; backward at least so much, for they compute the scores again."""
  forward, backward = (counted(monkeypatch, platform, impl, g) for g in (False, True))
  assert forward == counted(monkeypatch, platform, "plain", False) == 4 * 2 * 4 * 1024**2 * 64
  plain = counted(monkeypatch, platform, "plain", True)
  assert backward == plain if impl == "cudnn" else plain < backward <= 2 * plain


def test_what_devices_compute_each_is_added_up():
  mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
  P = jax.sharding.PartitionSpec
  each = jax.shard_map(lambda a, b: a @ b, mesh=mesh, in_specs=(P("x"), P()), out_specs=P("x"))
  assert flops.count(each, S(8, 5), S(5, 7)) == 2 * 8 * 5 * 7


@pytest.mark.parametrize("family, side, tera", [("sd15", 64, 0.8033), ("sd21-base", 64, 0.8043), ("sdxl", 128, 6.7612)])
def test_released_unets(family, side, tera):
  cfg = unet.UNetConfig.from_json(families.FAMILIES[family]["unet"], attention="plain")
  added = (S(1, 1280), S(1, 6)) if cfg.added_dims else None
  run = lambda p, *inputs: unet.UNet(cfg).apply({"params": p}, *inputs)
  inputs = S(1, side, side, 4), S(1), S(1, 77, cfg.context_dim), added
  with target.compiling_for("tpu"):  # on a CPU some convolutions take less work
    assert flops.count(run, unet.shapes(cfg), *inputs) / 1e12 == pytest.approx(tera, abs=5e-5)


def test_a_cond_costs_its_dearest_or_its_cheapest_branch():
  f = lambda due, x: jax.lax.cond(due, lambda: x @ x @ x, lambda: x @ x)
  args = jax.ShapeDtypeStruct((), bool), jax.ShapeDtypeStruct((4, 4), jnp.float32)
  assert (flops.count(f, *args), flops.count(f, *args, branch=min)) == (2 * 128, 128)
