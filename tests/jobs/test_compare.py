"""Several methods on the same people: what --compare means, and the marks that they are held against."""

import json

import numpy as np
import pytest
from PIL import Image
from test_personalize import options, root  # noqa: F401

from idejax.cli import method_options
from idejax.data.people import Person
from idejax.errors import UserError
from idejax.evaluation import compare, miniature, report
from idejax.evaluation.judges import largest
from idejax.jobs import personalize
from idejax.miniature.world import portraits


def entries(text, *args):
  return method_options.entries(method_options.parse([f"--compare={text}", *args], "idejax personalize"))


def test_what_compare_names():
  got = entries("id-ea, id-ea/no_adapter,id-ea/released/steps=7,textual-inversion/paper", "--steps", "9")
  assert list(got) == ["id-ea", "id-ea/no_adapter", "id-ea/released/steps=7", "textual-inversion/paper"]
  a, b, c, d = got.values()
  assert (a.cfg.steps, a.cfg.adapter, a.run.compare) == (9, True, "")
  assert not b.cfg.adapter and b.cfg.steps == 9 and b.cfg.templates == a.cfg.templates
  assert (c.cfg.steps, c.cfg.kv, c.run.preset) == (7, "none", "released")
  assert (d.run.method, d.cfg.steps, d.cfg.batch) == ("textual-inversion", 9, 8)  # options beside it hold for all
  assert entries("id-ea/no_enhancer")["id-ea/no_enhancer"].cfg.enhancer == "none"
  assert entries("") == {}


def test_a_comparison_repeated_from_its_config_trains_alike(tmp_path):
  first = method_options.parse(["--compare=id-ea,textual-inversion/paper", "--steps=150"], "idejax personalize")
  file = tmp_path / "config.json"
  file.write_text(json.dumps(method_options.to_json(first)))
  again = method_options.parse(["--config", str(file)], "idejax personalize")
  assert again == first
  assert [e.cfg.steps for e in method_options.entries(again).values()] == [150, 150]


@pytest.mark.parametrize(
  "text, said",
  [
    ("magic", "'magic'"),
    ("id-ea/no_adaptor", "did you mean no_adapter"),
    ("id-ea/steps=many", "steps is 'many'"),
    ("id-ea/steps", "steps is True"),
    ("id-ea/beta=2", "beta is 2"),
  ],
)
def test_what_compare_cannot_name(text, said):
  with pytest.raises(UserError, match=said):
    entries(text)


def test_an_option_that_one_method_does_not_have_is_refused():
  with pytest.raises(UserError, match="--rank 4 does not suit textual-inversion.*--compare id-ea/rank=4"):
    entries("id-ea,textual-inversion", "--rank=4")


@pytest.mark.slow
def test_methods_side_by_side(root):  # noqa: F811
  out = root / "runs" / "compared"
  names = "textual-inversion,textual-inversion/cross-init/steps=2/lr=0.1/batch=2"
  personalize.main(method_options.parse(options(root, out, compare=names), "idejax personalize"))
  found = json.loads((out / "compare.json").read_text())
  assert [r["name"] for r in found.values()] == [*names.split(","), compare.FLOOR]  # nobody knows the real pictures
  assert {p.name for p in out.iterdir()} >= {*found, "compare.md", "compare.png"}
  table = (out / "compare.md").read_text().splitlines()
  assert len(table) == 2 + 3 and all(n in "".join(table) for n in names.split(","))
  cells = [[c.strip() for c in line.strip("|").split("|")] for line in table]
  shown = [[row[cells[0].index(name)] for name in ("steps", "batch")] for row in cells[2:]]
  assert shown == [["2", "2"], ["2", "2"], ["-", "-"]]
  with Image.open(out / "compare.png") as opened:
    whole = np.asarray(opened.convert("RGB"))
  below = 0  # each sheet whole, one below the other, with room for its heading
  for name in found:
    with Image.open(out / name / "sheet.png") as opened:
      one = np.asarray(opened.convert("RGB"))
    height, width = one.shape[:2]
    places = range(below + 10, len(whole) - height + 1)
    below = next(y for y in places if np.array_equal(whole[y : y + height, :width], one)) + height
  assert below == len(whole)


def test_the_ceiling_shows_what_was_asked_and_whom():
  from idejax.miniature.world import people

  ids = people.split("development")[:4]
  who = [Person(f"drawn_{i}", f"<drawn_{i}>", (), alone=False) for i in ids]
  made = compare.ceiling(who, report.PROMPTS, range(2))
  assert len(made) == 4 * len(report.PROMPTS) * 2
  judges = miniature.open_judges()
  said = judges.attributes.attributes([m.image for m in made])
  right = [said[n][k] == c for k, m in enumerate(made) for n, c in miniature.parse_prompt(m.prompt).items()]
  assert np.mean(right) > 0.95
  photos = [m for m in made if not m.prompt.startswith("a sketch") and "sunglasses" not in m.prompt]
  found = largest(judges, [m.image for m in photos])
  score = lambda same: np.mean(
    [
      a @ b
      for a, m in zip(found, photos)
      for b, n in zip(found, photos)
      if a is not None and b is not None and m is not n and (m.person == n.person) == same
    ]
  )
  assert score(True) > score(False) + 0.3
  assert compare.ceiling([Person("anna", "<anna>", ())], report.PROMPTS, range(2)) == []


def test_drawn_people(tmp_path):
  folder = portraits.portray(tmp_path / "photos", "development", 3)
  files = sorted(folder.iterdir())
  ids = [portraits.find_person(f.stem) for f in files]
  from idejax.miniature.world import people

  assert sorted(ids) == list(people.split("development")[:3])
  with pytest.raises(UserError, match="--drawn is 0"):
    portraits.portray(tmp_path / "none", "heldout", 0)
