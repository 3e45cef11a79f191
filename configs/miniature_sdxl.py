"""The SDXL-shaped miniature's UNet, after `--family sdxl --stage words` and the VAE of the other one.

idejax train-miniature --config configs/miniature_sdxl.py
"""

from idejax.config import TrainMiniature

config = TrainMiniature(family="sdxl", stage="diffusion", steps=4000, look=1000)
