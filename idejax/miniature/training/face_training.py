"""Training the face pack (detector, recogniser) and the judges, stage by stage.

Each stage is a function (out, steps, seed, tiny): it trains in out/NAME, resumably, and writes its file.
Face nets go to out/faces, judges to out/judges, in the layout that ships in `weights/`.
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

from idejax import sharding, tree
from idejax.errors import UserError, tell
from idejax.miniature.judging import crops, face_metrics, judges
from idejax.miniature.training import (
  detector,
  face_data,
  face_report,
  frames,
  judges_training,
  recogniser,
  to_onnx,
  tokenizer,
)
from idejax.miniature.world.data import pixels
from idejax.miniature.world.pictures import rows
from idejax.model import tokens
from idejax.nets import convnet, scrfd, smallface
from idejax.storage.files import write_json
from idejax.training import loop
from idejax.training import step as st

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
  """Pictures of celebrities and strangers; figures are never reported on these people."""
  if tiny:
    return face_data.render(out / "data", {"train": 4}, seed=seed, limit=TINY_PEOPLE)
  return face_data.render(out / "data", COUNTS, seed=seed)


def render_split(out: Path, split: str, seed: int, tiny: bool) -> face_data.Faces:
  limit = TINY_PEOPLE if tiny else None
  return face_data.render(
    out / split,
    {split: 4 if tiny else 12 * (1 + (split == "heldout"))},
    seed=seed + 1 + (split == "heldout"),
    limit=limit,
  )


@dataclasses.dataclass(frozen=True)
class Result:
  params: Any  # the average
  facts: dict[str, Any]  # for cards: seed, steps, wall seconds, device, digests


def run(
  name: str,
  out: Path,
  plan: Plan,
  params: Any,
  loss: st.Loss,
  load: Callable[[int], Any],
  *,
  seed: int,
  digest: str,
  look: Callable[[int, Any], Any] | None = None,
  every: int = 1000,
) -> Result:
  """Trains to plan.steps, continuing the run in out/NAME; calls `look(step, averaged params)` now and then."""
  schedule = optax.warmup_cosine_decay_schedule(0.0, plan.lr, min(120, plan.steps // 10), plan.steps, 0.01 * plan.lr)
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
  walk = loop.resume_and_train(step, state, frozen, load, key=jax.random.key(seed), run=where, facts=facts)
  for done, state in walk:
    if look is not None and done % every == 0 and done < plan.steps:
      look(done, jax.device_get(state.ema))
    if done % 20 == 0:
      clock.write_text(json.dumps(round(before + time.monotonic() - began, 1)))
  params = jax.device_get(state.ema)
  spent = round(before + time.monotonic() - began, 1)
  clock.write_text(json.dumps(spent))
  return Result(
    params, facts | {"steps": int(state.step), "wall_seconds": spent, "device": jax.devices()[0].device_kind}
  )


# The detector.

DETECTOR = Plan(steps=4600, batch=32, lr=4e-3)


def train_detector(out: Path, steps: int | None = None, seed: int = 0, tiny: bool = False):
  data, empties = pictures(out, seed, tiny), face_data.empty(32 if tiny else EMPTIES, seed)
  plan = dataclasses.replace(DETECTOR, steps=steps or (60 if tiny else DETECTOR.steps))

  def load(i: int):
    return frames.frames(i, plan.batch, data, empties, seed)._asdict() | {
      "index": np.arange(plan.batch, dtype=np.int32)
    }

  def finish(done: int, params):
    calm = lambda i: frames.frames(i, 64, data, empties, seed + 1).images
    batches = (detector.pixels(calm(i)) for i in range(2 if tiny else 20))
    weights = convnet.fold(scrfd.logits, params, batches)
    write_detector(out / "faces" / "det.onnx", detector.shift_points(weights), {"step": str(done), "seed": str(seed)})

  result = run(
    "detector",
    out,
    plan,
    detector.init(seed),
    detector.make_loss(),
    load,
    seed=seed,
    digest=data.digest,
    look=finish,
    every=1000,
  )
  finish(plan.steps, result.params)
  write_json(out / "detector" / "result.json", result.facts)


def write_detector(path: Path, params, notes: dict[str, str]):
  names = [f"{what}_{s}" for what in ("score", "bbox", "kps") for s in scrfd.STRIDES]
  shapes = [(1, f"count_{s}", width) for width in (1, 4, 10) for s in scrfd.STRIDES]
  to_onnx.write(
    path,
    scrfd.body,
    params,
    name="detector",
    size=("height", "width"),
    outputs=names,
    shapes=shapes,
    batch=1,
    notes=notes,
  )


# The recognisers: ours, and the judge's.

RECOGNISER = Plan(steps=1800, batch=64, lr=2.5e-3, ema=0.995, decay=1e-4)
JUDGE = Plan(steps=1400, batch=64, lr=2.5e-3, ema=0.995, decay=1e-4)


def train_recogniser(out: Path, steps: int | None = None, seed: int = 0, tiny: bool = False):
  """Needs the detector's file: it is measured on crops from the detector's points."""
  plan = dataclasses.replace(RECOGNISER, steps=steps or (40 if tiny else RECOGNISER.steps))
  _train_recogniser(
    "recogniser", out, out / "faces" / "rec.onnx", smallface.recogniser, crops.RECOGNISER, plan, seed, tiny
  )


def train_judge_recogniser(out: Path, steps: int | None = None, seed: int = 0, tiny: bool = False):
  """Another architecture, seed and crop than the recogniser's, trained on the same people; it will judge others."""
  plan = dataclasses.replace(JUDGE, steps=steps or (40 if tiny else JUDGE.steps))
  _train_recogniser(
    "judge_recogniser", out, out / "judges" / "recogniser.onnx", smallface.judge, crops.JUDGE, plan, seed + 1000, tiny
  )


