"""`idejax evaluate` as users run it: people to table on the built-in model, again after a kill, and mistakes."""

import csv
import dataclasses
import json
import re
import signal

import numpy as np
import pytest
from PIL import Image
from support import addons, gallery, several, trained
from support.command import assert_one_sentence, run, run_until

from idejax import config
from idejax.cli import method_options, options
from idejax.errors import UserError
from idejax.evaluation import rows as rows_of
from idejax.jobs import evaluate as command
from idejax.jobs import personalize
from idejax.model import backbone
from idejax.sampling import learned
from idejax.storage import hub

PROTOCOL = {"title": "Tiny", "people": {"count": 2}, "steps": 2, "seeds": 2,
            "prompts": [{"text": "a photo of {} on the beach", "category": "background"}, {"text": "a sketch of {}", "category": "style"}]}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp("evaluate")
  photos = trained.portraits(root / "photos", 2)
  for k, name in enumerate(("anna", "ben")):
    trained.run(root / "runs" / name, photos[k], k)
  (root / "tiny.json").write_text(json.dumps(PROTOCOL))
  return root


def evaluate(root, out, *more, **kwargs):
  return run(
    "evaluate",
    str(root / "runs" / "anna"),
    str(root / "runs" / "ben"),
    "--protocol",
    str(root / "tiny.json"),
    "--out",
    str(out),
    *more,
    timeout=900,  # on a busy machine
    **kwargs,
  )


@pytest.fixture(scope="module")
def done(root):
  result = evaluate(root, root / "table", "--floor")
  assert result.code == 0, result.err
  return root / "table"


def table(folder):
  return list(csv.DictReader((folder / "pictures.csv").read_text().splitlines()))


def test_from_people_to_a_table(done):
  found = json.loads((done / "results.json").read_text())
  assert list(found["methods"]) == ["textual-inversion", "a person (floor)"]
  ours = found["methods"]["textual-inversion"]
  assert (ours["people"], ours["pictures"]) == (2, 8) and set(ours["categories"]) == {"background", "style"}
  assert {"detect", "prompt", "asked", "identity_zero", "accepted", "train_seconds"} <= set(ours["scores"])
  assert ours["costs"]["trained_parameters"] == 64
  assert (
    found["protocol"]["name"] == "tiny"
    and found["provenance"]["model"] == "miniature"
    and found["judges"]["arcface"]["digest"]
  )
  rows = table(done)
  assert len(rows) == 8 + 8 and len({r["file"] for r in rows}) == 8 + 4  # the floor's are everybody's
  assert (done / "table.html").exists() and (done / "sheet-0.png").exists()


def test_the_same_seed_is_the_same_noise_for_everyone(done):
  """Two people who learned other rows: their pictures of one seed resemble each other more than two seeds'."""
  read = lambda name: np.asarray(Image.open(done / "pictures" / "0-textual-inversion" / name), np.float32)
  a, b, other = (read(f"drawn_{i}/00-{s}.png") for i, s in ((207, 0), (211, 0), (207, 1)))
  assert not np.array_equal(a, b) and np.abs(a - b).mean() < np.abs(a - other).mean()


def test_scored_again_without_a_model_it_is_the_same_table(done, root):
  result = run("evaluate", str(done / "pictures.jsonl"), "--judges", "miniature", "--out", str(root / "again"))
  assert result.code == 0, result.err
  plain = lambda rows: [{k: v for k, v in r.items() if k != "file"} for r in rows]
  assert plain(table(root / "again")) == plain(table(done))
  assert "Identity" in result.out and "not measured: FID" in result.out


