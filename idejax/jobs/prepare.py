"""`idejax prepare`: photos in; training shards, a manifest and a report of what was dropped out."""

import collections
import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from idejax import __version__, config, faces
from idejax.data import face_rows, face_shards
from idejax.data.preparing import parts, rules, shards, sources, stages
from idejax.data.preparing.captioner import Captioner
from idejax.data.preparing.sources import Item
from idejax.errors import UserError, tell
from idejax.faces import npz, photo
from idejax.faces.mask import Parser
from idejax.jobs import encoders
from idejax.runtime.progress import counting, waiting
from idejax.storage import sheets
from idejax.storage.files import need_space, read_json, write_json

VERSION = 1
_SHOWN = 8  # dropped photos a rule, in the report's picture


def main(c: config.Prepare):
  # ---- What is asked -----------------------------------------------------------------------------
  if bool(c.photos) == bool(c.drawn):
    raise UserError("give photos (a folder, a list, tars, a data set), or --drawn N for pictures of drawn people")
  if c.out.exists() and not c.out.is_dir():
    raise UserError(f"--out {c.out} is a file; give a folder")
  source: sources.Source = sources.Drawn(c.drawn, c.seed) if c.drawn else sources.of(c.photos)
  pack = faces.open_pack(c.pack, threads=1)
  parser = Parser(c.parsing, threads=1) if c.parsing else None
  vae, tower = nets(c)
  captioner = Captioner(c.captioner, c.threads or 0) if c.captioner else None
  reader = reader_of(c)
  with waiting("listing the photos"):
    items = source.items()
  if not items:
    raise UserError(f"{c.photos[0]} holds no picture file")
  c.out.mkdir(parents=True, exist_ok=True)
  _refuse_other(c, pack)
  work = stages.Work(source, pack, parser, c.threads, c.size, c.around, vae, tower, captioner, reader)
  alike = {k: v for k, v in dataclasses.asdict(c).items() if k not in ("out", "photos", "stage", "threads")}
  with parts.together(c.out / "parts" / "run.lock", alike):
    run(c, work, items)


def run(c: config.Prepare, work: stages.Work, items: Sequence[Item]):
  """All that is asked of the photos that were listed."""
  pack = work.pack
  lists = parts.divide(c.out / "parts" / "lists", items, c.shard)
  tell(f"{len(items)} photos in {len(lists)} shard{'s' * (len(lists) > 1)}, faces by {pack.name} ({pack.licence})")

  # ---- Stages: a part of each shard, those that are there and current are left ---------------------
  keys = part_keys(work, lists)
  for name, stage in stages.asked(work).items():
    if c.stage in ("all", name):
      parts.require_unchanged(c.out / "parts" / "lists", lists)
      run_stage(work, stage, lists, keys, c.out / "parts")
  if c.stage not in ("all", "shards"):
    return

  # ---- Rules over all photos, then the shards ------------------------------------------------------
  for name, digests in keys.items():
    for n, key in enumerate(digests):
      if not parts.is_current(parts.path(c.out / "parts", n, name), key):
        raise UserError(f"shard {n} has no {name} yet: idejax prepare --stage {name} comes first, or no --stage at all")
  with parts.ours(c.out / "parts" / "shards", wait=True):
    parts.require_unchanged(c.out / "parts" / "lists", lists)
    write_shards(c, work, lists, keys)


def nets(c: config.Prepare) -> tuple[stages.Encoder | None, stages.Encoder | None]:
  """The VAE and the image encoder whose work is stored, where the command names them."""
  if c.stage == "latents" and not c.model:
    raise UserError("--stage latents needs --model, the pipeline whose VAE makes them")
  if c.stage == "clip" and not c.vision:
    raise UserError("--stage clip needs --vision, the image encoder that makes its tokens")
  if c.model and not c.size:
    raise UserError("latents are of squares: give --size, the pixels a side at which the training will run")
  vae = encoders.of_vae(c.model, c.size) if c.model and c.size else None
  return vae, encoders.of_tower(c.vision) if c.vision else None


def reader_of(c: config.Prepare) -> stages.Reader | None:
  """What reads the faces' shapes, where the command names it."""
  if not c.shape:
    if c.stage == "shapes":
      raise UserError("--stage shapes needs --shape, the model of faces whose coefficients it stores")
    if c.table:
      raise UserError("--table is of a morphable model: give its file as --shape")
    return None
  return encoders.of_shape(c.shape, c.table)


def part_keys(work: stages.Work, lists: Sequence[Sequence[Item]]) -> dict[str, list[str]]:
  """What each part must be made from, by stage and shard."""
  keys: dict[str, list[str]] = {}
  for stage in stages.asked(work).values():
    keys[stage.name] = [
      parts.key(stage.name, stage.settings(work), items, [keys[before][n] for before in stage.after])
      for n, items in enumerate(lists)
    ]
  return keys


