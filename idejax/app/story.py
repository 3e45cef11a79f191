"""A story in free text becomes sentences that can be drawn: one simple action each, everybody by full name.

Whoever cuts it (offline rules, a language model somewhere, a test), the same contract is checked on what
comes back; the user edits the sentences before anything is drawn.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Protocol

from idejax.app import names as nm
from idejax.app.clauses import SAYING
from idejax.app.script import MOST_PANELS, Bubble
from idejax.errors import UserError

MOST_TOKENS = 60  # of a sentence, in CLIP's count, after names have become signal words
MOST_CHARACTERS = 20_000  # of a story

# She and her kin; what stands in a speaker's own words may keep them.
PRONOUN = re.compile(r"\b(he|she|they|him|her|them|his|hers|their|theirs)\b", re.IGNORECASE)
_QUOTE = re.compile(r"[\"“”«»][^\"“”«»]*[\"“”«»]")


class StoryParser(Protocol):
  """Cuts a story. `names` are the full names that may occur; the order of the story is kept."""

  def parse(self, story: str, names: Sequence[str]) -> list[str]: ...


@dataclasses.dataclass(frozen=True)
class Cut:
  """Sentences, what breaks the contract, and what merely deserves a look."""

  sentences: tuple[str, ...]
  problems: tuple[str, ...] = ()
  notes: tuple[str, ...] = ()


def cut(parser: StoryParser, story: str, names: Sequence[str], count: Callable[[str], int]) -> Cut:
  """A story through a parser, and the contract's judgement. `count` counts a sentence's tokens.

  UserError for a story that is empty, too long, or too long for a comic once it is cut.
  """
  if not story.strip():
    raise UserError("the story is empty")
  if len(story) > MOST_CHARACTERS:
    raise UserError(f"the story has {len(story):,} characters; at most {MOST_CHARACTERS:,} make a comic")
  sentences = [" ".join(s.split()) for s in parser.parse(story, names) if s.strip()]
  if not sentences:
    raise UserError("nothing of the story is left to draw")
  if len(sentences) > MOST_PANELS:
    raise UserError(f"the story has {len(sentences)} sentences; a comic has at most {MOST_PANELS} panels")
  return Cut(tuple(sentences), tuple(problems(sentences, story, names, count)), tuple(notes(sentences, names)))


def problems(sentences: Sequence[str], story: str, names: Sequence[str], count: Callable[[str], int]) -> list[str]:
  """What breaks the contract, a sentence each."""
  out = []
  for i, s in enumerate(sentences, 1):
    if m := PRONOUN.search(unquoted(s)):
      out.append(f"sentence {i} says {m[0]!r}: name the person")
    if (n := count(s)) > MOST_TOKENS:
      out.append(f"sentence {i} has {n} tokens; at most {MOST_TOKENS} can be drawn: shorten it")
  text = " ".join(sentences)
  for name in names:
    before, after = len(nm.find(story, [name])), len(nm.find(text, [name]))
    if after < min(before, 1):
      out.append(f"{name} is in the story and in no sentence")
    elif after < before:
      out.append(f"{name} is named {before} times in the story and {after} times in the sentences")
  return out


def added(sentences: Sequence[str], story: str, names: Sequence[str]) -> list[str]:
  """Words of a model's sentences that the story does not have, nor anything like them: added facts."""
  stem = lambda w: w[:4]
  known = {stem(w) for t in (story, *names) for w in re.findall(r"[^\W\d_]+", t.casefold())} | _GLUE
  out = []
  for i, s in enumerate(sentences, 1):
    new = [w for w in re.findall(r"[^\W\d_]{3,}", s.casefold()) if stem(w) not in known]
    if len(new) > 2:
      out.append(f"sentence {i} adds what the story does not say: {', '.join(new[:4])}")
  return out


_GLUE = {
  w[:4]
  for w in "the and with for from into onto says say said asks are was were has have while then together both".split()
}


def notes(sentences: Sequence[str], names: Sequence[str]) -> list[str]:
  """What is allowed, but perhaps not meant."""
  return [
    f"sentence {i} names nobody who was learned: a scene without them"
    for i, s in enumerate(sentences, 1)
    if not nm.find(s, names)
  ]


def unquoted(text: str) -> str:
  """Without what people say."""
  return _QUOTE.sub(" ", text)


# Sentences with speech.


def bubbles(sentence: str, names: Sequence[str]) -> tuple[Bubble, ...]:
  """What stands over a panel: what its people say in bubbles, the rest as its caption."""
  quotes = [m[0][1:-1].strip() for m in _QUOTE.finditer(sentence)]
  if not any(quotes):
    return (Bubble(sentence),)
  who = nm.find(unquoted(sentence), names)
  kind = "thought" if re.search(r"\b(thinks?|thought|wonders?|wondered|dreams?)\b", unquoted(sentence)) else "speech"
  said = tuple(Bubble(q.rstrip(","), kind, who[0] if who else "") for q in quotes if q)  # type: ignore[arg-type]
  rest = re.sub(r"\s+([.,!?])", r"\1", " ".join(unquoted(sentence).split())).strip(" ,.:")
  # "Anna Field says" is told by the tail of the bubble.
  name = "|".join(map(re.escape, who)) or "$^"
  bare = re.fullmatch(rf"(?:{name})?,?\s*(?:{SAYING})?,?|(?:{SAYING})\s+(?:{name})", rest)
  return said if bare else (Bubble(rest + "."), *said)


def drawn(sentence: str) -> str:
  """The part of a sentence that a picture can show: without quotation marks, and without what is said."""
  return (
    re.sub(r"\s+([.,!?])", r"\1", " ".join(unquoted(sentence).split())).strip(" ,:")
    if unquoted(sentence).strip()
    else sentence
  )
