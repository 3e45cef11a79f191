"""IResNet against a PyTorch twin and ONNX Runtime, through exported files of several kinds."""

import warnings

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.fakes import relative_error, scramble, state_dict
from torch import nn
from torch.onnx import TrainingMode

from idejax.nets import iresnet
from idejax.storage import weights

SMALL = iresnet.IResNetConfig((1, 1, 2, 1), (8, 12, 16, 20), features=24, image_size=48)


class Block(nn.Module):
  def __init__(self, inside, dim, stride):
    super().__init__()
    self.bn1 = nn.BatchNorm2d(inside)
    self.conv1 = nn.Conv2d(inside, dim, 3, 1, 1, bias=False)
    self.bn2 = nn.BatchNorm2d(dim)
    self.prelu = nn.PReLU(dim)
    self.conv2 = nn.Conv2d(dim, dim, 3, stride, 1, bias=False)
    self.bn3 = nn.BatchNorm2d(dim)
    self.downsample = None
    if stride != 1:
      self.downsample = nn.Sequential(nn.Conv2d(inside, dim, 1, stride, bias=False), nn.BatchNorm2d(dim))

  def forward(self, x):
    h = self.prelu(self.bn2(self.conv1(self.bn1(x))))
    h = self.bn3(self.conv2(h))
    return h + (x if self.downsample is None else self.downsample(x))


class Twin(nn.Module):
  def __init__(self, cfg):
    super().__init__()
    self.conv1 = nn.Conv2d(3, cfg.widths[0], 3, 1, 1, bias=False)
    self.bn1 = nn.BatchNorm2d(cfg.widths[0])
    self.prelu = nn.PReLU(cfg.widths[0])
    inside = cfg.widths[0]
    for i, (depth, dim) in enumerate(zip(cfg.depths, cfg.widths)):
      stage = [Block(dim if j else inside, dim, 1 if j else 2) for j in range(depth)]
      self.add_module(f"layer{i + 1}", nn.Sequential(*stage))
      inside = dim
    self.bn2 = nn.BatchNorm2d(inside)
    side = cfg.image_size // 2 ** len(cfg.depths)
    self.fc = nn.Linear(inside * side * side, cfg.features)
    self.features = nn.BatchNorm1d(cfg.features)

  def forward(self, x):
    h = self.prelu(self.bn1(self.conv1(x)))
    for name, stage in self.named_children():
      if name.startswith("layer"):
        h = stage(h)
    return self.features(self.fc(torch.flatten(self.bn2(h), 1)))


def nchw(x):
  return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def faces(rng, cfg, batch):
  side = cfg.image_size
  return rng.uniform(-1, 1, (batch, side, side, 3)).astype(np.float32)


def export(module, path, cfg, **kwargs):
  x = torch.zeros(1, 3, cfg.image_size, cfg.image_size)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the classic exporter says it is the classic exporter
    torch.onnx.export(
      module, (x,), str(path), input_names=["data"], dynamo=False, dynamic_axes={"data": {0: "None"}}, **kwargs
    )
  return path


def onnx_run(path, x):
  return onnxruntime.InferenceSession(str(path)).run(None, {"data": nchw(x)})[0]


def run(cfg, params, x):
  return jax.jit(iresnet.IResNet(cfg).apply)({"params": params}, x)


@pytest.mark.parametrize("batch", [1, 3])
def test_equal_to_torch(batch, rng):
  twin = scramble(Twin(SMALL))
  params = weights.from_torch(iresnet.shapes(SMALL), state_dict(twin))
  x = faces(rng, SMALL, batch)
  with torch.no_grad():
    theirs = twin(torch.from_numpy(nchw(x)))
  assert relative_error(run(SMALL, params, x), theirs) < 1e-5


EXPORTS = {
  "folded": dict(opset_version=11),  # as insightface's own script writes it
  "folded_17": dict(opset_version=17),
  "unfolded": dict(training=TrainingMode.PRESERVE, do_constant_folding=False),
}


@pytest.mark.parametrize("kind", EXPORTS)
def test_onnx_files_equal_onnx_runtime(kind, tmp_path, rng):
  twin = scramble(Twin(SMALL))
  path = export(twin, tmp_path / "w.onnx", SMALL, **EXPORTS[kind])
  norms = sum(n.op_type == "BatchNormalization" for n in onnx.load(path).graph.node)
  # Folded, there remain the first of each of 5 blocks, bn2 and features.
  assert norms == (22 if kind == "unfolded" else 7)
  cfg, params = iresnet.load_onnx(path)
  assert cfg == SMALL
  x = faces(rng, SMALL, 3)
  assert relative_error(run(cfg, params, x), onnx_run(path, x)) < 1e-5
  if kind == "unfolded":  # then nothing is lost, not even a bit but eps's
    want = weights.from_torch(iresnet.shapes(SMALL), state_dict(twin))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-7), params, want)


def test_onnx_optimised_by_onnx_runtime(tmp_path, rng):
  path = export(
    scramble(Twin(SMALL)), tmp_path / "w.onnx", SMALL, training=TrainingMode.PRESERVE, do_constant_folding=False
  )
  options = onnxruntime.SessionOptions()
  options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
  options.optimized_model_filepath = str(tmp_path / "better.onnx")
  onnxruntime.InferenceSession(str(path), options)
  cfg, params = iresnet.load_onnx(tmp_path / "better.onnx")
  x = faces(rng, SMALL, 2)
  assert cfg == SMALL and relative_error(run(cfg, params, x), onnx_run(path, x)) < 1e-5


