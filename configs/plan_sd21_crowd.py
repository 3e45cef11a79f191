"""ID-EA on SD 2.1: a crowd of eight people a chip, a row each, as a pod would train it.

idejax plan --config configs/plan_sd21_crowd.py --people 8 --table
"""

from idejax.config import Personalize

config = Personalize(model="stabilityai/stable-diffusion-2-1-base", method="id-ea", pack="buffalo_l")
settings = {"batch": 1}
