"""UNet2DCondition of Stable Diffusion 1.x, 2.x and XL. Submodule names are diffusers' keys.

Runs of more than one transformer block are scanned; their parameters are stacked on axis 0 and
their path says `transformer_blocks.*` (idejax.storage.weights splits and stacks them on disk).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from idejax.nets.attention import attention
from idejax.nets.layers import Conv, Dense, GroupNorm, LayerNorm, timestep_embedding
from idejax.nets.naming import parameter_shapes

# One array [B, L, D]; a pair of them, for keys and for values; or, per attention path, keys and
# values already projected (`project_context`), which saves two matmuls a layer and step.
Context = jax.Array | tuple[jax.Array, jax.Array] | Mapping[str, tuple[jax.Array, jax.Array]]
Residuals = tuple[tuple[jax.Array, ...], jax.Array]


@dataclasses.dataclass(frozen=True)
class UNetConfig:
  """Shape of a UNet, as read from `unet/config.json`, and how to run it."""

  widths: tuple[int, ...] = (320, 640, 1280, 1280)
  down_depths: tuple[int, ...] = (1, 1, 1, 0)  # transformer blocks per level; 0: no attention
  up_depths: tuple[int, ...] = (0, 1, 1, 1)  # from the deepest level up
  mid_depth: int = 1
  heads: tuple[int, ...] = (8, 8, 8, 8)
  layers: tuple[int, ...] = (2, 2, 2, 2)
  channels: tuple[int, int] = (4, 4)  # in, out
  context_dim: int = 768
  linear_projection: bool = False  # SD 1.x wraps its transformers in 1x1 convolutions
  groups: int = 32
  eps: float = 1e-5
  added_dims: tuple[int, int] | None = None  # SDXL: width of one time id, of pooled + time ids
  flip_sin_to_cos: bool = True
  freq_shift: float = 0.0
  upcast_attention: bool = False
  sample_size: int = 64
  # How it runs; a checkpoint does not say.
  dtype: Any = jnp.float32
  remat: bool = False
  attention: str | None = None  # implementation; None: chosen by platform and shape

  @classmethod
  def from_json(cls, config: Mapping[str, Any], **run: Any) -> "UNetConfig":
    """From diffusers' config.json. Raises ValueError, one sentence, for what these nets do not support."""
    get = {**_DEFAULTS, **config}.get
    for field, allowed in _SUPPORTED.items():
      if get(field) not in allowed:
        raise ValueError(f"{field} is {get(field)!r}; supported: {', '.join(map(repr, allowed))}")
    levels = len(get("block_out_channels"))

    def per_level(field):
      x = get(field)
      each = tuple(x) if isinstance(x, list | tuple) else (x,) * levels
      if len(each) != levels or not all(isinstance(n, int) for n in each):
        raise ValueError(f"{field} is {x!r}; supported: a number, or one for each of {levels} levels")
      return each

    depths = per_level("transformer_layers_per_block")
    down = _attends(get("down_block_types"), "CrossAttnDownBlock2D", "DownBlock2D")
    up_types = get("up_block_types", None) or [
      t.replace("Down", "Up") for t in reversed(get("down_block_types"))
    ]  # a ControlNet has none
    up = _attends(up_types, "CrossAttnUpBlock2D", "UpBlock2D")
    added = None
    if get("addition_embed_type") == "text_time":
      added = (get("addition_time_embed_dim"), get("projection_class_embeddings_input_dim"))
    cross = get("cross_attention_dim")
    if isinstance(cross, list | tuple):
      raise ValueError(f"cross_attention_dim is {cross!r}; supported: one width for all levels")
    return cls(
      widths=tuple(get("block_out_channels")),
      down_depths=tuple(d if a else 0 for d, a in zip(depths, down, strict=True)),
      up_depths=tuple(d if a else 0 for d, a in zip(depths[::-1], up, strict=True)),
      mid_depth=depths[-1],
      # diffusers calls the number of heads `attention_head_dim` in every released SD config.
      heads=per_level("num_attention_heads" if get("num_attention_heads") else "attention_head_dim"),
      layers=per_level("layers_per_block"),
      channels=(get("in_channels"), get("out_channels")),
      context_dim=cross,
      linear_projection=bool(get("use_linear_projection")),
      groups=get("norm_num_groups"),
      eps=get("norm_eps"),
      added_dims=added,
      flip_sin_to_cos=get("flip_sin_to_cos"),
      freq_shift=get("freq_shift"),
      upcast_attention=bool(get("upcast_attention")),
      sample_size=get("sample_size") or 64,
      **run,
    )


