"""Learns people from photos into the store; people who are added together train together, as one crowd."""

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from idejax import config, faces, sharding
from idejax.app import names as nm
from idejax.app import offers
from idejax.app.audit import now
from idejax.app.store import Consent, Record, Store
from idejax.cli import method_options
from idejax.cli.method_options import Settings
from idejax.data import celebrities
from idejax.data.people import Person
from idejax.errors import UserError
from idejax.faces import photo as ph
from idejax.methods import ADDONS, IDENTITIES
from idejax.methods.contract import encode_captions
from idejax.miniature.world import portraits
from idejax.person import subjects
from idejax.personalizing import learn as learning
from idejax.sampling.learned import Learned
from idejax.sampling.pipeline import Pipeline
from idejax.training import fit, loop

MOST_BYTES = 20 << 20  # of an uploaded photo
MOST_AT_ONCE = 16
ADULT = 18.0
_PICTURES = ("PNG", "JPEG", "WEBP")  # what an upload may be


class Applicant(NamedTuple):
  """Somebody to learn: a full name and a photo (a path or pixels)."""

  name: str
  photo: Any
  pronouns: str = ""
  scene: str = ""  # what the photo shows beside the face, for captions
  sample: bool = False


class Stopped(Exception):
  """The user has asked to stop."""


Progress = Callable[[int, int, str], None]  # done, of, what


@dataclasses.dataclass(frozen=True)
class AgeGate:
  """Refuses minors if a function that estimates ages is given. Only code can set it: there is no option for it."""

  estimate: Callable[[np.ndarray], float] | None = None  # years, from an upright RGB photo

  def check(self, name: str, pixels: np.ndarray) -> str:
    """The estimate in words. UserError below 18."""
    if self.estimate is None:
      return "not estimated"
    years = float(self.estimate(pixels))
    if not years >= ADULT:
      raise UserError(f"{name} seems to be under {ADULT:.0f} ({years:.0f} years by estimate): minors are not learned")
    return f"{years:.0f} years by estimate"


def learn(
  pipe: Pipeline,
  pack: faces.Pack,
  applicants: Sequence[Applicant],
  consent: Consent,
  store: Store,
  *,
  model: str = "miniature",
  method: str = "",
  cfg: Any = None,
  seed: int = 0,
  overwrite: bool = False,
  gate: AgeGate = AgeGate(),
  progress: Progress = lambda *_: None,
  stop: Callable[[], bool] = lambda: False,
  addon: str | None = None,
) -> list[Record]:
  """Learns everybody into the store, or nobody. UserError for a bad name, photo or age, or a missing consent.
  `method`: see `offers`, the usual one by default. `addon`: the folder by which facesnap reads faces.

  If it is killed, the same call resumes at the last checkpoint.
  """
  consent = consent.validate()
  if not applicants:
    raise UserError("nobody to learn: give photos and names")
  if len(applicants) > MOST_AT_ONCE:
    raise UserError(f"{len(applicants)} people at once; at most {MOST_AT_ONCE}")
  names = nm.pair([a.name for a in applicants], applicants)
  store.check_free(names, overwrite)
  method = method or offers.USUAL
  if method not in IDENTITIES:
    raise UserError(f"there is no method {method!r}; there are {', '.join(IDENTITIES)}")
  cfg = cfg or method_options.preset(method, None, model)
  needs = IDENTITIES[method].needs(cfg, pipe.backbone.nets)
  if offers.wants_more(needs):
    raise UserError(f"{method} needs more than a photo here: choose another method")
  asked = Settings(config.Personalize(method=method, model=model, addon=addon), cfg)
  learning.check_addon([asked])
  progress(0, 1, "looking at the photos")
  photos, ages = [], []
  for n, a in zip(names, applicants):
    picture = ph.read(_sound(a.photo))
    ages.append(gate.check(n, picture.pixels))
    photos.append(faces.read(picture, pack))
  scenes = {a.scene for a in applicants}
  groups = [[i for i, a in enumerate(applicants) if a.scene == s] for s in sorted(scenes)]
  if needs.alone:
    groups = [[i] for g in groups for i in g]
  everyone: dict[int, Learned] = {}
  for g, group in enumerate(groups):
    if method in ADDONS:
      faces_of = [Person(str(i), nm.word(names[i]), (photos[i],), alone=False) for i in group]
      everyone |= dict(zip(group, learning.read_faces(asked, pipe, pack, faces_of, learning.Watch())))
      continue
    tell = lambda done, of, what, g=g: progress(done + g * of, of * len(groups), what)
    crowd = _train(
      pipe,
      pack,
      [names[i] for i in group],
      [photos[i] for i in group],
      applicants[group[0]].scene,
      store,
      model,
      method,
      cfg,
      seed,
      tell,
      stop,
    )
    everyone |= dict(zip(group, crowd))
  out = []
  for i, (n, a) in enumerate(zip(names, applicants)):
    record = Record(
      n,
      photos[i].meta["photo_sha256"],
      consent,
      method,
      model,
      pipe.digest,
      _plain(cfg),
      seed,
      pack.name,
      pack.digest,
      pack.licence,
      now(),
      nm.pronouns(n, {n: a.pronouns}),
      ages[i],
      a.sample,
    )
    store.add(everyone[i], record, photos[i].portrait, overwrite)
    out.append(record)
  return out


