"""Small convolutional nets, each described once and read two ways: as a Flax net and as ONNX.

A description is a function `body(f, x)` that calls nothing but the methods of `Layers`;
`miniature/to_onnx.py` has the same methods for an ONNX graph. While training, a convolution is
followed by a BatchNorm over the batch (`Net(body)`); a finished net has it folded into kernel and
bias (`Net(body, folded=True)`), and both exports and users see only that.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from idejax.nets.convolve import convolve, upsample2x
from idejax.nets.layers import param
from idejax.nets.naming import parameter_shapes

EPS = 1e-5


class Unit(nn.Module):
  """Convolution or matrix product (size 0), then norm or bias, then activation."""

  features: int
  size: int
  stride: int
  act: str | None
  norm: bool
  folded: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    window = (self.size, self.size) if self.size else ()
    shape = (*window, x.shape[-1], self.features)
    kernel = param(self, "kernel", nn.initializers.zeros, shape)
    y = convolve(x, kernel, self.stride, ((self.size // 2,) * 2,) * 2) if self.size else x @ kernel
    row = (None,) * (y.ndim - 1)
    bias = param(self, "bias", nn.initializers.zeros, (self.features,))
    if self.norm and not self.folded:
      axes = tuple(range(y.ndim - 1))
      mean, square = y.mean(axes), jnp.square(y).mean(axes)
      self.sow("moments", "mean", mean)
      self.sow("moments", "square", square)
      scale = param(self, "scale", nn.initializers.ones, (self.features,))
      gain = scale * jax.lax.rsqrt(jnp.maximum(square - mean * mean, 0) + EPS)
      y = y * gain[row] + (bias - mean * gain)[row]
    else:
      y = y + bias[row]
    if self.act == "relu":
      return jax.nn.relu(y)
    if self.act == "prelu":
      slope = param(self, "slope", nn.initializers.constant(0.25), (self.features,))
      return jnp.where(y >= 0, y, y * slope[row])
    return y


class Layers:
  """What a description may do, in JAX: NHWC arrays."""

  def __init__(self, folded: bool = False):
    self.folded = folded

  def conv(
    self, name: str, x, features: int, size: int = 3, stride: int = 1, *, act: str | None = "relu", norm: bool = True
  ):
    """Convolution with a square window and padding size // 2, then norm or bias, then activation."""
    return Unit(features, size, stride, act, norm, self.folded, name=name)(x)

  def dense(self, name: str, x, features: int, *, act: str | None = None, norm: bool = False):
    """Matrix product: [B, I] -> [B, features], then norm or bias, then activation."""
    return Unit(features, 0, 1, act, norm, self.folded, name=name)(x)

  def add(self, x, y):
    return x + y

  def shrink(self, x, n: int):
    """Mean of n x n pixels; sides are multiples of n."""
    b, h, w, c = x.shape
    return x.reshape(b, h // n, n, w // n, n, c).mean((2, 4))

  def grow(self, x):
    """Nearest-neighbour upsampling by two: [B, H, W, C] -> [B, 2H, 2W, C]."""
    return upsample2x(x)

  def mean(self, x):
    """Mean over all pixels: [B, C]."""
    return x.mean((1, 2))

  def rows(self, x):
    """[B, H, W, C] -> [B, H W C]."""
    return x.reshape(x.shape[0], -1)

  def anchors(self, x, width: int):
    """A head's channels as one row per prediction: [B, H, W, A width] -> [B, H W A, width]."""
    return x.reshape(x.shape[0], -1, width)

  def sigmoid(self, x):
    return jax.nn.sigmoid(x)


Body = Callable[[Any, Any], Any]  # (f: Layers, x) -> an array, or a tuple of arrays


class Net(nn.Module):
  """Images [B, H, W, 3] -> what the description returns."""

  body: Body
  folded: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> Any:
    return self.body(Layers(self.folded), x)


def shapes(body: Body, side: int, folded: bool = False):
  """The parameters as float32 ShapeDtypeStructs; nothing is computed or allocated."""
  x = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  return parameter_shapes(Net(body, folded), x)


def init(body: Body, side: int, seed: int) -> Any:
  """float32 numpy weights; kernels scaled so that ReLUs keep the variance."""

  def draw(i: int, leaf: str, s) -> np.ndarray:
    if leaf == "scale":
      return np.ones(s.shape, np.float32)
    if leaf == "slope":
      return np.full(s.shape, 0.25, np.float32)
    if leaf == "bias":
      return np.zeros(s.shape, np.float32)
    std = np.sqrt(2 / np.prod(s.shape[:-1]))
    return np.random.default_rng((seed, i)).standard_normal(s.shape, np.float32) * np.float32(std)

  flat, tree = jax.tree_util.tree_flatten_with_path(shapes(body, side))
  return jax.tree.unflatten(tree, [draw(i, path[-1].key, s) for i, (path, s) in enumerate(flat)])


def fold(body: Body, params: Mapping[str, Any], batches) -> dict[str, dict[str, np.ndarray]]:
  """The finished net's parameters: BatchNorms are folded into kernel and bias by the moments of `batches`.

  `batches` yields images float32 [B, H, W, 3] as the net will see them, without augmentation.
  """
  run = jax.jit(lambda p, x: Net(body).apply({"params": p}, x, mutable="moments")[1]["moments"])
  moments = [jax.device_get(run(params, x)) for x in batches]
  out = {}
  for name, unit in params.items():
    unit = {k: np.asarray(v, np.float64) for k, v in unit.items()}
    if "scale" in unit:
      mean, square = (np.mean([s[name][k][0] for s in moments], 0, np.float64) for k in ("mean", "square"))
      gain = unit.pop("scale") / np.sqrt(np.maximum(square - mean * mean, 0) + EPS)
      unit |= {"kernel": unit["kernel"] * gain, "bias": unit["bias"] - mean * gain}
    out[name] = {k: v.astype(np.float32) for k, v in unit.items()}
  return out


def load_onnx(path: str | os.PathLike[str]) -> dict[str, dict[str, np.ndarray]]:
  """The folded parameters of an ONNX file that `miniature.training.to_onnx` wrote. ValueError for any other."""
  import onnx  # insightface brings it
  from google.protobuf.message import DecodeError
  from onnx import numpy_helper

  try:
    model = onnx.load(os.fspath(path))
  except (OSError, DecodeError) as e:
    raise ValueError(f"{path} cannot be read as ONNX ({type(e).__name__}); give a file that idejax wrote") from e
  params: dict[str, dict[str, np.ndarray]] = {}
  for tensor in model.graph.initializer:
    name, _, leaf = tensor.name.rpartition(".")
    if leaf not in ("kernel", "bias", "slope") or not name:
      continue
    x = numpy_helper.to_array(tensor)
    if leaf == "kernel" and x.ndim == 4:
      x = x.transpose(2, 3, 1, 0)
    params.setdefault(name, {})[leaf] = x.reshape(-1) if leaf == "slope" else x
  if model.producer_name != "idejax" or not params:
    raise ValueError(f"{path} was not written by idejax (producer {model.producer_name!r}), so it has no JAX twin")
  return params
