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
  def __call__(self, x, t, context: Context, control, added=None, scale=1.0) -> Residuals:
    """Residuals for the UNet's skips and middle.

    Args:
      x: noisy latents [B, H, W, C]; t: timesteps [B].
      context: [B, L, D], from text as in ControlNet or from face tokens as in FaceSnap.
      control: image [B, factor * H, factor * W, 3] in [0, 1].
      added: SDXL's (pooled, time_ids).
      scale: conditioning scale, a number or a traced scalar.
    """
    c = self.cfg.unet
    temb = embed_time(c, t, added)
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
