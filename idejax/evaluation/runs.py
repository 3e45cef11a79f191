"""Reads run folders of `idejax personalize` for a protocol: people by method, their photos, what training cost."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from idejax.data import people as data_people
from idejax.errors import UserError
from idejax.faces import photo
from idejax.miniature.world import data, people, portraits, scene
from idejax.sampling import learned
from idejax.sampling.learned import Learned
from idejax.storage.files import read_json, replacing


class RunPerson(NamedTuple):
  """One person of one run."""

  folder: Path  # of identity.safetensors
  who: Learned
  name: str  # of files, the same for the same photos
  photo: Path
  box: np.ndarray | None  # of the face that was taken, [4]; None: it is the only one
  photos: str  # sha256 over the photos' digests: whose they are
  train_seconds: float | None
  costs: dict[str, float]
  pack: str
  training: int = 0  # its seed


def read(folders: Sequence[Path], photos: Sequence[Path] = ()) -> dict[str, list[RunPerson]]:
  """{method: its people}. Runs of one method with different settings count as different methods, named by
  what differs; runs that differ in their seed alone are trainings of one method. UserError names what is missing.

  photos: further folders in which to look for the photos that runs were made from.
  """
  everyone = [t for f in folders for run in _runs(f) for t in _people(run, photos)]
  if not everyone:
    raise UserError("no run folder is named")
  if odd := {t.who.model for t in everyone if t.who.digest != everyone[0].who.digest}:
    raise UserError(
      f"these runs were made on different models ({everyone[0].who.model}, {min(odd)}): evaluate them one model at a time"
    )
  everyone = _name(everyone)
  out: dict[str, list[RunPerson]] = {}
  for t, name in zip(everyone, _methods([t.who for t in everyone])):
    mine = out.setdefault(name, [])
    if twin := next((m for m in mine if (m.name, m.training) == (t.name, t.training)), None):
      raise UserError(f"{twin.folder} and {t.folder} are the same person by the same method and seed")
    mine.append(t)
  return out


def _runs(folder: Path) -> Iterator[Path]:
  """The runs in a folder: itself, or those of a comparison."""
  if not folder.is_dir():
    raise UserError(f"{folder} is no run folder of idejax personalize")
  if not (folder / "compare.json").exists():
    yield folder
    return
  inside = [p for p in sorted(folder.iterdir()) if (p / "config.json").is_file()]
  if not inside:
    raise UserError(f"{folder} is a comparison without runs")
  yield from inside


def _people(run: Path, photos: Sequence[Path]) -> Iterator[RunPerson]:
  files = [run] if (run / learned.FILE).is_file() else [p.parent for p in sorted(run.glob(f"*/{learned.FILE}"))]
  if not files:
    raise UserError(f"{run} holds no {learned.FILE}: give folders that idejax personalize wrote, once it has finished")
  config = read_json(run / "config.json") if (run / "config.json").exists() else {}
  report = read_json(run / "report.json") if (run / "report.json").exists() else {}
  for folder in files:
    who, origin = learned.load(folder), read_json(folder / "provenance.json")
    meta = origin.get("photos") or [{}]
    where = _photo(run, config, meta[0], photos, folder)
    total = (report.get("seconds") or {}).get("train")
    seconds = None if total is None else float(total) / max(1, int(report.get("people", 1)))
    costs = {
      k: float(report[n])
      for k, n in (("memory_mb", "peak_memory_mb"), ("trained_parameters", "trained_parameters"))
      if n in report
    }
    costs["added_parameters"] = float(sum(np.size(x) for x in _leaves(who.identity)))
    digests = " ".join(str(m.get("photo_sha256")) for m in meta)
    boxes, face = meta[0].get("boxes"), int(meta[0].get("face", 1))
    box = np.asarray(boxes[face - 1], np.float32) if boxes and len(boxes) > 1 and 0 < face <= len(boxes) else None
    name = data_people.stem(Path(str(meta[0].get("photo") or folder.name)).stem) if folder == run else folder.name
    yield RunPerson(
      folder,
      who,
      name,
      where,
      box,
      hashlib.sha256(digests.encode()).hexdigest(),
      seconds,
      costs,
      str(origin.get("pack", "")),
      int(config.get("seed", 0)),
    )


def _leaves(node: Any) -> Iterator[Any]:
  children = node.values() if isinstance(node, Mapping) else node if isinstance(node, tuple | list) else None
  if children is None:
    yield node
  else:
    for child in children:
      yield from _leaves(child)


def _photo(run: Path, config: Mapping[str, Any], meta: Mapping[str, Any], more: Sequence[Path], folder: Path) -> Path:
  """The file that a person was learned from, by its digest: at its old place, or in one of `more`."""
  digest, name = meta.get("photo_sha256"), str(meta.get("photo", ""))
  places = [Path(config["photo"])] if config.get("photo") else [run, run / "photos", run.parent / "photos"]
  for place in (*more, *places):
    candidates = [place] if place.is_file() else sorted(place.rglob(name)) if place.is_dir() and name else []
    for c in candidates:
      if c.is_file() and photo.digest(c) == digest:
        return c
  raise UserError(
    f"{folder}: its photo {name or '(unnamed)'} is not where it was; --photos FOLDER says where it lies now"
  )


def _name(everyone: list[RunPerson]) -> list[RunPerson]:
  """Gives people the same name if, and only if, they were learned from the same photos."""
  names: dict[str, str] = {}
  for t in everyone:
    if t.photos in names:
      continue
    name, n = t.name, 2
    while name in names.values():
      name, n = f"{t.name}-{n}", n + 1
    names[t.photos] = name
  return [t._replace(name=names[t.photos]) for t in everyone]


def _methods(people: Sequence[Learned]) -> list[str]:
  """A name for each person's run: the method, and the settings in which runs of that method differ."""
  settings = [json.dumps([p.method, dataclasses.asdict(p.cfg)], sort_keys=True, default=str) for p in people]
  distinct = {s: p for s, p in zip(settings, people)}
  fields: dict[str, set[str]] = {}
  for p in distinct.values():
    for q in distinct.values():
      if p.method != q.method:
        continue
      a, b = dataclasses.asdict(p.cfg), dataclasses.asdict(q.cfg)
      fields.setdefault(p.method, set()).update(k for k in a if a[k] != b[k])
  names: dict[str, str] = {}
  for p, s in zip(people, settings):
    cfg = dataclasses.asdict(p.cfg)
    parts = [f"{k}={_short(cfg[k])}" for k in cfg if k in fields[p.method]]
    names[s] = "/".join([p.method, *parts])
  return [names[s] for s in settings]


