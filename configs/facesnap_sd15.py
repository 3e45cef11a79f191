"""FaceSnap on SD 1.5 at 512 pixels: 20,000 steps of 8, what one accelerator does in a day.

idejax prepare PHOTOS --out faces --pack buffalo_l --size 512 --model SD15 --vision CLIP_VIT_H
idejax pretrain --config configs/facesnap_sd15.py --data faces --model SD15 --vision CLIP_VIT_H --out runs/facesnap15
"""

from idejax.config import Pretrain

config = Pretrain(
  model="stable-diffusion-v1-5/stable-diffusion-v1-5",
  data="faces",
  preset="sd15-512",
  pack="buffalo_l",
  vision="CLIP_VIT_H",
  validate_every=1000,
)
