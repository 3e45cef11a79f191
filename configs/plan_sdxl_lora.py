"""DreamBooth with LoRA on SDXL: one person, a row on each of eight chips.

idejax plan --config configs/plan_sdxl_lora.py --topology v5e-8
"""

from idejax.config import Personalize

config = Personalize(
  model="stabilityai/stable-diffusion-xl-base-1.0", method="dreambooth", preset="lora", pack="buffalo_l"
)
settings = {"batch": 8}
