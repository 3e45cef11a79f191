"""The exam's judges: what they say of renders whose truth is known."""

import numpy as np
import pytest

from idejax.miniature.judging import scoring
from idejax.miniature.judging.judges import CLASSES
from idejax.miniature.world import data, people


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


def test_a_picture_without_a_face_shifts_nobodys_embedding(judges, renders):
  images, ids, _ = renders
  other = int(np.flatnonzero(ids != ids[0])[0])
  first, last = judges.embed([images[0], images[other]])
  found = judges.embed([images[0], np.full_like(images[0], 128), images[other]])
  assert found[1] is None and min(found[0] @ first, found[2] @ last) > 0.99 > float(first @ last)


def test_the_classifier_sees_what_a_render_shows(judges, renders):
  images, _, factors = renders
  said = judges.attributes(list(images))
  for name in ("background", "accessory", "expression"):
    right = [CLASSES[name].index(s) == t for s, t in zip(said[name], factors[name])]
    assert np.mean(right) > 0.85, name
