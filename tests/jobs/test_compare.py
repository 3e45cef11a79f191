"""Several methods on the same people: what --compare means, and the marks that they are held against."""

import json

import numpy as np
import pytest
from PIL import Image
from test_personalize import options, root  # noqa: F401

from idejax.cli import method_options
from idejax.data.people import Person
from idejax.errors import UserError
from idejax.evaluation import compare, report
from idejax.jobs import personalize
from idejax.miniature.judging import scoring
from idejax.miniature.world import portraits


def entries(text, *args):
  return method_options.entries(method_options.parse([f"--compare={text}", *args], "idejax personalize"))


def test_what_compare_names():
  got = entries("id-ea, id-ea/no_adapter,id-ea/released/steps=7,textual-inversion/paper", "--steps", "9")
  assert list(got) == ["id-ea", "id-ea/no_adapter", "id-ea/released/steps=7", "textual-inversion/paper"]
  a, b, c, d = got.values()
  assert (a.cfg.steps, a.cfg.no_adapter, a.run.compare) == (9, False, "")
  assert b.cfg.no_adapter and b.cfg.steps == 9 and b.cfg.templates == a.cfg.templates
  assert (c.cfg.steps, c.cfg.kv, c.run.preset) == (7, "none", "released")
  assert (d.run.method, d.cfg.steps) == ("textual-inversion", 5000)
  assert entries("") == {}


@pytest.mark.parametrize(
  "text, said",
  [
    ("magic", "'magic'"),
    ("id-ea/no_adaptor", "did you mean no_adapter"),
    ("id-ea/steps=many", "steps is 'many'"),
    ("id-ea/steps", "steps is True"),
  ],
)
def test_what_compare_cannot_name(text, said):
  with pytest.raises(UserError, match=said):
    entries(text)


def test_methods_side_by_side(root):  # noqa: F811
  out = root / "runs" / "compared"
  names = "textual-inversion,textual-inversion/cross-init/steps=2/lr=0.1/batch=2"
  personalize.main(method_options.parse(options(root, out, compare=names), "idejax personalize"))
  figures = json.loads((out / "compare.json").read_text())
  assert [r["name"] for r in figures.values()] == [*names.split(","), compare.FLOOR]  # nobody knows the real pictures
  assert {p.name for p in out.iterdir()} >= {*figures, "compare.md", "compare.png"}
  table = (out / "compare.md").read_text().splitlines()
  assert len(table) == 2 + 3 and all(n in "".join(table) for n in names.split(","))
  with Image.open(out / "compare.png") as sheet, Image.open(out / compare.folder(compare.FLOOR) / "sheet.png") as one:
    assert sheet.height == 3 * (one.height + 20)


def test_the_ceiling_shows_what_was_asked_and_whom():
  from idejax.miniature.world import people

  ids = people.split("development")[:4]
  who = [Person(f"drawn_{i}", f"<drawn_{i}>", (), alone=False) for i in ids]
  pictures = compare.ceiling(who, report.PROMPTS, range(2))
  assert len(pictures) == 4 * len(report.PROMPTS) * 2
  judges = scoring.Judges()
  attributes = judges.attributes([m.image for m in pictures])
  right = [attributes[n][k] == c for k, m in enumerate(pictures) for n, c in scoring.asked(m.prompt).items()]
  assert np.mean(right) > 0.95
  photos = [m for m in pictures if not m.prompt.startswith("a sketch") and "sunglasses" not in m.prompt]
  embeddings = judges.embed([m.image for m in photos])
  score = lambda same: np.mean(
    [
      a @ b
      for a, m in zip(embeddings, photos)
      for b, n in zip(embeddings, photos)
      if a is not None and b is not None and m is not n and (m.person == n.person) == same
    ]
  )
  assert score(True) > score(False) + 0.3
  assert compare.ceiling([Person("anna", "<anna>", ())], report.PROMPTS, range(2)) == []


def test_drawn_people(tmp_path):
  folder = portraits.portray(tmp_path / "photos", "development", 3)
  files = sorted(folder.iterdir())
  ids = [portraits.portrayed(f.stem) for f in files]
  from idejax.miniature.world import people

  assert sorted(ids) == list(people.split("development")[:3])
  with pytest.raises(UserError, match="--drawn is 0"):
    portraits.portray(tmp_path / "none", "heldout", 0)
