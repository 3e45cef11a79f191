"""What `idejax evaluate` takes."""

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from idejax.ranges import at_least, between


@dataclasses.dataclass(frozen=True)
class Evaluate:
  """Score people, methods and pictures from anywhere by the same judges and the papers' protocols.

    idejax evaluate                                                the built-in model's own exam
    idejax evaluate runs/anna runs/ben --protocol miniature-lite   people who were learned
    idejax evaluate --methods id-ea,textual-inversion --protocol miniature --out table
    idejax evaluate photos --methods id-ea --protocol p1-lite --model FOLDER --judges judges.json
    idejax evaluate pictures.jsonl --judges judges.json            anybody's pictures
    idejax evaluate --list-judges                                  who can judge, and where they come from

  --out receives results.json, pictures.csv (a row a picture), table.md, table.html, curves and sheets;
  of runs also every picture and pictures.jsonl. The same command again continues where a killed one
  stopped. docs/evaluation.md says what every figure means.
  """

  what: tuple[str, ...] = dataclasses.field(default=(), metadata={"positional": True})
  """Run folders of idejax personalize; a pictures.jsonl; with --methods photos. Default: the built-in model."""
  protocol: str | None = None
  """What to sample and score: p1 to p5, celeb-basis, miniature, each also as NAME-lite; or a FILE.json of your own."""
  methods: str = ""
  """Train these methods first, named as in idejax personalize --compare: id-ea,textual-inversion/paper."""
  model: str = "miniature"
  """Pipeline for the exam and for --methods: built in, a folder, or a hub id."""
  pack: str = "miniature"
  """Face networks with which --methods read photos: miniature, an insightface pack by name, or a folder."""
  judges: str | None = None
  """judges.json with files of yours, or miniature: those in the package, which know the drawn world. Default
  for people of the built-in model: miniature."""
  strangers: Path | None = None
  """Folder of photos of different people, one of each, at least 46: measures each recogniser's threshold at
  FAR 1e-3, for the figure Accepted, in place of judges.json's far_1e-3."""
  people: Annotated[int | None, at_least(1)] = None
  """How many drawn people to learn with --methods and no photos. Default: the protocol's number."""
  trainings: Annotated[int, at_least(1)] = 1
  """How often --methods trains each person, with seeds 0, 1, ...: intervals then cover trainings as well. Of runs given by
  folder those that differ in --seed alone are such trainings."""
  addon: Path | None = None
  """Add-on of people by facesnap: for --methods facesnap, and for driving photos where it has moved."""
  drivers: Path | None = None
  """Folder of driving photos, for a protocol that has them (p3): people by facesnap are sampled in the pose of each,
  other methods once. Default on a built-in model: drawn people."""
  strengths: Annotated[tuple[float, ...], between(0, 10)] = ()
  """Sample at these strengths too, of methods that have one, for the curve of identity against prompt."""
  floor: bool = False
  """Score the same prompts of "a person" too: what a method that learned nothing would get."""
  photos: tuple[Path, ...] = ()
  """Folders in which the photos of runs lie now, if they were moved."""
  batch: Annotated[int | None, at_least(1)] = None
  """Pictures at a time over all devices. Default: 4 for each device."""
  dtype: Literal["float32", "bfloat16"] | None = None
  """Number format of weights and computation. Default: float32 on CPU, else bfloat16."""
  list_judges: bool = False
  """Say of each judge where it comes from, its licence, and what is unavailable without it."""
  quick: bool = False
  """Take the exam with a few pictures of everything; figures are rough."""
  out: Path | None = None
  """Folder for the results; for the exam, a JSON file. Default: evaluation; for the exam, none."""

  GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
    "what is scored": ("what", "methods", "people", "trainings", "protocol", "strengths", "floor"),
    "photos": ("photos", "drivers", "strangers"),
    "judges": ("judges", "list_judges"),
    "model": ("model", "pack", "addon"),
    "machine": ("batch", "dtype"),
    "results": ("out", "quick"),
  }
