"""What `idejax personalize` reports is scored by the evaluator's own code: style too, and who is accepted."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from idejax.evaluation import miniature, report
from idejax.evaluation.report import Picture
from idejax.miniature.judging.judges import CLASSES
from idejax.miniature.world import captions, data, people, scene


@pytest.fixture(scope="module")
def shown():
  """Two drawn people: their photos, and for each of the report's prompts two true pictures."""
  ids = people.split("heldout")[:2]
  prompts = report.PROMPTS
  wanted = [scene.scene(background="gray")] * 2
  wanted += [
    scene.scene(**{"background": "gray", "yaw": 0.1 * s} | miniature.parse_prompt(p))
    for _ in ids
    for p in prompts
    for s in range(2)
  ]
  images, _ = data.render_all(people.people(np.array([*ids, *np.repeat(ids, 2 * len(prompts))])), data.stack(wanted))
  photo = lambda i: SimpleNamespace(photo=np.asarray(images[i]), box=np.array([10.0, 10, 54, 54]))
  who = [SimpleNamespace(stem=f"p{i}", photos=(photo(k),)) for k, i in enumerate(ids)]
  made = [
    Picture(k, p, s, np.asarray(images[2 + (k * len(prompts) + j) * 2 + s]))
    for k in range(2)
    for j, p in enumerate(prompts)
    for s in range(2)
  ]
  return who, made


def test_every_prompt_of_the_report_asks_for_something():
  assert [miniature.parse_prompt(p) for p in report.PROMPTS] == [
    {"style": "photo"}, {"expression": "happy"}, {"background": "beach"}, {"accessory": "sunglasses"},
    {"accessory": "hat", "background": "snow"}, {"style": "sketch"}]  # fmt: skip


def test_true_pictures_are_accepted_and_do_what_was_asked(shown, tmp_path):
  who, made = shown
  got = report.score(made, who, "miniature", tmp_path)
  scores = got["scores"]
  assert (
    list(scores)
    and scores["asked"]["mean"] > 0.9
    and scores["detect"]["mean"] == 1
    and scores["accepted"]["mean"] > 0.5
  )
  assert scores["asked"]["pictures"] == len(made)  # none of the six prompts scores nothing
  rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
  assert len(rows) == len(made) and rows[0]["text"] == report.PROMPTS[0] and rows[0]["identity"] > 0.3
  told = report.lines({"method": "id-ea", "people": 2, "seconds": {"train": 3.0}, "peak_memory_mb": 9} | got)
  assert f"accepted: {100 * scores['accepted']['mean']:.0f} % of pictures are this person at FAR 1e-3" in told


def test_other_models_and_photos_without_a_face_are_not_measured(shown, tmp_path):
  who, made = shown
  assert report.score(made, who, "stable-diffusion", tmp_path)["scores"].startswith(
    "not measured: the judges in the package"
  )
  blank = SimpleNamespace(
    stem="blank", photos=(SimpleNamespace(photo=np.full((64, 64, 3), 128, np.uint8), box=np.array([0.0, 0, 64, 64])),)
  )
  assert "no face in a photo of blank" in report.score(made[:1], [blank], "miniature", tmp_path)["scores"]


@pytest.mark.parametrize("factors", [
  dict(expression="happy"), dict(accessory="hat", background="snow"), dict(background="forest"), dict(style="pop art"),
  dict(expression="sad", accessory="sunglasses", background="home", style="sketch"),
])  # fmt: skip
def test_what_a_prompt_asks_for_is_read_off_its_words(factors):
  assert miniature.parse_prompt(captions.prompt("{}", **factors)) == factors


def test_every_class_but_the_plain_ones_can_be_asked_for():
  for name in ("expression", "accessory", "background"):
    for c in CLASSES[name]:
      assert miniature.parse_prompt(captions.prompt("{}", **{name: c})) in ({name: c}, {"style": "photo"})


def test_the_judges_see_what_a_render_shows():
  """Classes and styles of real renders of held-out people."""
  batch = data.batch(people.split("heldout")[:8], 8, seed=3)
  judges = miniature.open_judges()
  said = judges.attributes.attributes(list(batch.images))
  photo = batch.factors["style"] == 0
  for name in ("background", "accessory", "expression"):
    right = [CLASSES[name].index(s) == t for s, t in zip(said[name], batch.factors[name])]
    assert np.mean(np.array(right)[photo]) > 0.85, name
  assert [scene.STYLES.index(s) for s in said["style"]] == list(batch.factors["style"])
