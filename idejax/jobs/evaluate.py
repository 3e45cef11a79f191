"""`idejax evaluate`: people, methods and pictures by the same judges; the built-in model's own exam."""

import dataclasses
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from idejax import __version__, config, faces
from idejax.data.people import pictures_in
from idejax.errors import UserError, tell
from idejax.evaluation import gallery, judges_file, looking, miniature, protocols, rows, runs, summary, tables, writing
from idejax.evaluation.judges import Judges, calibrate
from idejax.evaluation.protocols import Protocol
from idejax.evaluation.rows import Row
from idejax.evaluation.runs import RunPerson
from idejax.methods import IDENTITIES
from idejax.miniature.judging import exam
from idejax.model.backbone import Nets
from idejax.personalizing import posers
from idejax.runtime import cores, distributed
from idejax.runtime.progress import waiting
from idejax.sampling import pipeline
from idejax.storage import hub, tensorfiles
from idejax.storage.files import write_json
from idejax.storage.folders import claim


def main(c: config.Evaluate):
  # ---- What is asked, checked before anything is loaded ----------------------------------------
  if c.list_judges:
    return print(
      judges_file.listing(judges_file.read(Path(c.judges)) if c.judges and c.judges != "miniature" else None)
    )
  if not c.methods and not c.protocol and (not c.what or model_argument(c)):
    return examine(c)
  protocol = check(c)
  out = c.out or Path("evaluation")
  with distributed.by_first(lambda: claim(out)):
    # ---- Judges first, so that what they lack is known before pictures are sampled ---------------
    about: dict[str, Any] = {}
    if protocol is None:
      entries, judges = rows.read(Path(c.what[0])), open_judges(c, "pictures")
    else:
      # ---- People who were learned, and their pictures -------------------------------------------
      if c.methods:
        judges = open_judges(c, c.model)
        methods = runs.read([train(c, protocol, f, n) for n, f in training_folders(c, out)], c.photos)
      else:
        methods = runs.read([Path(w) for w in c.what], c.photos)
        judges = open_judges(c, next(iter(methods.values()))[0].who.model)
      if distributed.first():
        check_references(judges, methods, out)
      entries, about = sample(c, protocol, methods, out)
    if not distributed.first():
      return

    # ---- What the judges see ---------------------------------------------------------------------
    files = [
      p for r in entries for p in (r.file, r.reference, r.second, r.driver, r.base, *(o for _, o in r.others)) if p
    ]
    if c.strangers:
      judges = calibrate(judges, list(looking.see(judges, pictures_in(c.strangers), out / ".seen").values()))
    start = time.monotonic()
    findings = looking.see(judges, files, out / ".seen")
    seconds = time.monotonic() - start

    # ---- Figures ---------------------------------------------------------------------------------
    results = summary.results(judges, entries, [findings[r.file] for r in entries], findings)
    for name, costs in about.pop("costs", {}).items():
      results["methods"][name]["costs"] = costs
    results |= {
      "protocol": dataclasses.asdict(protocol) if protocol else None,
      "seconds_of_judging": round(seconds, 2),
      "provenance": about | provenance(entries),
    }
    title = f"{protocol.title} ({protocol.name})" if protocol else f"Pictures of {c.what[0]}"
    writing.write(results, entries, out, title)
    print(tables.words(results))
  tell(f"done: {out / 'table.html'}")