def run_stage(work, stage: stages.Stage, lists, keys: Mapping[str, list[str]], folder: Path):
  """Makes the parts of a stage that are missing or old; those that another process is making are waited for."""
  file = lambda n, name=stage.name: parts.path(folder, n, name)
  current = lambda n, name=stage.name: parts.is_current(file(n, name), keys[name][n])
  todo = [n for n in range(len(lists)) if not current(n)]
  if not todo:
    return
  bar, start, photos = counting(sum(len(lists[n]) for n in todo), "photo"), time.perf_counter(), 0
  busy: list[int] = []
  for place, n in enumerate(itertools.chain(todo, busy)):  # the busy ones once more, at the end
    with parts.ours(file(n), wait=place >= len(todo)) as mine:
      if not mine:
        busy.append(n)
        continue
      if not current(n):
        for name in stage.after:
          if not current(n, name):
            raise UserError(f"stage {stage.name} needs {name} of shard {n}: idejax prepare --stage {name} comes first")
        before = {name: parts.read(file(n, name)) for name in stage.after}
        parts.write(file(n), keys[stage.name][n], stage.run(work, lists[n], before))
        photos += len(lists[n])
    bar.update(len(lists[n]))
  bar.close()
  if photos:
    spent = time.perf_counter() - start
    tell(f"{stage.name:9} {photos} photos in {spent:.1f} s, {photos / spent:.0f} a second")


def write_shards(c: config.Prepare, work: stages.Work, lists, keys: Mapping[str, list[str]]):
  """Applies the rules, writes what changed, and then manifest and report."""
  folder = c.out / "parts"
  read = lambda n, name: parts.read(parts.path(folder, n, name))
  with waiting("applying the rules"):
    detections = [read(n, "detect") for n in range(len(lists))]
    embeddings = [read(n, "embed")["embedding"] for n in range(len(lists))]
    columns = {k: np.concatenate([f[k] for f in detections]) for k in detections[0]} | {
      "embedding": np.concatenate(embeddings)
    }
    least = c.face if c.face is not None else 0.0 if c.drawn else rules.Rules.face
    limits = rules.Rules(least, c.blur, c.yaw, c.second, c.enlarged, not c.keep_duplicates)
    reasons = rules.decide(columns, limits, c.size, c.around)
    have = np.concatenate([read(n, "landmarks")["has_landmarks"] for n in range(len(lists))])
  keeps = np.array([not r for r in reasons])
  if not keeps.any():
    raise UserError(f"not one of {len(reasons)} photos is kept: {_words(rules.count(reasons))}")
  starts = np.cumsum([0, *map(len, lists)])
  keep = [np.flatnonzero(keeps[a:b]) for a, b in zip(starts, starts[1:])]
  with_rows = [n for n in range(len(lists)) if len(keep[n])]
  encoded = {
    k: x.shape[1:] for name in ("latents", "clip") if name in keys for k, x in read(with_rows[0], name).items()
  }
  coefficients = work.shapes.sizes if work.shapes else {}
  layout = shards.Layout(c.size, bool(have[keeps].all()), encoded, coefficients, work.captioner is not None)
  square = c.size or 0
  record = 0.4 * square * square + sum(2 * math.prod(shape) for shape in encoded.values())
  need_space(c.out, record * float(keeps.sum()), "the shards")

  # ---- Shards --------------------------------------------------------------------------------------
  old = _manifest(c.out)
  there = {s["made_from"]: s for s in old.get("shards", [])}
  entries: list[dict[str, Any]] = []
  bar = counting(int(keeps.sum()), "record")
  for place, n in enumerate(with_rows):
    file = c.out / shards.file_name(place, len(with_rows))
    about = {"size": c.size, "around": c.around, "licence": c.licence, "fields": sorted(layout.features)}
    made_from = parts.key("shards", about | {"keep": keep[n].tolist()}, lists[n], [k[n] for k in keys.values()])
    entry = there.get(made_from)
    kept_file = folder / f"{made_from}.array_record"
    if entry and (c.out / entry["file"]).is_file() and not kept_file.exists():
      (c.out / entry["file"]).rename(kept_file)  # its number may change
    if not kept_file.exists():
      each = {name: read(n, name) for name in keys}
      shards.write(kept_file, layout, work.source, lists[n], each, keep[n].tolist(), c.around, c.licence)
    size = kept_file.stat().st_size
    sha256 = entry["sha256"] if entry and entry["bytes"] == size else shards.digest(kept_file)
    entries.append(dict(file=file.name, records=len(keep[n]), bytes=size, sha256=sha256, made_from=made_from))
    bar.update(len(keep[n]))
  bar.close()
  current = {e["made_from"] for e in entries}
  for stale in [*c.out.glob(f"{shards.NAME}-train.array_record-*"), *folder.glob("*.array_record")]:
    if stale.suffix != ".array_record" or stale.stem not in current:
      stale.unlink()
  for e in entries:
    (folder / f"{e['made_from']}.array_record").rename(c.out / e["file"])

  # ---- Manifest and report, last: what they name is there --------------------------------------------
  write_people(c.out, [items[i] for items, k in zip(lists, keep) for i in k], {"shards": entries})
  shards.finish(c.out, layout, [e["records"] for e in entries], sum(e["bytes"] for e in entries))
  dropped = rules.count(reasons)
  licences = collections.Counter(i.licence or c.licence for items, k in zip(lists, keep) for i in (items[r] for r in k))
  people = {i.person for items, k in zip(lists, keep) for i in (items[r] for r in k) if i.person}
  report = dict(
    photos=len(reasons), kept=int(keeps.sum()), dropped=dropped, people=len(people), licences=dict(licences)
  )
  write_json(
    c.out / "report.json", report | {"rules": limits.__dict__, "which": _which(lists, reasons, columns["error"])}
  )
  show_dropped(c.out / "dropped.png", work.source, lists, reasons)
  manifest = dict(
    version=VERSION, records=int(keeps.sum()), fields=sorted(layout.features), size=c.size, around=c.around,
    pack=dict(name=work.pack.name, sha256=work.pack.digest, licence=work.pack.licence),
    parsing=work.parser and work.parser.digest, shards=entries, idejax_version=__version__,
  )  # fmt: skip
  for name, net in (("latents", work.vae), ("clip", work.tower), ("captions", work.captioner)):
    if net:
      manifest[name] = dict(name=net.name, sha256=net.digest, size=net.side)
  if work.shapes:
    manifest["shapes"] = dict(name=work.shapes.name, sha256=work.shapes.digest)
  write_json(c.out / "manifest.json", manifest)
  tell(
    f"{int(keeps.sum())} of {len(reasons)} photos in {len(entries)} shard(s) of {c.out}, {len(people)} people"
    + (f"; dropped: {_words(dropped)} ({c.out / 'dropped.png'})" if dropped else "")
  )
  if not layout.has_landmarks:
    tell(f"warning: {work.pack.name} has no network of 106 points, so the records have no landmarks")


