"""The miniature's UNet, after its VAE and its text encoder: about two hours on one core.

idejax train-miniature --config configs/miniature_diffusion.py
"""

from idejax.config import TrainMiniature

config = TrainMiniature(stage="diffusion", steps=6000, look=500)
