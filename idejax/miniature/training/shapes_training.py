"""The regressor of `judging.shapes`: filters from random patches, then one least-squares solution. No steps, no net."""

from pathlib import Path
from typing import Any

import numpy as np

from idejax.errors import tell
from idejax.faces import npz
from idejax.miniature.judging import crops, shapes
from idejax.miniature.judging.shapes import Regressor
from idejax.miniature.world import data, people, scene

FILTERS = 96
RIDGE = 3.0  # features have unit variance
_SHAKEN = 0.015  # of the face's width: how far the detector's points lie off the truth
SEED = 5000  # apart from the recognisers' and judges'


def train(out: Path, steps: int | None = None, seed: int = 0, tiny: bool = False):
  """Writes out/shapes.npz and out/shapes.json. `steps`: how many people to learn from."""
  count = steps or (30 if tiny else 1200)
  regressor = fit(people.split("train")[:count], 4, seed + SEED)
  figures = measure(regressor, people.split("development")[: 10 if tiny else 100], seed + SEED + 1)
  save(out / "shapes.npz", regressor)
  tell("shapes: people never seen: " + ", ".join(f"{n} {x:.3f}" for n, x in figures.items()))
  return figures


def save(path: Path, r: Regressor):
  """float16, as it ships."""
  path.parent.mkdir(parents=True, exist_ok=True)
  npz.write(path, {n: x.astype(np.float16) for n, x in r._asdict().items()})


def fit(ids: np.ndarray, each: int, seed: int) -> Regressor:
  """From `each` pictures of each person."""
  cuts, truth = faces(ids, each, seed)
  rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
  filters = _filters(rng, cuts)
  x = shapes.features(filters, cuts)
  mean, scale = x.mean(0), x.std(0) + 1e-3
  x = (x - mean) / scale
  centre = truth.mean(0)
  gram = x.T.astype(np.float64) @ x + RIDGE * len(x) / 100 * np.eye(x.shape[1])
  kernel = np.linalg.solve(gram, x.T.astype(np.float64) @ (truth - centre))
  return Regressor(*(np.asarray(v, np.float32) for v in (filters, mean, scale, kernel, centre)))


def faces(ids: np.ndarray, each: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """(aligned crops uint8 [N, 64, 64, 3], OUTPUTS float64 [N, ..]) of drawn photos of people."""
  batch, scenes = _photos(ids, each, seed)
  everyone = people.people(np.repeat(ids, each))
  rng = np.random.Generator(np.random.Philox(key=[seed, 1]))
  photo = np.flatnonzero(batch.factors["style"] == 0)
  box = batch.geometry.box
  points = crops.shake(rng, batch.geometry.points, box[:, 2] - box[:, 0], _SHAKEN)
  cuts, truth = [], []
  for i in photo:
    matrix = crops.similarity(points[i].astype(np.float64), shapes.CUT.template())
    cuts.append(crops.crop(batch.images[i], matrix, shapes.CUT.side))
    one = people.take(scenes, i)
    mood = np.arange(len(scene.EXPRESSIONS)) == one.expression
    measures = [float(getattr(everyone, n)[i]) for n in shapes.MEASURES]
    truth.append([*measures, float(everyone.gender[i]), *mood.astype(float), *shapes.place_of(one, 64, matrix)])
  return np.stack(cuts), np.array(truth)


def _photos(ids: np.ndarray, each: int, seed: int) -> tuple[data.Batch, scene.Scene]:
  return data.batch(ids, each, seed, calm=scene.WILD), scene.scenes(ids, each, seed, scene.WILD)


def _filters(rng: np.random.Generator, cuts: np.ndarray, size: int = 5) -> np.ndarray:
  """Patches of random crops, each without its mean and of unit length."""
  n, y, x = (rng.integers(0, high, FILTERS) for high in (len(cuts), 64 - size + 1, 64 - size + 1))
  patches = np.stack([cuts[i, a : a + size, b : b + size] for i, a, b in zip(n, y, x)]).astype(np.float64) / 255
  patches += rng.normal(0, 0.02, patches.shape)  # a patch of plain colour has a direction, too
  patches -= patches.mean((1, 2, 3), keepdims=True)
  return patches / np.sqrt(np.square(patches).sum((1, 2, 3), keepdims=True))


def measure(r: Regressor, ids: np.ndarray, seed: int, each: int = 4) -> dict[str, float]:
  """How far off the landmarks of people never seen are, in shares of the face's width: own, and predicted for a
  driver by another person's measures, beside the driver's own as they are; and the share of moods that are right.
  Faces are aligned by their true points; a detector's points cost more.
  """
  batch, scenes = _photos(ids, each, seed)
  everyone = people.people(np.repeat(ids, each))
  photo = np.flatnonzero((batch.factors["style"] == 0) & (batch.factors["accessory"] != 2)).tolist()
  readings: dict[int, Any] = {i: shapes.read(r, batch.images[i], batch.geometry.points[i]) for i in photo}
  width = lambda m: np.ptp(m[:, 0])
  off = lambda a, b: float(np.linalg.norm(a - b, axis=1).mean() / width(b))
  truth = lambda who, where: shapes.marks(shapes.Reading(people.take(everyone, who), people.take(scenes, where)))
  own = [off(shapes.marks(readings[i]), truth(i, i)) for i in photo]
  pairs = list(zip(photo, photo[each:] + photo[:each]))
  driven = [off(shapes.marks(readings[i]._replace(scene=readings[j].scene)), truth(i, j)) for i, j in pairs]
  drivers = [off(truth(j, j), truth(i, j)) for i, j in pairs]
  mood = [int(readings[i].scene.expression == scenes.expression[i]) for i in photo]
  rows: dict[str, Any] = {"own": own, "driven": driven, "drivers_own": drivers, "mood": mood}
  return {name: float(np.mean(x)) for name, x in rows.items()}
