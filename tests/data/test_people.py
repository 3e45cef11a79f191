"""Identities are pure functions of (seed, i); the splits are disjoint and do not move."""

import hashlib

import numpy as np
import pytest

from idejax.errors import UserError
from idejax.miniature.world import people as pp
from idejax.miniature.world import scene as sc
from idejax.miniature.world.captions import VOCABULARY, words


def vectors(ids, seed=0):
  return np.stack(pp.people(ids, seed), -1)


def test_a_person_does_not_depend_on_the_company():
  alone = vectors([7])
  assert np.array_equal(alone, vectors([3, 7, 9])[1:2])
  assert not np.array_equal(alone, vectors([7], seed=1))


def test_no_two_people_are_alike():
  v = vectors(range(pp.PEOPLE))
  assert len(np.unique(v, axis=0)) == pp.PEOPLE


def test_features_fill_their_ranges_and_codes_their_tables():
  people = pp.people(range(600))
  tables = (
    pp.GENDERS,
    pp.HAIR_STYLES,
    pp.HAIR_COLOURS,
    pp.FRINGES,
    pp.EYE_COLOURS,
    pp.BEARDS,
    pp.MARKS,
    pp.AGES,
    pp.LIPS,
  )
  for name in pp.CONTINUOUS:
    values = getattr(people, name)
    assert values.dtype == np.float32 and np.abs(values).max() <= 1 and values.std() > 0.5
  for name, table in zip(pp.DISCRETE, tables):
    values = getattr(people, name)
    assert values.dtype == np.int32 and set(values) == set(range(len(table))), name
  assert not people.beard[people.gender == 1].any()


def test_splits_are_disjoint_and_cover_everyone():
  parts = [pp.split(name) for name in pp.SPLITS]
  assert [len(p) for p in parts] == [200, 2600, 200, 200]
  assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(pp.PEOPLE))
  assert not np.array_equal(pp.split("heldout"), pp.split("heldout", seed=1))
  with pytest.raises(UserError):
    pp.split("test")


def test_splits_people_and_names_never_move():
  """Trained weights depend on them: a change here orphans every checkpoint."""
  listed = b"".join(pp.split(name).astype("<i4").tobytes() for name in pp.SPLITS)
  rounded = np.round(vectors(range(50)) * 1000).astype("<i4").tobytes()
  scenes = np.round(np.stack(sc.scenes(range(5), 5, 0, sc.WILD), -1) * 1000).astype("<i4").tobytes()
  names = " ".join(pp.celebrity_names()).encode()
  digests = [hashlib.sha256(b).hexdigest()[:16] for b in (listed, rounded, scenes, names)]
  assert digests == ["c1e1d409c28ffa0e", "5a52525fd5e661c8", "f2cebad5f473a698", "4fbe5d0be956be5b"]


def test_names_are_two_words_each_used_once_and_meaning_nothing_else():
  names = pp.celebrity_names()
  used = [w for name in names for w in words(name)]
  assert len(names) == pp.CELEBRITIES and len(used) == len(set(used)) == 2 * pp.CELEBRITIES
  counts = [VOCABULARY.count(w) for w in used]
  assert set(counts) == {1} and len(VOCABULARY) - len(used) < 200


def test_picture_k_of_person_i_needs_no_other():
  many, few = sc.scenes([4, 5], 6, seed=3), sc.scenes([5], 2, seed=3)
  for a, b in zip(many, few):
    assert np.array_equal(a[6:8], b)
  again = sc.scenes([5], 2, seed=4)
  assert not np.array_equal(few.yaw, again.yaw)


def test_a_scene_by_hand_takes_names():
  s = sc.scene(expression="angry", background="night", yaw=0.1)
  assert sc.names(s) == {
    "expression": "angry",
    "accessory": "none",
    "background": "night",
    "clothes": "red sweater",
    "style": "photo",
  }
  assert s.yaw == np.float32(0.1) and s.scale == 1
