"""`idejax personalize`: a photo of a person in, an identity that prompts can name out; resumable.

A folder of people trains all of them at once (`fit.crowd`); `--compare` runs several methods.
"""

import dataclasses
import math
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from idejax import (
  __version__,
  class_pictures,
  compare,
  conditioning,
  config,
  cores,
  distributed,
  face_vit,
  faces,
  fit,
  hub,
  learned,
  loop,
  method_options,
  people_folder,
  report,
  sharding,
  subjects,
  templates,
  tensorfiles,
)
from idejax import pipeline as pl
from idejax.conditioning import Prompts
from idejax.errors import UserError, tell
from idejax.files import write_json
from idejax.folders import claimed
from idejax.learned import Learned
from idejax.method_options import Settings
from idejax.methods import METHODS
from idejax.people_folder import Person
from idejax.progress import waiting
from idejax.subject import Frozen


def main(s: Settings):
  # ---- What is asked, checked before anything is loaded ----------------------------------------
  c = s.run
  check(s)
  cores.use(c.model)
  out = c.out or Path("runs") / (Path(c.photo).stem if c.photo else "portrait")
  with distributed.by_first(lambda: claimed(out)):
    if c.compare: against(s, out)
    else: run(s, out)


def run(s: Settings, out: Path) -> dict[str, Any]:
  """One method, on one person or on a folder of them. Returns what report.json holds."""
  c, watch = s.run, Watch()

  # ---- People and model ------------------------------------------------------------------------
  pack = faces.open_pack(c.pack)
  people = people_folder.read(c.photo, out, pack, c.name, face=c.face, parsing=c.parsing,
                              split=c.split, count=c.drawn)  # fmt: skip
  pipe = open_model(c)
  names = celebrity_names(c)
  if distributed.first(): write_json(out / "config.json", method_options.to_json(s))
  s = described(s)
  for p in people: check_name(p.word, pipe)
  watch.done("features")

  # ---- Train -----------------------------------------------------------------------------------
  groups = [people[at : at + c.at_a_time] for at in range(0, len(people), c.at_a_time)]
  if len(groups[0]) > 1: refuse_crowd(METHODS[c.method], s.cfg, c.method)
  with waiting("reading the model's words"): shared = share(s, pipe, names)
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
  made = report.draw(pipe.with_people(*everyone), people, c.prompts or report.PROMPTS, out, num=c.num,
                     steps=c.sample_steps, guidance=c.guidance, seed=c.seed)  # fmt: skip
  watch.done("sample")
  if not distributed.first(): return {}
  figures = report.score(made, people, c.model, out)
  watch.done("score")
  facts = {"method": c.method, "people": len(people), "seconds": watch.seconds, "peak_memory_mb": memory(),
           "steps": watch.steps or s.cfg.steps, "batch": s.cfg.batch,
           "device": jax.devices()[0].device_kind} | figures  # fmt: skip
  write_json(out / "report.json", facts)
  tell(report.lines(facts))
  example = f'"a photo of {people[0].word} on the beach"'
  where = out / people[0].stem if crowd else out
  tell(f"done: {out / 'sheet.png'}; try: idejax sample --identity {where} --prompt {example} --out pictures")
  return facts


def said(c: config.Personalize) -> str:
  """What captions tell of the photo beside the person."""
  if c.describe is not None: return c.describe.strip()
  return "" if c.photo else people_folder.SHOWN


def described(s: Settings) -> Settings:
  """The settings with that said in every training caption."""
  if not (more := said(s.run)): return s
  return Settings(s.run, dataclasses.replace(s.cfg, templates=tuple(f"{t} {more}" for t in s.cfg.templates)))


class Shared(NamedTuple):
  """What everybody's training reads, made once however many there are."""

  constants: Any
  captions: Prompts
  prior: tuple[np.ndarray, np.ndarray] | None  # moments of class pictures
  vit: face_vit.Embed | None


def share(s: Settings, pipe: pl.Pipeline, names: Sequence[str]) -> Shared:
  cfg, module, b = s.cfg, METHODS[s.run.method], pipe.backbone
  constants = module.constants(b, pipe.tokenizers, names, cfg)
  captions = conditioning.tokenise(pipe.tokenizers, module.captions(cfg, s.run.name), {s.run.name: cfg.vectors})
  vit = face_vit.load(s.run.vit) if s.run.vit and getattr(cfg, "source", "") == "vit" else None
  if not (prior := module.prior(cfg)): return Shared(constants, captions, None, vit)
  alone = dataclasses.replace(pipe, shares=False)  # processes need not agree on what is in their caches
  images = class_pictures.make(alone, *prior)
  return Shared(constants, captions, subjects.encode(b, images.astype(np.float32) / 127.5 - 1), vit)


