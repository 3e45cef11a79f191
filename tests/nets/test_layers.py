"""Every layer against its PyTorch namesake, with weights that moved through idejax.storage.weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_timestep_embedding
from support.fakes import nchw, nhwc, relative_error, scramble, state_dict

from idejax.nets import convolve, layers, target
from idejax.runtime import flops
from idejax.storage import weights


def load(layer, module, x):
  """Params of `layer` from the torch module, by the converter that checkpoints go through."""
  shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
  return weights.from_torch(shapes, state_dict(scramble(module)))


def run(layer, params, x):
  return jax.jit(layer.apply)({"params": params}, x)


@pytest.mark.parametrize(
  "size, stride, padding, hw",
  [
    (3, 1, None, (5, 8)),
    (1, 1, None, (4, 3)),
    (3, 2, None, (7, 8)),
    (3, 2, None, (13, 18)),
    (7, 2, 3, (15, 9)),
    (3, 1, 0, (5, 5)),
    (14, 14, 0, (28, 42)),
    (3, 2, ((0, 1), (0, 1)), (7, 10)),
    (3, 1, ((2, 0), (1, 3)), (5, 6)),
    (3, 1, None, (2, 2)),
    (3, 1, ((2, 0), (1, 3)), (1, 4)),
  ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_conv(size, stride, padding, hw, bias, rng):
  sides = ((size // 2,) * 2,) * 2 if padding is None else padding
  sides = ((sides,) * 2,) * 2 if isinstance(sides, int) else sides
  x = rng.standard_normal((2, *hw, 3)).astype(np.float32)
  layer = layers.Conv(5, size, stride, padding, bias)
  module = torch.nn.Conv2d(3, 5, size, stride, bias=bias)
  params = load(layer, module, x)
  want = module(F.pad(nchw(x), (*sides[1], *sides[0])))
  assert relative_error(run(layer, params, x), nhwc(want)) < 1e-5


@pytest.mark.parametrize(
  "size, pad, hw",
  [
    (3, ((1, 1), (1, 1)), (5, 8)),
    (3, ((0, 1), (0, 1)), (7, 10)),
    (1, ((0, 0), (0, 0)), (4, 3)),
    (3, ((2, 0), (1, 3)), (5, 6)),
    (2, ((1, 0), (0, 1)), (6, 5)),
    (7, ((3, 3), (3, 3)), (4, 9)),
  ],
)
def test_the_gradient_of_a_convolution(size, pad, hw, rng):
  """By rows of a crowd too, of which all share the kernel, and in a loop."""
  x = rng.standard_normal((4, 2, *hw, 3)).astype(np.float32)
  kernel = rng.standard_normal((size, size, 3, 5)).astype(np.float32)
  inputs = [torch.from_numpy(np.array(a)).requires_grad_() for a in (x, kernel)]
  padded = F.pad(inputs[0].flatten(0, 1).permute(0, 3, 1, 2), (*pad[1], *pad[0]))
  F.conv2d(padded, inputs[1].permute(3, 2, 0, 1)).square().sum().backward()
  loss = lambda x, kernel: jnp.square(convolve.convolve(x, kernel, 1, pad)).sum()
  both = jax.grad(loss, (0, 1))
  for run in (jax.vmap(both, (0, None)), lambda x, k: jax.lax.map(lambda x: both(x, k), x)):
    dx, dk = jax.jit(run)(x, kernel)
    assert relative_error(dx, inputs[0].grad) < 1e-5
    assert relative_error(dk.sum(0), inputs[1].grad) < 1e-5
  alone = jax.jit(jax.grad(loss))(x[0], kernel), jax.jit(jax.grad(loss, 1))(x[0], kernel)
  for one, two in zip(alone, jax.jit(both)(x[0], kernel)):
    assert relative_error(one, two) < 1e-6


def test_a_gradient_computes_no_more_than_is_asked_for():
  S = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  loss = lambda x, kernel: convolve.convolve(x, kernel, 1, ((1, 1), (1, 1))).sum()
  forward = flops.count(loss, S(1, 8, 8, 4), S(3, 3, 4, 4))
  for wrt, times in ((0, 2), (1, 2), ((0, 1), 3)):
    assert flops.count(jax.grad(loss, wrt), S(1, 8, 8, 4), S(3, 3, 4, 4)) == times * forward


def test_conv_starts_from_what_it_is_told():
  init = lambda layer: jax.jit(layer.init)(jax.random.key(0), jnp.ones((1, 4, 4, 2)))["params"]
  assert not init(layers.Conv(3, kernel_init=jax.nn.initializers.zeros))["kernel"].any()
  assert init(layers.Conv(3))["kernel"].all()


@pytest.mark.parametrize("shape", [(2, 6), (2, 3, 6), (2, 3, 4, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_dense(shape, bias, rng):
  x = rng.standard_normal(shape).astype(np.float32)
  layer, module = layers.Dense(5, bias), torch.nn.Linear(6, 5, bias=bias)
  params = load(layer, module, x)
  assert relative_error(run(layer, params, x), module(torch.from_numpy(x))) < 1e-5


@pytest.mark.parametrize("groups, eps", [(4, 1e-5), (1, 1e-6), (8, 0.1)])
def test_group_norm(groups, eps, rng):
  x = rng.standard_normal((3, 5, 4, 8)).astype(np.float32) * np.arange(1, 9, dtype=np.float32)
  layer, module = layers.GroupNorm(groups, eps), torch.nn.GroupNorm(groups, 8, eps)
  params = load(layer, module, x)
  assert relative_error(run(layer, params, x), nhwc(module(nchw(x)))) < 1e-5


@pytest.mark.parametrize("shape", [(3, 8), (2, 5, 8)])
def test_layer_norm(shape, rng):
  x = 3 + rng.standard_normal(shape).astype(np.float32)
  layer, module = layers.LayerNorm(1e-3), torch.nn.LayerNorm(8, 1e-3)
  params = load(layer, module, x)
  assert relative_error(run(layer, params, x), module(torch.from_numpy(x))) < 1e-5


@pytest.mark.parametrize(
  "layer, axes", [(layers.GroupNorm(4, 1e-6), (1, 2, 4)), (layers.LayerNorm(1e-6), (3, 4))], ids=["group", "layer"]
)
def test_a_large_mean_does_not_drown_the_variance(layer, axes, rng):
  """Mean 1000, deviation 1: E[x^2] - E[x]^2 in float32 would be off by several per cent."""
  x = (1000 + rng.standard_normal((2, 16, 16, 8))).astype(np.float32)
  params = {"scale": np.ones(8, np.float32), "bias": np.zeros(8, np.float32)}
  y = x.astype(np.float64).reshape(2, 16, 16, -1, 2 if isinstance(layer, layers.GroupNorm) else 8)
  want = (y - y.mean(axes, keepdims=True)) / y.std(axes, keepdims=True)
  assert relative_error(run(layer, params, x), want.reshape(x.shape)) < 5e-4


@pytest.mark.parametrize("layer", [layers.GroupNorm(4), layers.LayerNorm()], ids=["group", "layer"])
def test_statistics_of_bfloat16_are_taken_in_float32(layer, rng):
  """4096 values of mean 8: a bfloat16 sum would stop growing after a few hundred of them."""
  x = jnp.asarray(8 + rng.standard_normal((1, 64, 64, 32)), jnp.bfloat16)
  params = {"scale": np.ones(32, np.float32), "bias": np.zeros(32, np.float32)}
  low, full = run(layer, params, x), run(layer, params, x.astype(jnp.float32))
  assert low.dtype == jnp.bfloat16 and full.dtype == jnp.float32
  # All that is left is the rounding of the result.
  assert relative_error(low.astype(jnp.float32), full) < 2**-8


@pytest.mark.parametrize(
  "layer",
  [
    layers.Dense(4, dtype=jnp.bfloat16),
    layers.Conv(4, dtype=jnp.bfloat16),
    layers.GroupNorm(2, dtype=jnp.bfloat16),
    layers.LayerNorm(dtype=jnp.bfloat16),
  ],
  ids=lambda layer: type(layer).__name__,
)
def test_dtype_is_that_of_the_computation_not_of_the_parameters(layer):
  x = jnp.ones((1, 4, 4, 4))
  variables = jax.eval_shape(layer.init, jax.random.key(0), x)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
  assert jax.eval_shape(layer.apply, variables, x).dtype == jnp.bfloat16
  # Without one it is the input's, whatever the parameters are.
  half, default = weights.with_dtype(variables, jnp.bfloat16), layer.clone(dtype=None)
  assert jax.eval_shape(default.apply, half, x).dtype == jnp.float32


@pytest.mark.parametrize("dim", [8, 320, 7])
@pytest.mark.parametrize("flip, shift", [(True, 0.0), (False, 1.0)])
def test_timestep_embedding(dim, flip, shift):
  t = np.array([0, 1, 500, 999, 0.25], np.float32)
  embed = jax.jit(lambda t: layers.timestep_embedding(t, dim, flip=flip, shift=shift))
  want = get_timestep_embedding(torch.from_numpy(t), dim, flip, downscale_freq_shift=shift)
  assert embed(t).shape == (5, dim) and embed(t).dtype == jnp.float32
  # Sines of arguments near 1000: float32 resolves those to 6e-5.
  np.testing.assert_allclose(embed(t), want, atol=2e-4)
  assert embed(t.astype(jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize(
  "hw, size",
  [
    ((4, 6), (8, 12)),
    ((4, 6), (7, 11)),
    ((7, 9), (13, 18)),
    ((2, 3), (4, 5)),
    ((1, 1), (1, 2)),
    ((5, 5), (5, 5)),
    ((3, 4), (10, 9)),
    ((33, 47), (65, 93)),
  ],
)
def test_upsample(hw, size, rng):
  x = rng.standard_normal((2, *hw, 3)).astype(np.float32)
  want = F.interpolate(nchw(x), size=size, mode="nearest")
  np.testing.assert_array_equal(jax.jit(lambda x: convolve.upsample(x, size))(x), nhwc(want))


@pytest.mark.parametrize(
  "shape, out, size",
  [
    ((1, 32, 32, 3), 5, (64, 64)),  # 1024 positions: with kernels added up
    ((3, 10, 35, 4), 2, (20, 70)),
    ((2, 513, 1, 2), 1, (1026, 2)),
    ((1, 31, 33, 3), 5, (62, 66)),
    ((1, 33, 32, 3), 4, (65, 64)),  # fewer; not twice the size
  ],
)
def test_convolution_of_the_enlarged_picture(shape, out, size, rng):
  x = rng.standard_normal(shape).astype(np.float32)
  kernel = rng.standard_normal((3, 3, shape[-1], out)).astype(np.float32)
  inputs = [
    torch.from_numpy(np.array(a)).requires_grad_() for a in (x.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1))
  ]
  want = F.conv2d(F.interpolate(inputs[0], size=size, mode="nearest"), inputs[1], padding=1)
  weight = rng.standard_normal((shape[0], *size, out)).astype(np.float32)
  (want * nchw(weight)).sum().backward()
  y, vjp = jax.vjp(jax.jit(lambda x, k: convolve.convolve_grown(x, k, size)), x, kernel)
  dx, dk = vjp(weight)
  assert relative_error(y, nhwc(want)) < 1e-5
  assert relative_error(dx, nhwc(inputs[0].grad)) < 1e-5
  assert relative_error(dk, inputs[1].grad.numpy().transpose(2, 3, 1, 0)) < 1e-5


def test_the_enlarged_picture_is_convolved_with_less_work_on_a_cpu():
  x, k = jax.ShapeDtypeStruct((1, 32, 32, 8), jnp.float32), jax.ShapeDtypeStruct((3, 3, 8, 8), jnp.float32)
  run = lambda x, k: convolve.convolve_grown(x, k, (64, 64))
  with target.compiling_for("tpu"):
    full = flops.count(run, x, k)
  assert full == 2 * 64 * 64 * 9 * 8 * 8
  assert flops.count(run, x, k) == full * 4 / 9


def test_upsample_by_two_keeps_the_dtype(rng):
  x = jnp.asarray(rng.standard_normal((1, 3, 2, 2)), jnp.bfloat16)
  y = convolve.upsample2x(x)
  assert y.dtype == x.dtype
  np.testing.assert_array_equal(y, jnp.repeat(jnp.repeat(x, 2, 1), 2, 2))