def test_identity_nodes_half_precision_and_a_folded_head(tmp_path, rng):
  path = export(scramble(Twin(SMALL)), tmp_path / "w.onnx", SMALL, opset_version=11)
  model = onnx.load(path)
  graph = model.graph
  constants = {t.name: t for t in graph.initializer}
  array = {k: onnx.numpy_helper.to_array(t) for k, t in constants.items()}
  gemm = next(n for n in graph.node if n.op_type == "Gemm")
  head = next(n for n in graph.node if n.input[0] == gemm.output[0])
  scale, shift, mean, var = (array[k] for k in head.input[1:])
  gain = scale / np.sqrt(var + 1e-5)
  kernel, bias = (array[k] for k in gemm.input[1:])
  for name, value in ((gemm.input[1], kernel * gain[:, None]), (gemm.input[2], (bias - mean) * gain + shift)):
    constants[name].CopyFrom(onnx.numpy_helper.from_array(value.astype(np.float32), name))
  gemm.output[0] = head.output[0]
  graph.node.remove(head)
  slope = next(n for n in graph.node if n.op_type == "PRelu")  # read through an Identity
  graph.node.insert(0, onnx.helper.make_node("Identity", [slope.input[1]], ["shared"]))
  slope.input[1] = "shared"
  onnx.checker.check_model(model)
  onnx.save(model, path)
  cfg, params = iresnet.load_onnx(path)
  x = faces(rng, SMALL, 2)
  assert relative_error(run(cfg, params, x), onnx_run(path, x)) < 1e-5

  for t in constants.values():
    t.CopyFrom(onnx.numpy_helper.from_array(array[t.name].astype(np.float16), t.name))
  onnx.save(model, path)
  _, params = iresnet.load_onnx(path)
  assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
  "cfg, count", [(iresnet.IRESNET50, 43_590_848), (iresnet.IRESNET100, 65_156_160)], ids=["50", "100"]
)
def test_full_size_keys_and_shapes(cfg, count):
  with torch.device("meta"):
    twin = Twin(cfg)
  want = {k: tuple(v.shape) for k, v in twin.state_dict().items() if v.is_floating_point()}
  ours = weights.keys(iresnet.shapes(cfg))
  assert ours == want
  assert sum(np.prod(s) for k, s in ours.items() if "running" not in k) == count


def test_gradient_reaches_every_pixel(rng):
  params = weights.from_torch(iresnet.shapes(SMALL), state_dict(scramble(Twin(SMALL))))
  x = faces(rng, SMALL, 1)
  grad = jax.jit(jax.grad(lambda x: iresnet.IResNet(SMALL).apply({"params": params}, x).sum()))(x)
  assert (np.abs(grad).max(-1) > 0).all()


class Plain(nn.Module):
  """Starts like an IResNet and ends as something else."""

  def __init__(self, *layers):
    super().__init__()
    self.layers = nn.Sequential(*layers)

  def forward(self, x):
    return self.layers(x)


@pytest.mark.parametrize(
  "layers, said",
  [
    ([nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()], "PRelu"),
    ([nn.Conv2d(3, 8, 5, padding=2), nn.PReLU(8)], "3 x 3"),
    ([nn.Conv2d(3, 8, 3, 1, 1), nn.PReLU(8), nn.Flatten(), nn.Linear(8 * 48 * 48, 4)], "residual"),
    ([nn.Conv2d(3, 9, 3, 1, 1), nn.PReLU(9), Block(9, 9, 1)], "halve"),
    ([nn.Conv2d(3, 9, 3, 1, 1), nn.PReLU(9), Block(9, 9, 2)], "BatchNormalization"),
    ([nn.Conv2d(3, 9, 3, 1, 1), nn.PReLU(9), Block(9, 8, 2)], "stem"),
    ([Twin(SMALL), nn.ReLU()], "goes on"),
  ],
)
def test_other_graphs_are_refused_in_one_sentence(layers, said, tmp_path):
  path = export(Plain(*layers).eval(), tmp_path / "other.onnx", SMALL)
  with pytest.raises(ValueError, match=f"other.onnx is not an ArcFace IResNet: .*{said}"):
    iresnet.load_onnx(path)


def test_a_shared_slope_is_refused(tmp_path):
  twin = Twin(SMALL).eval()
  twin.layer1[0].prelu = nn.PReLU()
  path = export(twin, tmp_path / "other.onnx", SMALL)
  with pytest.raises(ValueError, match=r"layer1\.0\.prelu\.scale is \[1\], expected \[8\]"):
    iresnet.load_onnx(path)


def test_a_file_that_is_no_onnx(tmp_path):
  (tmp_path / "x.onnx").write_text("hello, I am a text file")
  with pytest.raises(ValueError, match="not an ONNX"):
    iresnet.load_onnx(tmp_path / "x.onnx")
  (tmp_path / "x.onnx").write_bytes(b"")  # as protobuf, an empty model
  with pytest.raises(ValueError, match="0 inputs"):
    iresnet.load_onnx(tmp_path / "x.onnx")