def _sound(photo: Any) -> Any:
  """The photo. UserError for an uploaded file that is too large or no PNG, JPEG or WebP."""
  if not isinstance(photo, str | Path):
    return photo
  path = Path(photo)
  if not path.is_file():
    raise UserError(f"{path.name} is no file")
  if path.stat().st_size > MOST_BYTES:
    raise UserError(f"{path.name} has more than {MOST_BYTES >> 20} MB: make it smaller")
  try:
    with Image.open(path, formats=_PICTURES) as image:
      image.verify()
  except Exception as e:
    raise UserError(f"{path.name} is no photo: PNG, JPEG and WebP are") from e
  return path


def _train(
  pipe: Pipeline,
  pack: faces.Pack,
  names: Sequence[str],
  photos: Sequence[faces.FaceRecord],
  scene: str,
  store: Store,
  model: str,
  method: str,
  cfg: Any,
  seed: int,
  progress: Progress,
  stop: Callable[[], bool],
) -> list[Learned]:
  """Trains everybody in the group at once."""
  module, b = IDENTITIES[method], pipe.backbone
  needs = module.needs(cfg, b.nets)
  if scene:
    cfg = dataclasses.replace(cfg, templates=tuple(f"{t} {scene}" for t in cfg.templates))
  constants = needs.constants(b, pipe.tokenizers, celebrities.names(model), cfg)
  captions = encode_captions(needs, pipe.tokenizers, "<id>")
  crop = subjects.usual_crop(pack)
  people = [subjects.build(b, (p,), pack, needs.augment, seed, crop=crop) for p in photos]
  digests = [hashlib.sha256(p.meta["photo_sha256"].encode()).hexdigest() for p in photos]
  keys = fit.keys(seed, digests)
  facts = {
    "method": method,
    "settings": _plain(cfg),
    "photos": digests,
    "model_digest": pipe.digest,
    "seed": seed,
    "crop": crop,
  }
  place = store.root / f".learning-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}"
  run = loop.Run(place, cfg.steps, name=f"learning {', '.join(names)}")
  progress(0, cfg.steps, "compiling")
  step, state, frozen, key = fit.together(
    module, cfg, b, constants, captions, people, keys, sharding.everywhere(pipe.mesh)
  )
  last = state
  steps: Any = fit.train(
    step, state, frozen, fit.rows(step, cfg.batch), key, run, facts, None if len(names) == 1 else len(names)
  )
  for done, after in steps:
    last = after
    progress(done, cfg.steps, "learning")
    if stop():
      steps.close()  # saves where it is
      raise Stopped("learning was stopped; the same people go on where it was")
  params = jax.block_until_ready(last.params)
  identities = fit.represent_all(module, cfg, frozen, params, len(names))
  shutil.rmtree(place, ignore_errors=True)
  return [
    Learned(nm.word(n), method, cfg, i, model, pipe.digest, pack.licence)
    for n, i in zip(names, identities, strict=True)
  ]


def _plain(cfg: Any) -> dict[str, Any]:
  return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(cfg).items() if k != "templates"}


# The two people who are there from the start.

SAMPLES = (("Anna Field", "she", 0), ("Ben Stone", "he", 1))  # name, pronouns, index in _SAMPLE_IDS


def samples() -> list[Applicant]:
  """Two people of the drawn world whom no training has seen; they are not real, so nobody has to consent."""
  from idejax.miniature.world import data, people, scene

  who = people.people(_SAMPLE_IDS)
  scenes = data.stack([scene.scene(clothes="red sweater", background="gray")] * len(_SAMPLE_IDS))
  images, _ = data.render_all(who, scenes)
  return [Applicant(n, np.asarray(images[i]), p, portraits.SURROUNDINGS, True) for n, p, i in SAMPLES]


_SAMPLE_IDS = (435, 341)  # of the held-out split
SAMPLE_CONSENT = Consent("drawn by idejax: a portrait of nobody")
