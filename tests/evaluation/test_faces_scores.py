"""Figures of faces from embeddings alone: their bounds, symmetries and special values."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idejax.evaluation import geometry, likeness


def vectors(n, seed=0, width=16):
  return likeness.unit(np.random.default_rng(seed).standard_normal((n, width)))


def test_identity_with_oneself_is_one_symmetric_and_bounded():
  a, b = vectors(2)
  assert likeness.cosine(a, a) == pytest.approx(1, abs=1e-6) and likeness.cosine(a, -a) == pytest.approx(-1, abs=1e-6)
  assert likeness.cosine(a, b) == likeness.cosine(b, a)
  assert likeness.cosine(None, a) is None and likeness.cosine(a, None) is None


@pytest.mark.parametrize("bad", [np.zeros((2, 4)), np.array([[1.0, np.nan]])])
def test_what_is_no_direction_is_refused(bad):
  with pytest.raises(ValueError, match="zero or not finite"):
    likeness.unit(bad)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1) | st.none(), min_size=1, max_size=30))
def test_zero_is_skip_times_the_share_of_faces(values):
  kept = [v for v in values if v is not None]
  skip = np.mean(kept) if kept else 0.0
  assert np.mean([likeness.zero(v) for v in values]) == pytest.approx(skip * len(kept) / len(values))


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1) | st.none(), st.floats(-1, 1)), min_size=1, max_size=30))
def test_gated_identity_lies_below_identity_and_has_both_ends(rows):
  identity, prompt = zip(*rows)
  zero = np.mean([likeness.zero(i) for i in identity])
  low, own, high = likeness.gate_curve(identity, prompt, (-1.0, likeness.PREFERRED, 2.0))
  assert low == pytest.approx(zero) and high == 0 and own <= zero + 1e-12


def test_the_threshold_itself_counts():
  assert likeness.gate(0.5, 0.23) == 0.5 and likeness.gate(0.5, 0.2299) == 0.0


def test_the_largest_face_alone_and_the_most_similar_among_several():
  faces, areas = vectors(3), np.array([1.0, 9.0, 4.0])
  assert likeness.best(faces, faces[2], areas, several=False) == 1
  assert likeness.best(faces, faces[2], areas, several=True) == 2
  assert likeness.best(faces[:0], faces[2], areas[:0], several=True) is None


def test_a_threshold_lets_its_share_of_strangers_through():
  scores = np.random.default_rng(0).normal(0, 0.1, 20_000)
  t = likeness.threshold_at(scores, 1e-3)
  assert np.mean([likeness.accept(float(s), t) for s in scores]) == pytest.approx(1e-3, abs=1e-4)
  assert likeness.accept(None, t) == 0
  with pytest.raises(ValueError, match="999 pairs cannot tell"):
    likeness.threshold_at(scores[:999], 1e-3)


def test_a_copy_is_one_a_copy_of_the_other_photo_minus_one_and_between_nothing():
  a, b = vectors(2)
  middle = likeness.unit((a + b)[None])[0]
  assert likeness.copy_score(a, a, b) == pytest.approx(1, abs=2e-3)
  assert likeness.copy_score(b, a, b) == pytest.approx(-1, abs=2e-3)
  assert likeness.copy_score(middle, a, b) == pytest.approx(0, abs=1e-3)
  assert likeness.copy_score(None, a, b) is None


def test_variety_is_the_mean_over_pairs():
  faces = [*vectors(4), None]
  got = likeness.variety(faces)
  pairs = [1 - float(faces[i] @ faces[j]) for i in range(4) for j in range(i)]
  assert got[-1] is None and np.mean(got[:-1]) == pytest.approx(np.mean(pairs), abs=1e-6)
  assert likeness.variety([faces[0], None]) == [None, None]
  assert likeness.variety([faces[0], faces[0]]) == pytest.approx([0, 0], abs=1e-6)


@pytest.mark.parametrize("faces", list(itertools.permutations(range(4)))[::5])
@pytest.mark.parametrize("people", list(itertools.permutations(range(3))))
def test_who_is_who_does_not_depend_on_the_order(faces, people):
  rows, known = vectors(4, seed=1), vectors(3, seed=1) + 0.1 * vectors(3, seed=2)
  plain, mixed = likeness.assign(rows, known), likeness.assign(rows[list(faces)], known[list(people)])
  assert plain.face == [0, 1, 2] and plain.right == [True] * 3
  assert [faces[f] for f in mixed.face] == [plain.face[p] for p in people]


def test_a_face_missing_and_a_face_that_resembles_another_are_not_right():
  known = vectors(2, seed=3)
  assert likeness.assign(known[:1], known).face == [0, None] and likeness.assign(known[:1], known).right == [
    True,
    False,
  ]
  both = likeness.assign(np.stack([known[0], known[0]]), known)  # the first person twice
  assert both.right.count(True) == 1
  assert likeness.assign(known[:0], known).right == [False, False]


POINTS = np.array([[30.0, 40], [70, 40], [50, 60], [36, 80], [64, 80]])


def turned(points, degrees, scale=1.0, shift=(0, 0)):
  a = np.radians(degrees)
  return scale * (points - 50) @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) + 50 + shift


def test_pose_and_expression_are_what_remains_after_each_other():
  assert geometry.pose_error(POINTS, POINTS) == 0
  assert geometry.pose_error(turned(POINTS, 20), POINTS) == pytest.approx(10, abs=0.1)  # roll 20, yaw 0
  assert geometry.expression_error(turned(POINTS, 20, 1.7, (5, -3)), POINTS) == pytest.approx(0, abs=1e-9)
  open_mouth = POINTS + [[0, 0], [0, 0], [0, 0], [0, 8], [0, 8]]
  assert geometry.expression_error(open_mouth, POINTS) > 0.03
  assert geometry.pose_error(None, POINTS) is None and geometry.expression_error(POINTS, None) is None
  with pytest.raises(ValueError, match="5 landmarks against 4"):
    geometry.expression_error(POINTS, POINTS[:4])
