"""Texts as CLIP reads them, and scores from its embeddings."""

import math

import numpy as np
import pytest

from idejax.evaluation import agreement, likeness


@pytest.mark.parametrize("prompt, word, instead, want", [
  ("a {} person is playing the guitar", "{}", "", "a  person is playing the guitar"),
  ("a photo of <anna>, smiling", "<anna>", "", "a photo of , smiling"),
  ("sks and the masks of sks", "sks", "person", "person and the masks of person"),
  ("a photo of {}", "{}", "a person", "a photo of a person"), (r"\1 of {}", "{}", r"\g<0>", r"\1 of \g<0>"),
])  # fmt: skip
def test_the_word_is_removed_wherever_it_stands_alone(prompt, word, instead, want):
  got = agreement.scored_text(prompt, word, instead)
  assert got == want and agreement.scored_text(got, word, instead) == want


def test_scales_of_one_cosine():
  a, b = likeness.unit(np.random.default_rng(0).standard_normal((2, 8)))
  c = agreement.prompt_score(a, b)
  assert agreement.clip_t(c) == pytest.approx(100 * c)
  assert agreement.clip_score(abs(c)) == pytest.approx(100 * abs(c)) and agreement.clip_score(-0.1) == 0


def test_quality_is_a_softmax_of_two():
  picture, good, bad = likeness.unit(np.random.default_rng(1).standard_normal((3, 64)))
  q = agreement.quality(picture, good, bad)
  x, y = 100 * float(picture @ good), 100 * float(picture @ bad)
  assert q == pytest.approx(math.exp(x - max(x, y)) / (math.exp(x - max(x, y)) + math.exp(y - max(x, y))), rel=1e-4)
  assert 0 < q < 1 and agreement.quality(picture, bad, good) == pytest.approx(1 - q, abs=1e-6)
  assert agreement.quality(picture, good, good) == 0.5


def test_drift_is_in_points_of_clip_t():
  assert agreement.drift(0.25, 0.27) == pytest.approx(-2)


@pytest.mark.parametrize("prompt, yes", [
  ("a photo of the face of {}", True), ("A photo  of the face of {}.", True), ("a photo of {}", False),
  ("a photo of the face of {} at sea", False),
])  # fmt: skip
def test_the_prompt_of_the_face(prompt, yes):
  assert agreement.asks_for_the_face(prompt) is yes
