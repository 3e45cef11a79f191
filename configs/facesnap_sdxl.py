"""FaceSnap as its paper trains it: SDXL at 1024 pixels, 2 x 7 faces a step, 360,000 steps, 1.38 B numbers that train.

SDXL and CLIP_VIT_H are folders as diffusers and transformers write them. Photos become records once, with the work
of the frozen nets in them (0.9 MB a photo beside its picture); then any mesh trains on them. Four of five pictures of
a step are moved, as in the paper, so their latents are computed in it; --augment 0 reads those of the records instead:

idejax prepare PHOTOS --out faces --pack buffalo_l --size 1024 --model SDXL --vision CLIP_VIT_H
idejax pretrain --config configs/facesnap_sdxl.py --data faces --model SDXL --vision CLIP_VIT_H --out runs/facesnap
"""

from idejax.config import Pretrain

config = Pretrain(
  model="stabilityai/stable-diffusion-xl-base-1.0",
  data="faces",
  preset="paper",
  batch=14,
  steps=360_000,
  pack="buffalo_l",
  vision="CLIP_VIT_H",
  remat=True,
  validate_every=5000,
  validate_people=16,
)
