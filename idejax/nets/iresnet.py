"""ArcFace's IResNet, and its weights out of an insightface ONNX file.

Submodule names are the keys of insightface's arcface_torch. An exported graph has lost most of
them (BatchNorms are folded into convolutions, what remains is numbered), so `load_onnx` reads
the graph by its topology instead.
"""

import dataclasses
import math
import os
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from idejax.nets.layers import Conv, Dense, Dtype, param
from idejax.nets.naming import parameter_shapes
from idejax.nets.resnet import BatchNorm

_EPS = 1e-5  # the epsilon of every BatchNorm


@dataclasses.dataclass(frozen=True)
class IResNetConfig:
  depths: tuple[int, ...] = (3, 4, 14, 3)  # blocks per stage; every stage halves the side
  widths: tuple[int, ...] = (64, 128, 256, 512)  # the stem is as wide as the first stage
  features: int = 512
  image_size: int = 112


IRESNET50 = IResNetConfig()
IRESNET100 = IResNetConfig((3, 13, 30, 3))


class PReLU(nn.Module):
  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    slope = param(self, "scale", nn.initializers.constant(0.25), (x.shape[-1],)).astype(x.dtype)
    return jnp.where(x >= 0, x, x * slope[(None,) * (x.ndim - 1)])


class Block(nn.Module):
  dim: int
  stride: int
  dtype: Dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    bn = lambda name: BatchNorm(_EPS, self.dtype, name=name)
    conv = lambda name, size, stride: Conv(self.dim, size, stride, use_bias=False, dtype=self.dtype, name=name)
    h = bn("bn2")(conv("conv1", 3, 1)(bn("bn1")(x)))
    h = bn("bn3")(conv("conv2", 3, self.stride)(PReLU(name="prelu")(h)))
    if self.stride != 1:
      x = bn("downsample.1")(conv("downsample.0", 1, self.stride)(x))
    return x + h