_DEFAULTS = dict(
  block_out_channels=(320, 640, 1280, 1280),
  layers_per_block=2,
  in_channels=4,
  out_channels=4,
  down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
  transformer_layers_per_block=1,
  attention_head_dim=8,
  cross_attention_dim=1280,
  norm_num_groups=32,
  norm_eps=1e-5,
  flip_sin_to_cos=True,
  freq_shift=0,
  act_fn="silu",
  resnet_time_scale_shift="default",
  conv_in_kernel=3,
  conv_out_kernel=3,
  downsample_padding=1,
  mid_block_scale_factor=1,
  mid_block_type="UNetMidBlock2DCrossAttn",
  center_input_sample=False,
  only_cross_attention=False,
  dual_cross_attention=False,
  resnet_skip_time_act=False,
  resnet_out_scale_factor=1.0,
  time_embedding_type="positional",
  attention_type="default",
  global_pool_conditions=False,
  controlnet_conditioning_channel_order="rgb",
)

_SUPPORTED = dict(
  act_fn=("silu", "swish"),
  resnet_time_scale_shift=("default",),
  conv_in_kernel=(3,),
  conv_out_kernel=(3,),
  downsample_padding=(1,),
  mid_block_scale_factor=(1,),
  mid_block_type=("UNetMidBlock2DCrossAttn",),
  center_input_sample=(False,),
  only_cross_attention=(False,),
  dual_cross_attention=(False,),
  resnet_skip_time_act=(False,),
  resnet_out_scale_factor=(1.0,),
  time_embedding_type=("positional",),
  attention_type=("default",),
  class_embed_type=(None,),
  encoder_hid_dim=(None,),
  encoder_hid_dim_type=(None,),
  addition_embed_type=(None, "text_time"),
  time_cond_proj_dim=(None,),
  timestep_post_act=(None,),
  time_embedding_act_fn=(None,),
  time_embedding_dim=(None,),
  num_class_embeds=(None,),
  cross_attention_norm=(None,),
  class_embeddings_concat=(None, False),
  reverse_transformer_layers_per_block=(None,),
  global_pool_conditions=(False,),
  controlnet_conditioning_channel_order=("rgb",),
)


def _attends(types, with_attention: str, without: str) -> list[bool]:
  if unknown := set(types) - {with_attention, without}:
    raise ValueError(f"block type {min(unknown)!r}; supported: {with_attention!r}, {without!r}")
  return [t == with_attention for t in types]


class TimestepMLP(nn.Module):
  dim: int

  @nn.compact
  def __call__(self, x):
    return Dense(self.dim, name="linear_2")(nn.silu(Dense(self.dim, name="linear_1")(x)))


class ResBlock(nn.Module):
  dim: int
  cfg: UNetConfig

  @nn.compact
  def __call__(self, x, temb):
    c = self.cfg
    h = nn.silu(GroupNorm(c.groups, c.eps, name="norm1")(x))
    h = Conv(self.dim, name="conv1")(h)
    h += Dense(self.dim, name="time_emb_proj")(nn.silu(temb))[:, None, None]
    h = nn.silu(GroupNorm(c.groups, c.eps, name="norm2")(h))
    h = Conv(self.dim, name="conv2")(h)
    if x.shape[-1] != self.dim:
      x = Conv(self.dim, 1, name="conv_shortcut")(x)
    return x + h


