"""CLIP's ResNet and OpenAI's text tower against a PyTorch twin with the published file's keys."""

import numpy as np
import pytest
import torch
from support.fakes import relative_error, scramble, state_dict
from torch import nn
from torch.nn import functional as F

from idejax.evaluation import agreement, networks, preprocess
from idejax.evaluation.judges import About

WIDTH, FEATURES, LENGTH, TEXT = 16, 24, 40, 128


class Bottleneck(nn.Module):
  def __init__(self, into, dim, stride):
    super().__init__()
    self.conv1, self.bn1 = nn.Conv2d(into, dim, 1, bias=False), nn.BatchNorm2d(dim)
    self.conv2, self.bn2 = nn.Conv2d(dim, dim, 3, padding=1, bias=False), nn.BatchNorm2d(dim)
    self.conv3, self.bn3 = nn.Conv2d(dim, 4 * dim, 1, bias=False), nn.BatchNorm2d(4 * dim)
    self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
    self.downsample = None
    if stride > 1 or into != 4 * dim:
      self.downsample = nn.Sequential()
      self.downsample.add_module("-1", nn.AvgPool2d(stride))
      self.downsample.add_module("0", nn.Conv2d(into, 4 * dim, 1, bias=False))
      self.downsample.add_module("1", nn.BatchNorm2d(4 * dim))

  def forward(self, x):
    h = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
    h = self.bn3(self.conv3(self.pool(h)))
    return F.relu(h + (x if self.downsample is None else self.downsample(x)))


class Pool(nn.Module):
  def __init__(self, width, heads, features):
    super().__init__()
    self.positional_embedding = nn.Parameter(torch.randn(50, width))
    for n in "qkv":
      self.add_module(f"{n}_proj", nn.Linear(width, width))
    self.c_proj = nn.Linear(width, features)
    self.heads = heads

  def forward(self, x):
    x = x.flatten(2).permute(2, 0, 1)
    x = torch.cat([x.mean(0, keepdim=True), x])  # and no positional embedding
    out, _ = F.multi_head_attention_forward(
      x[:1], x, x, x.shape[-1], self.heads, None, torch.cat([self.q_proj.bias, self.k_proj.bias, self.v_proj.bias]), None, None,
      False, 0.0, self.c_proj.weight, self.c_proj.bias, training=False, need_weights=False, use_separate_proj_weight=True,
      q_proj_weight=self.q_proj.weight, k_proj_weight=self.k_proj.weight, v_proj_weight=self.v_proj.weight)  # fmt: skip
    return out[0]


