"""Splits English text into sentences, and sentences into clauses of one action each."""

import re
from collections.abc import Sequence

from idejax.app import names as nm

_ABBREVIATIONS = frozenset("mr mrs ms dr prof st sr jr vs etc no fig approx e.g i.e a.m p.m".split())
_END = re.compile(r"[.!?…]+[\"')\]]*(?=\s|$)")

# What people do in stories, as base forms.
_VERBS = """agree answer appear argue arrive ask bake begin bow breathe bring build burn buy call carry catch celebrate chase cheer
  check clap climb close come cook count cough crawl cross cry cut dance decide dive draw drink drive drop eat enter
  explain fall feed feel fight find finish fly follow forget frown get give go grab greet grin hand hear help hide hold
  hop hug hurry joke jump kick kiss kneel knock know laugh lean learn leave lie lift like listen look lose love make meet miss move
  nod notice offer open order paint pay pick plant play point pour practise pray pull push put race read ride ring rise roar run rush
  save say search see sell send shake share shout show sigh sing sit ski skate skip sleep smile sneeze speak spin splash stand
  stare start stay step stop study surf swim take talk teach tell thank think throw tie tiptoe touch travel try turn
  visit wait wake walk wander wash watch water wave wear weep whisper whistle win wink wipe wonder work write yawn yell""".split()
_PAST = """ate began bought brought built came caught chose cut did drank drew drove fed fell felt flew fought found gave
  got grabbed grinned heard held hid hugged knelt knew left lay led lost made met nodded paid put ran rang read rode rose
  said sang sat saw sent shook shut slept spoke spun stood stopped swam threw took told thought tied tried wept went woke
  won wore wrote""".split()  # fmt: skip
# Words that are nouns as often as verbs: an action only if an object follows.
_NOUNS_TOO = frozenset(
  "drinks walks plays dances looks cooks orders works talks waters points rides races steps stays drops".split()
)


def _third(base: str) -> str:
  if base in ("go",):
    return "goes"
  if re.search(r"(?:s|sh|ch|x|z)$", base):
    return base + "es"
  return base[:-1] + "ies" if re.search(r"[^aeiou]y$", base) else base + "s"


def _past(base: str) -> str:
  if base.endswith("e"):
    return base + "d"
  return base[:-1] + "ied" if re.search(r"[^aeiou]y$", base) else base + "ed"


THIRD = {b: _third(b) for b in _VERBS}
_SINGULAR = frozenset(THIRD.values()) | {"is", "has"}
_FORMS = _SINGULAR | frozenset(_PAST) | frozenset(map(_past, _VERBS))
_PLURAL = frozenset(_VERBS)


def third_person(word: str) -> str:
  """wave -> waves, are -> is; a word that is not in the list of verbs stays."""
  return {"are": "is", "were": "was", "have": "has", "do": "does"}.get(word, THIRD.get(word, word))


def sentences(text: str) -> list[str]:
  """The sentences of a text in order. A quotation is never cut and stays with the words around it."""
  out = []
  for paragraph in re.split(r"\n\s*\n|\n(?=\s*[-*•]\s)|\r", text):
    paragraph = " ".join(re.sub(r"^\s*[-*•]\s+", "", paragraph).split())
    start = 0
    for m in _END.finditer(paragraph):
      piece = paragraph[start : m.end()]
      following = paragraph[m.end() :].lstrip()
      if piece.count('"') % 2:
        continue  # inside what somebody says
      if not _ends(piece, m[0], following):
        continue
      out.append(piece.strip())
      start = m.end()
    if rest := paragraph[start:].strip():
      out.append(rest)
  return out


def _ends(piece: str, mark: str, following: str) -> bool:
  if not following:
    return True
  last = re.sub(r"[.!?…\"')\]]+$", "", piece).split(" ")[-1].casefold()
  if mark.startswith(".") and (last in _ABBREVIATIONS or re.fullmatch(r"[a-z]", last)):
    return False
  if following[0].islower():
    return False
  # "Hello!" Anna says: when the text so far is one quotation, the words after it belong to it.
  if piece.strip().startswith('"') and mark.endswith('"') and piece.count('"') == 2:
    return not re.match(rf"(?:[A-Z]\w+ ){{1,2}}(?:{SAYING})\b|(?:He|She|They) (?:{SAYING})\b", following)
  return True


