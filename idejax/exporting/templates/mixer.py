"""FaceSnap's Facial Attribute Mixer: a face as a few tokens that the ControlNet reads in place of text."""

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn


class Attention(nn.Module):
  def __init__(self, dim, head_dim):
    super().__init__()
    self.heads = dim // head_dim
    self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim) for _ in range(3))
    self.to_out = nn.ModuleList([nn.Linear(dim, dim)])

  def forward(self, x, y):
    split = lambda z: z.unflatten(-1, (self.heads, -1)).transpose(1, 2)
    out = F.scaled_dot_product_attention(split(self.to_q(x)), split(self.to_k(y)), split(self.to_v(y)))
    return self.to_out[0](out.transpose(1, 2).flatten(2))


class Layer(nn.Module):
  """Self-attention, cross-attention and MLP, each after a norm."""

  def __init__(self, dim, head_dim):
    super().__init__()
    self.norm1, self.norm2, self.norm2_context, self.norm3 = (nn.LayerNorm(dim) for _ in range(4))
    self.attn1, self.attn2 = Attention(dim, head_dim), Attention(dim, head_dim)
    self.ff = nn.ModuleDict({"net": nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))})

  def forward(self, x, y):
    h = self.norm1(x)
    x = x + self.attn1(h, h)
    x = x + self.attn2(self.norm2(x), self.norm2_context(y))
    return x + self.ff["net"](self.norm3(x))


class FacialAttributeMixer(ModelMixin, ConfigMixin):  # type: ignore[misc]
  """f_pre = f_id + CrossAttn(f_id, [f_id; f_clip]); f_mix = Decoder(queries, f_pre). fuse: what it is compared with.

  photos: most photos of one person that it was trained to read at once; here it reads one.
  """

  @register_to_config
  def __init__(
    self,
    context_dim: int = 768,
    identity_dim: int = 512,
    clip_dim: int = 1280,
    dim: int = 1280,
    head_dim: int = 64,
    identity_tokens: int = 20,
    tokens: int = 16,
    depth: int = 4,
    fuse: str = "mixer",
    photos: int = 1,
  ):
    super().__init__()
    if fuse != "clip":
      self.identity_proj, self.identity_norm = nn.Linear(identity_dim, identity_tokens * dim), nn.LayerNorm(dim)
    if fuse != "identity":
      self.clip_proj, self.clip_norm = nn.Linear(clip_dim, dim), nn.LayerNorm(dim)
    if fuse in ("mixer", "identity"):
      norms = {"norm": nn.LayerNorm(dim), "norm_context": nn.LayerNorm(dim)}
      self.mix = nn.ModuleDict({**norms, "attn": Attention(dim, head_dim)})
    if fuse != "concat":
      self.queries = nn.Parameter(torch.zeros(tokens, dim))
      self.layers = nn.ModuleList([Layer(dim, head_dim) for _ in range(depth)])
    self.proj_out, self.norm_out = nn.Linear(dim, context_dim), nn.LayerNorm(context_dim)

  def forward(self, identity, clip):
    """The recogniser's embedding [B, 512] and CLIP's tokens [B, T, D], its penultimate layer's -> [B, 16, context_dim]."""
    c, faces = self.config, []
    if c.fuse != "clip":
      unit = F.normalize(identity) * c.identity_dim**0.5
      faces.append(self.identity_norm(self.identity_proj(unit).unflatten(-1, (c.identity_tokens, c.dim))))
    if c.fuse != "identity":
      faces.append(self.clip_norm(self.clip_proj(clip)))
    pre = torch.cat(faces, dim=1)
    if c.fuse in ("mixer", "identity"):
      pre = faces[0] + self.mix["attn"](self.mix["norm"](faces[0]), self.mix["norm_context"](pre))
    if c.fuse == "concat":
      return self.norm_out(self.proj_out(pre))
    x = self.queries.expand(len(pre), -1, -1)
    for layer in self.layers:
      x = layer(x, pre)
    return self.norm_out(self.proj_out(x))
