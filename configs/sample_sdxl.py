"""SDXL base at its native 1024 x 1024; two at a time and tiled decoding fit into 16 GB.

idejax sample --config configs/sample_sdxl.py --prompt "a photo of a lighthouse" --num 4
"""

from pathlib import Path

from idejax.config import Sample

config = Sample(
  model="stabilityai/stable-diffusion-xl-base-1.0",
  out=Path("runs/sample_sdxl"),
  variant="fp16",
  steps=30,
  guidance=5.0,
  batch=2,
  tiled=True,
)