def check(c: config.Evaluate) -> Protocol | None:
  """The protocol, or None for a table of pictures. UserError for options that do not go together."""
  files = [w for w in c.what if w.endswith((".jsonl", ".json"))]
  if files:
    if len(c.what) > 1 or c.protocol or c.methods:
      raise UserError(f"{files[0]} is a table of pictures: it stands alone, without --protocol and --methods")
    if not c.judges:
      raise UserError("--judges is missing: judges.json, or miniature for pictures of the drawn world")
    return None
  if not c.protocol:
    raise UserError(f"--protocol is missing; it is one of {', '.join(protocols.names())}, or a FILE.json")
  if not c.methods and not c.what:
    raise UserError("whom? Give run folders of idejax personalize, or --methods to train")
  if c.methods and len(c.what) > 1:
    raise UserError("--methods trains on one photo or one folder of photos")
  if c.trainings > 1 and not c.methods:
    raise UserError("--trainings is of --methods; of runs give those of every seed")
  for name, count in (("people", c.people), ("batch", c.batch)):
    if count is not None and count < 1:
      raise UserError(f"--{name} is {count}; it must be at least 1")
  if c.strangers and not c.strangers.is_dir():
    raise UserError(f"--strangers {c.strangers} is no folder of photos")
  if c.drivers and not (c.drivers.is_dir() and pictures_in(c.drivers)):
    raise UserError(f"--drivers {c.drivers} is no folder of photos")
  if c.addon and not (c.addon / "addon.json").is_file():
    raise UserError(f"--addon {c.addon} is no add-on folder (it has no addon.json)")
  if c.judges and c.judges != "miniature" and not Path(c.judges).is_file():
    raise UserError(f"--judges {c.judges} does not exist")
  if c.methods and jax.process_count() > 1:
    raise UserError(
      "--methods trains in one process; on several hosts: idejax personalize there, then idejax evaluate RUN..."
    )
  protocol = protocols.load(c.protocol)
  if c.drivers and not protocol.drivers:
    raise UserError(f"{protocol.name} has no driving photos: leave --drivers out")
  return protocol


def model_argument(c: config.Evaluate) -> str | None:
  """The model if the command is `idejax evaluate MODEL`, else None."""
  one = c.what[0] if len(c.what) == 1 else ""
  return one if one in hub.BUILT_IN or (Path(one) / "model_index.json").is_file() else None


def open_judges(c: config.Evaluate, model: str) -> Judges:
  """The user's judges, or those in the package for a built-in model's pictures."""
  if c.judges and c.judges != "miniature":
    with waiting("reading the judges"):
      return judges_file.read(Path(c.judges))
  if not c.judges and model not in hub.BUILT_IN:
    raise UserError(
      f"the judges in the package know the drawn world only, not {model}: give --judges judges.json "
      "(idejax evaluate --list-judges)"
    )
  return miniature.open_judges()


# People who were learned.


def check_references(judges: Judges, methods: Mapping[str, Sequence[RunPerson]], out: Path):
  """UserError if the detector finds no face in somebody's photo, because then no face could be judged."""
  if judges.detector is None:
    return
  places, _ = gallery.references(out.resolve(), methods)
  findings = looking.see(judges, list(places.values()), out / ".seen")
  if faceless := [n for n, p in places.items() if findings[p].largest is None]:
    raise UserError(
      f"{judges.detector.about.network} finds no face in the photo of {', '.join(faceless[:5])} ({places[faceless[0]]}): "
      "give --judges whose detector does, or leave them out"
    )


def sample(
  c: config.Evaluate, protocol: Protocol, methods: Mapping[str, Sequence[RunPerson]], out: Path
) -> tuple[list[Row], dict[str, Any]]:
  """Samples a protocol's pictures; returns their rows and facts about them."""
  everyone = {t.name for people in methods.values() for t in people}
  if len(everyone) != protocol.people["count"]:
    tell(f"{protocol.name} is for {protocol.people['count']} people; here are {len(everyone)}")
  first = next(iter(methods.values()))[0].who
  cores.use(first.model)
  dtype = c.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
  with waiting("reading the model"):
    pipe = pipeline.load(hub.resolve(first.model), dtype=dtype, notify=tell)
  if pipe.digest != first.digest:
    raise UserError(f"the runs were made on {first.model} as it was ({first.digest[:12]}), not on what is there now")
  drivers = driving_photos(c, protocol, methods, out.resolve())
  if drivers:
    posed = next(t for people in methods.values() for t in people if t.who.is_face)
    pipe = posers.with_addon(pipe, c.addon or posed.who.addon, posed.pack)
  job = gallery.Job(pipe, protocol, out.resolve(), c.strengths, c.floor, c.batch, drivers)
  entries = gallery.make(job, methods, {n: trainers(people, pipe.backbone.nets) for n, people in methods.items()})
  costs = {n: _mean_costs(people) for n, people in methods.items()}
  return entries, {
    "model": first.model,
    "model_digest": pipe.digest,
    "dtype": dtype,
    "costs": costs,
    "runs": {n: [str(t.folder) for t in people] for n, people in methods.items()},
  }


