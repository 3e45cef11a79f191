"""What must not be asked for. Every text that reaches a prompt is first reduced to plain letters.

Accents, look-alikes from other scripts, full-width letters, l33t, zero-width characters, s p a c e d letters
and repeated letters are undone, so that spelling does not get around a rule. Rules are strict because a real
person's likeness is at stake; words that merely contain another (Essex, cocktail, skill) pass.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from idejax.errors import UserError


class Denial(NamedTuple):
  """The rule that a text breaks."""

  category: str
  term: str  # of the list, not as it was spelled


# Stems match a word and its endings below; phrases match as they stand, in plain letters.
_TERMS = {
  "nudity": """naked nude nudity nudist topless bottomless unclothed undressed undressing striptease stripper
    nipple genital genitalia genitals penis vagina vulva buttocks bare-chested bare-breasted no clothes without clothes
    wearing nothing lingerie see-through nsfw onlyfans""",
  "sexual content": """sex sexy sexual sexually sexting porn porno pornographic pornography erotic erotica hentai xxx
    orgasm orgy intercourse masturbate masturbating masturbation blowjob handjob cunnilingus fellatio fetish bdsm bondage
    dildo prostitute prostitution whore slut horny aroused seductive incest rape raped raping rapist
    molest molested molesting bestiality boobs tits pussy cock fuck fucked fucking cum upskirt camgirl""",
  "sexual content with minors": "pedophile pedophilia paedophile lolicon shotacon loli jailbait child bride",
  "gore": """gore gory decapitate decapitated beheaded beheading dismember dismembered disembowel disembowelled
    disemboweled mutilate mutilated mutilation eviscerated entrails guts spilling severed head severed limb
    torture tortured torturing bloodbath blood-soaked covered in blood impaled corpse snuff film suicide
    hangs himself hangs herself self-harm""",
  "hate": """nazi nazis hitler swastika heil ku klux klan kkk white power white supremacy ethnic cleansing genocide
    subhuman untermensch lynching lynched lynch mob blackface gas chamber racial slur terrorist terrorists""",
  "a crime ascribed to a person": """murderer murders murdered murdering murder kills killed stabs
    stabbed strangles strangled kidnaps kidnapped kidnapping kidnapper drug dealer dealing drugs sells
    drugs takes bribes bribing embezzles embezzling embezzlement arrested handcuffed in handcuffs mugshot in prison
    in jail convicted robs robbed robbing robbery robber steals stealing stole shoplifting shoplifts commits fraud
    fraudster terrorism bomb-making plants a bomb beats his wife beats her husband wife beater child abuser""",
}  # fmt: skip
# Several words that belong together in the lists above.
_PHRASES = ("no clothes", "without clothes", "wearing nothing", "child bride", "guts spilling", "severed head", "severed limb",
            "covered in blood", "snuff film", "hangs himself", "hangs herself", "ku klux klan", "white power", "white supremacy",
            "ethnic cleansing", "lynch mob", "gas chamber", "racial slur", "drug dealer", "dealing drugs", "sells drugs",
            "takes bribes", "in handcuffs", "in prison", "in jail", "commits fraud", "plants a bomb", "beats his wife",
            "beats her husband", "wife beater", "child abuser")  # fmt: skip
# Each of the two sets is harmless alone, but not both in one text.
_MINOR = frozenset("""child children kid kids minor minors toddler baby infant boy boys girl girls schoolgirl schoolgirls
  schoolboy schoolboys teen teens teenage teenager teenagers preteen preteens underage kindergartner pupil
  son daughter""".split())  # fmt: skip
_ADULT = frozenset("""bikini sensual shirtless underwear bra panties drunk vodka whiskey cigarette cigarettes smoking
  cocaine heroin stripping romantic lover lovers intimate""".split())  # fmt: skip
_AGE = re.compile(r"\b(?:[1-9]|1[0-7])[- ]?(?:years?|yrs?|yo)\b|\b(?:[1-9]|1[0-7]) ?y ?o\b")

_LEET = str.maketrans("0134578@$!|+€", "oieastbasilte")
_ONE = str.maketrans("1", "l")
# Letters of other scripts and of phonetics that look like ours, and those that Unicode does not take apart.
_LOOKALIKE = str.maketrans({
  "а": "a", "в": "b", "е": "e", "ё": "e", "к": "k", "м": "m", "н": "h", "о": "o", "р": "p", "с": "c", "т": "t",
  "у": "y", "х": "x", "і": "i", "ї": "i", "ј": "j", "ѕ": "s", "һ": "h", "ԁ": "d", "п": "n", "г": "r", "и": "u",
  "α": "a", "β": "b", "ε": "e", "η": "n", "ι": "i", "κ": "k", "ν": "v", "ο": "o", "ρ": "p", "τ": "t", "υ": "u",
  "χ": "x", "ω": "w", "γ": "y", "σ": "o", "ɡ": "g", "ɩ": "i", "ı": "i", "ł": "l", "đ": "d", "ø": "o", "æ": "ae",
  "œ": "oe", "ŋ": "n", "ʀ": "r", "ᴀ": "a", "ᴅ": "d", "ᴇ": "e", "ᴋ": "k", "ɴ": "n", "ᴏ": "o", "ᴜ": "u", "ɛ": "e"})  # fmt: skip
_INNOCENT = {"rapped", "rapping"}  # words whose double letter tells them from one of the list


def plain(text: str) -> str:
  """The text in small letters with single spaces, and with look-alikes and accents undone."""
  text = unicodedata.normalize("NFKC", text).casefold().translate(_LOOKALIKE)
  text = unicodedata.normalize("NFKD", text)
  text = "".join(
    c for c in text if not unicodedata.combining(c) and unicodedata.category(c) not in ("Cf", "Cc") or c in "\n\t"
  )
  return " ".join(text.split())


def readings(text: str) -> list[str]:
  """All ways to read a text: as it stands, with l33t undone, with spaced letters joined, and each of these
  with repeated letters written once. Words are separated by single spaces."""
  base = plain(text)
  leet = re.sub(r"\S*[a-z@$]\S*", lambda m: m[0].translate(_LEET), base)
  ell = re.sub(r"\S*[a-z@$]\S*", lambda m: m[0].translate(_ONE).translate(_LEET), base)
  # n.a.k.e.d, n a k e d, n-a-k-e-d: runs of three or more single letters are one word.
  compact = re.sub(r"(?<![a-z0-9])(?:[a-z0-9@$!][\s\W_]{1,3}){2,}[a-z0-9](?![a-z0-9])",
                  lambda m: re.sub(r"[^\w@$!]|_", "", m[0]), base)  # fmt: skip
  inside = [re.sub(r"(?<=[a-z])[*._\-~'’·](?=[a-z])", "", t) for t in (base, leet)]  # na-ked, na*ked
  out = []
  for t in (base, leet, ell, compact, compact.translate(_LEET), *inside):
    words = re.findall(r"[a-z0-9]+", t)
    once = [w if w in _INNOCENT else re.sub(r"([a-z])\1+", r"\1", w) for w in words]
    pairs = [a + b for a, b in zip(words, words[1:]) if len(a) + len(b) > 5 and min(len(a), len(b)) > 1]  # top less
    out += [
      " ".join(words),
      " ".join(re.sub(r"([a-z])\1{2,}", r"\1", w) for w in words),
      " ".join(once),
      " ".join(pairs),
    ]
  return list(dict.fromkeys(out))


def _compile() -> list[tuple[str, str, frozenset[str]]]:
  """(category, phrases and words): words as a set, phrases joined by |."""
  out = []
  for category, text in _TERMS.items():
    text = " ".join(text.split())
    phrases = [p for p in _PHRASES if p in text]
    for p in phrases:
      text = text.replace(p, " ")
    words = [w.replace("-", " ") for w in text.split()]
    phrases += [w for w in words if " " in w]
    out.append((category, "|".join(map(re.escape, phrases)), frozenset(w for w in words if " " not in w)))
  return out


_RULES = _compile()


def find(text: str) -> Denial | None:
  """The first rule that a text breaks, or None."""
  for reading in readings(text):
    words = reading.split()
    for category, phrases, stems in _RULES:
      for w in words:
        if w in stems:
          return Denial(category, w)
      if phrases and (m := re.search(rf"\b(?:{phrases})\b", reading)):
        return Denial(category, m[0])
    young = next((w for w in words if w in _MINOR), "") or ((m := _AGE.search(reading)) and m[0])
    if young and (adult := next((w for w in words if w in _ADULT), "")):
      return Denial("minors in an adult context", f"{young}, {adult}")
  return None


def check(texts: Iterable[tuple[str, str]]):
  """UserError for the first (what it is, text) that may not be asked for."""
  for what, text in texts:
    if d := find(text):
      raise UserError(f"{what} asks for {d.category} ({d.term!r}), which this app does not draw of anybody")


# What pictures are steered away from, whatever is asked for.
NEGATIVE = "nudity, nsfw, gore, blood, violence, hateful symbols, deformed"


def negative(own: str) -> str:
  """The negative prompt: the user's, followed by the fixed one."""
  return ", ".join(t for t in (own.strip().rstrip(","), NEGATIVE) if t)
