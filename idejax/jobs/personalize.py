"""`idejax personalize`: a photo of a person in, an identity that prompts can name out; resumable.

A folder of people trains all of them at once (`fit.crowd`); `--compare` runs several methods.
"""

import dataclasses
import importlib.util
import resource
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from idejax import config, faces, ranges
from idejax.cli import method_options
from idejax.cli.method_options import Settings
from idejax.data import celebrities, people_folder
from idejax.data.people import Person
from idejax.errors import UserError, tell
from idejax.evaluation import compare, report
from idejax.jobs import run_folder
from idejax.methods import IDENTITIES
from idejax.miniature.world import portraits
from idejax.person import caption_lint
from idejax.personalizing.learn import (
  Watch,
  check_addon,
  check_modules,
  check_name,
  check_vit,
  description,
  groups,
  open_model,
  provenance,
  share,
  train,
  with_description,
)
from idejax.runtime import cores, distributed
from idejax.runtime.progress import label, waiting
from idejax.sampling import learned
from idejax.sampling import pipeline as pl
from idejax.sampling.learned import Learned
from idejax.storage import hub
from idejax.storage.files import write_json
from idejax.storage.folders import claim


def main(s: Settings):
  # ---- What is asked, checked before anything is loaded ----------------------------------------
  c = s.run
  check(s)
  if c.photo and (warning := caption_lint.advice(c.describe)) and distributed.first():
    tell(warning)
  cores.use(c.model)
  out = Path(distributed.from_first(str(run_folder.choose(s))))
  run_folder.refuse_other(s, out)
  for name, e in compared(s, out).items():
    run_folder.refuse_other(e, out / compare.folder(name))
  warn_of_photographs(c)
  with distributed.by_first(lambda: claim(out)):
    if c.compare:
      against(s, out)
    else:
      run(s, out)


