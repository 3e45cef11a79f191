"""ResNet-50 with DECA's regression head, and the inference-mode BatchNorm shared with ArcFace.

Submodule names are the keys of DECA's coarse encoder (`E_flame` in its checkpoint).
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from idejax.nets.layers import Conv, Dense, Dtype, param
from idejax.nets.naming import parameter_shapes


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
  depths: tuple[int, ...] = (3, 4, 6, 3)
  width: int = 64  # channels of the stem; a stage is 4 * width * 2**stage channels wide
  hidden: int = 1024
  outputs: int = 236  # DECA: 100 shape, 50 texture, 50 expression, 6 pose, 3 camera, 27 light


class BatchNorm(nn.Module):
  """`torch.nn.BatchNorm` in eval mode over [B, ..., C]; running statistics are parameters."""

  eps: float = 1e-5
  dtype: Dtype = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape, f32 = (x.shape[-1],), jnp.float32
    scale = param(self, "scale", nn.initializers.ones, shape).astype(f32)
    bias = param(self, "bias", nn.initializers.zeros, shape).astype(f32)
    mean = param(self, "running_mean", nn.initializers.zeros, shape).astype(f32)
    var = param(self, "running_var", nn.initializers.ones, shape).astype(f32)
    gain = scale * jax.lax.rsqrt(var + self.eps)
    row = (None,) * (x.ndim - 1)
    y = x.astype(f32) * gain[row] + (bias - mean * gain)[row]
    return y.astype(self.dtype or x.dtype)


class Bottleneck(nn.Module):
  dim: int
  stride: int
  dtype: Dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    bn = lambda name: BatchNorm(dtype=self.dtype, name=name)
    conv = lambda name, dim, size, stride=1: Conv(dim, size, stride, use_bias=False, dtype=self.dtype, name=name)
    h = nn.relu(bn("bn1")(conv("conv1", self.dim, 1)(x)))
    h = nn.relu(bn("bn2")(conv("conv2", self.dim, 3, self.stride)(h)))
    h = bn("bn3")(conv("conv3", 4 * self.dim, 1)(h))
    if h.shape != x.shape:
      x = bn("downsample.1")(conv("downsample.0", 4 * self.dim, 1, self.stride)(x))
    return nn.relu(x + h)


class CoarseEncoder(nn.Module):
  cfg: ResNetConfig = ResNetConfig()
  dtype: Dtype = None  # computes in this; None: the dtype of the input

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Face crops [B, 224, 224, 3] in [0, 1] -> [B, outputs] FLAME, camera and light parameters."""
    c, dtype = self.cfg, self.dtype or x.dtype
    h = Conv(c.width, 7, 2, use_bias=False, dtype=dtype, name="encoder.conv1")(x)
    h = nn.relu(BatchNorm(dtype=dtype, name="encoder.bn1")(h))
    h = nn.max_pool(h, (3, 3), (2, 2), ((1, 1), (1, 1)))
    for i, depth in enumerate(c.depths):
      for j in range(depth):
        stride = 2 if i and not j else 1
        h = Bottleneck(c.width * 2**i, stride, dtype, name=f"encoder.layer{i + 1}.{j}")(h)
    h = h.mean((1, 2))
    h = nn.relu(Dense(c.hidden, dtype=dtype, name="layers.0")(h))
    return Dense(c.outputs, dtype=dtype, name="layers.2")(h)


def shapes(cfg: ResNetConfig = ResNetConfig()):
  """The parameters as float32 ShapeDtypeStructs; nothing is computed or allocated."""
  x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  return parameter_shapes(CoarseEncoder(cfg), x)
