"""The offline story parser: sentences, clauses, and pronouns resolved by rules, with no network and no model.

A pronoun means the last person mentioned who fits: of its gender if one is known, and, as an object, not the
subject of its own clause. Text between quotation marks stays as it is.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence

from idejax.app import names as nm
from idejax.app.clauses import clauses, sentences, third_person

_GENDER = {"he": "he", "him": "he", "his": "he", "she": "she", "her": "she", "hers": "she",
           "they": "they", "them": "they", "their": "they", "theirs": "they"}  # fmt: skip
_OWN = ("his", "hers", "theirs", "their")
# Words after "her" that make it an object; before any other word it is a possessive.
_AFTER_OBJECT = frozenset("""and or but to at in on with for from into onto by near behind beside over under up down away back
  home the a an that this if when while as because after before again too then now there here some every about not so
  outside inside today tomorrow how what why who where whether happily sadly quickly""".split())  # fmt: skip
_TOKEN = re.compile(r"\"[^\"]*\"|[\w’'-]+|[^\w\s]|\s+")
_TITLES = ("Mr", "Mrs", "Ms", "Miss", "Dr", "Professor")
_WORDS_TOO = frozenset(
  "will may grace rose mark hope faith joy dawn art bill pat sue jack".split()
)  # first names that are words


@dataclasses.dataclass(frozen=True)
class Rules:
  """`pronouns`: she, he or they by full name, for people whose pronouns are known."""

  pronouns: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def parse(self, story: str, names: Sequence[str]) -> list[str]:
    state = _State(list(names), {n: nm.pronouns(n, self.pronouns) for n in names})
    text = story.replace("“", '"').replace("”", '"').replace("«", '"').replace("»", '"')
    out = []
    full = [_full_names(s, state) for s in sentences(text)]
    state.ahead = [n for s in full for n in nm.find(s, names)]
    for sentence in full:
      for clause in clauses(sentence, names):
        out.append(_finish(_resolve(clause, state)))
    return [s for s in out if re.search(r"\w", s)]


@dataclasses.dataclass
class _State:
  """People mentioned so far, the latest last; their pronouns; and who comes later in the story."""

  names: list[str]
  gender: dict[str, str]
  recent: list[str] = dataclasses.field(default_factory=list)
  groups: list[list[str]] = dataclasses.field(default_factory=list)  # the people of each clause so far
  ahead: list[str] = dataclasses.field(default_factory=list)
  in_full: list[str] = dataclasses.field(default_factory=list)  # full names so far, while first names are completed
  thing: str = ""  # what "it" means

  def mention(self, name: str):
    if name in self.recent:
      self.recent.remove(name)
    self.recent.append(name)
    if name in self.ahead:
      self.ahead.remove(name)

  def one(self, gender: str, exclude: Sequence[str] = ()) -> str | None:
    """The last person mentioned whom a pronoun of that gender can mean; else the next in the story."""
    for among in (self.recent[::-1], self.ahead, self.names):
      for fits in ([n for n in among if self.gender[n] == gender], [n for n in among if not self.gender[n]]):
        for n in fits:
          if n in exclude:
            continue
          self.gender[n] = self.gender[n] or gender
          return n
    return None

  def several(self, exclude: Sequence[str] = ()) -> list[str]:
    """Whom "they" means: somebody with that pronoun, the last group of people, or the only person mentioned."""
    they = [n for n in self.recent[::-1] if self.gender[n] == "they" and n not in exclude]
    for group in self.groups[::-1]:
      if len(group) > 1 and not set(group) & set(exclude):
        return group
      if they and they[0] in group:
        return they[:1]
    everybody = [n for n in self.recent if n not in exclude]
    if len(everybody) > 1:
      return everybody[-2:]
    return everybody or list(dict.fromkeys(n for n in self.ahead if n not in exclude))[:2]


def _full_names(sentence: str, state: _State) -> str:
  """First names, and last names with a title, become full names, except in quotations."""

  def replace(part: str) -> str:
    for n in state.names:
      last = n.split()[1]
      part = re.sub(rf"\b(?:{'|'.join(_TITLES)})\.? {re.escape(last)}(?!\w)", n, part)
    for first in {n.split()[0] for n in state.names}:
      owners = [n for n in state.names if n.split()[0] == first]
      lasts = "|".join(re.escape(n.split()[1]) for n in owners)
      alone = rf"(?<![\w<]){re.escape(first)}(?!\w)(?! (?:{lasts})(?!\w))"
      part = re.sub(alone, functools.partial(_owner, owners=owners, text=part, state=state), part)
    state.in_full += nm.find(part, state.names)
    return part

  parts = re.split(r'("[^"]*")', sentence)
  return "".join(p if p.startswith('"') else replace(p) for p in parts)


def _owner(m: re.Match[str], owners: list[str], text: str, state: _State) -> str:
  """The full name for a first name: of the only such person, or of the one last named in full; else the match."""
  rest = text[m.end() :]
  if m[0].casefold() in _WORDS_TOO and m.start() == 0 and not re.match(r"(?:'s)? [a-z]+(?:s|ed)\b", rest):
    return m[0]
  if re.match(r"\s+[A-Z][a-z]", rest) and not re.match(r"\s+(?:and|or)\b", rest):
    return m[0]  # another Anna: Anna Smith
  if len(owners) == 1:
    return owners[0]
  full = nm.find(text[: m.start()], owners) or [n for n in state.in_full if n in owners]
  return full[-1] if full else m[0]


def _resolve(clause: str, state: _State) -> str:
  """A clause with every pronoun replaced by the people it means."""
  tokens = _tokens(clause, state.names)
  out: list[str] = []
  here: list[str] = []  # mentioned in this clause so far
  subject = _subject(tokens, state)
  for i, token in enumerate(tokens):
    lower = token.casefold()
    if token in state.names:
      here.append(token)
      state.mention(token)
    elif lower in _GENDER:
      token = _replacement(lower, tokens, i, here, subject, state)
    elif lower in ("it", "its") and (thing := _thing(lower, tokens, i, state)):
      token = thing
    out.append(token)
  _remember(tokens, state)
  if here:
    state.groups.append(list(dict.fromkeys(here)))
  return "".join(out)


def _tokens(clause: str, names: Sequence[str]) -> list[str]:
  """Words, marks, spaces, whole quotations and full names; a possessive is a token of its own."""
  out: list[str] = []
  for part in re.split(rf'("[^"]*")|{nm.pattern(names).pattern}', clause):
    if not part:
      continue
    if part in names or part.startswith('"'):
      out.append(part)
    else:
      out += _TOKEN.findall(part)
  return out


def _subject(tokens: list[str], state: _State) -> set[str]:
  """The people who act in the clause: the names before its verb."""
  out: set[str] = set()
  for t in tokens:
    if t in state.names:
      out.add(t)
    elif t.strip() and t.casefold() not in ("and", ",") and out:
      break
  return out


def _replacement(lower: str, tokens: list[str], i: int, here: list[str], subject: set[str], state: _State) -> str:
  after = next((t for t in tokens[i + 1 :] if t.strip()), "")
  owns = (
    lower in _OWN
    or lower == "her"
    and bool(re.fullmatch(r"[\w’'-]+", after))
    and after.casefold() not in _AFTER_OBJECT
    and after not in state.names
  )
  acts = lower in ("he", "she", "they")
  exclude = subject if not owns and not acts else set()
  if lower in ("they", "them", "their", "theirs"):
    who = state.several(tuple(exclude))
  else:
    one = state.one(_GENDER[lower], tuple(exclude))
    who = [one] if one else []
  if not who:
    return tokens[i]
  for n in who:
    state.mention(n)
    here.append(n)
  if acts and not subject:
    subject.update(who)
  if acts and lower == "they" and len(who) == 1:  # one person: "they wave" becomes "... waves"
    for k in range(i + 1, len(tokens)):
      if tokens[k].strip():
        tokens[k] = third_person(tokens[k])
        break
  return _enumerate(who) + ("'s" if owns else "")


def _enumerate(who: Sequence[str]) -> str:
  return " and ".join(filter(None, (", ".join(who[:-1]), who[-1])))


# Things.

_THING = re.compile(
  r"\b(?:a|an|the)((?: [a-z]+){1,3}?)(?=[.,;!?]|$| (?:and|in|on|at|to|from|with|for|of|by|near|that|which|is|was|over|under|behind|into)\b)"
)
_NEEDS_THING = frozenset("""eats drinks opens closes takes buys reads holds gives throws catches wears paints sees likes loves finds
  carries drops lifts picks shows cuts cooks bakes shares ate drank opened closed took bought read held gave threw caught
  wore painted saw liked loved found carried dropped lifted picked showed cooked baked shared puts brings brought hides
  with of on in at to for from""".split())  # fmt: skip


def _thing(lower: str, tokens: list[str], i: int, state: _State) -> str:
  """What "it" means as the object of a verb; for weather, time and situations it stays "it"."""
  before = next((t.casefold() for t in tokens[:i][::-1] if t.strip()), "")
  if not state.thing or lower == "it" and before not in _NEEDS_THING:
    return ""
  return f"the {state.thing}" + ("'s" if lower == "its" else "")


def _remember(tokens: list[str], state: _State):
  text = "".join(t for t in tokens if not t.startswith('"') and t not in state.names)
  if things := [m[1].strip() for m in _THING.finditer(text)]:
    state.thing = things[0]


def _finish(text: str) -> str:
  """The text with a capital first letter, a mark at the end, and single spaces."""
  text = " ".join(text.split()).strip(" ,;")
  if not text:
    return ""
  if not re.search(r"[.!?…][\"')]*$", text):
    text += "."
  return text[0].upper() + text[1:]
