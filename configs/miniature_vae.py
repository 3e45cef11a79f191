"""The miniature's VAE, alone: about an hour on one core.

idejax train-miniature --config configs/miniature_vae.py
"""

from idejax.config import TrainMiniature

config = TrainMiniature(stage="vae", steps=3000, look=500)
