"""Sentences in the drawn world's own words."""

import pytest

from idejax.app import world
from idejax.miniature.world.captions import VOCABULARY, words

N = ("Anna Field", "Ben Stone")


def prompts(*sentences, style=()):
  who = [tuple(n for n in N if n in s) for s in sentences]
  return world.prompts(sentences, who, [style] * len(sentences))


@pytest.mark.parametrize(
  "sentence, wanted",
  [
    ("Anna Field laughs on the shore.", ["a photo of <anna_field> smiling on the beach"]),
    ("Anna Field smiles at Ben Stone.", ["a photo of <anna_field> smiling", "a photo of <ben_stone>"]),
    ("Anna Field and Ben Stone celebrate.", ["a photo of <anna_field> smiling", "a photo of <ben_stone> smiling"]),
    ("Ben Stone reads in his blue shirt.", ["a photo of <ben_stone> wearing glasses and a blue shirt"]),
    ("Ben Stone walks to the school in the forest.", ["a photo of <ben_stone> in the forest"]),
    ("A dog barks.", ["a photo of a person"]),
  ],
)
def test_what_that_world_can_show(sentence, wanted):
  assert prompts(sentence) == [wanted]


def test_a_place_holds_until_another_is_named():
  ends = [
    p[0].removeprefix("a photo of a person").strip() for p in prompts("A beach.", "A dog.", "It is night.", "A dog.")
  ]
  assert ends == ["on the beach", "on the beach", "at night", "at night"]


def test_styles_are_the_mediums_of_that_world():
  assert prompts("A dog.", style=("comic style", "4k"))[0] == ["pop art of a person"]
  assert prompts("A dog.", style=("minimalistic",))[0] == ["a sketch of a person"]


def test_every_word_is_one_that_the_model_has_read():
  tables = (world._PLACES, world._MOODS, world._ACCESSORIES)
  said = (
    [phrase for t in tables for phrase in t]
    + [f"a {c}" for c in world._CLOTHES]
    + ["pop art of a sketch of a photo of a person wearing and"]
  )
  assert {w for phrase in said for w in words(phrase)} <= set(VOCABULARY)
