"""Training the face pack (detector, recogniser) and the judges, stage by stage.

Each stage is a function (out, steps, seed, tiny): it trains, resumably, in out/NAME and writes its
finished file. Faces go to out/faces, judges to out/judges, in the layout that ships in `weights/`.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from idejax import loop, sharding, tree
from idejax import step as st
from idejax.checkpoint import Checkpoints
from idejax.errors import tell
from idejax.miniature import detector, face_data, frames, to_onnx
from idejax.miniature.export import write_json
from idejax.nets import convnet, scrfd

EMPTIES = 1500
COUNTS = {"celebrity": 24, "train": 24}  # pictures per person
TINY_PEOPLE = 24


@dataclasses.dataclass(frozen=True)
class Plan:
  """How one net is trained."""

  steps: int
  batch: int
  lr: float
  clip: float = 5.0
  ema: float = 0.998
  decay: float = 0.0  # of weights, AdamW's


def pictures(out: Path, seed: int, tiny: bool) -> face_data.Faces:
  """Celebrities and strangers: nobody whom a test reports on."""
  if tiny: return face_data.render(out / "data", {"train": 4}, seed=seed, limit=TINY_PEOPLE)
  return face_data.render(out / "data", COUNTS, seed=seed)


def held(out: Path, split: str, seed: int, tiny: bool) -> face_data.Faces:
  limit = TINY_PEOPLE if tiny else None
  return face_data.render(out / split, {split: 4 if tiny else 12 * (1 + (split == "heldout"))},
                          seed=seed + 1 + (split == "heldout"), limit=limit)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Trained:
  params: Any  # the average
  facts: dict[str, Any]  # for cards: seed, steps, wall seconds, device, digests


def run(name: str, out: Path, plan: Plan, params: Any, loss: st.Loss, load: Callable[[int], Any], *, seed: int,
        digest: str, look: Callable[[int, Any], None] | None = None, every: int = 1000) -> Trained:  # fmt: skip
  """Train to plan.steps, continuing what is in out/NAME; `look(step, averaged params)` now and then."""
  schedule = optax.warmup_cosine_decay_schedule(
    0.0, plan.lr, min(300, plan.steps // 5), plan.steps, 0.01 * plan.lr)  # fmt: skip
  kernels = lambda p: tree.map_with_path(lambda path, _: path.endswith("kernel"), p)
  tx = optax.adamw(schedule, b2=0.99, weight_decay=plan.decay, mask=kernels)
  step = st.make_step(loss, tx, clip=plan.clip, ema=plan.ema)
  state = st.init(params, tx, ema=True)
  step, state, frozen = st.on_mesh(step, sharding.make_mesh(), state, {})
  tell(f"{name}: {tree.size(state.params) / 1e6:.3f} M parameters, {plan.steps} steps of {plan.batch}")
  facts = {"seed": seed, "data": digest} | {k: v for k, v in dataclasses.asdict(plan).items() if k != "steps"}
  where = loop.Run(out / name, plan.steps, name=name, save_seconds=120.0)
  clock = where.folder / "seconds.json"
  before = json.loads(clock.read_text()) if clock.exists() else 0.0
  began = time.monotonic()
  with Checkpoints(where.folder / "checkpoints") as checkpoints:
    state = loop.resume(checkpoints, state, facts)
    walk = loop.train(step, state, frozen, load, key=jax.random.key(seed), run=where,
                      checkpoints=checkpoints, facts=facts)  # fmt: skip
    for done, state in walk:
      if look is not None and done % every == 0 and done < plan.steps: look(done, jax.device_get(state.ema))
      if done % 100 == 0: clock.write_text(json.dumps(round(before + time.monotonic() - began, 1)))
    params = jax.device_get(state.ema)
  spent = round(before + time.monotonic() - began, 1)
  clock.write_text(json.dumps(spent))
  return Trained(params, facts | {"steps": int(state.step), "wall_seconds": spent,
                                  "device": jax.devices()[0].device_kind})  # fmt: skip


# The detector.

DETECTOR = Plan(steps=3600, batch=32, lr=4e-3)


def train_detector(out: Path, steps: int | None = None, seed: int = 0, tiny: bool = False):
  data, empties = pictures(out, seed, tiny), face_data.empty(32 if tiny else EMPTIES, seed)
  plan = dataclasses.replace(DETECTOR, steps=steps or (60 if tiny else DETECTOR.steps))

  def load(i: int):
    return frames.frames(i, plan.batch, data, empties, seed)._asdict() | {
      "index": np.arange(plan.batch, dtype=np.int32)}  # fmt: skip

  def finish(done: int, params, facts=None):
    batches = (detector.pixels(frames.frames(i, 64, data, empties, seed + 1).images) for i in range(2 if tiny else 20))
    folded = convnet.fold(scrfd.logits, params, batches)
    write_detector(out / "faces" / "det.onnx", folded, {"step": str(done), "seed": str(seed)})

  got = run("detector", out, plan, detector.init(seed), detector.make_loss(), load, seed=seed,
            digest=data.digest, look=finish, every=1000)  # fmt: skip
  finish(plan.steps, got.params)
  write_json(out / "detector" / "result.json", got.facts)


def write_detector(path: Path, params, notes: dict[str, str]):
  names = [f"{what}_{s}" for what in ("score", "bbox", "kps") for s in scrfd.STRIDES]
  shapes = [(1, f"count_{s}", width) for width in (1, 4, 10) for s in scrfd.STRIDES]
  to_onnx.write(path, scrfd.body, params, name="detector", size=("height", "width"), outputs=names,
                shapes=shapes, batch=1, notes=notes)  # fmt: skip
