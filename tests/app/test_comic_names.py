"""Names and signal words: the substitution that prompts are made by."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idejax.app import names
from idejax.errors import UserError

PEOPLE = ["Ann Lee", "Ann Lee-Smith", "Anna Field", "José Pérez"]


@pytest.mark.parametrize(
  "name", ["Anna Field", "  Anna   Field ", "José Pérez-Gil", "Mary O'Brien", "Jean-Luc Picard", "李 小龙"]
)
def test_two_words_are_a_name(name):
  assert names.check(name) == " ".join(name.split())


@pytest.mark.parametrize("name, words", [
  ("", "is empty"), ("Anna", "has 1 word"), ("Anna Maria Field", "has 3 words"), ("Anna F1eld", "a name is letters"), ("../etc passwd", "a name is letters"),
  ("<b> x", "a name is letters"), ("Anna " + "x" * 41, "too long"), ("Anna Fie\0ld", "a name is letters"),
])  # fmt: skip
def test_other_names_are_refused_with_a_reason(name, words):
  with pytest.raises(UserError, match=words):
    names.check(name)


def test_every_picture_needs_its_name():
  with pytest.raises(UserError, match=r"2 picture\(s\) and 1 name\(s\)"):
    names.pair(["Anna Field"], [1, 2])
  with pytest.raises(UserError, match="two people are called"):
    names.pair(["Anna Field", "anna field"], [1, 2])
  assert names.pair(["Anna Field", "Ben Stone"], [1, 2]) == ["Anna Field", "Ben Stone"]


def test_longest_first_possessives_kept_case_and_boundaries_count():
  w = names.word
  text = "Ann Lee-Smith's hat; Ann Lee's hat; ann lee; Joann Lee; Ann Leeds; José Pérez."
  assert (
    names.to_words(text, PEOPLE)
    == f"{w('Ann Lee-Smith')}'s hat; {w('Ann Lee')}'s hat; ann lee; Joann Lee; Ann Leeds; {w('José Pérez')}."
  )


def test_signal_words_are_different_for_different_names():
  alike = ["Jose Perez", "José Pérez", "Ann Lee", "Ann Lee-Smith", "Ann-Lee Smith", "李 小龙", "王 小龙"]
  assert len({names.word(n) for n in alike}) == len(alike)
  assert all(names.slug(n).isascii() and "/" not in names.slug(n) and "." not in names.slug(n) for n in alike)


pieces = st.lists(st.sampled_from([*PEOPLE, "Ann", "Lee", "sees", "'s", ",", "Smith", "in the snow", "é"]), max_size=12)


@given(pieces)
def test_substitution_is_idempotent_and_comes_back(parts):
  text = " ".join(parts)
  once = names.to_words(text, PEOPLE)
  assert names.to_words(once, PEOPLE) == once
  assert names.to_names(once, PEOPLE) == text
  assert names.find(once, PEOPLE) == []


def test_the_order_of_people_changes_nothing():
  text = "Ann Lee-Smith meets Ann Lee and Anna Field."
  assert names.to_words(text, PEOPLE) == names.to_words(text, PEOPLE[::-1])


def test_a_prompt_has_each_word_once():
  people = ["Ann Lee"]
  text = names.to_words("Ann Lee takes Ann Lee's hat", people)
  assert names.once(text, people) == f"{names.word('Ann Lee')} takes the person's hat"
