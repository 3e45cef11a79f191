"""SDXL Turbo (Sauer et al. 2023): one to four steps from the last timestep, without guidance.

idejax sample --config configs/sample_sdxl_turbo.py --prompt "a photo of a lighthouse" --num 4
"""

from pathlib import Path

from idejax.config import Sample

config = Sample(
  model="stabilityai/sdxl-turbo",
  out=Path("runs/sample_sdxl_turbo"),
  variant="fp16",
  sampler="euler_ancestral",
  spacing="trailing",
  steps=1,
  guidance=0.0,
)
