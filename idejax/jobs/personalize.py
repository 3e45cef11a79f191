"""`idejax personalize`: a photo of a person in, an identity that prompts can name out; resumable.

A folder of people trains all of them at once (`fit.crowd`); `--compare` runs several methods.
"""

import dataclasses
import importlib.util
import resource
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from idejax import __version__, config, faces, ranges, sharding
from idejax.cli import method_options
from idejax.cli.method_options import Settings
from idejax.data import celebrities, people_folder
from idejax.data.people import Person
from idejax.errors import UserError, tell
from idejax.evaluation import compare, report
from idejax.jobs import run_folder
from idejax.methods import METHODS
from idejax.methods.contract import Needs, encode_captions
from idejax.miniature.world import portraits
from idejax.model import tokens
from idejax.model.conditioning import Prompts
from idejax.person import face_vit, subjects
from idejax.person.subject import Frozen
from idejax.runtime import cores, distributed
from idejax.runtime.progress import label, waiting
from idejax.sampling import class_pictures, learned
from idejax.sampling import pipeline as pl
from idejax.sampling.learned import Learned
from idejax.storage import hub, tensorfiles
from idejax.storage.files import write_json
from idejax.storage.folders import claim
from idejax.training import fit, loop


def main(s: Settings):
  # ---- What is asked, checked before anything is loaded ----------------------------------------
  c = s.run
  check(s)
  cores.use(c.model)
  out = Path(distributed.told(str(run_folder.choose(s))))
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
  if report_there := run_folder.finished(s, out):
    tell(f"finished already: {out / 'sheet.png'}; another --out makes it again")
    return report_there

  # ---- People and model ------------------------------------------------------------------------
  pack = faces.open_pack(c.pack)
  people = people_folder.read(c.photo or portrait_files(c, out), pack, c.name, face=c.face, parsing=c.parsing)
  pipe = open_model(c)
  names = celebrities.names(c.model, c.names)
  asked, s = s, with_description(s)
  for p in people:
    check_name(p.word, pipe)
  check_prompts(s, people, pipe)
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
    # What the run is, is written as soon as its checkpoints have accepted it: a refused command changes no file.
    accepted = lambda: write_json(out / "config.json", method_options.to_json(asked)) if distributed.first() else None
    everyone += train(s, pipe, pack, shared, group, folder, watch, accepted)
  crowd = len(people) > 1 or people[0].alone is False
  for p, who in distributed.mine(list(zip(people, everyone))):
    folder = out / p.stem if crowd else out
    learned.save(folder, who)
    write_json(folder / "provenance.json", provenance(c, p, pipe, pack))

  # ---- Pictures and figures --------------------------------------------------------------------
  with label("sheet"):
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


def description(c: config.Personalize) -> str:
  """What captions tell of the photo beside the person."""
  if c.describe is not None:
    return c.describe.strip()
  return "" if c.photo else portraits.SHOWN


def with_description(s: Settings) -> Settings:
  """The settings with that said in every training caption."""
  if not (more := description(s.run)):
    return s
  return Settings(s.run, dataclasses.replace(s.cfg, templates=tuple(f"{t} {more}" for t in s.cfg.templates)))


class Shared(NamedTuple):
  """What everybody's training reads, made once however many there are."""

  constants: Any
  captions: Prompts
  prior: tuple[np.ndarray, np.ndarray] | None  # moments of class pictures
  vit: face_vit.Embed | None


def share(s: Settings, pipe: pl.Pipeline, names: Sequence[str]) -> Shared:
  cfg, b = s.cfg, pipe.backbone
  needs = METHODS[s.run.method].needs(cfg, b.nets)
  constants = needs.constants(b, pipe.tokenizers, names, cfg)
  captions = encode_captions(needs, pipe.tokenizers, s.run.name)
  vit = face_vit.load(s.run.vit) if s.run.vit and needs.face_vit else None
  if not (prior := needs.class_pictures):
    return Shared(constants, captions, None, vit)
  alone = dataclasses.replace(pipe, shares=False)  # processes need not agree on what is in their caches
  with label("class pictures"):
    images = class_pictures.make(alone, prior.prompt, prior.count)
  return Shared(constants, captions, subjects.encode(b, images.astype(np.float32) / 127.5 - 1), vit)


