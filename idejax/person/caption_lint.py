"""What training captions should say beside the person, and do not: clothes and background.

A caption that is silent about them teaches that they belong to the person; later prompts then bring them along.
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


def missing(text: str) -> list[str]:
  """Of clothes and background, what a description does not seem to name."""
  words = set(re.findall(r"[a-z]+(?:-[a-z]+)?", text.lower()))
  return [name for name, known in (("clothes", _CLOTHES), ("background", _PLACES)) if not words & set(known)]


def advice(describe: str | None) -> str | None:
  """A warning for a photo of the user's, with an example; None if nothing is missing, or if the user
  has said with an empty description that nothing is to be told.
  """
  if describe is not None and not describe.strip():
    return None
  told = (describe or "").strip()
  if not (lost := missing(told)):
    return None
  hint = {"clothes": "in a blue shirt", "background": "on the beach"}
  example = EXAMPLE if not told else " ".join([told, *(hint[n] for n in lost)])
  return (f"warning: the captions say nothing of the photo's {' and '.join(lost)}, which will then become part of the person; "
          f'tell what it shows, such as --describe "{example}", or --describe "" if it shows nothing else')  # fmt: skip
