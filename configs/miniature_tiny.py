"""The whole recipe at a size for CI: losses fall, pictures stay blurs. Two minutes on two cores.

idejax train-miniature --config configs/miniature_tiny.py
"""

from pathlib import Path

from idejax.config import TrainMiniature

config = TrainMiniature(out=Path("runs/miniature-tiny"), tiny=True)
