"""`idejax personalize`: a photo of a person in, an identity that prompts can name out; resumable.

A folder of people trains all of them at once (`fit.crowd`); `--compare` runs several methods.
"""

import dataclasses
import math
import resource
from pathlib import Path
from typing import Any

import jax

from idejax import config, faces
from idejax.cli import method_options
from idejax.cli.method_options import Settings
from idejax.data import celebrities, people_folder
from idejax.errors import UserError, tell
from idejax.evaluation import compare, report
from idejax.methods import METHODS
from idejax.miniature.world import portraits
from idejax.personalizing.learn import (
  Watch,
  check_name,
  description,
  open_model,
  provenance,
  refuse_crowd,
  share,
  train,
  with_description,
)
from idejax.runtime import cores, distributed
from idejax.runtime.progress import waiting
from idejax.sampling import learned
from idejax.sampling.learned import Learned
from idejax.storage.files import write_json
from idejax.storage.folders import claim


def main(s: Settings):
  # ---- What is asked, checked before anything is loaded ----------------------------------------
  c = s.run
  check(s)
  cores.use(c.model)
  out = c.out or Path("runs") / (Path(c.photo).stem if c.photo else "portrait")
  with distributed.by_first(lambda: claim(out)):
    if c.compare:
      against(s, out)
    else:
      run(s, out)


def run(s: Settings, out: Path) -> dict[str, Any]:
  """One method, on one person or on a folder of them. Returns what report.json holds."""
  c, watch = s.run, Watch()

  # ---- People and model ------------------------------------------------------------------------
  pack = faces.open_pack(c.pack)
  people = people_folder.read(c.photo or portrait_files(c, out), pack, c.name, face=c.face, parsing=c.parsing)
  pipe = open_model(c)
  names = celebrities.names(c.model, c.names)
  if distributed.first():
    write_json(out / "config.json", method_options.to_json(s))
  s = with_description(s)
  for p in people:
    check_name(p.word, pipe)
  watch.done("features")

  # ---- Train -----------------------------------------------------------------------------------
  groups = [people[at : at + c.at_a_time] for at in range(0, len(people), c.at_a_time)]
  if len(groups[0]) > 1:
    refuse_crowd(METHODS[c.method].needs(s.cfg, pipe.backbone.nets), c.method)
  with waiting("reading the model's words"):
    shared = share(s, pipe, names)
  everyone: list[Learned] = []
  for g, group in enumerate(groups):
    folder = out if len(groups) == 1 else out / f"group-{g:03d}"
    everyone += train(s, pipe, pack, shared, group, folder, watch)
  crowd = len(people) > 1 or people[0].alone is False
  for p, who in distributed.mine(list(zip(people, everyone))):
    folder = out / p.stem if crowd else out
    learned.save(folder, who)
    write_json(folder / "provenance.json", provenance(c, p, pipe, pack))

  # ---- Pictures and figures --------------------------------------------------------------------
  made = report.sample(
    pipe.with_people(*everyone),
    people,
    c.prompts or report.PROMPTS,
    out,
    num=c.num,
    steps=c.sample_steps,
    guidance=c.guidance,
    seed=c.seed,
  )
  watch.done("sample")
  if not distributed.first():
    return {}
  figures = report.score(made, people, c.model, out)
  watch.done("score")
  facts = {
    "method": c.method,
    "people": len(people),
    "seconds": watch.seconds,
    "peak_memory_mb": memory(),
    "steps": watch.steps or s.cfg.steps,
    "batch": s.cfg.batch,
    "device": jax.devices()[0].device_kind,
  } | figures
  write_json(out / "report.json", facts)
  tell(report.lines(facts))
  example = f'"a photo of {people[0].word} on the beach"'
  where = out / people[0].stem if crowd else out
  tell(f"done: {out / 'sheet.png'}; try: idejax sample --identity {where} --prompt {example} --out pictures")
  return facts


def portrait_files(c: config.Personalize, out: Path) -> Path:
  """Without a photo: portraits of the drawn world's people, in the run's folder."""
  if c.drawn > 1:
    return portraits.portray(out / "photos", c.split, c.drawn)
  return portraits.portray_one(out / "portrait.png")


def against(s: Settings, out: Path):
  """Several methods on the same photos."""
  c, entries = s.run, method_options.entries(s)
  photo = c.photo or portraits.portray(out / "photos", c.split, c.drawn)
  entries = {
    n: Settings(dataclasses.replace(e.run, photo=photo, describe=description(c)), e.cfg) for n, e in entries.items()
  }
  people = people_folder.read(photo, faces.open_pack(c.pack), c.name, face=c.face, parsing=c.parsing)
  compare.run(entries, run, people, open_model(c), out)


# What a run needs.


def check(s: Settings):
  """UserError for what can be seen to be wrong without a model."""
  c = s.run
  for name, value in dict(
    num=c.num, sample_steps=c.sample_steps, at_a_time=c.at_a_time, steps=s.cfg.steps, batch=s.cfg.batch
  ).items():
    if value < 1:
      raise UserError(f"--{name.replace('_', '-')} is {value}; it must be at least 1")
  for name, value in (vars(c) | vars(s.cfg)).items():
    if isinstance(value, float) and not math.isfinite(value):
      raise UserError(f"--{name.replace('_', '-')} is {value}; it must be a finite number")
  if c.describe and {*"{}"} & {*c.describe}:
    raise UserError(f"--describe is {c.describe!r}; braces mean the person")
  if c.plateau < 0:
    raise UserError(f"--plateau is {c.plateau}; it must be at least 0")
  if not 0 <= c.seed < 2**64:
    raise UserError(f"--seed is {c.seed}; it must be from 0 to 2^64 - 1")
  if not c.name.strip() or any(x.isspace() for x in c.name):
    raise UserError(f"--name is {c.name!r}; it must be one word, such as <anna>")
  if c.photo and not c.photo.exists():
    raise UserError(f"{c.photo} does not exist: give a photo or a folder of people")
  for e in list(method_options.entries(s).values()) or [s]:
    method_options.check_parts(e)
  for p in c.prompts:
    if "{}" not in p:
      raise UserError(f"--prompts has {p!r}, without the {{}} that stands for the person")


def memory() -> int:
  """Peak memory of this process or of its device, MB."""
  stats = jax.local_devices()[0].memory_stats() or {}
  return round(stats.get("peak_bytes_in_use", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) / 1e6)