def run(s: Settings, out: Path) -> dict[str, Any]:
  """One method, on one person or on a folder of them. Returns what report.json holds."""
  c, watch = s.run, Watch()
  command = run_folder.command_digest(s, out)
  if report_there := run_folder.earlier_report(s, out):
    tell(f"finished already: {out / 'sheet.png'}; another --out makes it again")
    return report_there

  # ---- People and model ------------------------------------------------------------------------
  pack = faces.open_pack(c.pack)
  people = people_folder.read(c.photo or portrait_files(c, out), pack, c.name, face=c.face, parsing=c.parsing)
  pipe = open_model(c)
  names = celebrities.names(c.model, c.names)
  request, s = s, with_description(s)
  for p in people:
    check_name(p.word, pipe)
  check_vit(s, pipe)
  check_modules(s, pipe, pack)
  check_prompts(s, people, pipe)
  watch.done("features")

  # ---- Train -----------------------------------------------------------------------------------
  grouped = groups(s, people, pipe)
  with waiting("reading the model's words"):
    shared = share(s, pipe, names)
  everyone: list[Learned] = []
  for g, group in enumerate(grouped):
    folder = out if len(grouped) == 1 else out / f"group-{g:03d}"
    # What the run is, is written as soon as its checkpoints have accepted it: a refused command changes no file.
    accepted = lambda: write_json(out / "config.json", method_options.to_json(request)) if distributed.first() else None
    everyone += train(s, pipe, pack, shared, group, folder, watch, accepted)
  crowd = len(people) > 1 or people[0].alone is False
  for p, who in distributed.mine(list(zip(people, everyone))):
    folder = out / p.stem if crowd else out
    learned.save(folder, who)
    write_json(folder / "provenance.json", provenance(c, p, pipe, pack))

  # ---- Pictures and figures --------------------------------------------------------------------
  with label("sheet"):
    pictures = report.sample(
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
  figures = report.score(pictures, people, c.model, out)
  watch.done("score")
  facts = {
    "method": c.method,
    "people": len(people),
    "seconds": watch.seconds,
    "peak_memory_mb": memory(),
    "trained_parameters": watch.trained,
    "steps": watch.steps or s.cfg.steps,
    "batch": s.cfg.batch,
    "command": command,
    "device": jax.devices()[0].device_kind,
  } | figures
  write_json(out / "report.json", facts)
  tell(report.lines(facts))
  example = shlex.quote(f"a photo of {people[0].word} on the beach")
  tell(f"done: {out / 'sheet.png'}; try: idejax sample --identity {shlex.quote(str(out))} --prompt {example}")
  return facts


def portrait_files(c: config.Personalize, out: Path) -> Path:
  """Without a photo: portraits of the drawn world's people, in the run's folder."""
  if c.drawn > 1:
    return portraits.portray(out / "photos", c.split, c.drawn)
  return portraits.portray_one(out / "portrait.png")


def against(s: Settings, out: Path):
  """Several methods on the same photos."""
  c, entries = s.run, compared(s, out)
  if distributed.first():
    write_json(out / "config.json", method_options.to_json(s))
  photo = c.photo or portraits.portray(out / "photos", c.split, c.drawn)
  people = people_folder.read(photo, faces.open_pack(c.pack), c.name, face=c.face, parsing=c.parsing)
  compare.run(entries, run, people, open_model(c), out)


def compared(s: Settings, out: Path) -> dict[str, Settings]:
  """What --compare names, all of it on the same photos."""
  about: dict[str, Any] = {"photo": s.run.photo or out / "photos", "describe": description(s.run)}
  return {n: Settings(dataclasses.replace(e.run, **about), e.cfg) for n, e in method_options.entries(s).items()}


# What a run needs.


def check(s: Settings):
  """UserError for what can be seen to be wrong without a model."""
  c = s.run
  if c.photo and not c.photo.exists():
    raise UserError(f"{c.photo} does not exist: give a photo or a folder of people")
  if c.photo and not c.photo.is_file() and not c.photo.is_dir():
    raise UserError(f"{c.photo} is no regular file: give a photo or a folder of people")
  if c.photo and c.photo.is_dir() and c.name != config.Personalize.name:
    raise UserError(
      f"--name {c.name} names one person, but {c.photo} is a folder: its people are named after their files"
    )
  for name, path in dict(vit=c.vit, parsing=c.parsing).items():
    if path and not path.exists():
      raise UserError(f"--{name} {path} does not exist")
  if c.tensorboard and importlib.util.find_spec("tensorboardX") is None:
    raise UserError('--tensorboard needs tensorboardX: pip install -e ".[tensorboard]"')
  runs = list(method_options.entries(s).values()) or [s]
  check_addon(runs)
  method_options.check_shared(s)
  for e in runs:
    method_options.check_parts(e)
    method_options.check_shared(e)
  for p in c.prompts:
    if p.count("{}") > 1:
      raise UserError(f"--prompts has {ranges.show(p)}, with the person twice; a prompt names each person once")


def check_prompts(s: Settings, people: Sequence[Person], pipe: pl.Pipeline):
  """UserError if a prompt of the sheet is too long for the person's word to have room."""
  needs = IDENTITIES[s.run.method].needs(s.cfg, pipe.backbone.nets)
  for p in (s.run.prompts or report.PROMPTS) if needs.tokens else ():
    for tokenizer in pipe.tokenizers:
      tokenizer.encode([p.replace("{}", people[0].word)], {people[0].word: needs.tokens})


def warn_of_photographs(c: config.Personalize):
  """What the drawn world's networks make of a photograph is no likeness: said once, before anything is trained."""
  if c.pack != config.Personalize.pack and c.model not in hub.BUILT_IN:
    return
  if not (real := run_folder.photos_too_real(c)):
    return
  what = [f"--model {c.model}"] * (c.model in hub.BUILT_IN) + [f"--pack {c.pack}"] * (c.pack == config.Personalize.pack)
  tell(
    f"warning: {real[0]} looks like a photograph, and {' and '.join(what)} know drawn people only: the pictures will "
    f"not show who is in it. For photographs: idejax personalize {shlex.quote(str(c.photo))} --pack buffalo_l "
    "--model stable-diffusion-v1-5/stable-diffusion-v1-5; to try idejax without downloads: idejax personalize"
  )


def memory() -> int:
  """Peak memory of this process or of its device, MB."""
  stats = jax.local_devices()[0].memory_stats() or {}
  return round(stats.get("peak_bytes_in_use", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) / 1e6)
