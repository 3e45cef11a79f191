"""How well an add-on keeps faces and follows poses, on drawn people whom no training has seen.

Each person is asked for by one portrait, in poses of others. The judge is the world's second recogniser.
Everything is held against pictures of the same noise and prompts that could not know better: of the
model without the add-on, and of another person's face. A measure that another face does not lower measures nothing.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from idejax import faces
from idejax.errors import UserError, tell
from idejax.evaluation import intervals
from idejax.faces.posing import Poser
from idejax.miniature.judging.scoring import Judges
from idejax.miniature.world import data, people, scene
from idejax.sampling.pipeline import Pipeline

PROMPTS = ("a photo of a person on the beach", "a photo of a person in the city")
_OWN = 4  # true photos of each person, for the judge


@dataclasses.dataclass(frozen=True)
class Case:
  """One picture: whose face, whose pose, which prompt; places in the list of people."""

  face: int
  driver: int
  prompt: int


def cases(count: int) -> list[Case]:
  """Each person by each prompt, in the pose of the next."""
  return [Case(i, (i + 1) % count, p) for i in range(count) for p in range(len(PROMPTS))]


def measure(pipe: Pipeline, count: int = 12, steps: int = 20, guidance: float = 2.0, batch: int = 8) -> dict[str, Any]:
  """Figures with 95 % intervals over `count` held-out people. UserError without an add-on, and for under 3 people.

  self, other: the judge's similarity of a picture to photos of the person and to those of everybody else;
  identity: their difference. swapped: the same differences, of pictures with the third next person's face in its
  place; by_chance: without the add-on. choice: how often a picture is nearer to its own person than to
  whoever's face takes its place, 0.5 by chance.
  followed: distance of the landmarks found in a picture from those asked for, in the face's widths; its by_chance.
  """
  if pipe.faces is None:
    raise UserError("this pipeline has no add-on to measure")
  if count < 3:
    raise UserError(f"{count} people are too few to measure an add-on: take 3 or more")
  ids = people.split("heldout")[:count]
  portraits, drivers, truth = _photos(ids)
  judges = Judges()
  who = _centres(judges, truth, count)
  todo, out = cases(count), {}
  swap = [dataclasses.replace(c, face=(c.face + 3) % count) for c in todo]
  settings = dict(steps=steps, guidance=guidance, batch=batch, seeds=[7000 + c.face * 10 + c.prompt for c in todo])

  def draw(asked: Sequence[Case], strength: float) -> np.ndarray:
    tell(f"measuring: {len(asked)} pictures at strength {strength:g}")
    return pipe.sample(
      [PROMPTS[c.prompt] for c in asked],
      face=[portraits[c.face] for c in asked],
      pose=[drivers[c.driver] for c in asked],
      face_strength=strength,
      **settings,  # type: ignore[arg-type]
    )

  pictures = {"own": draw(todo, 1.0), "swapped": draw(swap, 1.0), "by_chance": draw(todo, 0.0)}
  embeddings = {name: judges.embed(list(x)) for name, x in pictures.items()}
  alike = {name: [None if e is None else who @ e for e in es] for name, es in embeddings.items()}
  rest = lambda s, i: float(np.delete(s, i).mean())
  score = lambda name, f: [None if s is None else f(s, c.face) for s, c in zip(alike[name], todo)]
  person = [c.face for c in todo]
  each: Callable[[Sequence[float | None]], dict[str, float]] = lambda x: intervals.interval(x, person)
  out["self"], out["other"] = each(score("own", lambda s, i: float(s[i]))), each(score("own", rest))
  for name, key in (("own", "identity"), ("swapped", "swapped"), ("by_chance", "identity_by_chance")):
    out[key] = each(score(name, lambda s, i: float(s[i]) - rest(s, i)))
  nearer = [None if s is None else float(s[c.face] > s[o.face]) for s, c, o in zip(alike["own"], todo, swap)]
  out["choice"] = each(nearer)
  out["faces"] = {name: float(np.mean([e is not None for e in es])) for name, es in embeddings.items()}
  targets = [pipe.faces.steer(portraits[c.face], drivers[c.driver], pictures["own"].shape[1:3]).marks for c in todo]
  for name, key in (("own", "followed"), ("by_chance", "followed_by_chance")):
    out[key] = each([off(pipe.faces.pack, pipe.faces.poser, x, m) for x, m in zip(pictures[name], targets)])
  return out | {"people": count, "steps": steps, "guidance": guidance, "pictures": pictures, "portraits": portraits}


def _photos(ids: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
  """A plain portrait of each person; a photo of each in some pose and mood; _OWN photos of each for the judge."""
  plain = [scene.scene(clothes="red sweater", background="gray")] * len(ids)
  portraits, _ = data.render_all(people.people(ids), data.stack(plain))
  posed = scene.scenes(ids, 1 + _OWN, 6000, scene.WILD)
  clear = posed._replace(style=0 * posed.style, accessory=0 * posed.accessory)
  everyone = people.people(np.repeat(ids, 1 + _OWN))
  images, _ = data.render_all(everyone, clear)
  images = images.reshape(len(ids), 1 + _OWN, *images.shape[1:])
  return list(portraits), list(images[:, 0]), images[:, 1:].reshape(-1, *images.shape[2:])


def _centres(judges: Judges, truth: np.ndarray, count: int) -> np.ndarray:
  """Each person's mean embedding [count, 512] of the photos in which the judge finds a face, of unit length."""
  faces_of = judges.embed(list(truth))
  out = []
  for i in range(count):
    own = [e for e in faces_of[i * _OWN : (i + 1) * _OWN] if e is not None]
    mean = np.mean(own, axis=0)
    out.append(mean / np.linalg.norm(mean))
  return np.stack(out)


def off(pack: faces.Pack, poser: Poser, image: np.ndarray, target: np.ndarray | None) -> float | None:
  """Mean distance of a picture's landmarks from those asked for, in their face's widths; None without a face."""
  if target is None:
    return None
  try:
    record = faces.read(image, pack, cached=False, notify=lambda _: None)
  except UserError:
    return None
  marks = poser.own(record)
  return None if marks is None else float(np.linalg.norm(marks - target, axis=1).mean() / np.ptp(target[:, 0]))


def show(figures: dict[str, Any]) -> list[str]:
  """The figures in lines."""
  names = ("self", "other", "identity", "swapped", "identity_by_chance", "choice", "followed", "followed_by_chance")
  lines = [f"{n}: {intervals.show(figures[n])}" for n in names]
  return lines + [f"faces found: {', '.join(f'{n} {x:.2f}' for n, x in figures['faces'].items())}"]