class IResNet(nn.Module):
  cfg: IResNetConfig = IRESNET50
  dtype: Dtype = None  # computes in this; None: the dtype of the input

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Aligned faces [B, S, S, 3], RGB in [-1, 1] -> [B, features], not normalised."""
    c, dtype = self.cfg, self.dtype or x.dtype
    h = Conv(c.widths[0], use_bias=False, dtype=dtype, name="conv1")(x)
    h = PReLU(name="prelu")(BatchNorm(_EPS, dtype, name="bn1")(h))
    for i, (depth, dim) in enumerate(zip(c.depths, c.widths, strict=True)):
      for j in range(depth):
        h = Block(dim, 1 if j else 2, dtype, name=f"layer{i + 1}.{j}")(h)
    h = BatchNorm(_EPS, dtype, name="bn2")(h)
    h = h.transpose(0, 3, 1, 2).reshape(h.shape[0], -1)  # fc's rows are in torch's order
    h = Dense(c.features, dtype=dtype, name="fc")(h)
    return BatchNorm(_EPS, dtype, name="features")(h)


def shapes(cfg: IResNetConfig = IRESNET50):
  """The parameters as float32 ShapeDtypeStructs; nothing is computed or allocated."""
  x = jax.ShapeDtypeStruct((1, cfg.image_size, cfg.image_size, 3), jnp.float32)
  return parameter_shapes(IResNet(cfg), x)


def load_onnx(path: str | os.PathLike) -> tuple[IResNetConfig, dict]:
  """(config, params) of an insightface recogniser, float32 numpy; BatchNorms folded or not.

  A folded BatchNorm comes back as an identity that carries the bias. Depths and widths are read
  from the graph; `image_size` is the one that fits `fc` (112 for insightface's own files).
  Raises ValueError if the file is not ONNX or its graph is not an IResNet's.
  """
  import onnx  # insightface brings it; nothing else here needs it
  from google.protobuf.message import DecodeError

  try:
    graph = onnx.load(os.fspath(path)).graph
  except DecodeError as e:
    raise ValueError(f"{path} is not an ONNX file.") from e
  try:
    return _read(_Graph(graph))
  except _Unexpected as e:
    raise ValueError(f"{path} is not an ArcFace IResNet: {e}.") from e


class _Unexpected(Exception):
  """The graph differs from an IResNet's; the message says where."""


class _Node(NamedTuple):
  op: str
  inputs: tuple[str, ...]  # tensors first, constants after
  output: str
  attrs: dict
  consts: tuple[np.ndarray, ...]


class _Graph:
  """Nodes by the tensor they read, constants resolved."""

  def __init__(self, graph) -> None:
    from onnx import helper, numpy_helper

    consts = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    self.readers: dict[str, list[_Node]] = {}
    for node in graph.node:
      attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
      if node.op_type == "Constant" and "value" in attrs:
        consts[node.output[0]] = numpy_helper.to_array(attrs["value"])
      elif node.op_type in ("Identity", "Unsqueeze") and node.input[0] in consts:
        # Exporters share equal tensors by Identity and widen PReLU's slopes; sizes stay.
        consts[node.output[0]] = consts[node.input[0]]
      else:
        inputs = tuple(name for name in node.input if name and name not in consts)
        constants = tuple(consts[name] for name in node.input if name in consts)
        for name in inputs:
          self.readers.setdefault(name, []).append(_Node(node.op_type, inputs, node.output[0], attrs, constants))
    free = [i.name for i in graph.input if i.name not in consts]
    outputs = [o.name for o in graph.output]
    if (len(free), len(outputs)) != (1, 1):
      raise _Unexpected(f"it has {len(free)} inputs and {len(outputs)} outputs")
    self.input, self.output = free[0], outputs[0]

  def next(self, tensor: str, *ops: str) -> _Node | None:
    """The one reader of `tensor` whose op is among `ops`, if there is one."""
    matches = [n for n in self.readers.get(tensor, ()) if n.op in ops]
    return matches[0] if len(matches) == 1 else None

  def take(self, tensor: str, *ops: str) -> _Node:
    if node := self.next(tensor, *ops):
      return node
    actual = ", ".join(n.op for n in self.readers.get(tensor, ())) or "the end"
    raise _Unexpected(f"expected {' or '.join(ops)} after {tensor!r}, found {actual}")


def _read(graph: _Graph) -> tuple[IResNetConfig, dict]:
  arrays: dict[str, np.ndarray] = {}  # by dotted path

  def put(module: str, **leaves) -> None:
    arrays.update({f"{module}.{k}": np.asarray(x, np.float32) for k, x in leaves.items()})

  def norm(name: str, node: _Node | None, width: int = 0, bias=0.0) -> None:
    if node is None:  # folded: sqrt(var + eps) is 1
      leaves = (np.ones(width), np.zeros(width) + bias, np.zeros(width), np.ones(width) - _EPS)
    else:
      if len(node.consts) != 4:
        raise _Unexpected("a BatchNormalization without statistics")
      scale, shift, mean, var = (np.asarray(x, np.float64) for x in node.consts)
      # A bias before a BatchNorm moves its mean; a foreign eps moves its variance.
      leaves = scale, shift, mean - bias, var + node.attrs.get("epsilon", _EPS) - _EPS
    put(name, **dict(zip(("scale", "bias", "running_mean", "running_var"), leaves)))

  def conv(tensor: str, name: str, norm_name: str, size: int) -> tuple[str, int, int]:
    """Reads a convolution and its norm, if unfolded: (tensor after it, width, stride)."""
    node = next(
      (n for n in graph.readers.get(tensor, ()) if n.op == "Conv" and n.attrs.get("kernel_shape") == [size, size]), None
    )
    if node is None or not node.consts or node.attrs.get("group", 1) != 1:
      raise _Unexpected(f"expected a plain {size} x {size} convolution after {tensor!r}")
    if node.attrs.get("pads", [0] * 4) != [size // 2] * 4:
      raise _Unexpected(f"{name} has padding {node.attrs.get('pads')}")
    kernel, *bias = node.consts
    put(name, kernel=kernel.transpose(2, 3, 1, 0))
    after = graph.next(node.output, "BatchNormalization")
    norm(norm_name, after, kernel.shape[0], *bias)
    stride = node.attrs.get("strides", [1, 1])[0]
    return (after or node).output, kernel.shape[0], stride

  def prelu(tensor: str, name: str) -> str:
    node = graph.take(tensor, "PRelu")
    if not node.consts:
      raise _Unexpected(f"{name} has no constant slopes")
    put(name, scale=node.consts[0].reshape(-1))
    return node.output

  x, stem, _ = conv(graph.input, "conv1", "bn1", 3)
  x = prelu(x, "prelu")
  depths: list[int] = []
  widths: list[int] = []
  while len(graph.readers.get(x, ())) == 2:  # a block reads its input twice: branch and skip
    branch = graph.take(x, "BatchNormalization")
    down = graph.next(x, "Conv")
    if down:
      depths, widths = [*depths, 0], [*widths, 0]
    if not depths:
      raise _Unexpected("its first block does not halve the image")
    name = f"layer{len(depths)}.{depths[-1]}"
    norm(f"{name}.bn1", branch)
    h, _, _ = conv(branch.output, f"{name}.conv1", f"{name}.bn2", 3)
    h = prelu(h, f"{name}.prelu")
    h, width, stride = conv(h, f"{name}.conv2", f"{name}.bn3", 3)
    skip = x
    if down:
      skip, _, _ = conv(x, f"{name}.downsample.0", f"{name}.downsample.1", 1)
    if stride != (2 if down else 1):
      raise _Unexpected(f"{name} has stride {stride}")
    add = graph.take(h, "Add")
    if set(add.inputs) != {h, skip}:
      raise _Unexpected(f"{name} has no skip connection")
    x, depths[-1], widths[-1] = add.output, depths[-1] + 1, width
  if not depths:
    raise _Unexpected("it has no residual blocks")
  if stem != widths[0]:
    raise _Unexpected(f"its stem has {stem} channels, layer1 has {widths[0]}")

  node = graph.take(x, "BatchNormalization")
  norm("bn2", node)
  node = graph.take(node.output, "Flatten", "Reshape")
  node = graph.take(node.output, "Gemm")
  if len(node.consts) != 2:
    raise _Unexpected("fc has no constant kernel and bias")
  kernel, bias = node.consts
  kernel = kernel.T if node.attrs.get("transB", 0) else kernel
  put("fc", kernel=kernel, bias=bias)
  after = graph.next(node.output, "BatchNormalization")
  norm("features", after, kernel.shape[1])
  if (after or node).output != graph.output:
    raise _Unexpected("it goes on after its features")
  side = math.isqrt(kernel.shape[0] // widths[-1])
  if side * side * widths[-1] != kernel.shape[0]:
    raise _Unexpected(f"fc reads {kernel.shape[0]} values of {widths[-1]} channels")
  size = side * 2 ** len(depths)
  cfg = IResNetConfig(tuple(depths), tuple(widths), kernel.shape[1], size)

  def pick(path, want):
    name = ".".join(k.key for k in path)
    if (shape := arrays[name].shape) != want.shape:
      raise _Unexpected(f"{name} is {list(shape)}, expected {list(want.shape)}")
    return arrays[name]

  return cfg, jax.tree_util.tree_map_with_path(pick, shapes(cfg))