def _short(x: Any) -> str:
  text = str(x)
  return text if len(text) <= 24 else hashlib.sha256(text.encode()).hexdigest()[:8]


_AROUND = 1.8  # side of a reference's square, in sides of the face's box


def reference(t: RunPerson, path: Path) -> Path:
  """Writes the photo as a PNG; where it shows several people, the square around the learned face, so that this
  face is the largest."""
  if path.exists():
    return path
  picture = photo.read(t.photo).pixels
  if t.box is not None:
    x0, y0, x1, y1 = t.box
    half = _AROUND * max(x1 - x0, y1 - y0) / 2
    low = np.maximum(np.round([(y0 + y1) / 2 - half, (x0 + x1) / 2 - half]).astype(int), 0)
    high = np.round([(y0 + y1) / 2 + half, (x0 + x1) / 2 + half]).astype(int)
    picture = picture[low[0] : high[0], low[1] : high[1]]
  path.parent.mkdir(parents=True, exist_ok=True)
  with replacing(path) as temporary:
    Image.fromarray(picture).save(temporary, "PNG")
  return path


def second(t: RunPerson, path: Path) -> Path | None:
  """Writes another photo of the same person, which no training saw. Only drawn people have one."""
  person = portraits.find_person(t.name)
  if person is None:
    return None
  if path.exists():
    return path
  image = data.render_all(
    people.people([person]), data.stack([scene.scene(background="home", clothes="blue shirt", yaw=0.15)])
  )[0][0]
  with replacing(path) as temporary:
    Image.fromarray(np.asarray(image)).save(temporary, "PNG")
  return path


def write_drivers(files: Sequence[Path], photos: Sequence[Path]):
  """Writes driving photos as PNG where they are not yet: the user's, or, of none, drawn people's of the development
  split, bare-headed, in any pose and mood."""
  if all(f.exists() for f in files):
    return
  if photos:
    images = [photo.read(p).pixels for p in photos]
  else:
    ids = people.split("development")[: len(files)]
    posed = scene.scenes(ids, 1, 6000, scene.WILD)
    clear = posed._replace(style=0 * posed.style, accessory=0 * posed.accessory)
    images = list(data.render_all(people.people(ids), clear)[0])
  for file, image in zip(files, images):
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
      Image.fromarray(np.asarray(image)).save(temporary, "PNG")
