"""Pipelines of two levels, for tests that compile gradients of a whole UNet: a third of the time.

`write` puts them where `subjects.opened` looks, which then finds them there.
"""

from idejax.model import families


def configs(family):
  """A family's configs at sixteen channels: cross-attention at one level (SDXL: two blocks) and in the middle."""
  full, xl = families.small(family), family == "sdxl"
  levels = dict(block_out_channels=[8, 16], norm_num_groups=4, layers_per_block=1)
  attends = dict(
    down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
    attention_head_dim=[1, 2],
    up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
    transformer_layers_per_block=[1, 2],
  )
  plain = dict(
    down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
    attention_head_dim=[1, 2],
    up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
  )
  autoencoder = dict(down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2)
  return full | dict(
    unet=full["unet"] | levels | (attends if xl else plain),
    vae=full["vae"] | levels | autoencoder | dict(force_upcast=xl),
  )


def write(root, *names):
  """Write a random pipeline of each family into the folder `root`, and return it."""
  for name in names:
    families.write_random(root / name, name, configs=configs(name))
  return root