def test_again_it_makes_nothing_and_another_command_is_refused(done, root):
  before = {p: p.stat().st_mtime_ns for p in (done / "pictures").rglob("*.png")}
  again = evaluate(root, done, "--floor")
  assert again.code == 0 and "to make" not in again.err and {p: p.stat().st_mtime_ns for p in before} == before
  (root / "other.json").write_text(json.dumps(PROTOCOL | {"steps": 3}))
  result = run("evaluate", str(root / "runs" / "anna"), "--protocol", str(root / "other.json"), "--out", str(done))
  assert_one_sentence(result, "made with another steps", "choose another --out")


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_table(done, root):
  out = root / "killed"
  args = [
    "evaluate",
    str(root / "runs" / "anna"),
    str(root / "runs" / "ben"),
    "--protocol",
    str(root / "tiny.json"),
    "--batch",
    "1",
    "--out",
    str(out),
  ]
  got = run_until(out / "pictures" / "0-textual-inversion" / "drawn_207" / "00-1.png", signal.SIGKILL, *args)
  assert got.code == -signal.SIGKILL
  assert not (out / "table.md").exists()
  assert run(*args).code == 0
  drop = ("file", "sample_seconds")
  plain = lambda folder: [
    {k: v for k, v in r.items() if k not in drop} for r in table(folder) if r["method"] == "textual-inversion"
  ]
  whole, broken = plain(done), plain(out)
  for a, b in zip(whole, broken, strict=True):
    assert {k for k in a if a[k] != b[k]} <= {
      "identity",
      "prompt",
      "clip_t",
      "clip_score",
      "identity_zero",
      "identity_prompt",
      "copied",
      "variety",
    }
    assert float(a["prompt"]) == pytest.approx(float(b["prompt"]), abs=1e-2)  # another batch size: the last bits


@pytest.mark.slow
def test_two_processes_share_the_pictures_and_make_the_same_table(done, root):
  out = root / "shared"
  ended = several.launch(
    (2, 1),
    "command",
    "evaluate",
    root / "runs" / "anna",
    root / "runs" / "ben",
    "--protocol",
    root / "tiny.json",
    "--floor",
    "--out",
    out,
  )
  assert [e.code for e in ended] == [0, 0], ended
  assert "Identity" in ended[0].out and "Identity" not in ended[1].out
  for a, b in zip(table(done), table(out), strict=True):
    assert (a["person"], a["text"], a["seed"], a["detect"]) == (b["person"], b["text"], b["seed"], b["detect"])
    assert float(a["prompt"]) == pytest.approx(float(b["prompt"]), abs=1e-2)


@pytest.mark.slow
def test_from_nothing_to_a_table(root):
  """Trains drawn people, samples, scores."""
  args = [
    "evaluate",
    "--methods",
    "textual-inversion/steps=2/batch=2",
    "--people",
    "2",
    "--protocol",
    str(root / "tiny.json"),
    "--out",
    str(root / "all"),
  ]
  result = run(*args, timeout=900)
  assert result.code == 0, result.err
  found = json.loads((root / "all" / "results.json").read_text())
  assert (
    found["methods"]["textual-inversion"]["people"] == 2 and "copied" in found["methods"]["textual-inversion"]["scores"]
  )


@pytest.mark.parametrize("args, said", [
  (["runs/anna"], "--protocol is missing"), (["runs/anna", "--protocol", "p9"], "no protocol 'p9'"), (["--protocol", "p1"], "whom?"),
  (["pictures.jsonl"], "--judges is missing"), (["pictures.jsonl", "--protocol", "p1", "--judges", "miniature"], "stands alone"),
  (["nowhere.jsonl", "--judges", "miniature"], "nowhere.jsonl does not exist"), (["nowhere", "--protocol", "p1"], "nowhere is no run folder"),
  (["runs/anna", "--protocol", "p1", "--judges", "no.json"], "no.json does not exist"),
  (["a", "b", "--methods", "id-ea", "--protocol", "p1"], "one photo or one folder"),
  (["runs/anna", "--protocol", "p1", "--drivers", "photos"], "p1 has no driving photos"),
  (["runs/anna", "--protocol", "p3", "--drivers", "runs"], "--drivers runs is no folder of photos"),
  (["runs/anna", "--protocol", "p3", "--addon", "runs"], "--addon runs is no add-on folder"),
])  # fmt: skip
def test_mistakes_are_one_sentence(root, args, said, monkeypatch):
  monkeypatch.chdir(root)
  with pytest.raises(UserError, match=re.escape(said)) as e:
    command.main(options.parse(config.Evaluate, args, "idejax evaluate"))
  assert "\n" not in str(e.value) and not (root / "evaluation").exists()


