"""`idejax train-shared`: ID-EA's modules, trained jointly with many people, in a folder for `--shared`; resumable."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from idejax import __version__, config, faces, sharding
from idejax.cli import hints, method_options, options
from idejax.data import celebrities, people_folder
from idejax.data.people import everybody
from idejax.errors import UserError, tell
from idejax.methods import METHODS
from idejax.methods.contract import encode_captions
from idejax.miniature.training import drawn_set
from idejax.miniature.world import captions
from idejax.model import conditioning, shared
from idejax.model.conditioning import Prompts
from idejax.person import subjects
from idejax.person.subject import Subject
from idejax.personalizing.learn import open_model, recogniser_digest
from idejax.runtime import cores
from idejax.runtime.progress import waiting
from idejax.sampling import pipeline as pl
from idejax.storage import hub
from idejax.storage.folders import claim
from idejax.training import fit, joint, loop

METHOD = "id-ea"
_WORD = "<id>"
_PARTS = 20  # of the training, whose mean losses the card tells


class Settings(NamedTuple):
  run: config.TrainShared
  cfg: Any  # the method's Config


def parse(args: list[str], prog: str) -> Settings | None:
  """The settings that flags give, those of the method among them; None after --help."""
  base = config.TrainShared()
  if (file := options.take(args, "--config", "give a Python file"))[0] is not None:
    base, args = options.parse(config.TrainShared, ["--config", file[0]], prog), file[1]
  model = options.take(args, "--model", f"see {prog} --help")[0] or base.model
  name = options.take(args, "--preset", f"see {prog} --help")[0] or base.preset
  start = dataclasses.replace(method_options.preset(METHOD, name, model), kv="none")
  kind = method_options.join(type(start), config.TrainShared, METHOD)
  values = lambda x: {f.name: getattr(x, f.name) for f in dataclasses.fields(x)}
  words = hints.of(model) | {"preset": method_options.default_preset_of(METHOD, model)}
  value = options.parse(kind, args, prog, default=kind(**values(base), **values(start)), hints=words)
  if value is None:
    return None
  pick = lambda source: type(source)(**{n: getattr(value, n) for n in values(source)})
  return Settings(pick(base), pick(start))


def main(s: Settings):
  check(s)
  cores.use(s.run.model)
  with claim(s.run.out):
    run(s)


def check(s: Settings):
  """UserError for what can be seen to be wrong before anything is read."""
  c, cfg = s
  if c.data != "drawn" and not Path(c.data).is_dir():
    raise UserError(f"--data {c.data} is no folder; give a folder with a photo or a sub-folder per person, or drawn")
  if c.data != "drawn" and (c.people is not None or c.each != config.TrainShared.each):
    raise UserError("--people and --each are of drawn people: leave --data out, or say drawn")
  if c.data == "drawn" and c.model not in hub.BUILT_IN:
    raise UserError(f"--model {c.model} does not draw the drawn world's people: give a folder of photos as --data")
  if c.data == "drawn" and (c.describe or c.crop):
    raise UserError("--describe and --crop are of photos; drawn people's captions tell what each picture shows")
  if cfg.steps == 0:
    raise UserError("--steps is 0; it must be at least 1")
  if not (cfg.adapts or cfg.naive_concat):
    raise UserError("without the adapter no module reads a face: leave --no-adapter out")
  if cfg.batch % c.accumulate:
    raise UserError(f"--accumulate is {c.accumulate}; it must divide the batch, {cfg.batch}")


def run(s: Settings):
  # ---- Model and people ----------------------------------------------------------------------------
  c, cfg, method = s.run, s.cfg, METHODS[METHOD]
  pipe, pack = open_model(c), faces.open_pack(c.pack)
  b = pipe.backbone
  if cfg.kv == "auto":
    cfg = dataclasses.replace(cfg, kv="lora" if b.nets.xl else "full")
  names = celebrities.names(c.model, c.names)
  people, texts, digest = drawn(s, pipe) if c.data == "drawn" else photographed(s, pipe, pack)
  count = len(people.face)
  needs = method.needs(cfg, b.nets)
  with waiting("reading the model's words"):
    constants = needs.constants(b, pipe.tokenizers, names, cfg)

  # ---- Train -----------------------------------------------------------------------------------------
  key, mesh = jax.random.key(c.seed), sharding.everywhere(pipe.mesh)
  together, step, state, frozen = joint.together(
    method, cfg, b, constants, texts, people, key, mesh, plain=c.plain, swap=True, accumulate=c.accumulate
  )
  facts = dataclasses.asdict(cfg) | dict(seed=c.seed, plain=c.plain, data=digest, model=pipe.digest, pack=pack.digest,
                                         names=shared.digest_of(names))  # fmt: skip
  if c.accumulate > 1:
    facts["accumulate"] = c.accumulate
  if not cfg.words_first:  # then nothing depends on how many steps are to come
    facts.pop("steps")
  where = loop.Run(
    c.out, cfg.steps, c.minutes, save_steps=c.checkpoint_every, name="train-shared", tensorboard=c.tensorboard,
    title=f"{METHOD}: modules of {count} people", pictures=cfg.batch,
  )  # fmt: skip
  tell(f"{METHOD}: modules for everybody, learned with {count} people, {cfg.steps} steps of {cfg.batch}")
  for _, after in fit.train(step, state, frozen, joint.rows(step, cfg.batch, count, c.seed), key, where, facts):
    state = after

  # ---- What was learned ------------------------------------------------------------------------------
  mine = together.person(sharding.gather(state.params), 0)
  shared.write(
    c.out,
    {k: v for k, v in mine.items() if k in needs.modules},
    shared.About(
      method=METHOD, model=Path(pipe.name).name, model_digest=pipe.digest, recogniser=pack.name,
      recogniser_digest=recogniser_digest(pack), licence=pack.licence, names=shared.digest_of(names),
      data=c.data if c.data == "drawn" else Path(c.data).name, people=count, steps=loop.steps_done(state),
      structure={n: getattr(cfg, n) for n in needs.structure}, settings=dataclasses.asdict(cfg) | {"plain": c.plain},
      history=history(c.out), idejax=__version__,
    ),
  )  # fmt: skip
  tell(f"{c.out}; try: idejax personalize PHOTO --model {c.model} --pack {c.pack} --shared {c.out} --steps 20")


def drawn(s: Settings, pipe: pl.Pipeline) -> tuple[Subject, Prompts, str]:
  """Drawn people's pictures [N, V, ...], a caption of each that names the person and nothing of them, and a digest."""
  c = s.run
  side = pipe.size(pl.Settings())[0]
  data = drawn_set.render(c.out / "faces", {"train": c.each}, seed=c.seed, size=side, limit=c.people)
  tell(f"encoding {len(data.person)} faces of {int(data.person.max()) + 1} people")
  order = np.argsort(data.person, kind="stable")
  texts = [captions.with_name(data.captions[i], _WORD) for i in order]
  prompts = conditioning.tokenise(pipe.tokenizers, texts, {_WORD: s.cfg.vectors})
  by_person = lambda x: np.asarray(x).reshape(-1, c.each, *np.shape(x)[1:])
  return subjects.of_faces(pipe.backbone, data, order, c.each), jax.tree.map(by_person, prompts), data.digest


