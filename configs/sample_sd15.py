"""Stable Diffusion 1.5 at its native 512 x 512, in 25 steps of DPM-Solver++.

idejax sample --config configs/sample_sd15.py --prompt "a photo of a lighthouse" --num 4
"""

from pathlib import Path

from idejax.config import Sample

config = Sample(
  model="stable-diffusion-v1-5/stable-diffusion-v1-5",
  out=Path("runs/sample_sd15"),
  sampler="dpmpp_2m",
  karras=True,
  steps=25,
  guidance=7.5,
)
