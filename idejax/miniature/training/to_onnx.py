"""Writes the small nets as ONNX files from their descriptions, and reads such files.

`Graph` has the methods of `nets/convnet.py`'s `Layers`; a description called with a `Graph` builds its NCHW
graph. Weights are named `NAME.kernel`, `NAME.bias`, `NAME.slope`, so the JAX parameters can be read back.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from idejax.errors import UserError
from idejax.nets import convnet
from idejax.nets.convnet import Body
from idejax.storage.files import replacing

_OPSET, _IR = 13, 8  # what ONNX Runtimes since 2021 read


class Graph:
  """Nodes and weights; tensors are known by name and by their number of channels."""

  def __init__(self, params: Mapping[str, Mapping[str, np.ndarray]]):
    self.params = params
    self.nodes: list[onnx.NodeProto] = []
    self.weights: dict[str, np.ndarray] = {}
    self.channels: dict[str, int] = {}  # of every tensor so far

  def _node(self, op: str, name: str, inputs: Sequence[str], channels: int, **attributes) -> str:
    self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
    self.channels[name] = channels
    return name

  def _weight(self, name: str, value) -> str:
    self.weights[name] = np.ascontiguousarray(value)
    return name

  def _new(self, kind: str) -> str:
    # insightface takes early nodes called Sub and Mul for a built-in normalisation: no such names.
    return f"{kind}.{len(self.nodes)}"

  def _act(self, act: str | None, name: str, x: str, features: int, rank: int) -> str:
    if act == "relu":
      return self._node("Relu", f"{name}.relu", [x], features)
    if act == "prelu":
      slope = self.params[name]["slope"].reshape(-1, *(1,) * (rank - 2))
      return self._node("PRelu", f"{name}.prelu", [x, self._weight(f"{name}.slope", slope)], features)
    return x

  def conv(self, name, x, features, size=3, stride=1, *, act="relu", norm=True):
    unit = self.params[name]
    kernel = self._weight(f"{name}.kernel", unit["kernel"].transpose(3, 2, 0, 1))
    inputs = [x, kernel, self._weight(f"{name}.bias", unit["bias"])]
    y = self._node("Conv", name, inputs, features, kernel_shape=[size] * 2, strides=[stride] * 2, pads=[size // 2] * 4)
    return self._act(act, name, y, features, 4)

  def dense(self, name, x, features, *, act=None, norm=False):
    unit = self.params[name]
    weights = [self._weight(f"{name}.{k}", unit[k]) for k in ("kernel", "bias")]
    return self._act(act, name, self._node("Gemm", name, [x, *weights], features), features, 2)

  def add(self, x, y):
    return self._node("Add", self._new("sum"), [x, y], self.channels[x])

  def shrink(self, x, n):
    return self._node("AveragePool", self._new("shrink"), [x], self.channels[x], kernel_shape=[n] * 2, strides=[n] * 2)

  def grow(self, x):
    scales = self._weight("twice", np.array([1, 1, 2, 2], np.float32))
    return self._node(
      "Resize",
      self._new("grow"),
      [x, "", scales],
      self.channels[x],
      mode="nearest",
      coordinate_transformation_mode="asymmetric",
      nearest_mode="floor",
    )

  def mean(self, x):
    y = self._node("GlobalAveragePool", self._new("mean"), [x], self.channels[x])
    return self._node("Flatten", self._new("flat"), [y], self.channels[x], axis=1)

  def rows(self, x):
    return self._reshape(x, (0, -1), 0)

  def anchors(self, x, width):
    return self._reshape(x, (0, -1, width), width)

  def _reshape(self, x, shape, channels):
    y = self._node("Transpose", self._new("channels_last"), [x], 0, perm=[0, 2, 3, 1])
    to = self._weight("shape." + ".".join(map(str, shape)), np.array(shape, np.int64))
    return self._node("Reshape", self._new("rows"), [y, to], channels)

  def sigmoid(self, x):
    return self._node("Sigmoid", self._new("sigmoid"), [x], self.channels[x])


def write(
  path: Path,
  body: Body,
  params: Mapping[str, Any],
  *,
  name: str,
  size: Sequence[int | str],
  outputs: Sequence[str],
  shapes: Sequence[Sequence[int | str]],
  batch: int | str = "batch",
  notes: Mapping[str, str] | None = None,
):
  """Writes one net with folded parameters, after onnx has checked it.

  Args:
    size: height and width of the input; texts are free dimensions.
    outputs: their names, in the order of what `body` returns; `shapes`: of each, batch included.
    notes: metadata of the file, as seen in every ONNX viewer.
  """
  graph = Graph({n: {k: np.asarray(v, np.float32) for k, v in unit.items()} for n, unit in params.items()})
  graph.channels["input"] = 3
  tensors = body(graph, "input")
  tensors = tensors if isinstance(tensors, tuple) else (tensors,)
  # An output's name is the caller's: the node that makes it is renamed.
  names = dict(zip(tensors, outputs, strict=True))
  for node in graph.nodes:
    node.output[0] = names.get(node.output[0], node.output[0])
  value = helper.make_tensor_value_info
  model = helper.make_model(
    helper.make_graph(
      graph.nodes,
      name,
      [value("input", TensorProto.FLOAT, [batch, 3, *size])],
      [value(n, TensorProto.FLOAT, list(s)) for n, s in zip(outputs, shapes, strict=True)],
      [numpy_helper.from_array(w, n) for n, w in graph.weights.items()],
    ),
    producer_name="idejax",
    ir_version=_IR,
    opset_imports=[helper.make_opsetid("", _OPSET)],
  )
  helper.set_model_props(model, dict(notes or {}))
  onnx.checker.check_model(model, full_check=True)
  path.parent.mkdir(parents=True, exist_ok=True)
  with replacing(path) as temporary:
    onnx.save(model, str(temporary))


def read(path: Path) -> dict[str, dict[str, np.ndarray]]:
  """The folded parameters of a file that `write` wrote. Raises UserError for any other."""
  try:
    return convnet.load_onnx(path)
  except (OSError, ValueError) as e:
    raise UserError(str(e)) from e
