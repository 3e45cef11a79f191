"""FaceSnap on SD 2.1 base at 512 pixels, as on SD 1.5: 20,000 steps of 8.

idejax prepare PHOTOS --out faces --pack buffalo_l --size 512 --model SD21_BASE --vision CLIP_VIT_H
idejax pretrain --config configs/facesnap_sd21.py --data faces --model SD21_BASE --vision CLIP_VIT_H --out runs/facesnap21
"""

from idejax.config import Pretrain

config = Pretrain(
  model="stabilityai/stable-diffusion-2-1-base",
  data="faces",
  preset="sd21-512",
  pack="buffalo_l",
  vision="CLIP_VIT_H",
  validate_every=1000,
)