# Verbs between a name and what somebody says or thinks.
SAYING = (
  "says|said|asks|asked|answers|answered|replies|replied|shouts|shouted|whispers|whispered|thinks|thought|cries|cried|calls|called|"
  "yells|yelled|laughs|laughed|sighs|sighed|smiles|smiled|grins|grinned|adds|added"
)


def clauses(sentence: str, names: Sequence[str]) -> list[str]:
  """The actions of a sentence: it is cut at semicolons, at "then", and at "and" or "but" before another verb.

  A clause without a subject gets the subject of the clause before it.
  """
  parts = _cut(sentence, names)
  out: list[str] = []
  subject = ""
  for part in parts:
    plain = part.strip(" ,")
    if subject and _is_deed(plain, " and " in subject or subject == "They"):
      plain = f"{subject} {plain}"
    subject = _subject_of(plain, names) or subject
    out.append(plain)
  return [c for c in out if re.search(r"\w", c)]


def _cut(sentence: str, names: Sequence[str]) -> list[str]:
  pieces = re.split(r'("[^"]*")', sentence)
  marked = "".join(p if p.startswith('"') else re.sub(
    r"\s*;\s*|,?\s+and\s+then\s+|,\s*then\s+|,?\s+(?:and|but)\s+|,\s+(?=[a-z]+\b)", lambda m: f"\0{m[0]}\0", p) for p in pieces)  # fmt: skip
  parts = marked.split("\0")
  out = [parts[0]]
  subject = _subject_of(parts[0], names)
  for joint, text in zip(parts[1::2], parts[2::2]):
    if _separates(joint, out[-1], text, subject, names):
      out.append(text)
      subject = _subject_of(text, names) or subject
    else:
      out[-1] += joint + text
      subject = _subject_of(out[-1], names) or subject
  return out


def _separates(joint: str, before: str, after: str, subject: str, names: Sequence[str]) -> bool:
  plural = " and " in subject or subject == "They"
  if ";" in joint:
    return True
  if re.match(r"(?:When|While|As|After|Before|If|Because|Once|Since|Although)\b", before.strip()):
    return False
  deed = _is_deed(after, plural)
  if joint.strip() == ",":
    return bool(subject) and deed
  if "then" in joint:
    return bool(subject)
  # A new subject with its own verb: "and she laughs", "but Ben Stone stays".
  m = re.match(rf"(?:{nm.pattern(names).pattern}|he|she|they|it)\s+([a-z]+)", after.strip()) if names else None
  if m and (m[m.lastindex or 0] in _FORMS | _PLURAL):
    return bool(re.search(r"\w", before)) and _has_deed(before, names)
  return bool(subject) and deed


def _has_deed(text: str, names: Sequence[str]) -> bool:
  return any(w in _FORMS or w in _PLURAL for w in re.findall(r"[a-z]+", text))


def _is_deed(text: str, plural: bool) -> bool:
  """Whether a text begins with a verb, as after "and"."""
  words = re.findall(r"[\w']+", text.casefold())
  while words and words[0] in (
    "then",
    "quickly",
    "slowly",
    "happily",
    "sadly",
    "quietly",
    "suddenly",
    "finally",
    "both",
    "also",
  ):
    words.pop(0)
  if not words or text.lstrip()[:1] == '"':
    return False
  if words[0] in _NOUNS_TOO:
    return len(words) > 1 and words[1] in _OBJECTS
  return words[0] in (_FORMS | _PLURAL if plural else _FORMS) and not text[:1].isupper()


_OBJECTS = frozenset(
  "a an the his her their some to at up with in on into away around home tea water coffee milk for together".split()
)


def _subject_of(clause: str, names: Sequence[str]) -> str:
  """Who acts in a clause, in its own words: "Anna Field and Ben Stone", "She"; "" if it begins otherwise."""
  name = nm.pattern(names).pattern if names else "(?!)"
  m = re.match(rf"\s*(?:(?:Then|Later|Now|Finally|Suddenly|Soon|Today|Next|Outside|Inside|First|In the \w+|At \w+|On the \w+|One \w+),? )?"
               rf"((?:{name}|He|She|They|he|she|they)(?:(?:, | and |, and )(?:{name}|he|she|they))*)(?!['’]s)", clause)  # fmt: skip
  return m[1] if m else ""
