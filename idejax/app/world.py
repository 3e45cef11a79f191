"""Translates sentences into the drawn world's words, the only ones that the built-in model knows.

"Anna Field laughs on the shore, comic style" becomes "pop art of <anna_field> smiling on the beach". What that
world cannot show (a dog, a door) is left out. A place stays the same until another one is named.
"""

import re
from collections.abc import Sequence

from idejax.app import names as nm

_PLACES = {
  "on the beach": "beach shore sea ocean sand coast waves swim swims surf surfs",
  "in the snow": "snow snows snowing snowy winter mountain mountains ski skis ice snowman",
  "in the forest": "forest tree trees wood woods park garden jungle",
  "in the city": "city street streets store shop market school town office station bus car shopping",
  "at night": "night moon stars dark midnight",
  "at sunset": "sunset evening dusk sunrise",
  "at home": "home house room kitchen bed bedroom sofa inside living",
}
_MOODS = {
  "smiling": "smile smiles smiled smiling laugh laughs laughed laughing happy happily grin grins glad joy love loves hug hugs "
             "hugged kiss kisses cheer cheers celebrate celebrates dance dances sing sings thank thanks thanked like likes enjoy enjoys",
  "looking sad": "sad sadly cry cries cried crying weep weeps tears lonely miss misses sorry lose loses lost unhappy alone",
  "looking surprised": "surprise surprised surprises gasp gasps wonder wonders shock shocked amazed find finds found discover "
                       "discovers notice notices suddenly",
  "looking angry": "angry angrily mad shout shouts shouted yell yells argue argues furious annoyed scream screams",
  "winking": "wink winks winked winking joke jokes",
}  # fmt: skip
_ACCESSORIES = {
  "sunglasses": "sunglasses shades sunny",
  "glasses": "glasses spectacles read reads reading book",
  "a hat": "hat cap helmet",
  "headphones": "headphones music listen listens listening song",
}
_CLOTHES = ("red sweater", "blue shirt", "green hoodie", "black suit", "yellow scarf", "white shirt")
_POP = frozenset("""comic style|cartoon|vector|clipart style|vivid colors|disney style|psychedelic style|vaporwave style|
  studio ghibli style|cyberpunk|high contrast|Van Gogh|oil painting|fantasy art|surreal""".replace("\n  ", "").split("|"))  # fmt: skip
_SKETCH = frozenset("minimalistic|2d minimalistic|watercolor painting".split("|"))


def prompts(
  sentences: Sequence[str], people: Sequence[Sequence[str]], styles: Sequence[Sequence[str]]
) -> list[list[str]]:
  """For each sentence its prompts, one for each of its people with their signal word, or one with "a person" if
  it has none. The model has read of one person a picture only, so two people never share a prompt."""
  place = ""
  out = []
  for sentence, who, style in zip(sentences, people, styles):
    words = _words(nm.pattern(who).sub(" ", sentence))
    place = _hit(_PLACES, words[::-1]) or place  # "to the school in the forest" ends in the forest
    medium = "pop art of" if _POP & set(style) else "a sketch of" if _SKETCH & set(style) else "a photo of"
    own = []
    for name in who or [""]:
      # Only words after a name count for that person: in "Anna Field smiles at Ben Stone" only Anna smiles.
      after = sentence.partition(name)[2] if name else sentence
      deed = _words(nm.pattern(who).sub(" ", after))
      clothes = next((c for c in _CLOTHES if c in after.casefold()), "")
      clothing = " and ".join(x for x in (_hit(_ACCESSORIES, deed), clothes and f"a {clothes}") if x)
      parts = (
        medium,
        nm.word(name) if name else "a person",
        _hit(_MOODS, deed),
        clothing and f"wearing {clothing}",
        place,
      )
      own.append(" ".join(x for x in parts if x))
    out.append(own)
  return out


def setting(prompt: str) -> str:
  """The picture of such a prompt with nobody in particular: its medium and its place."""
  place = next((p for p in _PLACES if prompt.endswith(p)), "")
  return f"{prompt.partition(' of ')[0]} of a person {place}".strip()


def _words(text: str) -> list[str]:
  return re.findall(r"[a-z]+", text.casefold())


def _hit(table: dict[str, str], words: Sequence[str]) -> str:
  """The phrase whose words come first in a sentence, "" for none."""
  for w in words:
    for phrase, synonyms in table.items():
      if w in synonyms.split():
        return phrase
  return ""
