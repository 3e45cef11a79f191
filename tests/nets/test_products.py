"""Products of bfloat16 with float32 sums, as on a CPU that has units for them: exact, and of one dtype throughout.

How fast they are there cannot be seen on a CPU without such units; that they are the same numbers can.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from idejax.nets import attention, convolve, layers, products, target

BF16 = jnp.dtype(jnp.bfloat16)


@pytest.fixture
def units(monkeypatch):
  """A CPU with units for bfloat16, whose convolutions are worth it from two channels on."""
  monkeypatch.setattr(target, "cpu_multiplies_bfloat16", lambda: True)
  monkeypatch.setattr(products, "WIDE", 2)


def draw(rng, *shape):
  return jnp.asarray(rng.standard_normal(shape), jnp.bfloat16)


def exact(x):
  return np.asarray(x, np.float64)


def far(a, b):
  return np.abs(exact(a) - b).max() / np.abs(b).max()


def multiplications(function, *args):
  """Dtypes of (inputs, output) of every matmul and convolution in a function, and its primitives' names."""

  def walk(jaxpr):
    for e in jaxpr.eqns:
      if e.primitive.name in ("dot_general", "conv_general_dilated"):
        yield e.primitive.name, *(v.aval.dtype for v in (*e.invars, *e.outvars))
      for value in jax.tree.leaves(
        list(e.params.values()), is_leaf=lambda x: isinstance(x, core.Jaxpr | core.ClosedJaxpr)
      ):
        if isinstance(value, core.Jaxpr | core.ClosedJaxpr):
          yield from walk(getattr(value, "jaxpr", value))

  return list(walk(jax.make_jaxpr(function)(*args).jaxpr))


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_a_product_sums_in_float32(units, lead, rng):
  a, b = draw(rng, *lead, 5, 700), draw(rng, *lead, 700, 4)
  y = products.product(a, b)
  assert y.dtype == jnp.float32 and far(y, exact(a) @ exact(b)) < 1e-6
  dy = rng.standard_normal(y.shape).astype(np.float32)
  da, db = jax.vjp(products.product, a, b)[1](jnp.asarray(dy))
  low = exact(jnp.asarray(dy, jnp.bfloat16))
  assert da.dtype == db.dtype == BF16
  assert far(da, low @ exact(b).swapaxes(-1, -2)) < 2**-8 and far(db, exact(a).swapaxes(-1, -2) @ low) < 2**-8


@pytest.mark.parametrize(
  "size, pad, hw", [(3, ((1, 1), (1, 1)), (5, 4)), (3, ((2, 0), (1, 3)), (5, 6)), (2, ((1, 0), (0, 1)), (6, 5)), (1, ((0, 0), (0, 0)), (4, 3))]
)  # fmt: skip
def test_a_convolution_as_shifted_matmuls(units, size, pad, hw, rng):
  """Value and gradients, by rows of a crowd too, against XLA's own convolution in float32."""
  x, kernel = draw(rng, 3, 2, *hw, 4), draw(rng, size, size, 4, 6)
  wide = lambda x, k: convolve._convolve(x.astype(jnp.float32), k.astype(jnp.float32), 1, pad)
  ours = lambda x, k: products.convolve(x, k, pad)
  want, back = jax.vjp(jax.vmap(wide, (0, None)), x, kernel)
  got, ours_back = jax.vjp(jax.vmap(ours, (0, None)), x, kernel)
  assert got.dtype == BF16 and got.shape == want.shape and far(got, exact(want)) < 2**-8
  dy = draw(rng, *want.shape)
  for one, two in zip(ours_back(dy), back(dy.astype(jnp.float32))):
    assert one.dtype == BF16 and far(one, exact(two)) < 2**-7


