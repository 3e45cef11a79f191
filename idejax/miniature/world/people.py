"""The world's people: identity vectors, the four splits, and the names of celebrities."""

from typing import Any, NamedTuple

import numpy as np

from idejax.errors import UserError
from idejax.miniature.world.scene import pick

GENDERS = ("man", "woman")
HAIR_STYLES = ("bald", "short", "spiky", "curly", "bob", "long", "wavy", "bun")
HAIR_COLOURS = ("black", "brown", "blond", "red", "gray", "white", "blue")
FRINGES = ("swept back", "side part", "bangs")
EYE_COLOURS = ("brown", "blue", "green", "gray", "hazel")
BEARDS = ("none", "stubble", "mustache", "goatee", "beard")
MARKS = ("none", "freckles", "mole", "rosy cheeks")
AGES = ("young", "middle", "old")
LIPS = ("natural", "pink", "red")

CELEBRITIES, STRANGERS, DEVELOPMENT, HELDOUT = 200, 2600, 200, 200
PEOPLE = CELEBRITIES + STRANGERS + DEVELOPMENT + HELDOUT
SPLITS = ("celebrity", "train", "development", "heldout")


class Person(NamedTuple):
  """20 float32 in [-1, 1] and 9 int32 codes into the tables above; any batch shape."""

  face_width: Any
  face_length: Any
  jaw: Any
  chin: Any
  skin: Any
  undertone: Any
  eye_size: Any
  eye_spacing: Any
  eye_height: Any
  eye_tilt: Any
  brow_thickness: Any
  brow_angle: Any
  brow_height: Any
  nose_length: Any
  nose_width: Any
  mouth_width: Any
  lip_fullness: Any
  mouth_height: Any
  ear_size: Any
  hair_volume: Any
  gender: Any
  hair_style: Any
  hair_colour: Any
  fringe: Any
  eye_colour: Any
  beard: Any
  mark: Any
  age: Any
  lip_colour: Any


CONTINUOUS = Person._fields[:20]
DISCRETE = Person._fields[20:]
SIZES = tuple(
  map(len, (GENDERS, HAIR_STYLES, HAIR_COLOURS, FRINGES, EYE_COLOURS, BEARDS, MARKS, AGES, LIPS))
)  # how many codes each has


def people(ids, seed: int = 0) -> Person:
  """Fields [len(ids)]; person i is a pure function of (seed, i) and of nothing else."""
  ids = np.atleast_1d(np.asarray(ids))
  u = np.stack([np.random.Generator(np.random.Philox(key=[seed, int(i)])).random(29) for i in ids])
  return _identity(u)


def person(i: int, seed: int = 0) -> Person:
  """One identity with scalar fields."""
  return take(people([i], seed), 0)


def take(fields, i):
  """Row i of every field of a Person or Scene."""
  return type(fields)(*(f[i] for f in fields))


def _identity(u: np.ndarray) -> Person:
  """Uniforms [N, 29] to identities: features are spread evenly, combinations of codes are plausible."""
  features = (2 * u[:, :20] - 1).astype(np.float32)
  d = u[:, 20:].T
  gender = pick(d[0], (0.5, 0.5))
  woman = gender == 1
  style = np.where(
    woman,
    pick(d[1], (0.01, 0.13, 0.06, 0.14, 0.17, 0.19, 0.16, 0.14)),
    pick(d[1], (0.17, 0.33, 0.20, 0.15, 0.05, 0.05, 0.03, 0.02)),
  ).astype(np.int32)
  age = pick(d[7], (0.42, 0.33, 0.25))
  hair = np.where(
    age == 2,
    pick(d[2], (0.10, 0.12, 0.08, 0.08, 0.32, 0.28, 0.02)),
    pick(d[2], (0.24, 0.25, 0.20, 0.20, 0.03, 0.02, 0.06)),
  ).astype(np.int32)
  beard = np.where(woman, 0, pick(d[5], (0.40, 0.12, 0.14, 0.14, 0.20))).astype(np.int32)
  lips = np.where(woman, pick(d[8], (0.4, 0.3, 0.3)), pick(d[8], (1.0, 0.0, 0.0))).astype(np.int32)
  fringe = pick(d[3], (0.34, 0.33, 0.33))
  eyes = pick(d[4], (0.28, 0.22, 0.18, 0.14, 0.18))
  mark = pick(d[6], (0.55, 0.15, 0.15, 0.15))
  codes = (gender, style, hair, fringe, eyes, beard, mark, age, lips)
  return Person(*(*features.T, *codes))


def split(name: str, seed: int = 0) -> np.ndarray:
  """Ids of one split, sorted. Celebrities are 0..199; the others are dealt out by the seed."""
  if name not in SPLITS:
    raise UserError(f"no split {name!r}: choose one of {', '.join(SPLITS)}")
  rng = np.random.Generator(np.random.Philox(key=[seed, PEOPLE]))
  order = np.argsort(rng.random(PEOPLE - CELEBRITIES), kind="stable") + CELEBRITIES
  ends = np.cumsum([STRANGERS, DEVELOPMENT, HELDOUT])
  parts = (np.arange(CELEBRITIES), *np.split(order, ends[:-1]))
  return np.sort(parts[SPLITS.index(name)])


# Invented names that one can pronounce: 20 beginnings x 10 endings, each product a different word.
_FIRST = ("b", "d", "f", "g", "h", "j", "k", "l", "m", "n",
          "p", "r", "s", "t", "v", "z", "br", "dr", "kr", "tr")  # fmt: skip
_FIRST_ENDS = ("avi", "elka", "imar", "ovi", "unel", "arven", "ellan", "ivra", "oren", "ulen")
_LAST = ("bal", "cor", "dun", "fal", "gor", "har", "jan", "kel", "lor", "mar",
         "nor", "pel", "quin", "ros", "sel", "tar", "ul", "vor", "wes", "zan")  # fmt: skip
_LAST_ENDS = ("dovic", "bek", "muth", "vane", "zari", "gast", "fenn", "quist", "thorp", "ryk")


def celebrity_names() -> tuple[str, ...]:
  """200 names of two words; the i-th belongs to person i. No word is used twice."""
  firsts = [a + b for a in _FIRST for b in _FIRST_ENDS]
  lasts = [a + b for a in _LAST for b in _LAST_ENDS]
  # A stride coprime to 200 keeps neighbours from sharing both beginnings.
  return tuple(f"{first} {lasts[(i * 87 + 31) % 200]}" for i, first in enumerate(firsts))
