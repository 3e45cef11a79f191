"""A protocol's pictures of trained people: sampled into a folder, a file each, resumable, on any number of hosts.

The noise of a picture is its seed's and nothing else's: every method, person and prompt starts from the
same latents.
"""

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from idejax import __version__
from idejax.errors import UserError, tell
from idejax.evaluation import runs
from idejax.evaluation.protocols import Protocol
from idejax.evaluation.rows import Row
from idejax.evaluation.runs import RunPerson
from idejax.runtime import distributed
from idejax.sampling import learned, steering
from idejax.sampling.learned import Learned
from idejax.sampling.pipeline import Pipeline, Request, Settings, default_guidance, generate
from idejax.storage import pictures, tensorfiles
from idejax.storage.files import replacing, write_json

FLOOR = "a person (floor)"  # the same prompts of nobody in particular
TABLE, SECONDS = "pictures.jsonl", "seconds.json"


class Cell(NamedTuple):
  """Which of a person's pictures."""

  prompt: int
  seed: int
  driver: Path | None = None

  @property
  def name(self) -> str:
    """Of its file."""
    return f"{self.prompt:02d}-{self.seed}" + (f"-{self.driver.stem}" if self.driver else "") + ".png"


class Shot(NamedTuple):
  """One picture to make."""

  file: Path
  request: Request
  record: dict[str, Any]  # what it is, with prompt, seed and settings


@dataclasses.dataclass(frozen=True)
class Job:
  """What all pictures of a gallery share."""

  pipe: Pipeline
  protocol: Protocol
  out: Path
  strengths: tuple[float, ...] = ()  # beside the trained one, of methods that have one
  floor: bool = False
  batch: int | None = None
  drivers: tuple[Path, ...] = ()  # photos in whose poses people who are faces are sampled; the pipeline has the add-on

  @property
  def settings(self) -> Settings:
    p = self.protocol
    return Settings(p.steps, p.sampler, p.size, p.size, self.batch)

  @property
  def guidance(self) -> float:
    return default_guidance(self.pipe) if self.protocol.guidance is None else self.protocol.guidance

  def cells(self, posed: bool = False) -> Iterator[Cell]:
    """A person's pictures; `posed`: in the pose of every driver."""
    drivers = self.drivers if posed and self.drivers else (None,)
    return (Cell(i, s, d) for i in range(len(self.protocol.prompts)) for s in self.protocol.seeds for d in drivers)


def make(
  job: Job, methods: Mapping[str, Sequence[RunPerson]], trained_with: Mapping[str, tuple[str, ...]]
) -> list[Row]:
  """Makes every picture that is not there yet; returns the rows of all. UserError for another command's picture.

  trained_with: {method: sha256 of recognisers that it learned from}.
  """
  everyone = {t.name: t for people in methods.values() for t in people}
  places, others = references(job.out, methods)
  rows: list[Row] = []
  for name, training, people in _trainings(methods):
    for scale in (None, *(s for s in job.strengths if "scale" in people[0].who.identity)):
      folder = job.out / "pictures" / _folder(list(methods).index(name), name, training, scale)
      who = {t.name: _ready(t, scale) for t in people}
      cells = [(t, cell) for t in people for cell in job.cells(who[t.name].is_face)]
      shots = [
        _shot(
          job,
          folder / t.name / cell.name,
          who[t.name].word,
          cell,
          {
            "method": name,
            "person": t.name,
            "strength": scale,
            "identity_sha256": tensorfiles.digest(learned.file(t.folder)),
          },
          who[t.name],
        )
        for t, cell in cells
      ]
      what = " ".join(str(x) for x in (name, scale or "", "" if training is None else f"seed {training}") if x)
      each = _sample(job, job.pipe.with_people(*who.values()), shots, what)
      rows += [
        _row(
          job,
          shot.file,
          cell,
          method=name,
          person=t.name,
          reference=places[t.name],
          second=others.get(t.name),
          strength=scale,
          train_seconds=t.train_seconds,
          sample_seconds=each,
          trained_with=trained_with.get(name, ()),
          training=training or 0,
        )
        for shot, (t, cell) in zip(shots, cells)
      ]
  if job.floor:
    cells_ = list(job.cells())
    shots = [
      _shot(job, job.out / "pictures" / "floor" / cell.name, "a person", cell, {"method": FLOOR}) for cell in cells_
    ]
    each = _sample(job, job.pipe, shots, FLOOR)
    rows += [
      _row(
        job,
        shot.file,
        cell,
        method=FLOOR,
        person=n,
        reference=places[n],
        second=others.get(n),
        sample_seconds=each,
        training=training,
      )
      for n in everyone
      for training in sorted({t or 0 for _, t, _ in _trainings(methods)})  # nobody was trained: the same for all
      for shot, cell in zip(shots, cells_)
    ]
  if distributed.first():
    _write(job.out, rows)
  return rows


def _trainings(methods: Mapping[str, Sequence[RunPerson]]) -> Iterator[tuple[str, int | None, list[RunPerson]]]:
  """(method, seed, its people) of every training of a method; the seed is None where nobody was trained twice."""
  for name, people in methods.items():
    if len({t.name for t in people}) == len(people):
      yield name, None, list(people)
      continue
    for seed in sorted({t.training for t in people}):
      yield name, seed, [t for t in people if t.training == seed]


