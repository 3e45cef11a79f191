"""Scores of a run: whose photo each picture is compared with."""

import json

import pytest
from support import drawn

from idejax import faces
from idejax.evaluation import report
from idejax.evaluation.report import Picture


@pytest.fixture(scope="module")
def people():
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("IDEJAX_CACHE", "off")
    return drawn.portraits(2, faces.open_pack(notify=lambda _: None))


def test_pictures_are_compared_with_their_own_persons_photo(people, tmp_path):
  """A person's own photo scores about 1, and as a picture of somebody else it does not; prompts stay with their pictures."""
  photos = [report.reference(p) for p in people]
  pairs = [(0, 0), (1, 1), (0, 1), (1, 0)]  # (person, whose photo)
  pictures = [Picture(person, f"a photo of {{}} {n}", n, photos[of]) for n, (person, of) in enumerate(pairs)]
  scores = report.score(pictures, people, "miniature", tmp_path)
  rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
  assert [(r["person"], r["text"], r["seed"]) for r in rows] == [
    (people[m.person].stem, m.prompt, m.seed) for m in pictures
  ]
  same, other = ([r["identity"] for r in rows[a : a + 2]] for a in (0, 2))
  assert same == pytest.approx([1, 1], abs=1e-5) and max(other) < 0.4
  assert scores["scores"]["identity"]["mean"] == pytest.approx(sum(same + other) / 4)
  assert scores["scores"]["identity"]["n"] == 2 and scores["scores"]["face_found"]["mean"] == 1
  assert "second recogniser" in scores["judges"]["identity"]


def test_a_model_of_photographs_is_not_scored_by_the_drawn_worlds_judges(people, tmp_path):
  assert report.score([], people, "somewhere/else", tmp_path)["scores"].startswith("not measured")
  assert not (tmp_path / "scores.jsonl").exists()
