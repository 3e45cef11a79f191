"""Inception-V3 as FID and KID know it: the network of 2015 with TensorFlow's pooling, 2048 features.

Submodule names are the keys of the file that pytorch-fid and torch-fidelity use. It is not
torchvision's network: averages leave out the padding, the last block pools by maximum.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from idejax.nets.layers import Dense, param
from idejax.nets.naming import parameter_shapes
from idejax.nets.resnet import BatchNorm

SIDE = 299
FEATURES, CLASSES = 2048, 1008
_LONG = 7  # of the windows 1 x 7 and 7 x 1


class Kernel(nn.Module):
  """A convolution's weights alone: windows here may be longer than high."""

  shape: tuple[int, ...]

  @nn.compact
  def __call__(self) -> jax.Array:
    return param(self, "kernel", nn.initializers.lecun_normal(), self.shape)


class Unit(nn.Module):
  """Convolution without bias, BatchNorm, ReLU."""

  features: int
  window: tuple[int, int] = (1, 1)
  stride: int = 1
  padded: bool = True  # "same", or not at all

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = Kernel((*self.window, x.shape[-1], self.features), name="conv")()
    pad = [(n // 2, n // 2) if self.padded else (0, 0) for n in self.window]
    x = jax.lax.conv_general_dilated(x, kernel.astype(x.dtype), (self.stride,) * 2, pad,
                                     dimension_numbers=("NHWC", "HWIO", "NHWC"))  # fmt: skip
    return nn.relu(BatchNorm(1e-3, name="bn")(x))


def _average(x: jax.Array) -> jax.Array:
  """3 x 3 means of the pixels that there are: padding does not count."""
  return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def _greatest(x: jax.Array) -> jax.Array:
  return nn.max_pool(x, (3, 3), padding="SAME")


def _halve(x: jax.Array) -> jax.Array:
  return nn.max_pool(x, (3, 3), (2, 2))


def _chain(x: jax.Array, *units: Unit) -> jax.Array:
  for unit in units:
    x = unit(x)
  return x


_3, _5, _ROW, _COLUMN = (3, 3), (5, 5), (1, _LONG), (_LONG, 1)


class BlockA(nn.Module):
  """35 x 35."""

  pooled: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    u = lambda name, features, window=(1, 1): Unit(features, window, name=name)
    return jnp.concatenate([
      u("branch1x1", 64)(x),
      _chain(x, u("branch5x5_1", 48), u("branch5x5_2", 64, _5)),
      _chain(x, u("branch3x3dbl_1", 64), u("branch3x3dbl_2", 96, _3), u("branch3x3dbl_3", 96, _3)),
      u("branch_pool", self.pooled)(_average(x)),
    ], -1)  # fmt: skip


class BlockB(nn.Module):
  """35 x 35 to 17 x 17."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    u = lambda name, features, window=(1, 1), stride=1: Unit(features, window, stride, stride == 1, name=name)
    return jnp.concatenate([
      u("branch3x3", 384, _3, 2)(x),
      _chain(x, u("branch3x3dbl_1", 64), u("branch3x3dbl_2", 96, _3), u("branch3x3dbl_3", 96, _3, 2)),
      _halve(x),
    ], -1)  # fmt: skip


class BlockC(nn.Module):
  """17 x 17, in rows and columns of seven."""

  inner: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    u = lambda name, features, window=(1, 1): Unit(features, window, name=name)
    n = self.inner
    return jnp.concatenate([
      u("branch1x1", 192)(x),
      _chain(x, u("branch7x7_1", n), u("branch7x7_2", n, _ROW), u("branch7x7_3", 192, _COLUMN)),
      _chain(x, u("branch7x7dbl_1", n), u("branch7x7dbl_2", n, _COLUMN), u("branch7x7dbl_3", n, _ROW),
             u("branch7x7dbl_4", n, _COLUMN), u("branch7x7dbl_5", 192, _ROW)),
      u("branch_pool", 192)(_average(x)),
    ], -1)  # fmt: skip


class BlockD(nn.Module):
  """17 x 17 to 8 x 8."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    u = lambda name, features, window=(1, 1), stride=1: Unit(features, window, stride, stride == 1, name=name)
    return jnp.concatenate([
      _chain(x, u("branch3x3_1", 192), u("branch3x3_2", 320, _3, 2)),
      _chain(x, u("branch7x7x3_1", 192), u("branch7x7x3_2", 192, _ROW), u("branch7x7x3_3", 192, _COLUMN),
             u("branch7x7x3_4", 192, _3, 2)),
      _halve(x),
    ], -1)  # fmt: skip


class BlockE(nn.Module):
  """8 x 8, wide; `last` pools by maximum, as the graph of 2015 does."""

  last: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    u = lambda name, features, window=(1, 1): Unit(features, window, name=name)
    forked = lambda y, name: [u(f"{name}a", 384, (1, 3))(y), u(f"{name}b", 384, (3, 1))(y)]
    return jnp.concatenate([
      u("branch1x1", 320)(x),
      *forked(u("branch3x3_1", 384)(x), "branch3x3_2"),
      *forked(_chain(x, u("branch3x3dbl_1", 448), u("branch3x3dbl_2", 384, _3)), "branch3x3dbl_3"),
      u("branch_pool", 192)((_greatest if self.last else _average)(x)),
    ], -1)  # fmt: skip


class Inception(nn.Module):
  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Pictures [B, 299, 299, 3] in [-1, 1] -> features [B, 2048], logits [B, 1008]."""
    u = lambda name, features, window=_3, stride=1, padded=False: Unit(features, window, stride, padded, name=name)
    x = _chain(x, u("Conv2d_1a_3x3", 32, stride=2), u("Conv2d_2a_3x3", 32), u("Conv2d_2b_3x3", 64, padded=True))
    x = _halve(x)
    x = _halve(_chain(x, u("Conv2d_3b_1x1", 80, (1, 1)), u("Conv2d_4a_3x3", 192)))
    for name, pooled in (("5b", 32), ("5c", 64), ("5d", 64)):
      x = BlockA(pooled, name=f"Mixed_{name}")(x)
    x = BlockB(name="Mixed_6a")(x)
    for name, inner in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
      x = BlockC(inner, name=f"Mixed_{name}")(x)
    x = BlockD(name="Mixed_7a")(x)
    x = BlockE(False, name="Mixed_7b")(x)
    x = BlockE(True, name="Mixed_7c")(x)
    features = x.mean((1, 2))
    return features, Dense(CLASSES, name="fc")(features)


def shapes():
  """The parameters as float32 ShapeDtypeStructs; nothing is computed or allocated."""
  return parameter_shapes(Inception(), jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32))