class Attention(nn.Module):
  """Multi-head attention; `kv` is a context pair [B, S, D] or, if `projected`, keys and values."""

  heads: int
  cfg: UNetConfig
  cross: bool = False

  @nn.compact
  def __call__(self, x, kv, projected=False, extra=None):
    b, l, dim = x.shape
    split = lambda y: y.reshape(b, y.shape[1], self.heads, -1)
    project = lambda name, y: Dense(dim, use_bias=False, name=name)(y.astype(x.dtype))
    q = split(project("to_q", x))
    k, v = kv if projected else (project("to_k", kv[0]), project("to_v", kv[1]))
    k, v = split(k.astype(x.dtype)), split(v.astype(x.dtype))
    if self.cfg.upcast_attention:
      q, k = q.astype(jnp.float32), k.astype(jnp.float32)
    if self.cross:  # dead code unless the caller asks for the collection "attention"
      self.sow("attention", "qk", (q, k), init_fn=tuple, reduce_fn=lambda _, new: new)
    y = attention(q, k, v, impl=self.cfg.attention)
    if extra is not None:
      y += attention(q, *(split(e.astype(x.dtype)) for e in extra), impl=self.cfg.attention)
    return Dense(dim, name="to_out.0")(y.reshape(b, l, dim).astype(x.dtype))


class TransformerBlock(nn.Module):
  heads: int
  cfg: UNetConfig
  projected: bool = False

  @nn.compact
  def __call__(self, x, context, per_block):
    """x [B, L, C]; context pair or None; per_block {"context": (k, v), "extra": (k, v)}."""
    dim, norm = x.shape[-1], lambda n: LayerNorm(name=n)
    y = norm("norm1")(x)
    x += Attention(self.heads, self.cfg, name="attn1")(y, (y, y))
    kv = per_block["context"] if self.projected else context
    cross = Attention(self.heads, self.cfg, cross=True, name="attn2")
    x += cross(norm("norm2")(x), kv, self.projected, per_block.get("extra"))
    y, gate = jnp.split(Dense(8 * dim, name="ff.net.0.proj")(norm("norm3")(x)), 2, axis=-1)
    x += Dense(dim, name="ff.net.2")(y * nn.gelu(gate, approximate=False))
    return x, None


def transformer_block(c: UNetConfig, scanned: bool = False) -> type[TransformerBlock]:
  """The class of a transformer's blocks, which recompute themselves in the backward pass where `c.remat` says so."""
  return nn.remat(TransformerBlock, prevent_cse=not scanned) if c.remat else TransformerBlock


class Transformer(nn.Module):
  heads: int
  depth: int
  cfg: UNetConfig

  @nn.compact
  def __call__(self, x, context: Context, extra=None):
    b, h, w, dim = x.shape
    proj = lambda n: Dense(dim, name=n) if self.cfg.linear_projection else Conv(dim, 1, name=n)
    y = proj("proj_in")(GroupNorm(self.cfg.groups, 1e-6, name="norm")(x)).reshape(b, h * w, dim)

    scanned = self.depth > 1
    name = "transformer_blocks." + ("*" if scanned else "0")
    path = ".".join((*self.path, name, "attn2"))
    projected = isinstance(context, Mapping)
    per_block = {"context": context[path]} if projected else {}
    if extra and path in extra:
      per_block["extra"] = extra[path]
    pair = None if projected else context if isinstance(context, tuple) else (context, context)

    block = transformer_block(self.cfg, scanned)
    if scanned:
      block = nn.scan(
        block,
        variable_axes={"params": 0, "attention": 0},
        split_rngs={"params": True},
        in_axes=(nn.broadcast, 0),
        length=self.depth,
      )
    y, _ = block(self.heads, self.cfg, projected, name=name)(y, pair, per_block)
    return x + proj("proj_out")(y.reshape(b, h, w, dim))


