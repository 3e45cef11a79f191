"""Face packs made by hand, a few kB each: a detector of green squares, a random recogniser, stubs."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CELL = 32  # the detector fires on cells of this grid that are wholly green
GREEN = (0, 255, 0)
# The five points of a face in its cell, and the 106 landmarks that the stub gives in its input.
POINTS = np.array([[0.34, 0.46], [0.66, 0.46], [0.50, 0.64], [0.37, 0.82], [0.63, 0.82]])
MARKS = np.random.default_rng(106).uniform(-0.5, 0.5, (106, 2)).astype(np.float32)


def pack(folder: Path, landmarks: bool = False, **about) -> Path:
  """A folder that insightface opens; `about` goes into pack.json."""
  folder.mkdir(parents=True, exist_ok=True)
  onnx.save(detector(), folder / "det.onnx")
  onnx.save(recogniser(), folder / "rec.onnx")
  if landmarks:
    onnx.save(landmarks106(), folder / "2d106.onnx")
  default = {"name": "green", "licence": "Apache-2.0", "licence_url": "", "det_size": [128, 128], "det_threshold": 0.5}
  (folder / "pack.json").write_text(json.dumps(default | about))
  return folder


def picture(*cells: tuple[int, int], size: int = 128, seed: int = 0) -> np.ndarray:
  """uint8 [size, size, 3]: dark noise, green squares at the (column, row)s of the 4 x 4 grid, with
  some blue noise inside that the detector does not mind."""
  rng = np.random.default_rng(seed)
  image = rng.integers(0, 60, (size, size, 3), dtype=np.uint8)
  step = size // 4
  for x, y in cells:
    square = image[y * step : (y + 1) * step, x * step : (x + 1) * step]
    square[..., :2] = (0, 255)
    square[..., 2] = rng.integers(0, 50, square.shape[:2])
  return image


def points_of(column: int, row: int, size: int = 128) -> np.ndarray:
  return (POINTS + [column, row]) * (size / 4)


def detector(outputs: int = 9) -> onnx.ModelProto:
  """SCRFD's contract. Strides 8 and 16 never fire; at 32 a cell fires where green exceeds the mean
  of red and blue by 1.5 of the 2 that the normalisation allows. Its box is the cell."""
  nodes, scores, boxes, kps = [], [], [], []
  consts = {"rows1": np.array([-1, 1]), "rows4": np.array([-1, 4]), "rows10": np.array([-1, 10])}
  for stride in (8, 16, 32):
    cell = CELL / stride
    box = np.array([0, 0, cell, cell])
    points = (POINTS * cell).reshape(-1)
    gain = 20.0 if stride == 32 else 0.0
    kernel = {
      "s": (np.array([[-gain / 2, gain, -gain / 2], [0, 0, 0]]), np.array([-1.5 * gain - 5 * (gain == 0), -20.0])),
      "b": (np.zeros((8, 3)), np.tile(box, 2)),
      "k": (np.zeros((20, 3)), np.tile(points, 2)),
    }
    nodes.append(
      helper.make_node("AveragePool", ["image"], [f"p{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2)
    )
    for part, width, result in (("s", 1, scores), ("b", 4, boxes), ("k", 10, kps)):
      name = f"{part}{stride}"
      w, b = kernel[part]
      consts[name + "w"], consts[name + "bias"] = w[:, :, None, None].astype(np.float32), b.astype(np.float32)
      nodes += [
        helper.make_node("Conv", [f"p{stride}", name + "w", name + "bias"], [name + "c"]),
        helper.make_node("Transpose", [name + "c"], [name + "t"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", [name + "t", f"rows{width}"], [name + ("r" if part == "s" else "")]),
      ]
      if part == "s":
        nodes.append(helper.make_node("Sigmoid", [name + "r"], [name]))
      result.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, width]))
  return _model(nodes, "image", [1, 3, "height", "width"], [*scores, *boxes, *kps][:outputs], consts)


def recogniser(size: int = 112, features: int = 512, batch: str | int = "N") -> onnx.ModelProto:
  """Coarse pixels through a random matrix, with one set of weights for all input sizes."""
  step = size // 7  # 16 at 112, 18 at 128: the rest is not looked at
  rng = np.random.default_rng(1)
  consts = {
    "w": rng.normal(0, 1, (147, features)).astype(np.float32),
    "b": rng.normal(0, 1, features).astype(np.float32),
  }
  nodes = [
    helper.make_node("AveragePool", ["data"], ["pooled"], kernel_shape=[step] * 2, strides=[step] * 2),
    helper.make_node("Flatten", ["pooled"], ["flat"]),
    helper.make_node("Gemm", ["flat", "w", "b"], ["out"]),
  ]
  out = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, features])]
  return _model(nodes, "data", [batch, 3, size, size], out, consts)


def landmarks106() -> onnx.ModelProto:
  """MARKS for every image, in [-1, 1] of its input."""
  consts = {"zero": np.zeros((212, 3, 1, 1), np.float32), "marks": MARKS.reshape(-1)}
  nodes = [
    helper.make_node("GlobalAveragePool", ["data"], ["mean"]),
    helper.make_node("Conv", ["mean", "zero", "marks"], ["conv"]),
    helper.make_node("Flatten", ["conv"], ["out"]),
  ]
  out = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 212])]
  return _model(nodes, "data", [1, 3, 192, 192], out, consts)


def parsing(classes: int = 19, size: int = 512) -> onnx.ModelProto:
  """Class by colour: green is skin (1), red hair (17), else background (0)."""
  kernel = np.zeros((classes, 3, 1, 1), np.float32)
  kernel[1, :, 0, 0] = (-1, 1, -1)
  if classes > 17:
    kernel[17, :, 0, 0] = (1, -1, -1)
  bias = np.where(np.arange(classes) % 16 == 1, -3.5, 0).astype(np.float32)
  nodes = [helper.make_node("Conv", ["image", "w", "b"], ["scores"])]
  out = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, classes, size, size])]
  return _model(nodes, "image", [1, 3, size, size], out, {"w": kernel, "b": bias})


def _model(nodes, name, shape, outputs, consts) -> onnx.ModelProto:
  arrays = [numpy_helper.from_array(a, k) for k, a in consts.items()]
  image = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
  graph = helper.make_graph(nodes, "graph", [image], outputs, arrays)
  model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
  onnx.checker.check_model(model)
  return model