def _folder(number: int, name: str, training: int | None, scale: float | None) -> str:
  """The folder of a method's pictures."""
  parts = [
    f"{number}-{_plain(name)}",
    None if training is None else f"seed-{training}",
    None if scale is None else f"{scale:g}",
  ]
  return "-".join(p for p in parts if p)


def references(out: Path, methods: Mapping[str, Sequence[RunPerson]]) -> tuple[dict[str, Path], dict[str, Path | None]]:
  """Two tables by person: the photo that pictures are compared with, and a second photo or None. The first
  process writes the files."""
  everyone = {t.name: t for people in methods.values() for t in people}
  places = {n: out / "references" / f"{n}.png" for n in everyone}
  others: dict[str, Path | None] = {}
  if distributed.first():
    for n, t in everyone.items():
      runs.reference(t, places[n])
      others[n] = runs.second(t, places[n].with_name(f"{n}-second.png"))
  return places, others


def _ready(t: RunPerson, scale: float | None) -> Learned:
  """The person under a word of their own, because every run of one person says <id>."""
  who = t.who if scale is None else t.who.with_strength(scale)
  return dataclasses.replace(who, word=f"<{t.name}>")


def _shot(job: Job, file: Path, word: str, cell: Cell, more: dict[str, Any], who: Learned | None = None) -> Shot:
  text = job.protocol.prompts[cell.prompt].text.replace("{}", word)
  settings = {k: v for k, v in dataclasses.asdict(job.settings).items() if k != "batch"}
  record = {
    "prompt": text,
    "seed": cell.seed,
    "guidance": job.guidance,
    "model_digest": job.pipe.digest,
    "idejax_version": __version__,
  }
  request = Request(text, None, cell.seed, 0, job.guidance)
  if cell.driver is not None and who is not None:
    steer = steering.steer_person(who, cell.driver, job.pipe.size(job.settings), job.pipe.faces)
    request, record = dataclasses.replace(request, steer=steer), record | {"pose": steer.about["pose"]}
  return Shot(file, request, record | settings | more)


def _row(job: Job, file: Path, cell: Cell, **more: Any) -> Row:
  a = job.protocol.prompts[cell.prompt]
  return Row(file=file, prompt=a.text, category=a.category, seed=cell.seed, people=a.people, driver=cell.driver, **more)


def _sample(job: Job, pipe: Pipeline, shots: Sequence[Shot], what: str) -> float | None:
  """Makes the pictures that are missing. Seconds per picture without compiling, from the call that made most."""
  todo = [i for i, s in enumerate(shots) if not _is_complete(s)]
  distributed.meet(f"looked at {what}")  # all processes have seen the same before one writes
  if todo:
    tell(f"{what}: {len(todo)} of {len(shots)} pictures to make")
    count, start = 0, 0.0
    for k, part in enumerate(generate(pipe, [s.request for s in shots], job.settings, positions=todo, progress=True)):
      for i, image in zip(part.positions, part.images):
        shots[i].file.parent.mkdir(parents=True, exist_ok=True)
        pictures.write_png(shots[i].file, image, shots[i].record)
      if k:
        count += len(part.positions)
      else:
        start = time.monotonic()
    if count and distributed.first():
      _note(job.out, what, count, (time.monotonic() - start) / count)
  distributed.meet(f"made {what}")
  return _notes(job.out).get(what, {}).get("seconds")


def _is_complete(shot: Shot) -> bool:
  """Whether the file is there and undamaged; UserError if another command wrote it."""
  if not shot.file.exists():
    return False
  record, intact = pictures.read_record(shot.file)
  if record is None:
    raise UserError(f"{shot.file} is there and was not made by idejax; move it or choose another --out")
  expected = json.loads(json.dumps(shot.record))
  for key in expected:
    if key != "idejax_version" and record.get(key) != expected[key]:
      raise UserError(
        f"{shot.file} was made with another {key} ({record.get(key)!r}, now {expected[key]!r}); choose another --out"
      )
  return intact


def _notes(out: Path) -> dict[str, Any]:
  try:
    return json.loads((out / SECONDS).read_text())
  except (OSError, ValueError):
    return {}  # times only


def _note(out: Path, what: str, count: int, seconds: float):
  notes = _notes(out)
  if notes.get(what, {}).get("pictures", 0) < count:
    write_json(out / SECONDS, notes | {what: {"pictures": count, "seconds": round(seconds, 4)}})


def _write(out: Path, rows: Sequence[Row]):
  """Writes pictures.jsonl, from which everything can be scored again without a model."""
  relative = lambda x: x.relative_to(out).as_posix() if isinstance(x, Path) else list(x) if isinstance(x, tuple) else x
  default = {f.name: f.default for f in dataclasses.fields(Row)}
  lines = [
    json.dumps(
      {n: relative(v) for n in default if (v := getattr(r, n)) != default[n] or n == "person"}, ensure_ascii=False
    )
    for r in rows
  ]
  with replacing(out / TABLE) as temporary:
    temporary.write_text("\n".join(lines) + "\n", "utf-8")


def _plain(name: str) -> str:
  """A method's name as a folder's."""
  return "".join(x if x.isalnum() or x in "-_." else "-" for x in name)[:60].rstrip("-.") or "method"