def _train_recogniser(name, out, path, body, how: crops.Cut, plan, seed, tiny):
  data, development = pictures(out, seed % 1000, tiny), render_split(out, "development", seed % 1000, tiny)
  everyone, person = np.unique(data.factors["id"], return_inverse=True)
  traits = recogniser.traits(everyone)
  width = data.boxes[:, 2] - data.boxes[:, 0]
  photos = development.factors["style"] == 0
  if tiny:  # its detector finds nothing
    test = crops.cut(development.images[photos], development.points[photos], how)
    test_ids = development.factors["id"][photos]
  else:
    test, test_ids = face_report.crop_faces(_detector(out), development, how, photos)

  def load(i: int):
    at = rows(i, plan.batch, len(person), seed)
    rng = np.random.Generator(np.random.Philox(key=[seed, i], counter=[0, 0, 0, 2]))
    points = crops.shake(rng, data.points[at], width[at])
    images = crops.spoil(rng, crops.cut(data.images[at], points, how))
    margin = np.full(plan.batch, recogniser.margin(i, plan.steps), np.float32)
    return {
      "images": images,
      "person": person[at].astype(np.int32),
      "margin": margin,
      "index": np.arange(plan.batch, dtype=np.int32),
      **{k: x[person[at]] for k, x in traits.items()},
    }

  def finish(done: int, params):
    at = [rows(i, 64, len(person), seed + 7) for i in range(2 if tiny else 24)]
    batches = (pixels(crops.cut(data.images[a], data.points[a], how)) for a in at)
    weights = convnet.fold(body, params["net"], batches)
    to_onnx.write(
      path,
      body,
      weights,
      name=name,
      size=(how.side,) * 2,
      outputs=["embedding"],
      shapes=[("batch", smallface.FEATURES)],
      notes={"step": str(done), "seed": str(seed)},
    )
    figures = face_metrics.verification(face_metrics.embed(path, test), test_ids)
    tell(
      f"{name} {done}: people never seen, photos: TAR {figures['tar@far1e-3']:.3f} at FAR 1e-3, "
      f"{figures['tar@far1e-2']:.3f} at 1e-2, equal error {figures['equal_error']:.4f}"
    )
    return figures

  start = recogniser.init(body, how.side, len(everyone), seed)
  result = run(
    name, out, plan, start, recogniser.make_loss(body), load, seed=seed, digest=data.digest, look=finish, every=400
  )
  write_json(out / name / "result.json", result.facts | {"development": finish(plan.steps, result.params)})


def _detector(out: Path) -> Path:
  path = out / "faces" / "det.onnx"
  if not path.exists():
    raise UserError(f"{path} is missing: train the detector first")
  return path


# The attribute classifier.

ATTRIBUTES = Plan(steps=700, batch=64, lr=2e-3, ema=0.995, decay=1e-4)