def write_people(out: Path, records: Sequence[Item], about: Mapping[str, Any]):
  """Who each record shows: a training knows it without reading them all."""
  names = dict[str, int]()
  person = [names.setdefault(i.person or i.name, len(names)) for i in records]
  npz.write(
    out / face_rows.PEOPLE, {"person": np.array(person, np.int32), "of": np.array(face_shards.digest(dict(about)))}
  )


def show_dropped(path: Path, source: sources.Source, lists, reasons: Sequence[str]):
  """Some photos that each rule dropped, one below the other; no file where nothing was dropped."""
  items = [i for shard in lists for i in shard]
  sections = []
  for why in rules.count(reasons):
    pictures, some = [], [i for i, r in zip(items, reasons) if r == why][:_SHOWN]
    for p in source.read(some):
      if isinstance(p.data, bytes):
        with contextlib.suppress(UserError):
          pictures.append(photo.read(p.data).pixels)
    if pictures:
      sections.append(sheets.Section(why, [sheets.Group("", pictures)]))
  if sections:
    sheets.write(path, sections)
  else:
    path.unlink(missing_ok=True)


def _which(lists, reasons: Sequence[str], errors: np.ndarray) -> list[dict[str, str]]:
  names = [i.name for shard in lists for i in shard]
  return [{"name": n, "why": r, "error": str(e)} for n, r, e in zip(names, reasons, errors) if r]


def _words(counts: Mapping[str, int]) -> str:
  return ", ".join(f"{n} {why}" for why, n in counts.items())


def _manifest(out: Path) -> dict[str, Any]:
  return read_json(out / "manifest.json") if (out / "manifest.json").exists() else {}


def _refuse_other(c: config.Prepare, pack: faces.Pack):
  """UserError where the folder holds something else, or records of another recogniser."""
  old = _manifest(c.out)
  if not old and (strange := [p.name for p in c.out.iterdir() if p.name != "parts" and not p.name.startswith(".")]):
    raise UserError(f"--out {c.out} is not empty and not of idejax prepare ({strange[0]}); choose another folder")
  if old and old["pack"]["sha256"] != pack.digest:
    raise UserError(
      f"{c.out} was made with {old['pack']['name']} ({old['pack']['sha256'][:12]}), not with {pack.name} "
      f"({pack.digest[:12]}); choose another --out"
    )
