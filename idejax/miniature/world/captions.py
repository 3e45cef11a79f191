"""Captions that name a picture's factors, and the closed vocabulary that they are written in."""

import re
from typing import Any

import numpy as np

from idejax.errors import UserError
from idejax.miniature.world import people as pp
from idejax.miniature.world import scene as sc
from idejax.person.templates import ADJECTIVES, SHARED
from idejax.person.templates import MEDIA as TEMPLATE_MEDIA

# Canonical phrase first: it is the one that evaluation prompts use.
MEDIA = (
  ("a photo of", "a portrait of", "a portrait photo of"),
  ("a sketch of", "a pencil sketch of", "a drawing of"),
  ("pop art of", "a pop art portrait of", "a pop art picture of"),
)
EXPRESSIONS = ("", "smiling", "sad", "surprised", "angry", "winking")
ACCESSORIES = ("", "glasses", "sunglasses", "a hat", "headphones")
CLOTHES = tuple(f"a {name}" for name in sc.CLOTHES)
BACKGROUNDS = (
  ("on the beach", "at the beach"),
  ("in the snow", "in the mountains"),
  ("in the forest", "among the trees"),
  ("in the city", "in the street"),
  ("at night",),
  ("at sunset",),
  ("at home", "in the living room"),
  *((f"on a {c} background", f"in front of a {c} wall") for c in sc.BACKGROUNDS[7:]),
)
NOUNS = ("person", *pp.GENDERS)

VERSION = 3  # of the rules below: when it changes, pictures get new captions
_FULL, _TEMPLATE, _TRAITS = 0.9, 0.2, 0.85  # shares of captions
_AFTER = 0.4  # share of captions whose mood follows the noun: "a woman smiling"
_HAIR_SHARE, _COLOUR_ALONE = 0.8, 0.3  # hair covers more of a picture than all other traits
_LIMIT = 35  # words and marks; with both ends, 37 tokens

# Words that captions never use but prompts do: placeholders, class words, small talk.
_EXTRA = """sks picture image painting face faces head hair eyes mouth smile his her their who is
 has very happy crying boy girl people someone two without purple orange"""


def words(text: str) -> list[str]:
  """The text in the pieces that CLIP's tokenizer starts from: words and single marks."""
  return re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]", text.lower())


def traits(person: pp.Person) -> list[str]:
  """Every phrase that is true of one person and visible; each fits after "with"."""
  colour = pp.HAIR_COLOURS[int(person.hair_colour)]
  style = pp.HAIR_STYLES[int(person.hair_style)]
  phrases = ["a bald head" if style == "bald" else _HAIR[style].format(colour)]
  phrases += [f"{pp.EYE_COLOURS[int(person.eye_colour)]} eyes"]
  phrases += [_BEARDS[int(person.beard)], _MARKS[int(person.mark)], _LIPS[int(person.lip_colour)]]
  for field, (low, high) in _SIZES.items():
    value = float(getattr(person, field))
    if value < -0.5:
      phrases += [low]
    if value > 0.5:
      phrases += [high]
  return [f for f in phrases if f]


def _colour(person) -> str:
  bald = pp.HAIR_STYLES[int(person.hair_style)] == "bald"
  return "" if bald else f"{pp.HAIR_COLOURS[int(person.hair_colour)]} hair"


_BEARDS = ("", "stubble", "a mustache", "a goatee", "a beard")
_MARKS = ("", "freckles", "a mole", "rosy cheeks")
_LIPS = ("", "pink lips", "red lips")
_HAIR = {"short": "short {} hair", "spiky": "spiky {} hair", "curly": "curly {} hair",
         "bob": "a {} bob", "long": "long {} hair", "wavy": "wavy {} hair",
         "bun": "{} hair in a bun"}  # fmt: skip
_SIZES = {
  "face_width": ("a narrow face", "a wide face"),
  "face_length": ("a short face", "a long face"),
  "jaw": ("a soft jaw", "a strong jaw"),
  "skin": ("pale skin", "dark skin"),
  "eye_size": ("small eyes", "big eyes"),
  "brow_thickness": ("thin eyebrows", "thick eyebrows"),
  "nose_length": ("a short nose", "a long nose"),
  "nose_width": ("a thin nose", "a broad nose"),
  "mouth_width": ("a small mouth", "a wide mouth"),
  "lip_fullness": ("thin lips", "full lips"),
  "ear_size": ("small ears", "big ears"),
}


def prompt(subject: str = "a person", *, after: bool = False, **factors: Any) -> str:
  """The canonical prompt, e.g. prompt("a woman", accessory="hat", background="snow").

  Factors are names from the tables of `scene`: style, expression, accessory, clothes, background.
  A mood stands where most captions have it: "a smiling woman", but "anna smiling". With `after` it always
  follows the subject: "a woman smiling", "a woman looking sad".
  """
  unknown = set(factors) - {"style", "expression", "accessory", "clothes", "background"}
  if unknown:
    raise UserError(f"no factor {', '.join(sorted(unknown))}")
  s = sc.scene(**factors)
  medium = MEDIA[int(s.style)][0]
  items = [ACCESSORIES[int(s.accessory)]]
  if "clothes" in factors:
    items += [CLOTHES[int(s.clothes)]]
  place = BACKGROUNDS[int(s.background)][0] if "background" in factors else ""
  mood, (article, _, rest) = EXPRESSIONS[int(s.expression)], subject.partition(" ")
  who = ("a", mood, rest) if article in ("a", "an") and not after else (subject, _predicate(mood))
  return _join(medium, *who, _clothing(items), place)