def driving_photos(
  c: config.Evaluate, protocol: Protocol, methods: Mapping[str, Sequence[RunPerson]], out: Path
) -> tuple[Path, ...]:
  """A protocol's driving photos; none where it has none, or where no method follows a pose, which is told."""
  if not protocol.drivers:
    return ()
  if unposed := [n for n, people in methods.items() if not people[0].who.is_face]:
    tell(f"{', '.join(unposed)} follow prompts only: one picture in place of {protocol.drivers} driving photos'")
  if len(unposed) == len(methods):
    return ()
  photos = pictures_in(c.drivers)[: protocol.drivers] if c.drivers else []
  if not photos and next(iter(methods.values()))[0].who.model not in hub.BUILT_IN:
    raise UserError(f"{protocol.name} has driving photos, of other heads: give --drivers FOLDER")
  if photos and len(photos) < protocol.drivers:
    tell(f"{protocol.name} has {protocol.drivers} driving photos; here are {len(photos)}")
  files = [out / "drivers" / f"{n:02d}.png" for n in range(len(photos) or protocol.drivers)]
  if distributed.first():
    runs.write_drivers(files, photos)
  distributed.meet("driving photos")
  return tuple(files)


def trainers(people: Sequence[RunPerson], nets: Nets) -> tuple[str, ...]:
  """sha256 of the recognisers that a method learned from."""
  who = people[0].who
  if not IDENTITIES[who.method].needs(who.cfg, nets).recogniser:
    return ()
  digests = set()
  for name in {t.pack for t in people if t.pack}:
    pack = faces.open_pack(name, notify=lambda _: None)
    digests.add(tensorfiles.digest(pack.app.models["recognition"].model_file))
  return tuple(sorted(digests))


def _mean_costs(people: Sequence[RunPerson]) -> dict[str, float]:
  names = dict.fromkeys(n for t in people for n in t.costs)
  return {n: sum(v) / len(v) for n in names if (v := [t.costs[n] for t in people if n in t.costs])}


def training_folders(c: config.Evaluate, out: Path) -> list[tuple[int, Path]]:
  """(seed, run folder) of every training."""
  return [(n, out / "runs" if c.trainings == 1 else out / f"runs-seed-{n}") for n in range(c.trainings)]


def train(c: config.Evaluate, protocol: Protocol, folder: Path, seed: int = 0) -> Path:
  """Runs `idejax personalize --compare` in a separate process, which frees its memory at the end; it is resumable."""
  photo = [c.what[0]] if c.what else ["--drawn", str(c.people or protocol.people["count"])]
  if not c.what and c.model not in hub.BUILT_IN:
    raise UserError("whom? Give a folder of photos: only the built-in world draws people")
  command = [
    sys.executable,
    "-m",
    "idejax.cli",
    "personalize",
    *photo,
    "--compare",
    c.methods,
    "--model",
    c.model,
    "--pack",
    c.pack,
    "--out",
    str(folder),
    "--num",
    "1",
    "--prompts",
    "a photo of {}",
  ]
  if seed:
    command += ["--seed", str(seed)]
  if c.dtype:
    command += ["--dtype", c.dtype]
  if c.addon:
    command += ["--addon", str(c.addon)]
  process = subprocess.run(command, stdout=subprocess.DEVNULL)
  if process.returncode:
    raise UserError(f"training ended with exit code {process.returncode}; its own words stand above")
  return folder


def provenance(entries: Sequence[Row]) -> dict[str, Any]:
  return {
    "idejax": __version__,
    "jax": jax.__version__,
    "device": jax.devices()[0].device_kind,
    "pictures": len(entries),
    "command": shlex.join(["idejax", *sys.argv[1:]]),
  }


# The built-in model's own exam.


def examine(c: config.Evaluate):
  if jax.process_count() > 1:
    raise UserError("the exam of the built-in model runs in one process")
  model = model_argument(c) or c.model
  cores.use(model)
  pipe = pipeline.load(hub.resolve(model), notify=tell)
  figures = exam.run(pipe, c.quick)
  print("\n".join(exam.lines(figures)))
  if c.out:
    about = {
      "model": model,
      "digest": pipe.digest,
      "device": jax.devices()[0].device_kind,
      "idejax": __version__,
      "jax": jax.__version__,
    }
    write_json(c.out, figures | about)