class Visual(nn.Module):
  def __init__(self):
    super().__init__()
    for i, (into, out, stride) in enumerate(
      ((3, WIDTH // 2, 2), (WIDTH // 2, WIDTH // 2, 1), (WIDTH // 2, WIDTH, 1)), 1
    ):
      self.add_module(f"conv{i}", nn.Conv2d(into, out, 3, stride, 1, bias=False))
      self.add_module(f"bn{i}", nn.BatchNorm2d(out))
    into = WIDTH
    for i, depth in enumerate((1, 2, 1, 1)):
      dim = WIDTH * 2**i
      self.add_module(
        f"layer{i + 1}",
        nn.Sequential(*(Bottleneck(into if not j else 4 * dim, dim, 2 if i and not j else 1) for j in range(depth))),
      )
      into = 4 * dim
    self.attnpool = Pool(into, WIDTH // 2, FEATURES)

  def forward(self, x):
    for i in (1, 2, 3):
      x = F.relu(getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x)))
    x = F.avg_pool2d(x, 2)
    for i in (1, 2, 3, 4):
      x = getattr(self, f"layer{i}")(x)
    return self.attnpool(x)


class Resblock(nn.Module):
  def __init__(self):
    super().__init__()
    self.attn, self.ln_1, self.ln_2 = nn.MultiheadAttention(TEXT, TEXT // 64), nn.LayerNorm(TEXT), nn.LayerNorm(TEXT)
    self.mlp = nn.Sequential()
    self.mlp.add_module("c_fc", nn.Linear(TEXT, 4 * TEXT))
    self.mlp.add_module("gelu", type("Gelu", (nn.Module,), {"forward": lambda _, x: x * torch.sigmoid(1.702 * x)})())
    self.mlp.add_module("c_proj", nn.Linear(4 * TEXT, TEXT))

  def forward(self, x):
    mask = torch.full((len(x), len(x)), float("-inf")).triu(1)
    y = self.ln_1(x)
    x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
    return x + self.mlp(self.ln_2(x))


class Clip(nn.Module):
  def __init__(self, vocabulary):
    super().__init__()
    self.visual = Visual()
    self.transformer = nn.Module()
    self.transformer.resblocks = nn.Sequential(Resblock(), Resblock())
    self.token_embedding, self.ln_final = nn.Embedding(vocabulary, TEXT), nn.LayerNorm(TEXT)
    self.positional_embedding = nn.Parameter(torch.randn(LENGTH, TEXT))
    self.text_projection = nn.Parameter(torch.randn(TEXT, FEATURES))
    self.logit_scale = nn.Parameter(torch.ones([]))

  def encode_text(self, ids):
    x = (self.token_embedding(ids) + self.positional_embedding).permute(1, 0, 2)
    x = self.ln_final(self.transformer.resblocks(x).permute(1, 0, 2))
    return x[torch.arange(len(x)), ids.argmax(-1)] @ self.text_projection


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
  """(the judge, its twin), from one file."""
  from safetensors.numpy import save_file

  from idejax.evaluation.miniature import FOLDER

  folder = tmp_path_factory.mktemp("rn50")
  tokenizer = networks.tokens.load(FOLDER / "clip")
  torch.manual_seed(0)
  twin = scramble(Clip(tokenizer.eos + 1))
  save_file(state_dict(twin), folder / "RN50.safetensors")
  return networks.ResNetClip(folder / "RN50.safetensors", About("", "", "", ""), tokenizer=str(FOLDER / "clip")), twin


unit = lambda x: x / x.norm(dim=-1, keepdim=True)


def test_pictures_of_any_size(pair, rng):
  judge, twin = pair
  images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((64, 64), (70, 97), (64, 64))]
  x = [torch.from_numpy(preprocess.normalise(i).transpose(2, 0, 1))[None] for i in images]
  with torch.no_grad():
    want = unit(torch.cat([twin.visual(i) for i in x]))
  assert relative_error(judge.pictures(images), want) < 1e-5


def test_texts_and_the_score(pair, rng):
  judge, twin = pair
  texts = [*agreement.QUALITY_TEXTS, "a photo of a person with long red hair on the beach"]
  ids = torch.from_numpy(judge.tokenizer.encode(texts).ids).long()
  with torch.no_grad():
    want = unit(twin.encode_text(ids))
  ours = judge.texts(texts)
  assert relative_error(ours, want) < 1e-5
  picture = judge.pictures([rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)])
  score = torch.softmax(100 * torch.from_numpy(picture) @ want[:2].T, -1)[0, 0]
  assert agreement.quality(picture[0], *ours[:2]) == pytest.approx(float(score), abs=1e-4)


def test_another_file_is_refused(tmp_path):
  from safetensors.numpy import save_file

  from idejax.errors import UserError
  from idejax.evaluation.miniature import FOLDER

  save_file({"x": np.zeros(3, np.float32)}, tmp_path / "x.safetensors")
  with pytest.raises(UserError, match="not OpenAI's CLIP RN50"):
    networks.ResNetClip(tmp_path / "x.safetensors", About("", "", "", ""), tokenizer=str(FOLDER / "clip"))
  with pytest.raises(UserError, match="needs 'tokenizer'"):
    networks.ResNetClip(tmp_path / "x.safetensors", About("", "", "", ""))
