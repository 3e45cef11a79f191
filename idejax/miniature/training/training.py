"""What the trainings of the miniature's VAE, text encoders and UNet have in common."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from PIL import Image

from idejax.config import TrainMiniature
from idejax.errors import UserError
from idejax.miniature.training.recipe import Recipe
from idejax.miniature.world import pictures
from idejax.storage import tensorfiles, weights
from idejax.training import loop
from idejax.training import step as st


def home(c: TrainMiniature, name: str) -> Path:
  """The folder of a stage of this family; pictures, VAE and latents belong to both families."""
  return c.out / (f"{name}_{c.family}" if c.family != "sd" else name)


def data(c: TrainMiniature, r: Recipe) -> pictures.Pictures:
  return pictures.render(c.out / "data", dict(r.counts), seed=c.seed)


def held_out(c: TrainMiniature, r: Recipe) -> pictures.Pictures:
  """Pictures of the development split: no training sees these people, and no figure is reported on them."""
  return pictures.render(c.out / "development", {"development": r.validation_each}, seed=c.seed + 1)


def run(c: TrainMiniature, folder: Path, name: str, steps: int) -> loop.Run:
  return loop.Run(folder, steps, c.minutes, save_seconds=c.save_seconds, name=name)


def fit(
  step: st.Step,
  state: st.State,
  frozen: Any,
  load: Callable[[int], st.Batch],
  *,
  run: loop.Run,
  seed: int,
  facts: dict[str, Any],
  every: int = 0,
  look: Callable[[int, st.State], Any] | None = None,
) -> st.State:
  """Trains to run.steps, continuing what is in run.folder; calls `look(done, state)` now and then."""
  for done, after in loop.resume_and_train(step, state, frozen, load, key=jax.random.key(seed), run=run, facts=facts):
    state = after
    if look is not None and done % every == 0 and done < run.steps:
      look(done, state)
  return state


def flat(peak: float, steps: int, decay: float) -> optax.Schedule:
  """Warm-up, a constant rate, then a fall over the last share `decay`. When a finished run is continued with
  more steps, only that share was trained at another rate, unlike with a cosine."""
  warm, fall = min(300, steps // 5), max(1, round(steps * decay))
  parts = (
    optax.linear_schedule(0.0, peak, warm),
    optax.constant_schedule(peak),
    optax.linear_schedule(peak, 0.01 * peak, fall),
  )
  return optax.join_schedules(parts, [warm, steps - fall])


def facts(c: TrainMiniature, r: Recipe, names: str, **more) -> dict[str, Any]:
  """The settings that must be the same when a run is continued. Numbers of steps and looks may change."""
  return {"seed": c.seed} | {n: getattr(r, n) for n in names.split()} | more


def save_weights(path: Path, params) -> str:
  """Writes a safetensors file; returns its digest."""
  tensorfiles.write(path, weights.to_torch(params))
  return tensorfiles.digest(path)


def load_weights(folder: Path, shapes: Any):
  """The parameters that a stage has saved in its folder."""
  params = weights.from_torch(shapes, tensorfiles.read(folder, "weights"), name=str(folder))
  return jax.tree.map(jax.numpy.asarray, params)


def grid(path: Path, rows: list[np.ndarray], scale: int = 2):
  """Writes rows of uint8 pictures [N, S, S, 3] as one image, enlarged by a whole factor."""
  sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
  Image.fromarray(sheet.repeat(scale, 0).repeat(scale, 1)).save(path)


def append(path: Path, record: dict[str, Any]):
  with path.open("a") as file:
    file.write(json.dumps(record) + "\n")


def read_json(path: Path, stage: str) -> dict[str, Any]:
  if not path.exists():
    raise UserError(f"{path} is missing: run --stage {stage} first")
  return json.loads(path.read_text())