def train(s: Settings, pipe: pl.Pipeline, pack: faces.Pack, shared: Shared, people: list[Person],
          folder: Path, watch: "Watch") -> list[Learned]:  # fmt: skip
  """Everybody in `people`, at once if there are several; what each has become."""
  c, cfg, module, b = s.run, s.cfg, METHODS[s.run.method], pipe.backbone
  with waiting("encoding the photos"):
    read = [subjects.build(b, p.photos, pack, module.augment(cfg), c.seed, shared.prior, shared.vit) for p in people]
  watch.done("features")
  keys = fit.keys(c.seed, [p.digest for p in people])
  facts = {k: v for k, v in method_options.to_json(s).items() if k not in _FREE}
  if c.accumulate == 1: del facts["accumulate"]  # runs that began before there was a choice go on
  facts |= {"photos": [p.digest for p in people], "model_digest": pipe.digest}
  if shared.vit and c.vit: facts["vit_digest"] = tensorfiles.digest(c.vit)
  run = loop.Run(folder, cfg.steps, c.minutes, save_steps=c.checkpoint_every, name=c.method,
                 tensorboard=c.tensorboard)  # fmt: skip
  one, mesh = len(people) == 1, sharding.everywhere(pipe.mesh)
  with waiting("compiling"):
    if one:
      key = keys[0]
      frozen = Frozen(b, shared.constants, shared.captions, read[0])
      step, state, frozen = fit.one(module, cfg, frozen, key, fit.parted(module, cfg, frozen, mesh),
                                    plateau=c.plateau, accumulate=c.accumulate)  # fmt: skip
    else:
      filled = fit.pad(list(range(len(people))), mesh.size)
      key = keys[np.array(filled)]
      step, state, frozen = fit.crowd(
        module, cfg, b, shared.constants, shared.captions, subjects.stack([read[i] for i in filled]), key, mesh,
        plateau=c.plateau, accumulate=c.accumulate)
  for done, after in fit.train(step, state, frozen, cfg, key, run, facts, None if one else len(people)):
    if done == 1: watch.done("compile")
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
    if not one: own, mine = fit.person(params, i), frozen._replace(subject=fit.person(frozen.subject, i))
    identity = fit.represent(module, cfg, mine, own)
    found.append(Learned(p.word, c.method, cfg, identity, c.model, pipe.digest, pack.licence))
  return found


def against(s: Settings, out: Path):
  """Several methods on the same photos."""
  c, entries = s.run, method_options.entries(s)
  photo = c.photo or people_folder.draw(out / "photos", c.split, c.drawn)
  entries = {n: Settings(dataclasses.replace(e.run, photo=photo, describe=said(c)), e.cfg) for n, e in entries.items()}
  people = people_folder.read(photo, out, faces.open_pack(c.pack), c.name, face=c.face, parsing=c.parsing)
  compare.run(entries, run, people, open_model(c), out)


# What a run needs.


def check(s: Settings):
  """UserError for what can be seen to be wrong without a model."""
  c = s.run
  for name, value in dict(num=c.num, sample_steps=c.sample_steps, at_a_time=c.at_a_time,
                          steps=s.cfg.steps, batch=s.cfg.batch).items():  # fmt: skip
    if value < 1: raise UserError(f"--{name.replace('_', '-')} is {value}; it must be at least 1")
  for name, value in (vars(c) | vars(s.cfg)).items():
    if isinstance(value, float) and not math.isfinite(value):
      raise UserError(f"--{name.replace('_', '-')} is {value}; it must be a finite number")
  if c.describe and {*"{}"} & {*c.describe}: raise UserError(f"--describe is {c.describe!r}; braces mean the person")
  if c.plateau < 0: raise UserError(f"--plateau is {c.plateau}; it must be at least 0")
  if not 0 <= c.seed < 2**64: raise UserError(f"--seed is {c.seed}; it must be from 0 to 2^64 - 1")
  if not c.name.strip() or any(x.isspace() for x in c.name):
    raise UserError(f"--name is {c.name!r}; it must be one word, such as <anna>")
  if c.photo and not c.photo.exists(): raise UserError(f"{c.photo} does not exist: give a photo or a folder of people")
  for e in list(method_options.entries(s).values()) or [s]: method_options.check_parts(e)
  for p in c.prompts:
    if "{}" not in p: raise UserError(f"--prompts has {p!r}, without the {{}} that stands for the person")


def check_name(word: str, pipe: pl.Pipeline):
  """UserError if a name is an ordinary word of the model: prompts with that word would change."""
  ids = pipe.tokenizers[0].bpe(word, add_special_tokens=False)["input_ids"]
  if len(ids) == 1 and word.isalnum():
    raise UserError(f"--name {word}: this is a word that the model knows; choose one like <{word}>")


def open_model(c) -> pl.Pipeline:
  dtype = c.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
  folder = hub.resolve(c.model)
  with waiting("reading the model"):
    return pl.load(folder, dtype=dtype, remat=c.remat, notify=tell)


def celebrity_names(c) -> list[str]:
  """The names that anchor an identity: of --names, or the drawn world's own."""
  if c.names:
    try:
      names = [line.strip() for line in c.names.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as e:
      raise UserError(f"--names {c.names} cannot be read: {e}") from e
    if not any(names): raise UserError(f"--names {c.names} has no names")
    return [n for n in names if n]
  if c.model in hub.BUILT_IN:
    from idejax.miniature import people

    return list(people.celebrity_names())
  return list(templates.celebrities())


def refuse_crowd(module: Any, cfg: Any, method: str):
  if reason := module.alone(cfg):
    raise UserError(f"{method} trains one person at a time: {reason}; give one photo, --at-a-time 1, or "
                    "another method")  # fmt: skip


def provenance(c, p: Person, pipe: pl.Pipeline, pack: faces.Pack) -> dict[str, Any]:
  return {"photos": [i.meta for i in p.photos], "consent": c.consent, "model": c.model,
          "model_digest": pipe.digest, "pack": pack.name, "pack_digest": pack.digest,
          "pack_licence": pack.licence, "idejax": __version__, "jax": jax.__version__,
          "ai_generated": "pictures made with this identity are synthetic"}  # fmt: skip


def memory() -> int:
  """Peak memory of this process or of its device, MB."""
  stats = jax.local_devices()[0].memory_stats() or {}
  return round(stats.get("peak_bytes_in_use", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) / 1e6)


# Settings that may change when a run is continued, or (vit, describe) whose effect is compared instead.
_FREE = ("out", "prompts", "num", "sample_steps", "guidance", "minutes", "checkpoint_every", "compare", "consent",
         "model", "photo", "drawn", "split", "tensorboard", "vit", "describe", "strength")  # fmt: skip


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

