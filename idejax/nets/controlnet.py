"""ControlNet of SD 1.x, 2.x and XL: the UNet's encoder, a control image, zero convolutions."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from idejax.nets.layers import Conv
from idejax.nets.naming import parameter_shapes
from idejax.nets.unet import Context, Residuals, UNetConfig, down_path, embed_time, example_inputs, mid_block

ZEROS = nn.initializers.zeros  # an untrained ControlNet leaves the UNet as it is


@dataclasses.dataclass(frozen=True)
class ControlNetConfig:
  """A UNet's configuration and the widths of the stack that reads the control image."""

  unet: UNetConfig
  control_channels: int = 3
  control_widths: tuple[int, ...] = (16, 32, 96, 256)

  @classmethod
  def from_json(cls, config: Mapping[str, Any], **run: Any) -> "ControlNetConfig":
    """From diffusers' `controlnet/config.json`. Raises ValueError for what is not supported."""
    return cls(
      UNetConfig.from_json({"out_channels": config.get("in_channels", 4), **config}, **run),
      config.get("conditioning_channels", 3),
      tuple(config.get("conditioning_embedding_out_channels") or (16, 32, 96, 256)),
    )

  @classmethod
  def of(cls, unet: UNetConfig, factor: int = 8) -> "ControlNetConfig":
    """The ControlNet of a UNet whose VAE has this factor: stock widths, one level for each halving.

    ValueError if the factor is not 1, 2, 4 or 8.
    """
    levels = factor.bit_length()
    if factor < 1 or factor != 2 ** (levels - 1) or levels > len(cls.control_widths):
      raise ValueError(f"a ControlNet's control image is 1, 2, 4 or 8 times the latents' size, not {factor} times")
    return cls(unet, control_widths=cls.control_widths[:levels])

  def to_json(self) -> dict[str, Any]:
    """As diffusers' ControlNetModel reads it. ValueError for numbers of layers that differ by level."""
    c = self.unet
    if len(set(c.layers)) > 1:
      raise ValueError(f"layers_per_block is {list(c.layers)}; a ControlNet's config holds one number")
    # A level without attention has no depth of its own; the deepest level's is the middle block's, too.
    depths = [*(d or 1 for d in c.down_depths[:-1]), c.mid_depth]
    dims, pooled = c.added_dims or (None, None)
    return dict(
      _class_name="ControlNetModel",
      _diffusers_version="0.30.0",
      in_channels=c.channels[0],
      conditioning_channels=self.control_channels,
      conditioning_embedding_out_channels=list(self.control_widths),
      block_out_channels=list(c.widths),
      down_block_types=["CrossAttnDownBlock2D" if d else "DownBlock2D" for d in c.down_depths],
      layers_per_block=c.layers[0],
      transformer_layers_per_block=depths[0] if len(set(depths)) == 1 else depths,
      attention_head_dim=list(c.heads),  # what diffusers calls the number of heads
      cross_attention_dim=c.context_dim,
      use_linear_projection=c.linear_projection,
      norm_num_groups=c.groups,
      norm_eps=c.eps,
      flip_sin_to_cos=c.flip_sin_to_cos,
      freq_shift=c.freq_shift,
      upcast_attention=c.upcast_attention,
      addition_embed_type="text_time" if c.added_dims else None,
      addition_time_embed_dim=dims,
      projection_class_embeddings_input_dim=pooled,
    )

  @property
  def factor(self) -> int:
    """Pixels of the control image per latent pixel, along a side."""
    return 2 ** (len(self.control_widths) - 1)


class ControlEmbedding(nn.Module):
  """Control image [B, H, W, 3] -> [B, H / factor, W / factor, widths[0]]."""

  cfg: ControlNetConfig

  @nn.compact
  def __call__(self, x):
    widths = self.cfg.control_widths
    h = nn.silu(Conv(widths[0], name="conv_in")(x.astype(self.cfg.unet.dtype)))
    for i, (a, b) in enumerate(zip(widths, widths[1:])):
      h = nn.silu(Conv(a, name=f"blocks.{2 * i}")(h))
      h = nn.silu(Conv(b, stride=2, name=f"blocks.{2 * i + 1}")(h))
    return Conv(self.cfg.unet.widths[0], kernel_init=ZEROS, name="conv_out")(h)


class ControlNet(nn.Module):
  cfg: ControlNetConfig

  @nn.compact
  def __call__(self, x, t, context: Context, control, added=None, scale=1.0, embedded=False) -> Residuals:
    """Residuals for the UNet's skips and middle.

    Args:
      x: noisy latents [B, H, W, C]; t: timesteps [B].
      context: [B, L, D], from text as in ControlNet or from face tokens as in FaceSnap.
      control: image [B, factor * H, factor * W, 3] in [0, 1].
      added: SDXL's (pooled, time_ids).
      scale: conditioning scale, a number or a traced scalar.
      embedded: whether `control` is the image as `ControlEmbedding` leaves it, the same at every step.
    """
    c = self.cfg.unet
    temb = embed_time(c, t, added)
    if not embedded:
      control = ControlEmbedding(self.cfg, name="controlnet_cond_embedding")(control)
    h, skips = down_path(c, x, temb, context, control)
    h = mid_block(c, h, temb, context)
    conv = lambda y, name: Conv(y.shape[-1], 1, kernel_init=ZEROS, name=name)(y)
    zero = lambda y, name: conv(y, name) * jnp.asarray(scale, y.dtype)
    down = tuple(zero(s, f"controlnet_down_blocks.{i}") for i, s in enumerate(skips))
    return down, zero(h, "controlnet_mid_block")


def shapes(c: ControlNetConfig):
  """The parameters as float32 ShapeDtypeStructs; nothing is computed or allocated."""
  x, t, context, added = example_inputs(c.unet)
  sides = (1, c.factor * x.shape[1], c.factor * x.shape[2], c.control_channels)
  control = jax.ShapeDtypeStruct(sides, jnp.float32)
  return parameter_shapes(ControlNet(c), x, t, context, control, added)


def from_unet(c: ControlNetConfig, unet: Mapping[str, Any], key: jax.Array) -> dict[str, Any]:
  """An untrained ControlNet of a UNet's parameters: its encoder and middle block as they are, every zero
  convolution zero, the control image's stack drawn from `key`. Leaves may be the UNet's own arrays.

  Float32 where drawn, else the UNet's dtypes. ValueError for the parameters of another UNet.
  """
  layout, out = shapes(c), {}
  for name, want in layout.items():
    if name == "controlnet_cond_embedding":
      out[name] = {
        layer: _conv(jax.random.fold_in(key, i), want[layer], layer == "conv_out")
        for i, layer in enumerate(sorted(want))
      }
    elif name.startswith("controlnet_"):
      out[name] = jax.tree.map(lambda s: jnp.zeros(s.shape), want)
    else:
      have = unet.get(name)
      if jax.tree.map(jnp.shape, have) != jax.tree.map(lambda s: s.shape, want):
        raise ValueError(f"the UNet's {name} does not fit the ControlNet's config")
      out[name] = have
  return out


def _conv(key: jax.Array, want: Mapping[str, Any], zero: bool) -> dict[str, jax.Array]:
  """A convolution's first weights, as `Conv` draws them."""
  kernel = jnp.zeros if zero else lambda shape: nn.initializers.lecun_normal()(key, shape)
  return {"kernel": kernel(want["kernel"].shape), "bias": jnp.zeros(want["bias"].shape)}
