"""Training captions with "{}" for the identity: the list of Textual Inversion."""

from pathlib import Path

_FILE = Path(__file__).parent / "celebrities.txt"

MEDIA = ("a photo", "an illustration", "a depiction")
ADJECTIVES = (
  "a",
  "a clean",
  "a dirty",
  "my",
  "the cool",
  "the",
  "one",
  "the clean",
  "a nice",
  "the nice",
  "the small",
  "the weird",
  "the large",
  "a cool",
  "a small",
)
SHARED = (
  "a rendering of a",
  "a cropped photo of the",
  "the photo of a",
  "a dark photo of the",
  "a close-up photo of a",
  "a bright photo of the",
  "a cropped photo of a",
  "a good photo of the",
  "a close-up photo of the",
  "a rendition of the",
  "a rendition of a",
  "a good photo of a",
)

# 81 entries, 57 distinct: the 12 that depend on no medium count three times, as the papers sample.
TEMPLATES = tuple(
  f"{opening} {{}}" for medium in MEDIA for opening in (*(f"{medium} of {a}" for a in ADJECTIVES), *SHARED)
)

# These hold for any photo of a person, and have no article before what may be a name.
PHOTO = ("a photo of {}", "a portrait of {}", "a portrait photo of {}")


def celebrities() -> tuple[str, ...]:
  """This project's list of names that text encoders trained on the web know, for anchors and statistics."""
  return tuple(n for n in _FILE.read_text("utf-8").splitlines() if n)
