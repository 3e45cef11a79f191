"""FaceSnap on the built-in model and its drawn people: the same job as on SDXL, at 64 pixels; measured at the end.

idejax pretrain --config configs/facesnap_miniature.py --out runs/facesnap
"""

from idejax.config import Pretrain

config = Pretrain(preset="miniature", validate_every=1000, measure=12)
