"""Run folders as a protocol reads them: who is who, by which method, from which photo."""

import json

import pytest
from PIL import Image
from support import trained

from idejax.errors import UserError
from idejax.evaluation import runs


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp("runs")
  photos = trained.portraits(root / "photos", 2)
  for k, name in enumerate(("anna", "ben")):
    trained.run(root / name, photos[k], k)
  trained.run(root / "slow" / "anna", photos[0], 2, steps=900)
  return root


def test_runs_of_one_method_are_one_method_of_several_people(root):
  ((name, people),) = runs.read([root / "anna", root / "ben"]).items()
  assert name == "textual-inversion" and [t.name for t in people] == [f"drawn_{i}" for i in (207, 211)]
  assert people[0].train_seconds == 12 and people[0].costs == {
    "memory_mb": 900,
    "trained_parameters": 64,
    "added_parameters": 2 * trained.width(),
  }
  assert people[0].photo == root / "photos" / "drawn_207.png"


def test_other_settings_are_another_method_of_the_same_person(root):
  got = runs.read([root / "anna", root / "slow"])
  assert list(got) == [f"textual-inversion/steps={got_steps(root / 'anna')}", "textual-inversion/steps=900"]
  assert {t.name for people in got.values() for t in people} == {"drawn_207"}


def test_runs_that_differ_in_their_seed_alone_are_trainings_of_one_method(root, tmp_path):
  again = trained.run(tmp_path / "again", root / "photos" / "drawn_207.png", 5)
  config = json.loads((again / "config.json").read_text())
  (again / "config.json").write_text(json.dumps(config | {"seed": 3}))
  ((name, people),) = runs.read([root / "anna", again, root / "ben"]).items()
  assert name == "textual-inversion"
  assert [(t.name, t.training) for t in people] == [("drawn_207", 0), ("drawn_207", 3), ("drawn_211", 0)]
  with pytest.raises(UserError, match="the same person by the same method and seed"):
    runs.read([root / "anna", again, again])


def got_steps(folder):
  from idejax.sampling import learned

  return learned.load(folder).cfg.steps


def test_a_comparison_is_all_its_runs(root, tmp_path):
  for name in ("a", "b"):
    trained.run(tmp_path / "both" / name, root / "photos" / "drawn_207.png", steps=5 if name == "b" else 6)
  (tmp_path / "both" / "compare.json").write_text("{}")
  assert list(runs.read([tmp_path / "both"])) == ["textual-inversion/steps=6", "textual-inversion/steps=5"]


def test_a_photo_that_was_moved_is_looked_for(root, tmp_path):
  (file,) = trained.portraits(tmp_path / "old", 1)
  run = trained.run(tmp_path / "run", file)
  (tmp_path / "new").mkdir()
  moved = file.rename(tmp_path / "new" / file.name)
  with pytest.raises(UserError, match="--photos FOLDER"):
    runs.read([run])
  assert runs.read([run], [tmp_path / "new"])["textual-inversion"][0].photo == moved
  Image.new("RGB", (64, 64)).save(moved)  # another picture under the name
  with pytest.raises(UserError, match="is not where it was"):
    runs.read([run], [tmp_path / "new"])


@pytest.mark.parametrize("make, said", [
  (lambda root, tmp: [tmp / "nowhere"], "no run folder"), (lambda root, tmp: [root / "photos"], "holds no identity"),
  (lambda root, tmp: [root / "anna", root / "anna"], "the same person by the same method"),
  (lambda root, tmp: [root / "anna", trained.run(tmp / "x", root / "photos" / "drawn_211.png", digest="other")], "different models"),
])  # fmt: skip
def test_what_cannot_be_evaluated_together(root, tmp_path, make, said):
  with pytest.raises(UserError, match=said):
    runs.read(make(root, tmp_path))


def test_of_several_faces_the_reference_is_the_one_that_was_taken(root, tmp_path):
  run = trained.run(tmp_path / "group", root / "photos" / "drawn_207.png")
  origin = json.loads((run / "provenance.json").read_text())
  origin["photos"][0] |= {"faces": 2, "face": 2, "boxes": [[0, 0, 40, 40], [40, 20, 60, 40]]}
  (run / "provenance.json").write_text(json.dumps(origin))
  (t,) = runs.read([run])["textual-inversion"]
  with Image.open(runs.reference(t, tmp_path / "references" / "x.png")) as image:
    assert image.size == (32, 36)  # 1.8 times the box, cut at the edge


def test_the_world_renders_a_second_photo_of_its_own_people_only(root, tmp_path):
  (t,) = runs.read([root / "anna"])["textual-inversion"]
  with Image.open(runs.second(t, tmp_path / "second.png")) as image:
    assert image.size == (64, 64)
  assert runs.second(t._replace(name="anna"), tmp_path / "none.png") is None
