"""DreamBooth on SDXL, all of the UNet: state and weights in parts on eight chips (FSDP), a row on each.

idejax plan --config configs/plan_sdxl_unet.py --topology v6e-8
"""

from idejax.config import Personalize

config = Personalize(model="stabilityai/stable-diffusion-xl-base-1.0", method="dreambooth", pack="buffalo_l")
settings = {"trains": "unet", "batch": 8}