def train_judge_attributes(out: Path, steps: int | None = None, seed: int = 0, tiny: bool = False):
  plan = dataclasses.replace(ATTRIBUTES, steps=steps or (60 if tiny else ATTRIBUTES.steps))
  seed += 2000
  data, test = pictures(out, seed - 2000, tiny), render_split(out, "development", seed - 2000, tiny)
  codes, test_codes = judges.labels(data.factors), judges.labels(test.factors)
  path = out / "judges" / "attributes.onnx"

  def load(i: int):
    at = rows(i, plan.batch, len(data.images), seed)
    rng = np.random.Generator(np.random.Philox(key=[seed, i], counter=[0, 0, 0, 3]))
    return {"images": crops.spoil(rng, data.images[at]), "index": np.arange(plan.batch, dtype=np.int32)} | {
      n: c[at] for n, c in codes.items()
    }

  def finish(done: int, params):
    at = [rows(i, 64, len(data.images), seed + 7) for i in range(2 if tiny else 24)]
    weights = convnet.fold(judges.BODY, params, (pixels(data.images[a]) for a in at))
    to_onnx.write(
      path,
      judges.BODY,
      weights,
      name="attributes",
      size=(64, 64),
      outputs=smallface.ATTRIBUTES,
      shapes=[("batch", n) for n in judges.COUNTS],
      notes={"step": str(done), "seed": str(seed)},
    )
    write_json(path.with_suffix(".json"), judges.CLASSES)
    out = face_metrics.run(path, np.asarray(test.images))
    figures = face_metrics.classification(out, smallface.ATTRIBUTES, test_codes, test.factors["style"] == 0)
    tell(f"attributes {done}: right on photos " + ", ".join(f"{n} {x:.3f}" for n, x in figures.items()))
    return figures

  start = jax.tree.map(jax.numpy.asarray, convnet.init(judges.BODY, 64, seed))
  result = run(
    "judge_attributes",
    out,
    plan,
    start,
    judges_training.make_attributes_loss(),
    load,
    seed=seed,
    digest=data.digest,
    look=finish,
    every=500,
  )
  write_json(
    out / "judge_attributes" / "result.json", result.facts | {"development": finish(plan.steps, result.params)}
  )


# The CLIP.

CLIP = Plan(steps=3500, batch=64, lr=1.5e-3, clip=1.0, ema=0.995, decay=0.02)


def train_judge_clip(out: Path, steps: int | None = None, seed: int = 0, tiny: bool = False):
  steps, batch = steps or (40 if tiny else CLIP.steps), 16 if tiny else CLIP.batch
  plan = dataclasses.replace(CLIP, steps=steps, batch=batch)
  seed += 3000
  data, test = pictures(out, seed - 3000, tiny), render_split(out, "development", seed - 3000, tiny)
  codes = judges.labels(data.factors)
  folder = out / "judges" / "clip"
  size = tokenizer.write(folder, judges.LENGTH)
  words = tokens.load(folder)
  config = judges_training.clip_config(size, tiny)
  ids, test_ids = words.encode(data.captions).ids, words.encode(test.captions).ids

  def load(i: int):
    at = rows(i, plan.batch, len(data.images), seed)
    rng = np.random.Generator(np.random.Philox(key=[seed, i], counter=[0, 0, 0, 4]))
    images, texts = crops.spoil(rng, data.images[at]), words.encode(judges_training.contrasts(rng)).ids
    return {
      "images": images,
      "ids": np.concatenate([ids[at], texts]),
      "index": np.arange(plan.batch, dtype=np.int32),
    } | {n: c[at] for n, c in codes.items()}

  embed = jax.jit(lambda p, images, ids: judges.embeddings(config, p, images, ids))

  def finish(done: int, params):
    judges_training.write_clip(folder, config, params)
    figures = judges.retrieval(embed, params, test.images, test_ids)
    figures |= judges.zero_shot(embed, params, words, test)
    tell(f"clip {done}: " + ", ".join(f"{n} {x:.3f}" for n, x in figures.items()))
    return figures

  result = run(
    "judge_clip",
    out,
    plan,
    judges_training.clip_init(config, seed),
    judges_training.make_clip_loss(config),
    load,
    seed=seed,
    digest=data.digest,
    look=finish,
    every=250,
  )
  write_json(out / "judge_clip" / "result.json", result.facts | {"development": finish(plan.steps, result.params)})


# Cards, and the files to their place.


def report_faces(out: Path, steps: int | None = None, seed: int = 0, tiny: bool = False):
  """pack.json, with figures; `face_report.ship` copies the folder into the package."""
  face_report.write_pack(out, render_split(out, "development", seed, tiny), render_split(out, "heldout", seed, tiny))


def report_judges(out: Path, steps: int | None = None, seed: int = 0, tiny: bool = False):
  face_report.write_card(out, render_split(out, "development", seed, tiny), render_split(out, "heldout", seed, tiny))


STAGES: dict[str, Callable[..., None]] = {
  "detector": train_detector,
  "recogniser": train_recogniser,
  "attributes": train_judge_attributes,
  "judge_recogniser": train_judge_recogniser,
  "clip": train_judge_clip,
  "report_faces": report_faces,
  "report_judges": report_judges,
}
