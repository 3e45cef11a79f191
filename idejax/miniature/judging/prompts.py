"""What a prompt in the world's words asks for."""

from idejax.miniature.judging.judges import CLASSES
from idejax.miniature.world import captions, scene


def parse_prompt(prompt: str) -> dict[str, str]:
  """What a prompt in the world's words asks for: {"background": "beach", "style": "sketch", ...}.

  Prompts usually begin with "a photo of", so this style counts only if the prompt asks for nothing else.
  """
  factors = parse_factors(prompt)
  text = f"{' '.join(captions.words(prompt))} "
  style = next(
    (s for s, media in zip(scene.STYLES, captions.MEDIA) if text.startswith(tuple(f"{m} " for m in media))), None
  )
  return factors | ({"style": style} if style and (style != scene.STYLES[0] or not factors) else {})


def parse_factors(prompt: str) -> dict[str, str]:
  """The same without the style: {"background": "beach", ...}."""
  text = f" {' '.join(captions.words(prompt))} "
  tables = {"expression": [(e,) for e in captions.EXPRESSIONS], "accessory": [(a,) for a in captions.ACCESSORIES],
            "background": captions.BACKGROUNDS}  # fmt: skip
  hit = lambda phrases: any(p and f" {' '.join(captions.words(p))} " in text for p in phrases)
  return {n: CLASSES[n][k] for n, rows in tables.items() for k, phrases in enumerate(rows) if hit(phrases)}
