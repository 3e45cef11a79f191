"""What a run reports: a sheet of references and pictures, and figures by judges that took no part in training."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from idejax.data.people import Person
from idejax.errors import UserError
from idejax.evaluation import judges as jd
from idejax.evaluation import miniature, scoring, summary
from idejax.evaluation.intervals import show
from idejax.evaluation.rows import Row
from idejax.person.augment import resize, square
from idejax.sampling import sampler
from idejax.sampling.pipeline import Pipeline
from idejax.storage import hub, sheets
from idejax.storage.files import replacing, write_json
from idejax.storage.sheets import Group, Section

# In the words of the miniature, which every Stable Diffusion understands too.
PROMPTS = (
  "a photo of {}",
  "a photo of {} smiling",
  "a photo of {} on the beach",
  "a photo of {} wearing sunglasses",
  "a photo of {} in the snow wearing a hat",
  "a sketch of {}",
)
_MOST = 8  # people on a crowd's sheet
_SIDE = 128  # pixels of a picture there


class Picture(NamedTuple):
  """One picture of a run."""

  person: int
  prompt: str  # with {} for the person
  seed: int
  image: np.ndarray  # uint8 [H, W, 3]


def sample(
  pipe: Pipeline,
  people: Sequence[Person],
  prompts: Sequence[str],
  out: Path,
  *,
  num: int,
  steps: int,
  guidance: float | None,
  seed: int,
) -> list[Picture]:
  """Samples every person, prompt and seed in one job; writes sheet.png."""
  rows = [(i, p, s) for i in range(len(people)) for p in prompts for s in range(seed, seed + num)]
  texts = [p.replace("{}", people[i].word) for i, p, _ in rows]
  suits = sampler.for_sheets(pipe.backbone.nets.sampler)
  images = pipe.sample(
    texts, seeds=[s for _, _, s in rows], guidance=guidance, steps=steps, sampler=suits, progress=True
  )
  pictures = [Picture(i, p, s, image) for (i, p, s), image in zip(rows, images)]
  sheet(out / "sheet.png", people, pictures, prompts, num)
  return pictures


def sheet(
  path: Path, people: Sequence[Person], pictures: Sequence[Picture], prompts: Sequence[str], num: int, instead: str = ""
):
  """Writes a sheet: under each person's name the photo, then the pictures of each prompt; of a crowd the first few.

  instead: what the prompts said for {}, where it was not the person's word.
  """
  sections = []
  for i, person in enumerate(people[:_MOST]):
    groups = [Group("photo", [resize(reference(person), _SIDE)])]
    for p in prompts:
      mine = [_crop_square(m.image) for m in pictures if m.person == i and m.prompt == p][:num]
      groups.append(Group(p.replace("{}", instead or person.word), mine))
    sections.append(Section(person.word, groups))
  sheets.write(path, sections, _SIDE)


def reference(person: Person) -> np.ndarray:
  """The square of a person's first photo that training saw, uint8 [S, S, 3]."""
  photo = person.photos[0]
  top, left, side = square(photo.photo.shape, photo.box)
  return photo.photo[top : top + side, left : left + side]


def _crop_square(image: np.ndarray) -> np.ndarray:
  side = min(image.shape[:2])
  return image[:side, :side]


FIGURES = ("identity", "identity_zero", "accepted", "detect", "asked", "prompt")
_CHUNK = 64  # pictures that judges look at together


def score(pictures: Sequence[Picture], people: Sequence[Person], model: str, out: Path) -> dict[str, Any]:
  """Figures of a run with 95 % intervals over people and seeds, by the code of `idejax evaluate`; the figures
  of every picture go to scores.jsonl."""
  if model not in hub.BUILT_IN:
    return {"scores": "not measured: the judges in the package read the drawn world only; idejax evaluate takes yours"}
  judges = miniature.open_judges()
  see = lambda images: [s for at in range(0, len(images), _CHUNK) for s in jd.look(judges, images[at : at + _CHUNK])]
  who = sorted({m.person for m in pictures})
  photos = {Path(people[i].stem): s for i, s in zip(who, see([reference(people[i]) for i in who]))}
  rows = [
    Row(Path(f"{k}"), "", people[m.person].stem, m.prompt, seed=m.seed, reference=Path(people[m.person].stem))
    for k, m in enumerate(pictures)
  ]
  try:
    scores = scoring.score(judges, rows, see([m.image for m in pictures]), photos)
  except UserError as e:
    return {"scores": f"not measured: {e}"}
  figures = [{n: s[n] for n in FIGURES if n in s} for s in scores]
  with replacing(out / "scores.jsonl") as temporary:
    lines = [json.dumps({"person": r.person, "text": r.prompt, "seed": r.seed} | s) for r, s in zip(rows, figures)]
    temporary.write_text("\n".join(lines) + "\n")
  return {
    "scores": summary.means(rows, figures, range(len(rows))),
    "judges": {n: f"{a.network}, sha256 {a.digest[:12]}" for n, a in judges.about().items()},
  }


def lines(facts: Mapping[str, Any]) -> str:
  """report.json in words."""
  spent = ", ".join(f"{k} {v:.0f} s" for k, v in facts["seconds"].items())
  text = f"{facts['method']}: {facts['people']} person(s), {spent}; {facts['peak_memory_mb']} MB"
  scores = facts["scores"]
  if isinstance(scores, str):
    return f"{text}; {scores}"
  rows = [f"  {name:18} {show(x)}" for name, x in scores.items()]
  if "accepted" in scores:
    rows.append(f"  accepted: {100 * scores['accepted']['mean']:.0f} % of pictures are this person at FAR 1e-3")
  return "\n".join([text, *rows])


def table(results: Mapping[str, Mapping[str, Any]], out: Path):
  """Writes compare.md, .json and .png: a row per run folder under its `name`, a column per figure."""
  scores = {m: r["scores"] for m, r in results.items() if not isinstance(r["scores"], str)}
  columns = list(next(iter(scores.values()), {}))
  head = ["method", *columns, "steps", "batch", "train s"]
  body = [
    [
      r["name"],
      *(show(scores[m][c]) if m in scores else "-" for c in columns),
      *(str(r.get(k, "-")) if not isinstance(r.get(k), dict) else "by person" for k in ("steps", "batch")),
      f"{r['seconds']['train']:.0f}" if r["seconds"] else "-",
    ]
    for m, r in results.items()
  ]
  text = "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)) + "\n"
  for name, content in (("compare.md", text),):
    with replacing(out / name) as temporary:
      temporary.write_text(content)
  write_json(out / "compare.json", results)
  sheets.stack(out / "compare.png", [(results[m]["name"], out / m / "sheet.png") for m in results])
  print(text)
