"""CLIP's ResNet (RN50), as CLIP-IQA uses it: any picture size, without positional embedding.

Submodule names are the keys of OpenAI's file. Its text tower is `clip.TextEncoder`, see `text_tensors`.
"""

import dataclasses
import re
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from idejax.nets.attention import attention
from idejax.nets.layers import Conv, Dense
from idejax.nets.naming import parameter_shapes
from idejax.nets.resnet import BatchNorm


@dataclasses.dataclass(frozen=True)
class ClipResNetConfig:
  depths: tuple[int, ...] = (3, 4, 6, 3)
  width: int = 64  # of the stem; a stage ends 4 * width * 2**stage channels wide
  features: int = 1024
  heads: int = 32


class Bottleneck(nn.Module):
  """Strides are averages, in the branch and in the skip: CLIP's pictures lose no pixel."""

  dim: int
  stride: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    bn = lambda name: BatchNorm(name=name)
    conv = lambda name, dim, size: Conv(dim, size, use_bias=False, name=name)
    shrink = lambda y: nn.avg_pool(y, (self.stride,) * 2, (self.stride,) * 2) if self.stride > 1 else y
    h = nn.relu(bn("bn1")(conv("conv1", self.dim, 1)(x)))
    h = nn.relu(bn("bn2")(conv("conv2", self.dim, 3)(h)))
    h = bn("bn3")(conv("conv3", 4 * self.dim, 1)(shrink(h)))
    if self.stride > 1 or x.shape[-1] != 4 * self.dim:
      x = bn("downsample.1")(conv("downsample.0", 4 * self.dim, 1)(shrink(x)))
    return nn.relu(h + x)


class ClipResNet(nn.Module):
  cfg: ClipResNetConfig = ClipResNetConfig()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Pictures [B, H, W, 3] of at least 32 pixels, by CLIP's mean and std -> [B, features], not normalised."""
    c = self.cfg
    for i, (width, stride) in enumerate(((c.width // 2, 2), (c.width // 2, 1), (c.width, 1)), 1):
      x = Conv(width, 3, stride, use_bias=False, name=f"visual.conv{i}")(x)
      x = nn.relu(BatchNorm(name=f"visual.bn{i}")(x))
    x = nn.avg_pool(x, (2, 2), (2, 2))
    for i, depth in enumerate(c.depths):
      for j in range(depth):
        x = Bottleneck(c.width * 2**i, 2 if i and not j else 1, name=f"visual.layer{i + 1}.{j}")(x)
    tokens = x.reshape(x.shape[0], -1, x.shape[-1])
    tokens = jnp.concatenate([tokens.mean(1, keepdims=True), tokens], 1)
    dense = lambda name, width=tokens.shape[-1]: Dense(width, name=f"visual.attnpool.{name}")
    split = lambda y: y.reshape(*y.shape[:2], c.heads, -1)
    q, k, v = split(dense("q_proj")(tokens[:, :1])), split(dense("k_proj")(tokens)), split(dense("v_proj")(tokens))
    pooled = attention(q, k, v).reshape(x.shape[0], -1)
    return dense("c_proj", c.features)(pooled)


def shapes(cfg: ClipResNetConfig = ClipResNetConfig()):
  """The parameters as float32 ShapeDtypeStructs; nothing is computed or allocated."""
  return parameter_shapes(ClipResNet(cfg), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))


def text_tensors(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """OpenAI's text tower under transformers' keys, as `clip.TextEncoder` reads it.

  What attention has in one matrix (q, k, v one below the other) is cut in three.
  """
  plain = {"token_embedding.weight": "text_model.embeddings.token_embedding.weight",
           "positional_embedding": "text_model.embeddings.position_embedding.weight",
           "ln_final.weight": "text_model.final_layer_norm.weight",
           "ln_final.bias": "text_model.final_layer_norm.bias"}  # fmt: skip
  parts = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
           "attn.out_proj": "self_attn.out_proj"}  # fmt: skip
  out = {new: np.asarray(tensors[old]) for old, new in plain.items() if old in tensors}
  if "text_projection" in tensors:
    out["text_projection.weight"] = np.asarray(tensors["text_projection"]).T
  for key in tensors:
    if not (
      m := re.fullmatch(
        r"transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)|transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)",
        key,
      )
    ):
      continue
    if m[4]:
      for name, x in zip("qkv", np.split(np.asarray(tensors[key]), 3)):
        out[f"text_model.encoder.layers.{m[4]}.self_attn.{name}_proj.{m[5]}"] = x
    elif m[2] in parts:
      out[f"text_model.encoder.layers.{m[1]}.{parts[m[2]]}.{m[3]}"] = np.asarray(tensors[key])
  return out