def with_name(text: str, name: str) -> str:
  """A caption of "a person" as one of somebody by name: "a sad person at home" is "anna looking sad at home"."""
  who = lambda m: " ".join(w for w in (name, _predicate(m[1] or "")) if w)
  return re.sub(r"\ban? (?:(\w+) )?person\b", who, text)


def caption(person: pp.Person, scene: sc.Scene, rng: np.random.Generator, name: str = "") -> str:
  """A true sentence about one picture (scalar fields), with words of VOCABULARY only.

  Nine of ten name style, expression, accessory and background ("neutral" and "none" are left out), half
  of these also the clothes; the rest are bare templates, as personalisation uses them.
  """
  full = rng.random() < _FULL
  mood = EXPRESSIONS[int(scene.expression)]
  details = []
  if full:
    items = [ACCESSORIES[int(scene.accessory)]]
    if rng.random() < 0.5:
      items += [CLOTHES[int(scene.clothes)]]
    details = [_clothing(items), str(rng.choice(BACKGROUNDS[int(scene.background)]))]
  else:
    mood = ""
  opening, has_article = _opening(scene, rng)
  if name:
    if not has_article and rng.random() < 0.25:
      opening += " the face of"
    if rng.random() < 0.10:
      name += " person"
    return _join(opening, name, _predicate(mood), *details)
  features = []
  if full and rng.random() < _TRAITS:
    # What sunglasses hide cannot be learnt from the picture.
    hidden = " eyes" if int(scene.accessory) == 2 else "\n"
    first, *pool = [t for t in traits(person) if not t.endswith(hidden)]
    if rng.random() < _COLOUR_ALONE:
      first = _colour(person) or first
    features = [first] if rng.random() < _HAIR_SHARE else []
    features += [str(t) for t in rng.permutation(pool)[: rng.integers(0 if features else 1, 4)]]
  noun = _noun(person, rng)
  moody = (noun, _predicate(mood)) if rng.random() < _AFTER else (mood, noun)
  subject = ("" if has_article else "a", *moody)
  while True:
    text = _join(opening, *subject, _list("with", features), *details)
    if len(words(text)) <= _LIMIT:
      return text
    features.pop()


def _opening(scene, rng) -> tuple[str, bool]:
  """The words before the subject, and whether they include its article."""
  style = int(scene.style)
  if rng.random() >= _TEMPLATE:
    return str(rng.choice(MEDIA[style])), False
  fits = lambda t: all(_TRUE[w](scene) for w in words(t) if w in _TRUE)
  if style == 0 and rng.random() < 12 / 27:
    return str(rng.choice([t for t in SHARED if fits(t)])), True
  photo = f"{rng.choice(TEMPLATE_MEDIA, p=(0.7, 0.15, 0.15))} of"
  medium = MEDIA[style][0] if style else photo
  return f"{medium} {rng.choice([a for a in ADJECTIVES if fits(a)])}", True


# Template words that are false of some pictures, and when they are true.
_TRUE = {
  "dark": lambda s: s.exposure < 0.94,
  "bright": lambda s: s.exposure > 0.98,
  "close": lambda s: s.scale > 0.99,
  "cropped": lambda s: s.scale > 0.99,
  "large": lambda s: s.scale > 0.99,
  "small": lambda s: s.scale < 0.95,
}


def _noun(person, rng):
  noun = NOUNS[1 + int(person.gender)] if rng.random() < 0.8 else NOUNS[0]
  age = ("young", "", "old")[int(person.age)]
  return f"{age} {noun}" if age and rng.random() < 0.4 else noun


def _predicate(mood):
  """A mood after a name: some are verbs, some adjectives."""
  return mood if mood in ("", "smiling", "winking") else f"looking {mood}"


def _clothing(items):
  return _list("wearing", [i for i in items if i])


def _list(lead, items):
  if not items:
    return ""
  return f"{lead} {' and '.join(p for p in (', '.join(items[:-1]), items[-1]) if p)}"


def _join(*parts):
  text = " ".join(p for p in parts if p)
  return re.sub(r"\ba (?=[aeiou])", "an ", text)


def _vocabulary() -> tuple[str, ...]:
  phrases = [*sum(MEDIA, ()), *EXPRESSIONS, *ACCESSORIES, *CLOTHES, *sum(BACKGROUNDS, ()), *NOUNS]
  phrases += [*ADJECTIVES, *SHARED, *TEMPLATE_MEDIA, *pp.celebrity_names(), _EXTRA]
  phrases += [*sum(_SIZES.values(), ()), *_HAIR.values(), *pp.HAIR_COLOURS, *pp.EYE_COLOURS]
  phrases += [*_BEARDS, *_MARKS, *_LIPS, "a bald head eyes"]
  phrases += ["the face of an young old looking wearing with and, - ."]
  return tuple(sorted({w for p in phrases for w in words(p) if w not in "{}"}))


VOCABULARY = _vocabulary()  # every word and mark that a caption or a sensible prompt uses
