"""DECA's coarse encoder against a PyTorch twin written from its published layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from support.fakes import fill, relative_error, scramble, state_dict
from torch import nn

from idejax.nets import resnet
from idejax.storage import weights


class Bottleneck(nn.Module):
  def __init__(self, inside, dim, stride):
    super().__init__()
    self.conv1 = nn.Conv2d(inside, dim, 1, bias=False)
    self.bn1 = nn.BatchNorm2d(dim)
    self.conv2 = nn.Conv2d(dim, dim, 3, stride, 1, bias=False)
    self.bn2 = nn.BatchNorm2d(dim)
    self.conv3 = nn.Conv2d(dim, 4 * dim, 1, bias=False)
    self.bn3 = nn.BatchNorm2d(4 * dim)
    self.downsample = None
    if stride != 1 or inside != 4 * dim:
      self.downsample = nn.Sequential(nn.Conv2d(inside, 4 * dim, 1, stride, bias=False), nn.BatchNorm2d(4 * dim))

  def forward(self, x):
    h = self.bn1(self.conv1(x)).relu()
    h = self.bn2(self.conv2(h)).relu()
    h = self.bn3(self.conv3(h))
    return (h + (x if self.downsample is None else self.downsample(x))).relu()


class Trunk(nn.Module):
  def __init__(self, cfg):
    super().__init__()
    self.conv1 = nn.Conv2d(3, cfg.width, 7, 2, 3, bias=False)
    self.bn1 = nn.BatchNorm2d(cfg.width)
    self.maxpool = nn.MaxPool2d(3, 2, 1)
    inside = cfg.width
    for i, depth in enumerate(cfg.depths):
      dim = cfg.width * 2**i
      blocks = [Bottleneck(inside if not j else 4 * dim, dim, 2 if i and not j else 1) for j in range(depth)]
      self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
      inside = 4 * dim

  def forward(self, x):
    h = self.maxpool(self.bn1(self.conv1(x)).relu())
    for name, stage in self.named_children():
      if name.startswith("layer"):
        h = stage(h)
    return h.mean((2, 3))


class Twin(nn.Module):
  def __init__(self, cfg):
    super().__init__()
    self.encoder = Trunk(cfg)
    wide = 4 * cfg.width * 2 ** (len(cfg.depths) - 1)
    self.layers = nn.Sequential(nn.Linear(wide, cfg.hidden), nn.ReLU(), nn.Linear(cfg.hidden, cfg.outputs))

  def forward(self, x):
    return self.layers(self.encoder(x))


@pytest.mark.parametrize("batch, shape, depths", [(1, (64, 64), (1, 2, 1)), (3, (49, 72), (2, 1))])
def test_equal_to_torch(batch, shape, depths, rng):
  cfg = resnet.ResNetConfig(depths, width=8, hidden=20, outputs=11)
  twin = scramble(Twin(cfg))
  params = weights.from_torch(resnet.shapes(cfg), state_dict(twin))
  x = rng.uniform(0, 1, (batch, *shape, 3)).astype(np.float32)
  ours = jax.jit(resnet.CoarseEncoder(cfg).apply)({"params": params}, x)
  with torch.no_grad():
    theirs = twin(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
  assert relative_error(ours, theirs) < 1e-5


def test_full_size_keys_and_shapes():
  cfg = resnet.ResNetConfig()
  with torch.device("meta"):
    twin = Twin(cfg)
  want = {k: tuple(v.shape) for k, v in twin.state_dict().items() if v.is_floating_point()}
  ours = weights.keys(resnet.shapes(cfg))
  assert ours == want
  learned = {k: s for k, s in ours.items() if "running" not in k}
  assert sum(map(np.prod, learned.values())) == 25_848_108  # statistics are not counted
  assert ours["encoder.layer4.2.conv3.weight"] == (2048, 512, 1, 1)


def test_batch_norm_statistics_are_float32_in_bfloat16(rng):
  norm = resnet.BatchNorm(dtype=jnp.bfloat16)
  x = rng.standard_normal((2, 3, 3, 8)).astype(np.float32)
  shapes = jax.eval_shape(lambda: norm.init(jax.random.key(0), x)["params"])
  params = fill(shapes) | {"running_var": np.full(8, 1e-4, np.float32)}
  want = resnet.BatchNorm().apply({"params": params}, x)
  ours = norm.apply({"params": params}, x)
  assert ours.dtype == jnp.bfloat16
  assert relative_error(ours.astype(jnp.float32), want) < 5e-3  # one rounding at the end
