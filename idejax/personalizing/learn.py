"""One person or many, trained by one method: what everybody's training reads, and the training itself."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from idejax import __version__, config, faces, sharding
from idejax.cli import method_options
from idejax.cli.method_options import Settings
from idejax.data import celebrities
from idejax.data.people import Person, everybody
from idejax.errors import UserError, tell
from idejax.faces import align
from idejax.methods import ADDONS, IDENTITIES, METHODS
from idejax.methods.contract import Needs, encode_captions
from idejax.miniature.world import portraits
from idejax.model import shared as shared_folder
from idejax.model import tokens
from idejax.model.conditioning import Prompts
from idejax.person import face_vit, subjects
from idejax.person.subject import Frozen
from idejax.personalizing import posers
from idejax.runtime.progress import label, waiting
from idejax.sampling import class_pictures
from idejax.sampling import pipeline as pl
from idejax.sampling.learned import Learned
from idejax.sampling.pieces import Progress
from idejax.storage import hub, tensorfiles
from idejax.storage.files import need_space
from idejax.training import fit, joint, loop

# Settings that may change when a run is continued, or (vit, describe, addon, vision, shared) whose effect is compared instead.
FREE = (
  "out",
  "prompts",
  "num",
  "sample_steps",
  "guidance",
  "minutes",
  "checkpoint_every",
  "compare",
  "given",
  "consent",
  "model",
  "photo",
  "drawn",
  "split",
  "tensorboard",
  "vit",
  "describe",
  "strength",
  "negative",
  "usual_guidance",
  "addon",
  "vision",
  "shared",
)


_BLURRED = 2.0  # times that a head may be enlarged without a warning


def description(c: config.Personalize) -> str:
  """What captions tell of the photo beside the person."""
  if c.describe is not None:
    return c.describe.strip()
  return "" if c.photo else portraits.SURROUNDINGS


def with_description(s: Settings) -> Settings:
  """The settings with that said in every training caption."""
  if s.run.method in ADDONS or not (more := description(s.run)):  # nothing is trained, so no caption is read
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
  if s.run.method in ADDONS:
    return Shared({}, Prompts((), (), ()), None, None)
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


def warn_of_small_faces(people: Sequence[Person], side: int):
  """Says whose crop of the head would be blurred."""
  for photo in (x for p in people for x in p.photos):
    if (times := align.enlargement(photo.points, side)) > _BLURRED:
      tell(
        f"warning: the face in {photo.meta['photo']} is {photo.quality['size']:.0f} pixels wide: its crop is enlarged "
        f"{times:.1f} times; a larger photo shows more of the person"
      )


def train(
  s: Settings,
  pipe: pl.Pipeline,
  pack: faces.Pack,
  shared: Shared,
  people: list[Person],
  folder: Path,
  watch: "Watch",
  accepted: Callable[[], None] = lambda: None,
  progress: Progress | None = None,
) -> list[Learned]:
  """Everybody in `people`, at once if there are several; what each has become. `accepted` is called when the
  checkpoints that may be there have turned out to be this run's; `progress`: see `loop.Run`."""
  if s.run.method in ADDONS:
    accepted()
    return read_faces(s, pipe, pack, people, watch)
  c, cfg, method, b = s.run, s.cfg, METHODS[s.run.method], pipe.backbone
  augment, crop = method.needs(cfg, b.nets).augment, c.crop or subjects.usual_crop(pack)
  if crop == "head":
    warn_of_small_faces(people, b.nets.unet.sample_size * b.nets.factor)
  with waiting("encoding the photos"):
    read = [subjects.build(b, p.photos, pack, augment, c.seed, shared.prior, shared.vit, crop) for p in people]
  watch.done("features")
  constants, modules = shared.constants, ""
  if c.shared:
    modules = shared_folder.digest(c.shared)
    constants = constants | {"modules": shared_modules(c.shared, s, Frozen(b, constants, shared.captions, read[0]))}
  facts = {k: v for k, v in method_options.to_json(s).items() if k not in FREE}
  facts["crop"] = crop
  for name, before in (("accumulate", 1), ("crop", "square")):  # runs that began before there was a choice go on
    if facts[name] == before:
      del facts[name]
  facts |= {"photos": [p.digest for p in people], "model_digest": pipe.digest}
  if shared.vit and c.vit:
    facts["vit_digest"] = tensorfiles.digest(c.vit)
  if modules:
    facts["shared_digest"] = modules
  words = tuple(p.word for p in people)
  run = loop.Run(
    folder,
    cfg.steps,
    c.minutes,
    save_steps=c.checkpoint_every,
    log_steps=max(1, min(50, cfg.steps // 20)) if progress else 50,
    name=c.method,
    tensorboard=c.tensorboard,
    title=f"{c.method}: {words[0] if len(words) == 1 else f'{len(words)} people'}",
    people=() if c.joint else words,
    progress=progress,
  )
  one, mesh = len(people) == 1, sharding.everywhere(pipe.mesh)
  with waiting("compiling"):
    if c.joint:
      key = fit.keys(c.seed, [everybody(people)])[0]
      data = constants, shared.captions, subjects.stack(read), key, mesh
      together, step, state, frozen = joint.together(method, cfg, b, *data, accumulate=c.accumulate)
      batch = joint.rows(step, cfg.batch, len(people), c.seed)
    else:
      keys, how = fit.keys(c.seed, [p.digest for p in people]), dict(plateau=c.plateau, accumulate=c.accumulate)
      step, state, frozen, key = fit.together(method, cfg, b, constants, shared.captions, read, keys, mesh, **how)
      batch = fit.rows(step, cfg.batch)
  need_space(folder, 2 * sum(x.nbytes for x in jax.tree.leaves(state)), "the run's two checkpoints")
  running = False
  for done, after in fit.train(step, state, frozen, batch, key, run, facts, None if one or c.joint else len(people)):
    if not running:
      accepted()
      running = True
    if done == 1:
      watch.done("compile")
    last = after
  params = jax.block_until_ready(last.params)
  watch.done("train")
  watch.trained = sum(x.size for x in jax.tree.leaves(params)) // key.size
  flat = False
  if c.plateau:
    trends = np.atleast_2d(sharding.gather(last.trend))[: len(people)]
    flat = bool((trends[:, 2] >= c.plateau).all())
    watch.steps |= {p.stem: int(t[3]) for p, t in zip(people, trends)}
  if (done := loop.steps_done(last)) < cfg.steps and not flat:
    raise KeyboardInterrupt(f"stopped after {c.minutes} minutes, at step {done} of {cfg.steps}")
  if jax.process_count() > 1:  # from here on each for itself
    params, subject = sharding.gather((params, frozen.subject))
    frozen = Frozen(b, constants, shared.captions, subject)
  if c.joint:
    identities = joint.represent_all(together, cfg, frozen, params, len(people))
  else:
    identities = fit.represent_all(method, cfg, frozen, params, len(people))
  return [
    Learned(p.word, c.method, cfg, i, c.model, pipe.digest, pack.licence, shared=modules)
    for p, i in zip(people, identities, strict=True)
  ]


def shared_modules(folder: Path, s: Settings, frozen: Frozen) -> dict[str, Any]:
  """The modules of --shared, by what `frozen.constants` lacks. UserError if a file does not hold what it should."""
  method = METHODS[s.run.method]
  shapes = jax.eval_shape(lambda f: method.init(jax.random.key(0), f, s.cfg), frozen)
  allowed = method.needs(s.cfg, frozen.backbone.nets).modules
  return shared_folder.load(folder, {k: v for k, v in shapes.items() if k in allowed})


def read_faces(s: Settings, pipe: pl.Pipeline, pack: faces.Pack, people: list[Person], watch: "Watch") -> list[Learned]:
  """Everybody as an add-on sees them, in one forward pass each: nothing is trained."""
  c = s.run
  with waiting("reading the add-on"):
    who = posers.with_addon(pipe, c.addon or "", pack, c.vision).faces
  assert who is not None  # `with_addon` said so
  watch.done("features")
  out = []
  for p in people:
    if len(p.photos) > 1 and not who.fuses(len(p.photos)):
      tell(f"{p.word}: the mean of {len(p.photos)} photos' tokens, which nobody trained the add-on to read")
    identity = who.represent(p.photos, s.cfg.strength)
    where = str(who.folder.resolve())
    out.append(
      Learned(
        p.word, c.method, s.cfg, identity, c.model, pipe.digest, pack.licence, addon=where, addon_digest=who.digest
      )
    )
  watch.done("train")
  return out


def check_addon(runs: Sequence[Settings]):
  """UserError for a method that reads faces by an add-on and is given none, and for an add-on that nobody reads."""
  c, needy = runs[0].run, [s.run.method for s in runs if s.run.method in ADDONS]
  if needy and not c.addon:
    raise UserError(f"{needy[0]} reads faces by an add-on: give --addon FOLDER, which idejax pretrain makes")
  if not needy and (c.addon or c.vision):
    name = "addon" if c.addon else "vision"
    raise UserError(f"--{name} {getattr(c, name)} is read by {', '.join(ADDONS)} only; leave it out")


def check_name(word: str, pipe: pl.Pipeline):
  """UserError if a name is an ordinary word of the model: prompts with that word would change."""
  if tokens.knows(pipe.tokenizers[0], word):
    raise UserError(f"--name {word}: this is a word that the model knows; choose one like <{word}>")


def check_vit(s: Settings, pipe: pl.Pipeline):
  """UserError if --vit is given and not read."""
  if s.run.vit and not IDENTITIES[s.run.method].needs(s.cfg, pipe.backbone.nets).face_vit:
    raise UserError(
      f"--vit {s.run.vit} is not read by {s.run.method} with these settings; leave it out, or use --source vit"
    )


def check_modules(s: Settings, pipe: pl.Pipeline, pack: faces.Pack):
  """UserError unless the modules of --shared were made with this model, recogniser and list of names."""
  c = s.run
  if c.shared is None:
    return
  about = shared_folder.read(c.shared)
  if about.model_digest != pipe.digest:
    raise UserError(
      f"--shared {c.shared} was trained on {about.model} ({about.model_digest[:12]}), not on {c.model} "
      f"({pipe.digest[:12]}): its modules mean nothing there"
    )
  if about.recogniser_digest != (own := recogniser_digest(pack)):
    raise UserError(
      f"--shared {c.shared} was trained with the recogniser of {about.recogniser} ({about.recogniser_digest[:12]}), not "
      f"of {pack.name} ({own[:12]}): its modules cannot read such faces"
    )
  if about.names != shared_folder.digest_of(celebrities.names(c.model, c.names)):
    raise UserError(f"--shared {c.shared} was trained with another list of celebrities: give its --names")


def recogniser_digest(pack: faces.Pack) -> str:
  """sha256 of a pack's recogniser alone."""
  return tensorfiles.digest(pack.app.models["recognition"].model_file)


def open_model(c) -> pl.Pipeline:
  dtype = c.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
  folder = hub.resolve(c.model)
  with waiting("reading the model"):
    return pl.load(folder, dtype=dtype, remat=c.remat, notify=tell)


def groups(s: Settings, people: Sequence[Person], pipe: pl.Pipeline) -> list[list[Person]]:
  """Who trains together. UserError if the method's people cannot."""
  c, needs = s.run, IDENTITIES[s.run.method].needs(s.cfg, pipe.backbone.nets)
  if c.joint:
    refuse_joint(c, needs)
    return [list(people)]
  out = [list(people[at : at + c.at_a_time]) for at in range(0, len(people), c.at_a_time)]
  if len(out[0]) > 1:
    refuse_crowd(needs, c.method)
  return out


def refuse_joint(c: config.Personalize, needs: Needs):
  if needs.own is None:
    raise UserError(f"--joint is of methods with a network that people can have in common; {c.method} has none")
  if c.plateau:
    raise UserError("--plateau stops each person by themselves, and --joint trains them as one: leave one of them out")


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
    **({"addon": str(c.addon)} if c.addon and c.method in ADDONS else {}),
    **({"shared": str(c.shared), "shared_digest": shared_folder.digest(c.shared)} if c.shared else {}),
    "idejax": __version__,
    "jax": jax.__version__,
    "ai_generated": "pictures made with this identity are synthetic",
  }


class Watch:
  """Seconds by phase; numbers trained for a person; of people who stopped by themselves, steps by person."""

  def __init__(self):
    self.trained = 0
    self.seconds: dict[str, float] = {}
    self.steps: dict[str, int] = {}
    self._at = time.monotonic()

  def done(self, phase: str):
    now = time.monotonic()
    self.seconds[phase] = round(self.seconds.get(phase, 0.0) + now - self._at, 2)
    self._at = now