def test_convolutions_are_matmuls_only_where_there_are_units_and_channels(units, monkeypatch):
  S = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.bfloat16)

  def names(i, o):
    run = lambda x, k: convolve.convolve(x, k, 1, ((1, 1), (1, 1)))  # a new one each time: jax keeps what it traced
    return {m[0] for m in multiplications(run, S(1, 8, 8, i), S(3, 3, i, o))}

  assert names(4, 4) == {"dot_general"} and names(1, 4) == names(4, 1) == {"conv_general_dilated"}
  monkeypatch.setattr(target, "cpu_multiplies_bfloat16", lambda: False)
  assert names(4, 4) == {"conv_general_dilated"}
  monkeypatch.setattr(target, "cpu_multiplies_bfloat16", lambda: True)
  with target.compiling_for("cuda"):
    assert names(4, 4) == {"conv_general_dilated"}


@pytest.mark.parametrize("length", [16, 1024])  # whole, and in chunks
def test_attention_is_exact_and_every_product_of_one_dtype(units, length, rng):
  q, k, v = (draw(rng, 1, length, 2, 8) for _ in range(3))
  loss = lambda q, k, v: attention.attention(q, k, v).astype(jnp.float32).sum()
  wide = [x.astype(jnp.float32) for x in (q, k, v)]
  assert far(attention.attention(q, k, v), exact(attention.attention(*wide))) < 2**-6
  found = multiplications(jax.grad(loss, (0, 1, 2)), q, k, v)
  assert len(found) >= 6 and {m[1:] for m in found} == {(BF16, BF16, jnp.dtype(jnp.float32))}


class Small(layers.nn.Module):
  """A convolution, a norm and a matmul."""

  @layers.nn.compact
  def __call__(self, x):
    x = layers.Conv(8, dtype=jnp.bfloat16, name="conv")(x)
    x = layers.GroupNorm(2, dtype=jnp.bfloat16, name="norm")(x)
    return layers.Dense(3, dtype=jnp.bfloat16, name="dense")(jax.nn.silu(x))


def test_layers_and_their_gradients(units, monkeypatch, rng):
  """The same net with and without units differs by bfloat16's rounding; with them no product is of another kind."""
  x = draw(rng, 2, 6, 5, 4)
  params = jax.tree.map(lambda s: draw(rng, *s.shape), jax.eval_shape(Small().init, jax.random.key(0), x))
  loss = lambda p, x: jnp.square(Small().apply(p, x).astype(jnp.float32)).mean()
  both = jax.value_and_grad(loss, (0, 1))
  found = multiplications(both, params, x)
  assert len(found) > 9 and {m for m in found} == {("dot_general", BF16, BF16, jnp.dtype(jnp.float32))}
  with_units = jax.jit(both)(params, x)
  monkeypatch.setattr(target, "cpu_multiplies_bfloat16", lambda: False)
  without = jax.jit(lambda p, x: both(p, x))(params, x)
  for one, two in zip(jax.tree.leaves(with_units), jax.tree.leaves(without)):
    assert far(one, exact(two)) < 0.03


def test_frozen_kernels_cost_no_gradient(units):
  """Of frozen weights neither products nor what they would read are kept."""
  S = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.bfloat16)
  dense = lambda x, k: products.matmul(x, k).astype(jnp.float32).sum()
  conv = lambda x, k: products.convolve(x, k, ((1, 1), (1, 1))).astype(jnp.float32).sum()
  assert len(multiplications(jax.grad(dense), S(4, 8), S(8, 8))) == 2
  assert len(multiplications(jax.grad(conv), S(1, 4, 4, 8), S(3, 3, 8, 8))) == 2 * 9


@pytest.mark.parametrize(
  "text, has",
  [
    ("processor: 0\nflags\t\t: fpu avx2 avx512f\n", False),
    ("processor: 0\nflags\t\t: fpu avx512_bf16\nprocessor: 1\nflags: fpu\n", True),
    ("flags : amx_bf16 amx_tile\n", True),
    ("Features : asimd bf16\n", False),
    ("", False),
  ],
)
def test_what_linux_tells_of_the_cpu(monkeypatch, text, has):
  monkeypatch.setattr(target.Path, "read_text", lambda *a: text)
  assert target.cpu_multiplies_bfloat16.__wrapped__() is has


def test_a_system_that_tells_nothing_has_no_units(monkeypatch):
  def refuse(*a):
    raise OSError

  monkeypatch.setattr(target.Path, "read_text", refuse)
  assert target.cpu_multiplies_bfloat16.__wrapped__() is False
