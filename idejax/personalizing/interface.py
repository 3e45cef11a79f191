"""`idejax.personalize`: photos as Python has them, in; people whom prompts can name, out."""

import contextlib
import dataclasses
import os
import tempfile
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from idejax import config, faces, ranges
from idejax.cli import config_file, method_options, options
from idejax.cli.method_options import Settings
from idejax.data import celebrities, people_folder
from idejax.data.people import Person, stem
from idejax.errors import UserError, tell
from idejax.faces.photo import DRAWN_SIDE
from idejax.methods import IDENTITIES
from idejax.miniature.world import portraits
from idejax.personalizing import learn
from idejax.runtime import cores
from idejax.runtime.progress import waiting
from idejax.sampling.learned import Learned, save
from idejax.sampling.pieces import Progress
from idejax.sampling.pipeline import Pipeline
from idejax.storage import hub
from idejax.storage.files import write_json
from idejax.storage.folders import claim

# Options of the command that an argument, or what one does next, stands for here.
_OURS = ("photo", "drawn", "split", "out", "method", "preset", "model", "pack", "name", "prompts", "num",
         "sample_steps", "guidance", "compare", "minutes", "tensorboard")  # fmt: skip


def personalize(
  photos: Any,
  method: str,
  model: str | os.PathLike[str] | Pipeline,
  preset: str | None,
  name: str,
  pack: str | faces.Pack,
  out: str | os.PathLike[str] | None,
  progress: Progress | None,
  given: Mapping[str, Any],
) -> Learned | dict[str, Learned]:
  """See `idejax.personalize`."""
  if isinstance(model, Pipeline) and (own := sorted({"dtype", "remat"} & given.keys())):
    raise UserError(f"{own[0]} belongs to idejax.load: the pipeline is open already")
  called = model.name if isinstance(model, Pipeline) else os.fspath(model)
  from_world = photos is None
  about = dict(method=method, model=called, preset=preset, name=name, pack=pack if isinstance(pack, str) else pack.name)
  s = settings(about, given)
  many = isinstance(photos, Mapping) or isinstance(photos, str | os.PathLike) and Path(photos).is_dir()
  if many and name != config.Personalize.name:
    raise UserError(f"name {name} names one person, but photos has several: each has a name of their own there")
  if not from_world and s.run.describe is None:
    s = Settings(dataclasses.replace(s.run, describe=""), s.cfg)
  if not isinstance(model, Pipeline):
    cores.use(called)
  with _folder(out) as folder:
    with waiting("reading the faces"):
      networks = pack if isinstance(pack, faces.Pack) else faces.open_pack(pack)
      if from_world:
        photos = portraits.portray_one(folder / "portrait.png")
      people = read(photos, networks, s)
    warn_of_photographs(s, people)
    pipe = model if isinstance(model, Pipeline) else learn.open_model(s.run)
    learn.check_vit(s, pipe)
    learn.check_modules(s, pipe, networks)
    identities = _train(s, pipe, networks, list(people.values()), folder, progress)
    if out is not None:
      _keep(s, pipe, networks, people, identities, folder)
  return dict(zip(people, identities)) if many else identities[0]


def settings(about: Mapping[str, Any], given: Mapping[str, Any]) -> Settings:
  """The command's settings and the method's, from Python values. UserError for what neither has."""
  method, model = about["method"], about["model"]
  if method not in IDENTITIES:
    raise UserError(
      f"method is {method!r}{options.nearest(str(method), IDENTITIES)}; it must be one of {', '.join(IDENTITIES)}"
    )
  start = method_options.start_of(method, about["preset"], model, given.get("shared"))
  free = {f.name for f in dataclasses.fields(config.Personalize)} - {*_OURS}
  own = {f.name for f in dataclasses.fields(start)}
  for key in given:
    if key in _OURS:
      raise UserError(f"{key} is an option of the command idejax personalize; idejax.personalize takes no {key}")
    if key not in free | own:
      near = options.nearest(key, free | own)
      raise UserError(f"{method} has no setting {key!r}{near}; it has {', '.join(sorted(own))}")
  cfg = dataclasses.replace(start, **typed({k: v for k, v in given.items() if k in own}, type(start)))
  run = config.Personalize(**typed({k: v for k, v in given.items() if k in free} | dict(about), config.Personalize))
  ranges.check(run, str)
  ranges.check(cfg, str)
  for key, path in dict(vit=run.vit, parsing=run.parsing, names=run.names).items():
    if path and not path.exists():
      raise UserError(f"{key}: {path} does not exist")
  method_options.check_parts(s := Settings(run, cfg))
  method_options.check_shared(s)
  learn.check_addon([s])
  return s


def config_of(kind: type, function: str, given: Mapping[str, Any]) -> Any:
  """A command's config from Python values. UserError for an option that it has not, and for a value out of range."""
  names = {f.name for f in dataclasses.fields(kind)}
  if odd := sorted(given.keys() - names):
    raise UserError(f"{function} has no option {odd[0]!r}{options.nearest(odd[0], names)}")
  cfg = kind(**typed(given, kind))
  ranges.check(cfg, str)
  return cfg


