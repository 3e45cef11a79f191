"""Captions stay in the vocabulary and say exactly what the picture shows."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idejax.errors import UserError
from idejax.miniature.world import captions as cp
from idejax.miniature.world import people as pp
from idejax.miniature.world import scene as sc
from idejax.person import templates

MOODS = [{m} - {""} for m in cp.EXPRESSIONS]
FACTORS = {
  "style": [set(m) for m in cp.MEDIA],
  "expression": MOODS,
  "accessory": [{a} - {""} for a in cp.ACCESSORIES],
  "background": [set(b) for b in cp.BACKGROUNDS],
  "clothes": [{c} for c in cp.CLOTHES],
}


def mentioned(text, factor):
  """Codes of a factor whose phrase stands in the text, word by word."""
  says = lambda phrase: re.search(rf"(?<![a-z]){phrase}(?![a-z])", text)
  return {code for code, phrases in enumerate(FACTORS[factor]) if any(map(says, phrases))}


def made(seed):
  person, scene = pp.person(seed), pp.take(sc.scenes([seed], 1, seed), 0)
  rng = np.random.default_rng(seed)
  name = pp.celebrity_names()[seed % 200] if seed % 2 else ""
  return person, scene, name, cp.caption(person, scene, rng, name)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 3199))
def test_captions_use_the_vocabulary_and_fit_40_tokens(seed):
  _, _, name, text = made(seed)
  pieces = cp.words(text)
  assert set(pieces) <= set(cp.VOCABULARY) and len(pieces) <= 35
  assert text == text.lower() and "  " not in text and name in text
  assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), text


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 3199))
def test_captions_mention_exactly_the_scene(seed):
  person, scene, name, text = made(seed)
  full = bool(mentioned(text, "background"))
  for factor in ("expression", "accessory", "background"):
    code = int(getattr(scene, factor))
    assert mentioned(text, factor) == ({code} if full and FACTORS[factor][code] else set()), text
  assert mentioned(text, "clothes") <= {int(scene.clothes)} and (full or "wearing" not in text)
  words = set(cp.words(text))
  style = 1 if words & {"sketch", "drawing"} else 2 if "art" in words else 0
  assert style == scene.style
  if name:
    return
  other = pp.GENDERS[1 - int(person.gender)]
  assert other not in words
  stated = re.search(r" with (.*?)(?= wearing| on | in (?!a bun)| at | among |$)", text)
  if stated:
    # Phrases hold no comma and no "and", so they can be told apart.
    colour = f"{pp.HAIR_COLOURS[int(person.hair_colour)]} hair"
    assert set(re.split(r", | and ", stated[1])) <= {colour, *cp.traits(person)}, text


def test_most_unnamed_captions_describe_the_person_and_most_of_these_the_hair():
  texts = [made(2 * n)[3] for n in range(600)]
  described = [t for t in texts if " with " in t]
  assert 0.68 < len(described) / len(texts) < 0.85  # 0.85 of the nine tenths that are full
  hair = np.mean([bool({"hair", "bob", "bald"} & set(cp.words(t))) for t in described])
  assert 0.7 < hair < 0.9


def test_moods_stand_before_and_behind_the_noun():
  nouns = "|".join(cp.NOUNS)
  texts = [text for seed in range(0, 800, 2) for _, scene, _, text in [made(seed)] if mentioned(text, "expression")]
  behind = [bool(re.search(rf"({nouns}) (smiling|winking|looking (sad|surprised|angry))", t)) for t in texts]
  before = [bool(re.search(rf"(smiling|winking|sad|surprised|angry)( young| old)? ({nouns})", t)) for t in texts]
  assert all(a != b for a, b in zip(behind, before)) and len(texts) > 150
  assert 0.3 < np.mean(behind) < 0.5


def test_every_vocabulary_word_but_the_extra_ones_gets_trained():
  rng, names, people = np.random.default_rng(0), pp.celebrity_names(), pp.people(range(3000))
  stages = set()
  for n in range(3000):
    scene, name = pp.take(sc.scenes([n], 1, 0), 0), names[n // 2 % 200] * (n % 2)
    stages |= set(cp.words(cp.caption(pp.take(people, n), scene, rng, name)))
  missing = set(cp.VOCABULARY) - stages - set(cp.words(cp._EXTRA)) - {"."}
  assert not missing


def test_textual_inversion_templates_are_all_there():
  assert len(templates.TEMPLATES) == 81 and len(set(templates.TEMPLATES)) == 57
  assert all(t.count("{}") == 1 for t in templates.TEMPLATES)
  assert {w for t in templates.TEMPLATES for w in cp.words(t.replace("{}", ""))} <= set(cp.VOCABULARY)


def test_prompts():
  assert cp.prompt() == "a photo of a person"
  text = cp.prompt(
    "sks person", style="sketch", expression="sad", accessory="hat", clothes="red sweater", background="snow"
  )
  assert text == "a sketch of sks person looking sad wearing a hat and a red sweater in the snow"
  assert cp.prompt("<anna>", expression="happy") == "a photo of <anna> smiling"
  # As captions say it: in 49,200 of them no woman is "a woman smiling", and the UNet does not draw her so.
  assert cp.prompt("an old man", expression="happy") == "a photo of a smiling old man"
  assert cp.prompt("a woman with red hair", expression="angry") == "a photo of an angry woman with red hair"
  assert cp.prompt("an old man", after=True, expression="happy") == "a photo of an old man smiling"
  assert cp.prompt("a woman", after=True, expression="sad", background="snow") == (
    "a photo of a woman looking sad in the snow"
  )
  with pytest.raises(UserError):
    cp.prompt(mood="sad")
