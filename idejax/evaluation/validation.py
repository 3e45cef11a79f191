"""How a training for everybody does on people whom it never sees: loss, identity, pose and pictures, every so often.

    loss      the masked error of the noise on fixed faces, timesteps and noise: two steps differ by what was learned
    identity  a second recogniser's similarity of a person's picture to that person, less that to the others
    followed  distance of the landmarks in a picture from those asked for, in the face's widths

Each person is sampled once, in the pose of the next, always from the same noise. Lines go to validation.jsonl, a
sheet of each time to validation/STEP.png.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from idejax import faces, sharding
from idejax.data.face_rows import PLAIN
from idejax.errors import UserError, tell
from idejax.evaluation.addons import off
from idejax.faces.posing import Poser
from idejax.model.backbone import Backbone
from idejax.nets import controlnet, mixer
from idejax.nets.controlnet import ControlNetConfig
from idejax.nets.mixer import MixerConfig
from idejax.runtime import distributed
from idejax.sampling import pipeline
from idejax.sampling.pipeline import Pipeline
from idejax.sampling.requests import Request, Settings, Steer
from idejax.storage import sheets, weights
from idejax.storage.files import replacing

FILE = "validation.jsonl"
Judge = Callable[[Sequence[np.ndarray]], list[np.ndarray | None]]  # pictures -> unit embeddings of the largest faces


@dataclasses.dataclass(frozen=True)
class Held:
  """Faces of people whom the training does not see."""

  data: Any  # face_features.Encoded or face_rows.Streamed
  at: np.ndarray  # their places in it
  picture: Callable[[int], np.ndarray]  # place -> uint8 [S, S, 3], as the nets read it

  def first(self) -> np.ndarray:
    """A place of each person."""
    _, first = np.unique(np.asarray(self.data.person)[self.at], return_index=True)
    return self.at[np.sort(first)]


def choose(person: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
  """(places that train, places that are held out): those of `count` people, always the same ones of the same data.

  UserError if nobody would be left to train on.
  """
  people = int(np.max(person)) + 1
  if count >= people:
    raise UserError(f"--validate-people {count} leaves nobody to train on: the data have {people} people")
  order = np.random.Generator(np.random.Philox(key=[0, people])).permutation(people)
  out = np.isin(person, order[:count])
  return np.flatnonzero(~out), np.flatnonzero(out)


def by_pack(pack: faces.Pack) -> Judge:
  """A face pack's recogniser as the judge."""

  def embed(images: Sequence[np.ndarray]) -> list[np.ndarray | None]:
    out: list[np.ndarray | None] = []
    for image in images:
      d = pack.detect(image)
      area = (d.boxes[:, 2:] - d.boxes[:, :2]).prod(1)
      out.append(pack.embed([pack.crop(image, d.points[int(area.argmax())])])[0] if len(area) else None)
    return out

  return embed


class Watch:
  """Validates parameters. `loss`: (params) -> the masked error; judge: None leaves identity out."""

  def __init__(
    self,
    folder: Path,
    pipe: Pipeline,
    mixed: MixerConfig,
    held: Held,
    loss: Callable[[Any], float],
    pack: faces.Pack,
    poser: Poser,
    judge: Judge | None,
    steps: int = 20,
  ):
    self.folder, self.pipe, self.mixed, self.loss = folder, pipe, mixed, loss
    self.pack, self.poser, self.judge = pack, poser, judge
    self.settings = Settings(steps=steps)
    first = held.first()
    self.photos = [held.picture(int(i)) for i in first]
    rows = held.data.take(first, first)
    self.identity, self.clip, marks = rows["identity"], rows["clip"], np.roll(rows["marks"], -1, axis=0)
    self.marks = [m if np.isfinite(m).all() else None for m in marks]
    self.who = judge(self.photos) if judge else []
    net: Any = mixer.Mixer(mixed)
    self._mix = jax.jit(lambda p, identity, clip: net.apply({"params": p}, identity, clip))

  def __call__(self, step: int, params: Any) -> dict[str, Any]:
    """One line of validation.jsonl, and the sheet; every process of a job must call this."""
    loss = self.loss(params)
    images = self.sample(sharding.gather(params))
    line = {"step": step, "loss": loss, **self.score(images)}
    if distributed.first():
      self.write(line, images)
      told = ", ".join(f"{k} {v:.4f}" for k, v in line.items() if k != "step" and v is not None)
      tell(f"validation at step {step}: {told}")
    return line

  def sample(self, params: Any) -> np.ndarray:
    """A picture of each person in the next one's pose, uint8 [P, S, S, 3]."""
    nets = dataclasses.replace(
      self.pipe.backbone.nets,
      controlnet=ControlNetConfig.of(self.pipe.backbone.nets.unet, self.pipe.backbone.nets.factor),
    )
    assert nets.controlnet
    want = weights.with_dtype(controlnet.shapes(nets.controlnet), nets.dtype)
    steering = jax.tree.map(lambda x, s: np.asarray(x, s.dtype), params["controlnet"], want)
    steering = sharding.replicate(steering, self.pipe.mesh)
    pipe = dataclasses.replace(
      self.pipe, backbone=Backbone(nets, {**self.pipe.backbone.params, "controlnet": steering})
    )
    tokens = np.asarray(self._mix(params["mixer"], self.identity, self.clip), np.float32)
    rows = [
      Request(PLAIN, seed=7000 + n, guidance=2.0, steer=Steer(t, m)) for n, (t, m) in enumerate(zip(tokens, self.marks))
    ]
    images = np.zeros((len(rows), *pipe.size(self.settings), 3), np.uint8)
    for batch in pipeline.generate(pipe, rows, self.settings):
      images[batch.positions] = batch.images
    return sharding.sum_all(images) if pipe.divides else images

  def score(self, images: np.ndarray) -> dict[str, float | None]:
    """self, other, identity, faces (share of pictures with one) and followed; None where nothing tells."""
    out: dict[str, float | None] = dict.fromkeys(("self", "other", "identity", "faces"))
    if self.judge:
      seen = self.judge(list(images))
      out["faces"] = float(np.mean([e is not None for e in seen]))
      pairs = [(n, e) for n, e in enumerate(seen) if e is not None and self.who[n] is not None]
      own = [float(e @ self.who[n]) for n, e in pairs]
      others = [float(e @ w) for n, e in pairs for k, w in enumerate(self.who) if k != n and w is not None]
      if own and others:
        out |= {"self": mean(own), "other": mean(others), "identity": mean(own) - mean(others)}
    distances = [off(self.pack, self.poser, x, m) for x, m in zip(images, self.marks)]
    known = [d for d in distances if d is not None]
    return out | {"followed": mean(known) if known else None}

  def write(self, line: dict[str, Any], images: np.ndarray):
    path = self.folder / FILE
    earlier = [r for r in lines(path) if r["step"] < line["step"]]  # a killed run is ahead of its save
    with replacing(path) as temporary:
      temporary.write_text("".join(json.dumps(r) + "\n" for r in [*earlier, line]))
    turned = np.roll(np.arange(len(images)), -1)
    groups = [sheets.Group("", [self.photos[n], self.photos[turned[n]], x]) for n, x in enumerate(images)]
    (self.folder / "validation").mkdir(exist_ok=True)
    heading = f"step {line['step']}: a face, a pose, and the picture"
    sheets.write(self.folder / "validation" / f"{line['step']:07d}.png", [sheets.Section(heading, groups)])


def lines(path: Path) -> list[dict[str, Any]]:
  """The lines of a validation.jsonl."""
  return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def mean(xs: Sequence[float]) -> float:
  return float(np.mean(xs))
