"""Turns a story into sentences that can be drawn: one simple action each, with everybody's full name.

Offline rules or a language model cut the story; the result is checked against the same contract either way.
The user can edit the sentences before anything is drawn.
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

# Pronouns that must be replaced by names, except in quotations.
PRONOUN = re.compile(r"\b(he|she|they|him|her|them|his|hers|their|theirs)\b", re.IGNORECASE)
_QUOTE = re.compile(r"[\"“”«»][^\"“”«»]*[\"“”«»]")


class StoryParser(Protocol):
  """Cuts a story. `names` are the full names that may occur; the order of the story is kept."""

  def parse(self, story: str, names: Sequence[str]) -> list[str]: ...


@dataclasses.dataclass(frozen=True)
class Cut:
  """Sentences, what in them breaks the contract, and notes on what may not be meant."""

  sentences: tuple[str, ...]
  problems: tuple[str, ...] = ()
  notes: tuple[str, ...] = ()


def cut(parser: StoryParser, story: str, names: Sequence[str], count: Callable[[str], int]) -> Cut:
  """Cuts a story with a parser and checks the contract. `count` counts a sentence's tokens.

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
  """One sentence for each way in which the contract is broken."""
  out = []
  for i, s in enumerate(sentences, 1):
    if m := PRONOUN.search(without_quotes(s)):
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


def additions(sentences: Sequence[str], story: str, names: Sequence[str]) -> list[str]:
  """One message for each sentence with facts that the story lacks: several words that occur nowhere in it."""
  stem = lambda w: w[:4]
  stems = {stem(w) for t in (story, *names) for w in re.findall(r"[^\W\d_]+", t.casefold())} | _GLUE
  out = []
  for i, s in enumerate(sentences, 1):
    new = [w for w in re.findall(r"[^\W\d_]{3,}", s.casefold()) if stem(w) not in stems]
    if len(new) > 2:
      out.append(f"sentence {i} adds what the story does not say: {', '.join(new[:4])}")
  return out


_GLUE = {
  w[:4]
  for w in "the and with for from into onto says say said asks are was were has have while then together both".split()
}


def notes(sentences: Sequence[str], names: Sequence[str]) -> list[str]:
  """One note for each sentence that is allowed but perhaps not meant."""
  return [
    f"sentence {i} names nobody who was learned: a scene without them"
    for i, s in enumerate(sentences, 1)
    if not nm.find(s, names)
  ]


def without_quotes(text: str) -> str:
  """The text without its quotations."""
  return _QUOTE.sub(" ", text)


# Sentences with speech.


def bubbles(sentence: str, names: Sequence[str]) -> tuple[Bubble, ...]:
  """A panel's texts: speech in bubbles, the rest of the sentence as a caption."""
  quotes = [m[0][1:-1].strip() for m in _QUOTE.finditer(sentence)]
  if not any(quotes):
    return (Bubble(sentence),)
  who = nm.find(without_quotes(sentence), names)
  kind = (
    "thought" if re.search(r"\b(thinks?|thought|wonders?|wondered|dreams?)\b", without_quotes(sentence)) else "speech"
  )
  speech = tuple(Bubble(q.rstrip(","), kind, who[0] if who else "") for q in quotes if q)  # type: ignore[arg-type]
  rest = re.sub(r"\s+([.,!?])", r"\1", " ".join(without_quotes(sentence).split())).strip(" ,.:")
  # The tail of the bubble replaces "Anna Field says".
  name = "|".join(map(re.escape, who)) or "$^"
  bare = re.fullmatch(rf"(?:{name})?,?\s*(?:{SAYING})?,?|(?:{SAYING})\s+(?:{name})", rest)
  return speech if bare else (Bubble(rest + "."), *speech)


def visible_part(sentence: str) -> str:
  """The part of a sentence that a picture can show: all but its quotations."""
  return (
    re.sub(r"\s+([.,!?])", r"\1", " ".join(without_quotes(sentence).split())).strip(" ,:")
    if without_quotes(sentence).strip()
    else sentence
  )
