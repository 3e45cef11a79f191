"""The whole job at a size for CI: records of drawn people, 30 steps; the loss falls, faces do not come out yet.

idejax prepare --drawn 400 --out faces --size 64 --model miniature --vision miniature
idejax pretrain --config configs/facesnap_tiny.py --data faces --out runs/facesnap-tiny
"""

from idejax.config import Pretrain

config = Pretrain(data="faces", preset="tiny", steps=30, seed=4, validate_every=30)