class UNet(nn.Module):
  cfg: UNetConfig

  @nn.compact
  def __call__(
    self,
    x,
    t,
    context: Context,
    added=None,
    residuals: Residuals | None = None,
    extra: Mapping[str, tuple[jax.Array, jax.Array]] | None = None,
  ):
    """The noise (or v, or x0) that the model predicts from x.

    Args:
      x: noisy latents [B, H, W, C].
      t: timesteps [B].
      context: see `Context`; widths [B, L, cfg.context_dim].
      added: SDXL's (pooled [B, P], time_ids [B, 6]).
      residuals: a ControlNet's ((one per skip), middle).
      extra: {attention path: (k, v)}, [B, S, C] each, or [depth, B, S, C] where the path has a
        `*`: attended to beside the context, and added.

    Returns:
      [B, H, W, C'] float32. Cross-attention's queries and keys are sown in "attention"/"qk".
    """
    c = self.cfg
    temb = embed_time(c, t, added)
    h, skips = down_path(c, x, temb, context, extra=extra)
    h = mid_block(c, h, temb, context, extra=extra)
    if residuals is not None:
      down, mid = residuals
      skips = [s + r.astype(s.dtype) for s, r in zip(skips, down, strict=True)]
      h += mid.astype(h.dtype)

    last = len(c.widths) - 1
    for n, depth in enumerate(c.up_depths):
      i = last - n
      for j in range(c.layers[i] + 1):
        h = jnp.concatenate([h, skips.pop()], axis=-1)
        h = resnet(c)(c.widths[i], c, name=f"up_blocks.{n}.resnets.{j}")(h, temb)
        if depth:
          h = Transformer(c.heads[i], depth, c, name=f"up_blocks.{n}.attentions.{j}")(h, context, extra)
      if i:
        h = Conv(c.widths[i], grown=skips[-1].shape[1:3], name=f"up_blocks.{n}.upsamplers.0.conv")(h)
    h = nn.silu(GroupNorm(c.groups, c.eps, name="conv_norm_out")(h))
    return Conv(c.channels[1], name="conv_out")(h).astype(jnp.float32)


def resnet(c: UNetConfig) -> type[ResBlock]:
  """The class of ResNet blocks, which recompute themselves in the backward pass where `c.remat` says so."""
  return nn.remat(ResBlock) if c.remat else ResBlock


def embed_time(c: UNetConfig, t, added):
  """Timesteps, and SDXL's pooled text and sizes: [B] -> [B, 4 * widths[0]]. Inside a module."""
  sinusoid = lambda t, dim: timestep_embedding(t, dim, flip=c.flip_sin_to_cos, shift=c.freq_shift)
  temb = TimestepMLP(4 * c.widths[0], name="time_embedding")(sinusoid(t, c.widths[0]).astype(c.dtype))
  if c.added_dims is not None:
    pooled, ids = added
    ids = sinusoid(ids.reshape(-1), c.added_dims[0]).reshape(ids.shape[0], -1)
    y = jnp.concatenate([pooled.astype(jnp.float32), ids], axis=-1).astype(c.dtype)
    temb += TimestepMLP(4 * c.widths[0], name="add_embedding")(y)
  return temb


def down_path(c: UNetConfig, x, temb, context: Context, control=None, extra=None):
  """conv_in and the down blocks -> (h, skips). A ControlNet adds `control` after conv_in. Inside a module."""
  h = Conv(c.widths[0], name="conv_in")(x.astype(c.dtype))
  if control is not None:
    h += control
  skips = [h]
  for i, (dim, depth) in enumerate(zip(c.widths, c.down_depths)):
    for j in range(c.layers[i]):
      h = resnet(c)(dim, c, name=f"down_blocks.{i}.resnets.{j}")(h, temb)
      if depth:
        h = Transformer(c.heads[i], depth, c, name=f"down_blocks.{i}.attentions.{j}")(h, context, extra)
      skips.append(h)
    if i + 1 < len(c.widths):
      h = Conv(dim, stride=2, name=f"down_blocks.{i}.downsamplers.0.conv")(h)
      skips.append(h)
  return h, skips


def mid_block(c: UNetConfig, h, temb, context: Context, extra=None):
  """The blocks at the deepest level: [B, H, W, C] -> [B, H, W, C]. Inside a module."""
  h = resnet(c)(c.widths[-1], c, name="mid_block.resnets.0")(h, temb)
  h = Transformer(c.heads[-1], c.mid_depth, c, name="mid_block.attentions.0")(h, context, extra)
  return resnet(c)(c.widths[-1], c, name="mid_block.resnets.1")(h, temb)


def example_inputs(c: UNetConfig, batch: int = 1, length: int = 8) -> tuple:
  """Shapes of (x, t, context, added) for `eval_shape`; lengths and sides do not change params."""
  S = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  side = 2 ** (len(c.widths) - 1)
  added = None if c.added_dims is None else (S(batch, c.added_dims[1] - 6 * c.added_dims[0]), S(batch, 6))
  return S(batch, side, side, c.channels[0]), S(batch), S(batch, length, c.context_dim), added


def shapes(c: UNetConfig):
  """The parameters as float32 ShapeDtypeStructs; nothing is computed or allocated."""
  return parameter_shapes(UNet(c), *example_inputs(c))
