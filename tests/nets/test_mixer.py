"""The Facial Attribute Mixer against a PyTorch reference, its sizes at full scale, and what it is blind to."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from support.fakes import fill, relative_error, scramble, state_dict
from torch import nn

from idejax import tree
from idejax.nets import mixer
from idejax.nets.mixer import MixerConfig
from idejax.storage import weights

TINY = MixerConfig(context_dim=6, identity_dim=10, clip_dim=7, dim=8, head_dim=4, identity_tokens=5, tokens=3, layers=2)
FUSE = ["mixer", "concat", "identity", "clip"]


class Attend(nn.Module):
  def __init__(self, c):
    super().__init__()
    self.heads = c.dim // c.head_dim
    self.to_q, self.to_k, self.to_v = (nn.Linear(c.dim, c.dim) for _ in range(3))
    self.to_out = nn.ModuleList([nn.Linear(c.dim, c.dim)])

  def forward(self, x, y):
    split = lambda z: z.unflatten(-1, (self.heads, -1)).transpose(1, 2)
    q, k, v = split(self.to_q(x)), split(self.to_k(y)), split(self.to_v(y))
    out = nn.functional.scaled_dot_product_attention(q, k, v)
    return self.to_out[0](out.transpose(1, 2).flatten(2))


class Layer(nn.Module):
  def __init__(self, c):
    super().__init__()
    self.norm1, self.norm2, self.norm2_context, self.norm3 = (nn.LayerNorm(c.dim) for _ in range(4))
    self.attn1, self.attn2 = Attend(c), Attend(c)
    self.ff = nn.ModuleDict({"net": nn.Sequential(nn.Linear(c.dim, 4 * c.dim), nn.GELU(), nn.Linear(4 * c.dim, c.dim))})

  def forward(self, x, y):
    h = self.norm1(x)
    x = x + self.attn1(h, h)
    x = x + self.attn2(self.norm2(x), self.norm2_context(y))
    return x + self.ff["net"](self.norm3(x))


class Reference(nn.Module):
  """The paper's equations, written for PyTorch; its state dict is what a mixer's file holds."""

  def __init__(self, c):
    super().__init__()
    self.c = c
    if c.fuse != "clip":
      self.identity_proj, self.identity_norm = nn.Linear(c.identity_dim, c.identity_tokens * c.dim), nn.LayerNorm(c.dim)
    if c.fuse != "identity":
      self.clip_proj, self.clip_norm = nn.Linear(c.clip_dim, c.dim), nn.LayerNorm(c.dim)
    if c.fuse in ("mixer", "identity"):
      self.mix = nn.ModuleDict({k: nn.LayerNorm(c.dim) for k in ("norm", "norm_context")} | {"attn": Attend(c)})
    if c.fuse != "concat":
      self.queries = nn.Parameter(torch.zeros(c.tokens, c.dim))
      self.layers = nn.ModuleList([Layer(c) for _ in range(c.layers)])
    self.proj_out, self.norm_out = nn.Linear(c.dim, c.context_dim), nn.LayerNorm(c.context_dim)

  def forward(self, identity, clip):
    c, faces = self.c, []
    if c.fuse != "clip":
      unit = nn.functional.normalize(identity) * c.identity_dim**0.5
      faces.append(self.identity_norm(self.identity_proj(unit).unflatten(-1, (c.identity_tokens, c.dim))))
    if c.fuse != "identity":
      faces.append(self.clip_norm(self.clip_proj(clip)))
    pre = torch.cat(faces, 1)
    if c.fuse in ("mixer", "identity"):
      pre = faces[0] + self.mix["attn"](self.mix["norm"](faces[0]), self.mix["norm_context"](pre))
    x = pre
    if c.fuse != "concat":
      x = self.queries.expand(len(identity), -1, -1)
      for layer in self.layers:
        x = layer(x, pre)
    return self.norm_out(self.proj_out(x))


@functools.cache
def twin(fuse):
  c = dataclasses.replace(TINY, fuse=fuse)
  module = scramble(Reference(c))
  return module, c, weights.from_torch(mixer.shapes(c), state_dict(module))


@functools.partial(jax.jit, static_argnums=0)
def run(c, params, identity, clip):
  return mixer.Mixer(c).apply({"params": params}, identity, clip)


def features(rng, batch=2, patches=9):
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  return normal(batch, TINY.identity_dim), normal(batch, patches, TINY.clip_dim)


@pytest.mark.parametrize("fuse", FUSE)
def test_equal_to_the_reference(fuse, rng):
  module, c, params = twin(fuse)
  args = features(rng)
  with torch.no_grad():
    want = module(*map(torch.from_numpy, args))
  ours = run(c, params, *args)
  assert ours.shape == (2, 5 + 9 if fuse == "concat" else 3, 6)
  assert relative_error(ours, want) < 1e-5


@pytest.mark.parametrize("fuse", FUSE)
def test_the_files_keys_are_the_references_and_come_back_to_the_bit(fuse):
  module, _, params = twin(fuse)
  there, back = state_dict(module), weights.to_torch(params)
  assert set(there) == set(back) and all(np.array_equal(there[k], back[k]) for k in there)


def test_clips_tokens_have_no_order_and_the_embedding_no_length(rng):
  _, c, params = twin("mixer")
  identity, clip = features(rng)
  want = run(c, params, identity, clip)
  np.testing.assert_allclose(run(c, params, identity, clip[:, rng.permutation(9)]), want, atol=1e-5)
  np.testing.assert_allclose(run(c, params, 7 * identity, clip), want, atol=1e-5)
  assert relative_error(run(c, params, -identity, clip), want) > 0.01
  assert relative_error(run(c, params, identity, -clip), want) > 0.01
  # Each row is its own person's.
  np.testing.assert_allclose(run(c, params, identity[::-1], clip[::-1]), want[::-1], atol=1e-5)


@pytest.mark.parametrize("fuse, blind", [("identity", 1), ("clip", 0)])
def test_an_ablation_reads_half_of_the_face(fuse, blind, rng):
  _, c, params = twin(fuse)
  args = list(features(rng))
  want = run(c, params, *args)
  args[blind] = None
  np.testing.assert_array_equal(run(c, params, *args), want)


# Counted by hand from the paper's sizes: d = 1280, 20 heads, four layers, 20 and 16 tokens.
@pytest.mark.parametrize("width, count", [(768, 127_312_384), (1024, 127_640_832), (2048, 128_954_624)])
def test_full_sizes(width, count):
  """Stable Diffusion 1.x, 2.1 and XL; traced only."""
  c = MixerConfig(context_dim=width)
  params = mixer.shapes(c)
  assert tree.size(params) == count
  assert tree.size(params["layers.0"]) == 26_241_280
  S = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.bfloat16)
  out = jax.eval_shape(mixer.Mixer(c, jnp.bfloat16).apply, {"params": params}, S(3, 512), S(3, 257, 1280))
  assert (out.shape, out.dtype) == ((3, 16, width), jnp.bfloat16)


def test_how_it_is_initialised():
  """Dense layers: a normal of deviation 0.02 cut at twice that, zero biases; queries: deviation 1 / sqrt(d)."""
  c = dataclasses.replace(TINY, dim=64, head_dim=32)
  shapes = (np.ones((1, c.identity_dim), np.float32), np.ones((1, 2, c.clip_dim), np.float32))

  def some(key):  # all else is pruned from the program
    p = mixer.Mixer(c).init(key, *shapes)["params"]
    return p["layers.1"]["ff.net.0"], p["queries"]

  dense, queries = jax.jit(some)(jax.random.key(0))
  assert not dense["bias"].any() and np.abs(dense["kernel"]).max() < 0.04 + 1e-6
  assert np.std(dense["kernel"]) == pytest.approx(0.88 * 0.02, rel=0.05)
  assert np.std(queries) == pytest.approx(1 / 8, rel=0.2)


def test_each_ablation_has_the_parts_it_uses():
  has = lambda fuse: {k.split(".")[0] for k in mixer.shapes(dataclasses.replace(TINY, fuse=fuse))}
  identity, clip = {"identity_proj", "identity_norm"}, {"clip_proj", "clip_norm"}
  ends, decoder = {"proj_out", "norm_out"}, {"queries", "layers"}
  assert has("mixer") == identity | clip | ends | decoder | {"mix"}
  assert has("identity") == identity | ends | decoder | {"mix"}
  assert has("clip") == clip | ends | decoder
  assert has("concat") == identity | clip | ends


def test_config():
  for c in (TINY, MixerConfig(), dataclasses.replace(TINY, fuse="clip")):
    assert MixerConfig.from_json(json.loads(json.dumps(c.to_json()))) == c
  assert fill(mixer.shapes(TINY))["queries"].shape == (3, 8)
  for wrong, words in [
    ({"depth": 3}, "no 'depth'"), ({"layers": 0}, "layers is 0"), ({"dim": 8.0}, "dim is 8.0"),
    ({"fuse": "sum"}, "fuse is 'sum'; supported: 'mixer'"), ({"head_dim": 60}, "heads of 60"),
  ]:  # fmt: skip
    with pytest.raises(ValueError, match=words):
      MixerConfig.from_json(wrong)


def test_several_photos_are_read_at_once(rng):
  """One photo, or all repeated as often, is eq. 2; neither order nor company of other people counts; two are no mean."""
  for fuse in ("mixer", "identity", "clip"):
    _, c, params = twin(fuse)
    identity, clip = features(rng, 4)
    one = run(c, params, identity, clip)
    pair = lambda x: x.reshape(2, 2, *x.shape[1:])
    two = run(c, params, pair(identity), pair(clip))
    assert two.shape == (2, *one.shape[1:])
    twice = lambda x: np.repeat(x[:, None], 3, axis=1)
    assert relative_error(run(c, params, twice(identity), twice(clip)), one) < 1e-5
    back = run(c, params, pair(identity)[:, ::-1], pair(clip)[:, ::-1])
    assert relative_error(back, two) < 1e-5
    alone = run(c, params, pair(identity)[:1], pair(clip)[:1])
    assert relative_error(alone, two[:1]) < 1e-5
    assert relative_error(pair(np.asarray(one)).mean(1), two) > 1e-3
  with pytest.raises(ValueError, match="concat has no decoder"):
    run(dataclasses.replace(TINY, fuse="concat"), {}, pair(identity), pair(clip))
