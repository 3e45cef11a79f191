"""Full names and the words that stand for them in prompts.

A name has exactly two words. If one name begins with another, the longer one wins; case and word boundaries
count; a possessive keeps its ending. Replacing names by words can be undone exactly.
"""

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence

from idejax.errors import UserError

_LONGEST = 40  # characters of a word


def check(name: str) -> str:
  """A full name in normal form. UserError unless it is two words of letters."""
  name = " ".join(unicodedata.normalize("NFC", name).split())
  words = name.split(" ") if name else []
  if len(words) != 2:
    count = "is empty" if not words else f"has {len(words)} word{'s' * (len(words) > 1)}"
    raise UserError(f"the name {name!r} {count}; a name is a first and a last name, such as Anna Field")
  for w in words:
    if len(w) > _LONGEST:
      raise UserError(f"the name {name[:60]!r} is too long; a word has at most {_LONGEST} letters")
    if not re.fullmatch(r"[^\W\d_](?:[^\W\d_]|[\u0300-\u036f]|['’.-](?=[^\W\d_]))*\.?", w):
      raise UserError(f"the name {name!r} has {w!r}; a name is letters, with - or ' inside")
  return name


def split(text: str) -> list[str]:
  """The names in a text box, separated by commas."""
  return [check(part) for part in text.split(",") if part.strip()]


def pair(names: Sequence[str], images: Sequence[object]) -> list[str]:
  """The names, checked, one for each picture. UserError if their number differs or a name is there twice."""
  if len(names) != len(images):
    raise UserError(f"{len(images)} picture(s) and {len(names)} name(s): each picture needs one name, in order")
  out = [check(n) for n in names]
  for n in out:
    if [slug(m) for m in out].count(slug(n)) > 1:
      raise UserError(f"two people are called {n}; give one of them another name")
  return out


def slug(name: str) -> str:
  """The name of a person's folder: ASCII letters, _ between the words, and a digest if letters were lost."""
  letters = unicodedata.normalize("NFKD", name.casefold())
  ascii_ = re.sub(r"[^a-z]+", "_", letters.encode("ascii", "ignore").decode()).strip("_")
  if re.fullmatch(r"[a-z]+ [a-z]+", name.casefold()):
    return ascii_
  return (
    f"{ascii_ or 'person'}_{hashlib.sha256(unicodedata.normalize('NFC', name.casefold()).encode()).hexdigest()[:8]}"
  )


def word(name: str) -> str:
  """The signal word of a person in prompts: no two names share one, and none begins with another."""
  return f"<{slug(name)}>"


def pattern(names: Sequence[str]) -> re.Pattern[str]:
  """A pattern that matches any of the names as whole words, the longest first; it matches nothing without names."""
  longest_first = sorted(names, key=len, reverse=True)
  return re.compile(rf"(?<![\w<])({'|'.join(map(re.escape, longest_first))})(?![\w>])" if longest_first else r"(?!)")


def find(text: str, names: Sequence[str]) -> list[str]:
  """The names in a text, in its order, repeats included."""
  return pattern(names).findall(text)


def present(text: str, names: Sequence[str]) -> tuple[str, ...]:
  """The names in a text, each once, in the text's order."""
  return tuple(dict.fromkeys(find(text, names)))


def to_words(text: str, names: Sequence[str]) -> str:
  """Names become signal words. Idempotent; unknown names stay."""
  return pattern(names).sub(lambda m: word(m[1]), text)


def to_names(text: str, names: Sequence[str]) -> str:
  """Signal words become names: the inverse of `to_words`."""
  back = {word(n): n for n in names}
  if not back:
    return text
  return re.sub("|".join(map(re.escape, back)), lambda m: back[m[0]], text)


def once(text: str, names: Sequence[str]) -> str:
  """A text in which each signal word stands once, as prompts need it: further mentions become "the person"."""
  for n in names:
    first, middle, rest = text.partition(word(n))
    text = first + middle + rest.replace(word(n), "the person")
  return text


def only(text: str, name: str, names: Sequence[str]) -> str:
  """A sentence that names nobody else: the others become "somebody"."""
  return pattern([n for n in names if n != name]).sub("somebody", text)


def pronouns(name: str, stated: Mapping[str, str]) -> str:
  """she, he or they: what was stated, else what is usual for the first name; "" if that is unknown."""
  if stated.get(name):
    return stated[name]
  first = name.split()[0].casefold()
  return "she" if first in _SHE else "he" if first in _HE else ""


_SHE = frozenset("""ada agnes alice amelia amy anna anne ann annie barbara bea beatrice betty carla carmen caroline chloe clara
  claire daisy diana dora elena elizabeth ella ellen emily emma eva eve fatima fiona grace hannah heidi helen ida irene
  isabel jane jessica joan julia karen kate laura lea lena lily linda lisa lucy maria marie martha mary maya megan mia
  mila nadia nancy nina nora olga olivia paula rachel rosa rose ruth sara sarah sofia sophia sophie susan taylor tina
  vera victoria yuki zoe aisha mei priya""".split())  # fmt: skip
_HE = frozenset("""adam alan albert alexander andrew anton arthur ben benjamin bill bob boris carl carlos charles chen
  christopher daniel david dan edward emil eric felix frank fred george hans harry henry hugh hugo ian ivan jack jacob
  james jan jim joe john jonas jose josh juan karl kevin leo leon liam louis lucas luke mark martin matthew max michael
  mike mohammed noah oliver omar oscar otto pablo paul peter pierre ravi richard robert roger samuel simon stefan
  steve thomas tim tom victor vincent walter will william""".split())  # fmt: skip
