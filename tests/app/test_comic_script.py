"""The comic's document: round trips, refusals in one sentence, and what counts as a change."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from idejax.app import script
from idejax.app.script import Bubble, Panel, Person, Region, Script, Version
from idejax.errors import UserError

FULL = Script(
  title="A día", people=(Person("Anna Field", "ab", "she"), Person("Ben Stone")), style=("comic style",), negative="rain", guidance=3.5,
  panels=(Panel("p1", "Anna Field smiles.", None, ("Anna Field",), "facing left", 7, ("4k",), 2,
                (Region("Anna Field", (0.0, 0.0, 0.5, 1.0)),), (Bubble("Hi", "speech", "Anna Field", (0.25, 0.5)),),
                (Version("panels/a.png", "i1", 0, ((0.1, 0.2, 0.3, 0.4),), 0.5, 0.25), Version("panels/b.png", "i1", 1)), 1, "Anna"),
          Panel("p2", "It rains.")))  # fmt: skip


def document() -> dict:
  return json.loads(json.dumps(dataclasses.asdict(FULL)))


def test_a_script_is_read_as_it_was_written(tmp_path):
  script.write(tmp_path, FULL)
  assert script.read(tmp_path) == script.read(tmp_path / "comic.json") == FULL
  assert [p.name for p in tmp_path.iterdir()] == ["comic.json"]


def test_what_is_left_out_has_defaults():
  s = script.from_json({"schema": 1, "panels": [{"id": "p1", "sentence": "It rains."}]})
  assert s.panels == (Panel("p1", "It rains."),) and s.steps == 25


@pytest.mark.parametrize("change, words", [
  (lambda d: d.update(schema=2), "schema 2"),
  (lambda d: d.update(sead=1), "unknown field 'sead' (did you mean seed?)"),
  (lambda d: d["panels"][0].update(seed="x"), "panels[0].seed is \"x\"; it must be a whole number"),
  (lambda d: d["panels"][0].update(seed=True), "panels[0].seed is true"),
  (lambda d: d["panels"][0].update(seed=2**64), "it must be from 0 to 2^64 - 1"),
  (lambda d: d.update(seed=-1), "is -1"),
  (lambda d: d["panels"][0].update(people=["Cy Oak"]), "panels[0] names 'Cy Oak', who is not among the people"),
  (lambda d: d["panels"][0]["bubbles"][0].update(speaker="Cy Oak"), "'Cy Oak'"),
  (lambda d: d["panels"][0]["bubbles"][0].update(kind="shout"), "must be one of 'caption', 'speech', 'thought'"),
  (lambda d: d["panels"][0]["bubbles"][0].update(at=[1]), "must be 2 numbers"),
  (lambda d: d["panels"][0].update(chosen=2), "chosen is 2, but there are 2 versions"),
  (lambda d: d["panels"][0].update(candidates=0), "candidates is 0"),
  (lambda d: d["panels"][0]["versions"][0].update(file="../../etc/passwd"), "it must lie beside the comic"),
  (lambda d: d["panels"][0]["versions"][0].update(file="/etc/passwd"), "it must lie beside the comic"),
  (lambda d: d["panels"][0]["regions"][0].update(box=[0.5, 0, 0.2, 1]), "x0 y0 x1 y1"),
  (lambda d: d["panels"][1].update(id="p1"), "panels has 'p1' twice"),
  (lambda d: d["panels"][1].update(id="../x"), "letters, digits and -"),
  (lambda d: d["panels"][1].pop("sentence"), "panels[1] is without sentence"),
  (lambda d: d["panels"][1].update(sentence="x" * 2001), "at most 2000 characters"),
  (lambda d: d.update(panels={}), "panels is {}; it must be a list"),
  (lambda d: d.update(guidance=float("nan")), "finite number"),
  (lambda d: d.update(guidance=10**400), "finite number"),
  (lambda d: d.update(steps=0), "steps is 0"),
  (lambda d: d.update(title="\ud800"), "valid Unicode"),
])  # fmt: skip
def test_a_mistake_is_told_with_its_place(change, words):
  d = document()
  change(d)
  with pytest.raises(UserError, match=re.escape(words)):
    script.from_json(d, "comic.json")


@pytest.mark.parametrize(
  "junk",
  [None, 3, "x", [], [1], {"schema": 1, "panels": [None]}, {"schema": 1, "people": [3]}, {"schema": 1, "layout": []}],
)
def test_junk_is_refused_and_never_a_traceback(junk):
  with pytest.raises(UserError):
    script.from_json(junk)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\x00"])
def test_a_file_that_is_no_json_is_named(tmp_path, text):
  (tmp_path / "comic.json").write_text(text)
  with pytest.raises(UserError, match=r"comic\.json is not JSON"):
    script.read(tmp_path)
  with pytest.raises(UserError, match="does not exist"):
    script.read(tmp_path / "other")


def digest(s: Script, p: Panel, prompt="a picture", negative="n") -> str:
  return script.inputs(s, p, prompt, negative, (64, 64))


def test_what_changes_the_pixels_changes_the_digest_and_nothing_else():
  p = FULL.panels[0]
  base = digest(FULL, p)
  edit = lambda **c: dataclasses.replace(p, **c)
  other = lambda **c: dataclasses.replace(FULL, **c)
  pixels = [digest(FULL, p, "another"), digest(FULL, p, negative="m"), digest(FULL, edit(seed=8)), digest(FULL, edit(regions=())),
            digest(other(steps=26), p), digest(other(guidance=None), p), digest(other(model=script.Model("m", "x")), p),
            digest(other(people=(Person("Anna Field", "zz", "she"), FULL.people[1])), p)]  # fmt: skip
  assert base not in pixels and len(set(pixels)) == len(pixels)
  words = [digest(FULL, edit(bubbles=())), digest(FULL, edit(alt="x")), digest(FULL, edit(chosen=None, versions=())), digest(FULL, edit(candidates=5)),
           digest(other(title="x"), p), digest(other(layout=script.Layout("nine")), p),
           digest(other(people=(FULL.people[0], Person("Ben Stone", "new"))), p)]  # fmt: skip
  assert set(words) == {base}


def test_only_candidates_that_are_not_there_are_missing():
  p = dataclasses.replace(FULL.panels[0], candidates=4)
  assert script.todo(p, "i1") == [2, 3]
  assert script.todo(p, "other") == [0, 1, 2, 3]


def test_a_new_version_keeps_the_old_ones_and_is_shown():
  p = script.add(
    FULL.panels[0], [Version("panels/c.png", "i2", 0, identity=0.1), Version("panels/d.png", "i2", 1, identity=0.9)]
  )
  assert p.versions[:2] == FULL.panels[0].versions
  assert script.current_version(p).file == "panels/d.png"  # the better candidate of the newest inputs
  assert script.current_version(dataclasses.replace(p, chosen=0)).file == "panels/a.png"


def test_a_blank_candidate_is_the_last_choice():
  p = Panel(
    "p", "s", versions=(Version("a", "i", 0, identity=0.9, reason="blank"), Version("b", "i", 1, identity=-0.5))
  )
  assert script.current_version(p).file == "b"


def test_deleting_somebody_names_their_pictures_only():
  s, files = script.without(FULL, "Anna Field")
  assert files == ["panels/a.png", "panels/b.png"] and s.panels[0].versions == () and s.panels[0].chosen is None
  assert script.without(FULL, "Ben Stone")[1] == []


def test_the_page_that_describes_the_document_is_true():
  """docs/comic-script.md: its example is a script, and every field is in its tables."""
  text = (Path(script.__file__).parents[2] / "docs" / "comic-script.md").read_text()
  example = json.loads(re.search(r"```json\n(.*?)```", text, re.DOTALL)[1])
  s = script.from_json(example)
  assert len(s.panels) == 2 and s.panels[0].versions
  for kind in (Script, script.Model, Person, script.Layout, Panel, Bubble, Region, Version):
    for f in dataclasses.fields(kind):
      assert f"`{f.name}`" in text, (kind, f.name)