def train(
  s: Settings,
  pipe: pl.Pipeline,
  pack: faces.Pack,
  shared: Shared,
  people: list[Person],
  folder: Path,
  watch: "Watch",
  accepted: Callable[[], None] = lambda: None,
) -> list[Learned]:
  """Everybody in `people`, at once if there are several; what each has become. `accepted` is called when the
  checkpoints that may be there have turned out to be this run's."""
  c, cfg, method, b = s.run, s.cfg, METHODS[s.run.method], pipe.backbone
  augment = method.needs(cfg, b.nets).augment
  with waiting("encoding the photos"):
    read = [subjects.build(b, p.photos, pack, augment, c.seed, shared.prior, shared.vit) for p in people]
  watch.done("features")
  keys = fit.keys(c.seed, [p.digest for p in people])
  facts = {k: v for k, v in method_options.to_json(s).items() if k not in run_folder.FREE}
  if c.accumulate == 1:
    del facts["accumulate"]  # runs that began before there was a choice go on
  facts |= {"photos": [p.digest for p in people], "model_digest": pipe.digest}
  if shared.vit and c.vit:
    facts["vit_digest"] = tensorfiles.digest(c.vit)
  run = loop.Run(folder, cfg.steps, c.minutes, save_steps=c.checkpoint_every, name=c.method, tensorboard=c.tensorboard)
  one, mesh = len(people) == 1, sharding.everywhere(pipe.mesh)
  with waiting("compiling"):
    if one:
      key = keys[0]
      frozen = Frozen(b, shared.constants, shared.captions, read[0])
      step, state, frozen = fit.one(
        method, cfg, frozen, key, fit.parted(method, cfg, frozen, mesh), plateau=c.plateau, accumulate=c.accumulate
      )
    else:
      filled = fit.pad(list(range(len(people))), mesh.size)
      key = keys[np.array(filled)]
      step, state, frozen = fit.crowd(
        method,
        cfg,
        b,
        shared.constants,
        shared.captions,
        subjects.stack([read[i] for i in filled]),
        key,
        mesh,
        plateau=c.plateau,
        accumulate=c.accumulate,
      )
  check_disk(folder, state)
  begun = False
  for done, after in fit.train(
    step, state, frozen, fit.rows(step, cfg.batch), key, run, facts, None if one else len(people)
  ):
    if not begun:
      accepted()
      begun = True
    if done == 1:
      watch.done("compile")
    last = after
  params = jax.block_until_ready(last.params)
  watch.done("train")
  flat = False
  if c.plateau:
    trends = np.atleast_2d(sharding.gather(last.trend))[: len(people)]
    flat = bool((trends[:, 2] >= c.plateau).all())
    watch.steps |= {p.stem: int(t[3]) for p, t in zip(people, trends)}
  if (done := loop.steps_done(last)) < cfg.steps and not flat:
    raise KeyboardInterrupt(f"stopped after {c.minutes} minutes, at step {done} of {cfg.steps}")
  found = []
  if jax.process_count() > 1:  # from here on each for itself
    params, subject = sharding.gather((params, frozen.subject))
    frozen = Frozen(b, shared.constants, shared.captions, subject)
  for i, p in enumerate(people):
    own, mine = params, frozen
    if not one:
      own, mine = fit.person(params, i), frozen._replace(subject=fit.person(frozen.subject, i))
    identity = fit.represent(method, cfg, mine, own)
    found.append(Learned(p.word, c.method, cfg, identity, c.model, pipe.digest, pack.licence))
  return found


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
  for e in list(method_options.entries(s).values()) or [s]:
    method_options.check_parts(e)
  for p in c.prompts:
    if p.count("{}") > 1:
      raise UserError(f"--prompts has {ranges.shown(p)}, with the person twice; a prompt names each person once")


def check_name(word: str, pipe: pl.Pipeline):
  """UserError if a name is an ordinary word of the model: prompts with that word would change."""
  if tokens.knows(pipe.tokenizers[0], word):
    raise UserError(f"--name {word}: this is a word that the model knows; choose one like <{word}>")


def check_prompts(s: Settings, people: Sequence[Person], pipe: pl.Pipeline):
  """UserError if a prompt of the sheet is too long for the person's word to have room, or if --vit is not read."""
  needs = METHODS[s.run.method].needs(s.cfg, pipe.backbone.nets)
  if s.run.vit and not needs.face_vit:
    raise UserError(
      f"--vit {s.run.vit} is not read by {s.run.method} with these settings; leave it out, or use --source vit"
    )
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


def check_disk(folder: Path, state: Any):
  """UserError if two checkpoints of this state would not fit on the disk."""
  need, free = 2 * sum(x.nbytes for x in jax.tree.leaves(state)), shutil.disk_usage(folder.parent).free
  if need > 2**24 and free < need:  # of less the writer tells, at once
    raise UserError(
      f"{folder}: the run's checkpoints need {need / 2**20:.0f} MiB, and the disk has {free / 2**20:.0f} MiB free"
    )


def open_model(c) -> pl.Pipeline:
  dtype = c.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
  folder = hub.resolve(c.model)
  with waiting("reading the model"):
    return pl.load(folder, dtype=dtype, remat=c.remat, notify=tell)


def refuse_crowd(needs: Needs, method: str):
  if reason := needs.alone:
    raise UserError(f"{method} trains one person at a time: {reason}; give one photo, --at-a-time 1, or another method")


def provenance(c, p: Person, pipe: pl.Pipeline, pack: faces.Pack) -> dict[str, Any]:
  return {
    "photos": [i.meta for i in p.photos],
    "consent": c.consent,
    "model": c.model,
    "model_digest": pipe.digest,
    "pack": pack.name,
    "pack_digest": pack.digest,
    "pack_licence": pack.licence,
    "idejax": __version__,
    "jax": jax.__version__,
    "ai_generated": "pictures made with this identity are synthetic",
  }


def memory() -> int:
  """Peak memory of this process or of its device, MB."""
  stats = jax.local_devices()[0].memory_stats() or {}
  return round(stats.get("peak_bytes_in_use", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) / 1e6)


class Watch:
  """Seconds by phase; of people who stopped by themselves, steps by person."""

  def __init__(self):
    self.seconds: dict[str, float] = {}
    self.steps: dict[str, int] = {}
    self._at = time.monotonic()

  def done(self, phase: str):
    now = time.monotonic()
    self.seconds[phase] = round(self.seconds.get(phase, 0.0) + now - self._at, 2)
    self._at = now