def photographed(s: Settings, pipe: pl.Pipeline, pack: faces.Pack) -> tuple[Subject, Prompts, str]:
  """The people of a folder [N, V, ...], the method's captions, and a digest."""
  c, cfg, method = s.run, s.cfg, METHODS[METHOD]
  people = people_folder.read(Path(c.data), pack, _WORD)
  if c.describe:
    cfg = dataclasses.replace(cfg, templates=tuple(f"{t} {c.describe.strip()}" for t in cfg.templates))
  needs, crop = method.needs(cfg, pipe.backbone.nets), c.crop or subjects.usual_crop(pack)
  with waiting("encoding the photos"):
    read = [subjects.build(pipe.backbone, p.photos, pack, needs.augment, c.seed, crop=crop) for p in people]
  digest = hashlib.sha256(f"{everybody(people)} {crop} {c.describe}".encode()).hexdigest()
  return subjects.stack(read), encode_captions(needs, pipe.tokenizers, _WORD), digest


def history(out: Path) -> tuple[float, ...]:
  """The loss of a run, means of equal parts of its steps."""
  losses = np.array([r["loss"] for r in loop.records(out / "metrics.jsonl") if r["loss"] is not None])
  return tuple(round(float(part.mean()), 6) for part in np.array_split(losses, min(_PARTS, len(losses))) if len(part))