def typed(given: Mapping[str, Any], kind: type) -> dict[str, Any]:
  """Python values in the types that a dataclass declares for them: numpy's numbers and arrays as Python's own,
  lists as tuples, texts for paths as paths. UserError for another type."""
  types, out = typing.get_type_hints(kind), {}
  for name, x in given.items():
    value = _plain(x)
    if isinstance(value, str) and not config_file.fits(value, types[name]) and config_file.fits(Path(), types[name]):
      value = Path(value)
    if not config_file.fits(value, types[name]):
      raise UserError(f"{name} is {x!r:.80}; it must be {config_file.describe(types[name])}")
    out[name] = value
  return out


def _plain(x: Any) -> Any:
  if isinstance(x, np.generic) or (isinstance(x, np.ndarray) and not x.ndim):
    return x.item()
  if isinstance(x, np.ndarray | list | tuple):
    return tuple(x.tolist() if isinstance(x, np.ndarray) else map(_plain, x))
  return x


def read(photos: Any, pack: faces.Pack, s: Settings) -> dict[str, Person]:
  """The people of `photos`, by the keys of a mapping, else by the names of a folder's files; see `idejax.personalize`."""
  c = s.run

  def look(x: Any) -> faces.FaceRecord:
    return x if isinstance(x, faces.FaceRecord) else faces.read([x], pack, c.face, c.parsing)[0]

  if not isinstance(photos, Mapping):
    if isinstance(photos, str | os.PathLike) and Path(photos).is_dir():
      people = people_folder.read(Path(photos), pack, c.name, face=c.face, parsing=c.parsing)
      return {p.stem: p for p in people}
    where = photos if isinstance(photos, str | os.PathLike) else c.name
    return {c.name: Person(stem(Path(where).stem), c.name, tuple(look(x) for x in _each(photos, "photos")))}
  if not photos:
    raise UserError("photos names nobody: give {name: photo, ...}")
  out: dict[str, Person] = {}
  for key, own in photos.items():
    if not isinstance(key, str):
      raise UserError(f"a name in photos is {key!r}; it must be a text")
    short = stem(key)
    if short in {p.stem for p in out.values()}:
      raise UserError(f"photos: two people are called {short}; rename one of them")
    out[key] = Person(short, f"<{short}>", tuple(look(x) for x in _each(own, key)), alone=False)
  return out


def warn_of_photographs(s: Settings, people: Mapping[str, Person]):
  """As the command: what the drawn world's networks make of a photograph is no likeness."""
  worlds = [f"pack {s.run.pack}"] * (s.run.pack == config.Personalize.pack)
  worlds += [f"model {s.run.model}"] * (s.run.model in hub.BUILT_IN)
  real = [i for p in people.values() for i in p.photos if max(i.photo.shape) > DRAWN_SIDE]
  if worlds and real:
    tell(
      f"warning: {real[0].meta['photo']} looks like a photograph, and {' and '.join(worlds)} know drawn people only: the "
      "pictures will not show who is in it. For photographs: pack='buffalo_l', "
      "model='stable-diffusion-v1-5/stable-diffusion-v1-5'"
    )


def _each(photos: Any, whose: str) -> Sequence[Any]:
  """A person's photos, of which a list has several."""
  several = list(photos) if isinstance(photos, list | tuple) else [photos]
  if not several:
    raise UserError(f"{whose}: no photo in the list")
  return several


def _train(
  s: Settings, pipe: Pipeline, pack: faces.Pack, people: list[Person], folder: Path, progress: Progress | None
) -> list[Learned]:
  c, watch = s.run, learn.Watch()
  names = celebrities.names(c.model, c.names)
  s = learn.with_description(s)
  for p in people:
    learn.check_name(p.word, pipe)
  groups = learn.groups(s, people, pipe)
  with waiting("reading the model's words"):
    shared = learn.share(s, pipe, names)
  identities: list[Learned] = []
  for g, group in enumerate(groups):
    where = folder if len(groups) == 1 else folder / f"group-{g:03d}"
    identities += learn.train(s, pipe, pack, shared, group, where, watch, progress=progress)
  return [dataclasses.replace(x, portrait=p.photos[0].portrait) for x, p in zip(identities, people)]


def _keep(
  s: Settings,
  pipe: Pipeline,
  pack: faces.Pack,
  people: Mapping[str, Person],
  identities: Sequence[Learned],
  folder: Path,
):
  """What sampling and exporting read of a run folder."""
  for p, who in zip(people.values(), identities):
    place = folder if p.alone else folder / p.stem
    place.mkdir(exist_ok=True)
    save(place, who)
    write_json(place / "provenance.json", learn.provenance(s.run, p, pipe, pack))


@contextlib.contextmanager
def _folder(out: str | os.PathLike[str] | None) -> Iterator[Path]:
  """Where checkpoints are: the run folder, or one that is gone afterwards."""
  if out is None:
    with tempfile.TemporaryDirectory(prefix="idejax-") as folder:
      yield Path(folder)
  else:
    with claim(Path(out)):
      yield Path(out)
