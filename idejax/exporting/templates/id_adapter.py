"""ID-EA's adapter for one person: tokens of the face, mixed into a prompt's context by attention."""

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn


class IDAdapter(ModelMixin, ConfigMixin):  # type: ignore[misc]
  """c' = c + strength tanh(gamma) MHA([c; W E]), text rows only.

  width: the context's. face_tokens, face_width: shape of E. normalise: MHA reads normalised rows. text_only: it
  reads and changes the places of the prompt's text, not start and padding. replaces: there is no attention, and
  E takes the prompt's last places. strength may be changed at any time: `pipe.id_adapter.strength = 0.2`.
  kernels: {kernel of the UNet: sizes} of the person's keys and values, which the pipeline adds for prompts.
  """

  @register_to_config
  def __init__(
    self,
    width: int = 768,
    face_tokens: int = 2,
    face_width: int = 768,
    heads: int = 8,
    strength: float = 0.4,
    normalise: bool = False,
    text_only: bool = False,
    replaces: bool = False,
    kernels: dict | None = None,
  ):
    super().__init__()
    self.heads, self.strength, self.replaces = heads, strength, replaces
    self.normalise, self.text_only = normalise, text_only
    self.face = nn.Parameter(torch.zeros(face_tokens, face_width))
    linears = lambda sizes: (nn.Linear(i, o, bias=False) for i, o in zip(sizes, sizes[1:]))
    self.changes = nn.ModuleDict({name: nn.Sequential(*linears(sizes)) for name, sizes in (kernels or {}).items()})
    if replaces or not face_tokens:
      return
    self.project = nn.Linear(face_width, width)
    self.in_proj = nn.Linear(width, 3 * width)
    self.out_proj = nn.Linear(width, width)
    self.gamma = nn.Parameter(torch.zeros(1))

  def forward(self, context, text):
    """Contexts [B, L, D] of prompts with the person -> adapted ones. text: bool [B, L], the places of the text."""
    b, length, width = context.shape
    if not len(self.face):
      return context
    if self.replaces:
      return torch.cat([context[:, : length - len(self.face)], self.face.expand(b, -1, -1)], dim=1)
    rows = torch.cat([context, self.project(self.face).expand(b, -1, -1)], dim=1)
    if self.normalise:
      rows = F.layer_norm(rows, (width,))
    if not self.text_only:
      text = torch.ones_like(text)
    seen = F.pad(text, (0, len(self.face)), value=True)[:, None, None]
    q, k, v = self.in_proj(rows).chunk(3, dim=-1)
    split = lambda x: x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
    attended = F.scaled_dot_product_attention(split(q[:, :length]), split(k), split(v), attn_mask=seen)
    change = self.out_proj(attended.transpose(1, 2).reshape(b, length, width))
    return context + self.strength * torch.tanh(self.gamma) * change * text[..., None]
