"""`idejax personalize --compare`: several methods on the same photos, beside a floor and a ceiling."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from idejax.cli.method_options import Settings
from idejax.data.people import Person
from idejax.errors import tell
from idejax.evaluation import miniature, report
from idejax.evaluation.report import Picture
from idejax.miniature.world import data, portraits, scene
from idejax.miniature.world import people as world
from idejax.runtime import distributed
from idejax.sampling import sampler
from idejax.sampling.pipeline import Pipeline

_NOBODY = "a person"
FLOOR, CEILING = f"{_NOBODY} (floor)", "real pictures (ceiling)"


def run(
  entries: dict[str, Settings],
  one: Callable[[Settings, Path], dict[str, Any]],
  people: Sequence[Person],
  pipe: Pipeline,
  out: Path,
):
  """A run folder for each entry, made by `one`; compare.md, compare.json and compare.png of all.

  The floor is what the model draws for "a person": a method that learned nothing scores as much. The
  ceiling, of drawn people only, is what the world draws for the same prompts.
  """
  results, c = {}, next(iter(entries.values())).run
  for name, settings in entries.items():
    tell(f"== {name}")
    results[name] = one(settings, out / folder(name))
  if not distributed.first():
    return
  prompts, seeds = c.prompts or report.PROMPTS, range(c.seed, c.seed + c.num)
  marks = {FLOOR: floor(pipe, people, prompts, seeds, c), CEILING: ceiling(people, prompts, seeds)}
  for name, pictures in marks.items():
    if not pictures:
      continue
    (out / folder(name)).mkdir(exist_ok=True)
    report.sheet(out / folder(name) / "sheet.png", people, pictures, prompts, c.num, _NOBODY if name == FLOOR else "")
    results[name] = {"seconds": {}} | report.score(pictures, people, c.model, out / folder(name))
  report.table({folder(n): r | {"name": n} for n, r in results.items()}, out)


def folder(name: str) -> str:
  """An entry's name as a folder's."""
  return "".join(x if x.isalnum() or x in "-_." else "-" for x in name).rstrip("-")


def floor(
  pipe: Pipeline, people: Sequence[Person], prompts: Sequence[str], seeds: Sequence[int], c: Any
) -> list[Picture]:
  """The same pictures of nobody in particular, held against everyone."""
  rows = [(p, s) for p in prompts for s in seeds]
  alone = dataclasses.replace(pipe, shares=False)  # of several processes the first alone is here
  images = alone.sample(
    [p.replace("{}", _NOBODY) for p, _ in rows],
    seeds=[s for _, s in rows],
    guidance=c.guidance,
    steps=c.sample_steps,
    sampler=sampler.for_sheets(pipe.backbone.nets.sampler),
    progress=True,
  )
  return [Picture(i, p, s, image) for i in range(len(people)) for (p, s), image in zip(rows, images)]


def ceiling(people: Sequence[Person], prompts: Sequence[str], seeds: Sequence[int]) -> list[Picture]:
  """The drawn people as the world itself draws them: what the prompt asks for, in another pose and light."""
  who = [portraits.find_person(p.stem) for p in people]
  if None in who:
    return []
  out = []
  for i, person in enumerate(who):
    rows = [(p, s) for p in prompts for s in seeds]
    free = scene.scenes(np.array([person]), len(rows), seed=10_000)  # pose and light of no training picture
    scenes = []
    for k, (p, _) in enumerate(rows):
      wishes: dict[str, Any] = {"background": "gray"} | miniature.parse_prompt(p)
      scenes.append(scene.scene(**{n: getattr(free, n)[k] for n in scene.POSE} | wishes))
    identity = world.people(np.full(len(rows), person))
    images, _ = data.render_all(identity, data.stack(scenes))
    out += [Picture(i, p, s, image) for (p, s), image in zip(rows, np.asarray(images))]
  return out
