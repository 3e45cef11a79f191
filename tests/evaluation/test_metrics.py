"""Scores by the judges in the package: what they say of renders whose truth is known; intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idejax.evaluation import summary
from idejax.miniature.judging import scoring
from idejax.miniature.judging.judges import CLASSES
from idejax.miniature.world import captions, data, people, scene


@pytest.fixture(scope="module")
def judges():
  return scoring.Judges()


@pytest.fixture(scope="module")
def renders():
  """Photo-style pictures of six held-out people, four each, and whose they are."""
  batch = data.batch(people.split("heldout")[:6], 8, seed=3)
  keep = batch.factors["style"] == 0
  return batch.images[keep], batch.factors["id"][keep], {k: v[keep] for k, v in batch.factors.items()}


def test_the_judge_knows_people_again(judges, renders):
  images, ids, _ = renders
  found = judges.embed(list(images))
  assert all(e is not None for e in found)
  similar = np.stack(found) @ np.stack(found).T
  upper = np.triu_indices(len(ids), 1)
  same = (ids[:, None] == ids[None])[upper]
  assert similar[upper][same].mean() > similar[upper][~same].mean() + 0.4


def test_an_empty_picture_has_no_face_and_no_similarity(judges):
  grey = np.full((64, 64, 3), 128, np.uint8)
  rows = scoring.score(judges, [grey], ["a photo of {}"], [np.ones(512, np.float32)])
  assert rows[0]["identity"] is None and rows[0]["face"] is False and rows[0]["asked"] is None
  total = summary.summary(rows, [0])
  assert np.isnan(total["identity"]["mean"]) and total["identity"]["n"] == 0  # left out, never a zero
  assert total["identity_zero"]["mean"] == 0 and total["face_found"]["mean"] == 0


def test_a_picture_without_a_face_shifts_nobodys_score(judges, renders):
  images, ids, _ = renders
  other = int(np.flatnonzero(ids != ids[0])[0])
  grey = np.full_like(images[0], 128)
  first, last = judges.embed([images[0], images[other]])
  rows = scoring.score(judges, [images[0], grey, images[other]], ["a photo of {}"] * 3, [first, first, last])
  assert [r["face"] for r in rows] == [True, False, True] and rows[1]["identity"] is None
  assert min(rows[0]["identity"], rows[2]["identity"]) > 0.99 > float(first @ last)


def test_the_classifier_sees_what_a_render_shows(judges, renders):
  images, _, factors = renders
  said = judges.attributes(list(images))
  for name in ("background", "accessory", "expression"):
    right = [CLASSES[name].index(s) == t for s, t in zip(said[name], factors[name])]
    assert np.mean(right) > 0.85, name


@pytest.mark.parametrize(
  "factors",
  [
    dict(expression="happy"),
    dict(accessory="hat", background="snow"),
    dict(background="forest"),
    {},
    dict(expression="sad", accessory="sunglasses", background="home"),
  ],
)
def test_what_a_prompt_asks_for_is_read_off_its_words(factors):
  assert scoring.asked(captions.prompt("{}", **factors)) == factors


def test_every_class_but_the_plain_ones_can_be_asked_for():
  for name in ("expression", "accessory", "background"):
    for c in CLASSES[name]:
      text = captions.prompt("{}", **{name: c})
      assert scoring.asked(text) in ({name: c}, {}), text
  assert scene.EXPRESSIONS[0] == CLASSES["expression"][0]


def test_models_without_judges_are_told_so():
  judges, why = scoring.judges_for("stable-diffusion")
  assert judges is None and "drawn world" in why


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(-1, 1) | st.none()), min_size=1, max_size=40))
def test_an_interval_holds_its_mean_and_people_weigh_alike(rows):
  groups, values = zip(*rows)
  got = summary.interval(values, groups)
  kept = {g: [v for h, v in rows if h == g and v is not None] for g in groups}
  means = [np.mean(v) for v in kept.values() if v]
  assert got["n"] == len(means)
  if means:
    assert got["mean"] == pytest.approx(np.mean(means))
    assert got["low"] - 1e-9 <= got["mean"] <= got["high"] + 1e-9


def test_intervals_are_the_same_every_time_and_shrink_with_people():
  rng = np.random.default_rng(0)
  few, many = rng.normal(size=8), rng.normal(size=200)
  width = lambda x: (lambda i: i["high"] - i["low"])(summary.interval(list(x), range(len(x))))
  assert width(many) < width(few) and width(few) == width(few)
  assert "to" in summary.show(summary.interval(list(few), range(8))) and "to" not in summary.show(
    summary.interval([0.5], [0])
  )
