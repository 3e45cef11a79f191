"""Inception-V3 against a PyTorch twin with the published file's keys; FID's two ways to resize."""

import numpy as np
import pytest
import torch
from support.fakes import relative_error, scramble, state_dict
from torch import nn
from torch.nn import functional as F

from idejax.errors import UserError
from idejax.evaluation import distributions, networks, preprocess
from idejax.evaluation.judges import About
from idejax.nets import inception
from idejax.storage import weights

# Blocks as (branch, its units as (features, window (high, wide), stride)), in the order of their channels.
THREE, FIVE, ROW, COLUMN = (3, 3), (5, 5), (1, 7), (7, 1)


class Unit(nn.Module):
  def __init__(self, into, features, window=(1, 1), stride=1, padded=True):
    super().__init__()
    pad = tuple(n // 2 for n in window) if padded else 0
    self.conv = nn.Conv2d(into, features, window, stride, pad, bias=False)
    self.bn = nn.BatchNorm2d(features, eps=0.001)

  def forward(self, x):
    return F.relu(self.bn(self.conv(x)))


class Block(nn.Module):
  """`units` {name: (input, features, window, stride)}; `flow(self, x)` gives the outputs to join."""

  def __init__(self, units, flow):
    super().__init__()
    self.flow = flow
    for name, (into, features, window, stride) in units.items():
      self.add_module(name, Unit(into, features, window, stride, stride == 1))

  def run(self, x, *names):
    for n in names:
      x = getattr(self, n)(x)
    return x

  def forward(self, x):
    return torch.cat(self.flow(self, x), 1)


def mean(x):
  return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def a(into, pooled):
  units = {"branch1x1": (into, 64), "branch5x5_1": (into, 48), "branch5x5_2": (48, 64, FIVE), "branch3x3dbl_1": (into, 64),
           "branch3x3dbl_2": (64, 96, THREE), "branch3x3dbl_3": (96, 96, THREE), "branch_pool": (into, pooled)}  # fmt: skip
  return Block(full(units), lambda m, x: [
    m.branch1x1(x), m.run(x, "branch5x5_1", "branch5x5_2"),
    m.run(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"), m.branch_pool(mean(x))])  # fmt: skip


def b(into):
  units = {"branch3x3": (into, 384, THREE, 2), "branch3x3dbl_1": (into, 64), "branch3x3dbl_2": (64, 96, THREE),
           "branch3x3dbl_3": (96, 96, THREE, 2)}  # fmt: skip
  return Block(full(units), lambda m, x: [
    m.branch3x3(x), m.run(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"), F.max_pool2d(x, 3, 2)])  # fmt: skip


def c(into, n):
  units = {"branch1x1": (into, 192), "branch7x7_1": (into, n), "branch7x7_2": (n, n, ROW), "branch7x7_3": (n, 192, COLUMN),
           "branch7x7dbl_1": (into, n), "branch7x7dbl_2": (n, n, COLUMN), "branch7x7dbl_3": (n, n, ROW),
           "branch7x7dbl_4": (n, n, COLUMN), "branch7x7dbl_5": (n, 192, ROW), "branch_pool": (into, 192)}  # fmt: skip
  return Block(full(units), lambda m, x: [
    m.branch1x1(x), m.run(x, *(f"branch7x7_{i}" for i in (1, 2, 3))), m.run(x, *(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5))),
    m.branch_pool(mean(x))])  # fmt: skip


def d(into):
  units = {"branch3x3_1": (into, 192), "branch3x3_2": (192, 320, THREE, 2), "branch7x7x3_1": (into, 192),
           "branch7x7x3_2": (192, 192, ROW), "branch7x7x3_3": (192, 192, COLUMN), "branch7x7x3_4": (192, 192, THREE, 2)}  # fmt: skip
  return Block(full(units), lambda m, x: [
    m.run(x, "branch3x3_1", "branch3x3_2"), m.run(x, *(f"branch7x7x3_{i}" for i in (1, 2, 3, 4))), F.max_pool2d(x, 3, 2)])  # fmt: skip


def e(into, pool):
  units = {"branch1x1": (into, 320), "branch3x3_1": (into, 384), "branch3x3_2a": (384, 384, (1, 3)), "branch3x3_2b": (384, 384, (3, 1)),
           "branch3x3dbl_1": (into, 448), "branch3x3dbl_2": (448, 384, THREE), "branch3x3dbl_3a": (384, 384, (1, 3)),
           "branch3x3dbl_3b": (384, 384, (3, 1)), "branch_pool": (into, 192)}  # fmt: skip

  def flow(m, x):
    y, z = m.branch3x3_1(x), m.run(x, "branch3x3dbl_1", "branch3x3dbl_2")
    return [
      m.branch1x1(x),
      m.branch3x3_2a(y),
      m.branch3x3_2b(y),
      m.branch3x3dbl_3a(z),
      m.branch3x3dbl_3b(z),
      m.branch_pool(pool(x)),
    ]

  return Block(full(units), flow)


def full(units):
  return {k: (*v, *((1, 1), 1)[len(v) - 2 :]) for k, v in units.items()}


class Twin(nn.Module):
  def __init__(self):
    super().__init__()
    self.Conv2d_1a_3x3 = Unit(3, 32, THREE, 2, False)
    self.Conv2d_2a_3x3 = Unit(32, 32, THREE, padded=False)
    self.Conv2d_2b_3x3 = Unit(32, 64, THREE)
    self.Conv2d_3b_1x1 = Unit(64, 80, padded=False)
    self.Conv2d_4a_3x3 = Unit(80, 192, THREE, padded=False)
    for name, block in (("5b", a(192, 32)), ("5c", a(256, 64)), ("5d", a(288, 64)), ("6a", b(288)), ("6b", c(768, 128)),
                        ("6c", c(768, 160)), ("6d", c(768, 160)), ("6e", c(768, 192)), ("7a", d(768)), ("7b", e(1280, mean)),
                        ("7c", e(2048, lambda x: F.max_pool2d(x, 3, 1, 1)))):  # fmt: skip
      self.add_module(f"Mixed_{name}", block)
    self.fc = nn.Linear(2048, 1008)

  def forward(self, x):
    x = F.max_pool2d(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))), 3, 2)
    x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2)
    for name, block in self.named_children():
      if name.startswith("Mixed"):
        x = block(x)
    x = x.mean((2, 3))
    return x, self.fc(x)


@pytest.fixture(scope="module")
def twin():
  torch.manual_seed(0)
  module = scramble(Twin())
  with torch.no_grad():  # ReLUs keep the variance, or ninety layers end in nothing
    for name, p in module.named_parameters():
      if name.endswith("conv.weight"):
        p.mul_(2**0.5)
  return module


def smooth(n, h, w, seed=0):
  """uint8 pictures with large and small detail."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 256, (n, h // 8, w // 8, 3)).repeat(8, 1).repeat(8, 2)
  return (0.8 * coarse + 0.2 * rng.integers(0, 256, coarse.shape)).astype(np.uint8)


@pytest.fixture(scope="module")
def judge(twin, tmp_path_factory):
  from safetensors.numpy import save_file

  path = tmp_path_factory.mktemp("inception") / "inception.safetensors"
  save_file(state_dict(twin), path)
  return networks.Inception(path, About("", "", "", ""))


def theirs(twin, images):
  x = np.stack([preprocess.inception(i) for i in images]).transpose(0, 3, 1, 2)
  with torch.no_grad():
    return twin(torch.from_numpy(x))[0].numpy()


def test_equal_to_the_twin_by_the_published_files_keys(twin, judge):
  images = list(smooth(2, 64, 80))
  want = theirs(twin, images)
  assert relative_error(judge.features(images), want) < 2e-6 and want.std() > 0.01
  assert set(weights.keys(inception.shapes())) == set(state_dict(twin))


@pytest.mark.slow
def test_fid_is_torchs(twin, judge):
  """Two sets of pictures through both networks: the same FID to 1e-3, relative."""
  sets = smooth(4, 64, 64, 1), smooth(4, 64, 64, 2) // 2
  ours = distributions.fid(*(judge.features(list(s)) for s in sets))
  assert ours == pytest.approx(distributions.fid(*(theirs(twin, s) for s in sets)), rel=1e-3) and ours > 0


def test_tensorflows_resizing_reads_corners_as_they_lie():
  """Output pixel i reads input i * count / side: not centred, no smoothing."""
  x = np.tile(np.arange(10, dtype=np.uint8)[None, :, None] * 20, (10, 1, 3))
  got = preprocess.tensorflow(x, 20)
  np.testing.assert_allclose(got[0, :, 0], np.minimum(np.arange(20) / 2, 9) * 20)
  np.testing.assert_allclose(preprocess.tensorflow(x, 5)[0, :, 0], np.arange(5) * 40)


def test_clean_resizing_smooths_and_stays_in_range():
  dots = np.zeros((300, 300, 3), np.uint8)
  dots[::2, ::2] = 255
  clean, plain = preprocess.clean(dots, 100), preprocess.tensorflow(dots, 100)
  assert clean[10:-10, 10:-10].std() < 8 < plain.std()
  assert clean.min() >= 0 and clean.max() <= 255 and clean.dtype == np.float32
  assert np.abs(preprocess.inception(dots)).max() <= 1
  with pytest.raises(UserError, match="resize is 'nearest'"):
    preprocess.inception(dots, "nearest")
