"""Descriptions as Flax nets and as ONNX files: the same numbers, and the parameters come back."""

import numpy as np
import onnx
import onnxruntime
import pytest
from support.fakes import relative_error

from idejax.errors import UserError
from idejax.miniature.judging import judges
from idejax.miniature.training import to_onnx
from idejax.nets import convnet, scrfd, smallface

NETS = {
  "recogniser": (smallface.recogniser, 112),
  "judge": (smallface.judge, 96),
  "attributes": (judges.BODY, 64),
  "detector": (scrfd.body, 64),
}


def random_net(seed):
  """A description of what a seed says, of every kind of layer there is."""
  rng = np.random.default_rng(seed)
  width, depth = int(rng.integers(2, 6)), int(rng.integers(1, 4))
  acts = rng.choice(["relu", "prelu", None], depth)
  strides, sizes = rng.choice([1, 2], depth), rng.choice([1, 3, 5], depth)

  def body(f, x):
    h = f.conv("in", f.shrink(x, 2), width, 1)
    for i in range(depth):
      h = f.conv(f"a.{i}", h, width, int(sizes[i]), int(strides[i]), act=acts[i], norm=bool(i % 2))
      h = f.add(h, f.conv(f"b.{i}", h, width))
    h = f.grow(h)
    return (
      f.sigmoid(f.anchors(f.conv("head", h, 6), 3)),
      f.dense("out", f.rows(h), 4, act="relu"),
      f.dense("mean", f.mean(h), 5),
    )

  return body


def random_params(body, side, rng, folded=True):
  shapes = convnet.shapes(body, side, folded)
  draw = lambda s: rng.standard_normal(s.shape).astype(np.float32) * np.float32(np.prod(s.shape[:-1]) ** -0.5)
  return {n: {k: draw(s) for k, s in unit.items()} for n, unit in shapes.items()}


def outputs(body, params, x):
  result = convnet.Net(body, folded=True).apply({"params": params}, x)
  return result if isinstance(result, tuple) else (result,)


def write(path, body, params, x):
  result = outputs(body, params, x)
  names = [f"out{i}" for i in range(len(result))]
  shapes = [["batch", *(f"{n}.{i}" for i in range(1, y.ndim))] for n, y in zip(names, result)]
  to_onnx.write(path, body, params, name="test", size=x.shape[1:3], outputs=names, shapes=shapes)
  return result


def run(path, x):
  session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
  return session.run(None, {"input": np.ascontiguousarray(x.transpose(0, 3, 1, 2))})


@pytest.mark.parametrize("seed", range(4))
def test_random_nets_agree_with_onnx_runtime(seed, tmp_path, rng):
  body = random_net(seed)
  params = random_params(body, 16, rng)
  x = rng.standard_normal((2, 16, 16, 3)).astype(np.float32)
  expected = write(tmp_path / "net.onnx", body, params, x)
  for ours, theirs in zip(expected, run(tmp_path / "net.onnx", x), strict=True):
    assert relative_error(ours, theirs) < 1e-4
    assert np.abs(theirs).max() > 0


@pytest.mark.parametrize("name", NETS)
def test_our_nets_agree_with_onnx_runtime(name, tmp_path, rng):
  body, side = NETS[name]
  params = random_params(body, side, rng)
  x = rng.uniform(-1, 1, (1, side, side, 3)).astype(np.float32)
  for ours, theirs in zip(write(tmp_path / "net.onnx", body, params, x), run(tmp_path / "net.onnx", x), strict=True):
    assert relative_error(ours, theirs) < 1e-4


def test_parameters_come_back_from_the_file(tmp_path, rng):
  body = random_net(1)
  params = random_params(body, 16, rng)
  write(tmp_path / "net.onnx", body, params, np.zeros((1, 16, 16, 3), np.float32))
  back = to_onnx.read(tmp_path / "net.onnx")
  assert back.keys() == params.keys()
  for name, unit in params.items():
    assert back[name].keys() == unit.keys()
    for leaf, x in unit.items():
      np.testing.assert_array_equal(back[name][leaf], x)


def test_folding_gives_the_net_that_the_batch_saw(rng):
  """With the moments of one batch, the folded net is the training net on that batch."""
  body = random_net(3)
  params = random_params(body, 16, rng, folded=False)
  x = rng.standard_normal((4, 16, 16, 3)).astype(np.float32)
  want = convnet.Net(body).apply({"params": params}, x, mutable="moments")[0]
  folded = convnet.fold(body, params, [x])
  assert not any("scale" in unit for unit in folded.values())
  for a, b in zip(outputs(body, folded, x), want, strict=True):
    assert relative_error(a, b) < 1e-4


def test_first_nodes_do_not_look_like_a_built_in_normalisation(tmp_path, rng):
  """insightface would feed 0..255 to a graph that begins with nodes called Sub and Mul."""
  body, side = NETS["recogniser"]
  write(tmp_path / "net.onnx", body, random_params(body, side, rng), np.zeros((1, side, side, 3), np.float32))
  names = [n.name for n in onnx.load(tmp_path / "net.onnx").graph.node]
  assert not any(n.lower().startswith(("sub", "mul", "_minus", "_mul")) for n in names)
  assert len(set(names)) == len(names)


def test_foreign_files_have_no_twin(tmp_path):
  (tmp_path / "text.onnx").write_text("no graph")
  with pytest.raises(UserError, match="text.onnx"):
    to_onnx.read(tmp_path / "text.onnx")
  with pytest.raises(UserError, match="absent.onnx"):
    to_onnx.read(tmp_path / "absent.onnx")
  onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], [])), tmp_path / "other.onnx")
  with pytest.raises(UserError, match="not written by idejax"):
    to_onnx.read(tmp_path / "other.onnx")
