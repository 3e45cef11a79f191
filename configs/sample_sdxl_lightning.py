"""SDXL Lightning (Lin et al. 2024): four Euler steps on trailing timesteps, without guidance.

Its authors publish the UNet alone, for 2, 4 or 8 steps: put the file for four into a copy of
SDXL base as unet/diffusion_pytorch_model.safetensors, and name that folder.

    idejax sample --config configs/sample_sdxl_lightning.py --model FOLDER --prompt "a lighthouse"
"""

from pathlib import Path

from idejax.config import Sample

config = Sample(out=Path("runs/sample_sdxl_lightning"), sampler="euler", spacing="trailing", steps=4, guidance=0.0)
