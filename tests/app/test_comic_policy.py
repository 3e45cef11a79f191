"""What may not be asked for, however it is spelled; and what must not be mistaken for it."""

import json
from pathlib import Path

import pytest

from idejax.app import policy, styles
from idejax.errors import UserError

STORIES = json.loads((Path(__file__).parent / "stories.json").read_text())


@pytest.mark.parametrize("text", [
  "naked", "NAKED", "Anna Field is nude", "n a k e d", "n.u.d.e", "n-a-k-e-d", "na-ked", "na*ked", "n_u_d_e", "nákéd", "n@k3d", "ＮＡＫＥＤ",
  "nа\u200bked", "nuuude", "nnaakkeedd", "top less", "s3x", "$ex", "p0rn", "1ingerie", "ｎｕｄｅ", "𝓷𝓾𝓭𝓮", "ⓝⓤⓓⓔ", "nude\u0301", "n\u0336u\u0336d\u0336e\u0336",
  "without clothes", "wearing   nothing", "without\nclothes",
])  # fmt: skip
def test_nudity_is_found_in_every_spelling(text):
  assert policy.find(f"a picture of {text}, at home").category in ("nudity", "sexual content")


@pytest.mark.parametrize("text, category", [
  ("an orgy", "sexual content"), ("lolicon", "sexual content with minors"), ("his severed head", "gore"), ("blood-soaked", "gore"), ("Hitler", "hate"),
  ("a kkk meeting", "hate"), ("Anna Field kills Ben Stone", "a crime ascribed to a person"), ("Ben Stone in  handcuffs", "a crime ascribed to a person"),
  ("stea1s a car", "a crime ascribed to a person"), ("a girl in a bikini", "minors in an adult context"), ("a 12 year old smoking", "minors in an adult context"),
  ("кids drunk", "minors in an adult context"),
])  # fmt: skip
def test_every_category(text, category):
  assert policy.find(text).category == category


@pytest.mark.parametrize("text", [
  "Sussex", "cocktail", "skill", "grape", "a class", "therapist", "Dick Van Dyke", "bass guitar", "Anna Field shoots a basketball", "She hits 100!",
  "a child plays in the snow", "Anna Field wears a bikini on the beach", "boots", "Scunthorpe", "Ben Stone is rapping", "a comic strip for kids",
  "a mother kisses her baby", "Essex", "the sixth sense", "hello kitty", "a 12 year old on a swing", "documents", "an assassin bug", "Nadia Nudelman",
])  # fmt: skip
def test_harmless_words_pass(text):
  assert policy.find(text) is None


def test_all_stories_and_styles_pass():
  for s in STORIES:
    assert policy.find(s["story"]) is None, s
  for s in styles.STYLES:
    assert policy.find(s) is None, s


def test_the_sentence_says_what_and_where():
  with pytest.raises(UserError, match=r"sentence 2 asks for nudity \('naked'\)"):
    policy.check([("sentence 1", "fine"), ("sentence 2", "n4ked")])


def test_the_fixed_negative_prompt_is_always_there():
  assert policy.negative("") == policy.NEGATIVE
  assert policy.negative("rain, ") == f"rain, {policy.NEGATIVE}"


def test_there_are_thirty_seven_styles_and_others_are_refused():
  assert len(styles.STYLES) == len(set(styles.STYLES)) == 37
  assert styles.check(["van gogh", "Comic Style", "comic style"]) == ("Van Gogh", "comic style")
  with pytest.raises(UserError, match="did you mean cartoon"):
    styles.check(["cartoons"])


@pytest.mark.parametrize("chosen, words", [
  (["4k", "low-res"], "4k and low-res are different resolutions"), (["close-up", "wide shot"], "close-up and wide shot are different distances"),
  (["minimalistic", "highly detailed"], "minimalistic and highly detailed"), (["photorealistic", "cartoon"], "photorealistic and cartoon"),
])  # fmt: skip
def test_contradictions_are_told(chosen, words):
  assert any(words in s for s in styles.conflicts(chosen))


def test_styles_that_go_together_are_not():
  assert styles.conflicts(["comic style", "vivid colors", "wide shot", "4k", "highly detailed"]) == []