def test_judges_are_asked_before_anything_is_made(root, tmp_path, monkeypatch):
  """A model of photographs without judges, and a photo in which the judges' detector finds nobody."""
  monkeypatch.chdir(tmp_path)
  go = lambda folder: command.main(
    options.parse(config.Evaluate, [str(folder), "--protocol", str(root / "tiny.json")], "idejax evaluate")
  )
  blank = tmp_path / "blank.png"
  Image.new("RGB", (64, 64), "grey").save(blank)
  with pytest.raises(UserError, match="finds no face in the photo of blank"):
    go(trained.run(tmp_path / "blank", blank))
  other = trained.run(tmp_path / "other", root / "photos" / "drawn_207.png")
  who = learned.load(other)
  learned.save(other, dataclasses.replace(who, model="org/photographs"))
  with pytest.raises(UserError, match="drawn world only, not org/photographs: give --judges"):
    go(other)
  assert not list(tmp_path.glob("evaluation/pictures"))


def test_somebodys_table_with_a_picture_missing(tmp_path):
  path = gallery.write(tmp_path / "theirs", count=1, seeds=1)
  (tmp_path / "theirs" / "right-1.png").unlink()
  assert_one_sentence(
    run("evaluate", str(path), "--judges", "miniature", "--out", str(tmp_path / "out")), "right-1.png does not exist"
  )
  assert not (tmp_path / "out").exists()


def test_the_list_of_judges():
  result = run("evaluate", "--list-judges")
  assert (
    result.code == 0
    and "arcface" in result.out
    and "non-commercial" in result.out
    and "without it there is no" in result.out
  )


@pytest.mark.slow
def test_people_by_facesnap_are_sampled_in_the_pose_of_every_driver(root, monkeypatch, capsys):
  """Other methods once, which is told; again nothing is made, and the drivers lie with the results."""
  monkeypatch.chdir(root)
  folder = addons.write(root / "addon", backbone.load(hub.BUILT_IN["miniature"]), pack="miniature")
  photo = root / "photos" / "drawn_207.png"
  flags = [f"--addon={folder}", "--method=facesnap", "--num=1", "--sample-steps=2", f"--out={root / 'runs' / 'snap'}"]
  personalize.main(method_options.parse([str(photo), *flags], "idejax personalize"))
  (root / "posed.json").write_text(json.dumps(PROTOCOL | {"drivers": 2, "seeds": 1, "prompts": ["a photo of {}"]}))
  ask = lambda *more: command.main(
    options.parse(
      config.Evaluate,
      ["runs/snap", "runs/anna", "--protocol", "posed.json", "--out", "posed", *more],
      "idejax evaluate",
    )
  )
  ask()
  assert "textual-inversion follow prompts only" in capsys.readouterr().err
  rows = rows_of.read(root / "posed" / "pictures.jsonl")
  assert [(r.method, r.driver and r.driver.name) for r in rows] == [
    ("facesnap", "00.png"),
    ("facesnap", "01.png"),
    ("textual-inversion", None),
  ]
  pictures = [np.asarray(Image.open(r.file)) for r in rows]
  assert not np.array_equal(pictures[0], pictures[1])
  before = [r.file.stat().st_mtime_ns for r in rows]
  ask()
  assert [r.file.stat().st_mtime_ns for r in rows] == before
  ask("--drivers", "photos", "--out", "others")
  theirs = rows_of.read(root / "others" / "pictures.jsonl")
  want = np.asarray(Image.open(root / "photos" / "drawn_207.png"))
  np.testing.assert_array_equal(np.asarray(Image.open(theirs[0].driver)), want)
