"""Checks whether training captions name the photo's clothes and background.

If a caption does not name them, training makes them part of the person, and they appear in later pictures.
"""

import re

_CLOTHES = """wear wears wearing dressed clothes shirt t-shirt tshirt blouse sweater pullover hoodie jumper cardigan jacket coat
blazer suit tie dress skirt gown uniform robe vest top tank-top turtleneck scarf shawl kimono sari hijab jersey overalls
shirtless bare naked""".split()
_PLACES = """background backdrop front wall beach sea sand ocean lake river water snow mountain mountains forest wood woods trees
tree garden park grass field lawn street road city town building house home room living-room kitchen bathroom bedroom office
desk studio shop store cafe restaurant bar bench car train plane indoors outdoors inside outside sky sunset night day daylight
window door curtain sofa couch bed stage stadium""".split()
EXAMPLE = "in a blue shirt on the beach"


def omissions(text: str) -> list[str]:
  """Which of clothes and background a description does not seem to name."""
  words = set(re.findall(r"[a-z]+(?:-[a-z]+)?", text.lower()))
  return [name for name, vocabulary in (("clothes", _CLOTHES), ("background", _PLACES)) if not words & set(vocabulary)]


def advice(describe: str | None) -> str | None:
  """A warning about the user's description of a photo, with an example. None if nothing is missing, or if the
  description is empty, which means that the user wants none.
  """
  if describe is not None and not describe.strip():
    return None
  text = (describe or "").strip()
  if not (names := omissions(text)):
    return None
  hint = {"clothes": "in a blue shirt", "background": "on the beach"}
  example = EXAMPLE if not text else " ".join([text, *(hint[n] for n in names)])
  return (f"warning: the captions say nothing of the photo's {' and '.join(names)}, which will then become part of the person; "
          f'tell what it shows, such as --describe "{example}", or --describe "" if it shows nothing else')  # fmt: skip
