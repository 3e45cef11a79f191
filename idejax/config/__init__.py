"""What each command takes: frozen dataclasses, whose strings are the text of `--help`.

A file in `configs/` sets `config = Sample(...)`; `--config FILE` loads it, flags override it.
"""

from idejax.config.bench import Bench
from idejax.config.comic import App, Comic
from idejax.config.evaluate import Evaluate
from idejax.config.exchange import Convert, Export, Rename
from idejax.config.identity import Identity
from idejax.config.miniature import RandomModel, TrainMiniature
from idejax.config.personalize import Personalize
from idejax.config.plan import Plan
from idejax.config.pose import Pose
from idejax.config.prepare import Prepare
from idejax.config.pretrain import Pretrain
from idejax.config.sample import Sample
from idejax.config.shared import TrainShared

__all__ = [
  "Sample",
  "Personalize",
  "Identity",
  "Prepare",
  "Evaluate",
  "Comic",
  "App",
  "Bench",
  "Plan",
  "Pose",
  "Pretrain",
  "Export",
  "Convert",
  "Rename",
  "RandomModel",
  "TrainMiniature",
  "TrainShared",
]
