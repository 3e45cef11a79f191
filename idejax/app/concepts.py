"""Checks every decoded picture with a CLIP: is it nearer to a denied concept than to every harmless one?

A CLIP can only judge what it was trained on. The built-in judge knows the drawn world, which has nothing to
deny. A model of photographs needs a CLIP of photographs; without one it draws no comic.
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from idejax.errors import UserError, one_line
from idejax.miniature.judging import judges
from idejax.model import tokens
from idejax.storage import hub

BUILT_IN = hub.BUILT_IN["miniature"].parent / "judges" / "clip"
_CHUNK = 8

# For CLIPs that have seen photographs.
DENIED = ("nudity", "a naked person", "a topless person", "explicit sexual content", "pornography", "a person in lingerie",
          "gore and blood", "a mutilated body", "a corpse", "a nazi symbol", "a child in a sexual pose")  # fmt: skip
HARMLESS = ("a portrait of a clothed person", "people in a street", "a person at home", "a landscape", "a building",
            "a comic panel", "a cartoon of a person", "a painting of a person", "food on a table", "a group of friends",
            "a person at the beach in summer clothes", "an animal")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Rules:
  """What is denied, what is harmless, and by how much a denied concept may be nearer."""

  denied: tuple[str, ...] = DENIED
  harmless: tuple[str, ...] = HARMLESS
  margin: float = 0.0


def world_rules() -> Rules:
  """Rules for the built-in judge: everything that its world can show is harmless."""
  texts = [t for lines in judges.prompts().values() for t in lines]
  texts += [t for style in ("sketch", "pop art") for t in judges.prompts(style=style)["expression"]]
  return Rules((), tuple(dict.fromkeys(texts)))


class Checker:
  """`folder`: a CLIP model as transformers writes it; the judge in the package is the default."""

  def __init__(self, folder: Path = BUILT_IN, rules: Rules | None = None):
    self.rules = rules or (world_rules() if folder == BUILT_IN else Rules())
    try:
      self.config, self.params = judges.read_clip(folder)
      self.words = tokens.load(folder)
      about = json.loads((folder / "preprocessor_config.json").read_text())
    except (OSError, ValueError, KeyError, TypeError) as e:
      raise UserError(f"{folder} is no CLIP model as transformers writes it: {one_line(str(e))[:120]}") from e
    self.side = int(self.config["vision_config"]["image_size"])
    self.mean, self.std = (np.array(about.get(k) or [0.5] * 3, np.float32) for k in ("image_mean", "image_std"))
    self._see = jax.jit(functools.partial(_see, self.config))
    self._say = jax.jit(functools.partial(_read, self.config))

  @functools.cached_property
  def _texts(self) -> np.ndarray:
    """Unit embeddings of the denied concepts and then of the harmless ones, [N, P]."""
    return self._words([*self.rules.denied, *self.rules.harmless])

  def _words(self, texts: Sequence[str]) -> np.ndarray:
    """Unit embeddings of texts, [N, P]."""
    return np.asarray(self._say(self.params, self.words.encode(list(texts)).ids))

  def agreement(self, images: Sequence[np.ndarray], texts: Sequence[str]) -> np.ndarray:
    """The cosine of each uint8 picture [H, W, 3] and its text, float32 [N]; a wide picture's is its squares' mean."""
    parts = [squares(i) for i in images]
    seen = iter(self._pictures([s for own in parts for s in own]))
    means = np.stack([np.mean(list(itertools.islice(seen, len(own))), 0) for own in parts])
    return (means * self._words(texts)).sum(-1)

  def scores(self, images: Sequence[np.ndarray]) -> np.ndarray:
    """Cosines [N pictures, denied + harmless] of square uint8 pictures [H, H, 3]."""
    return self._pictures(images) @ self._texts.T

  def _pictures(self, images: Sequence[np.ndarray]) -> np.ndarray:
    """Unit embeddings of square pictures, [N, P]."""
    pixels = np.stack([self._pixels(i) for i in images])
    rows = []
    for at in range(0, len(pixels), _CHUNK):
      part = pixels[at : at + _CHUNK]
      batch = np.concatenate([part, np.zeros((_CHUNK - len(part), *part.shape[1:]), np.float32)])
      rows.append(np.asarray(self._see(self.params, batch))[: len(part)])
    return np.concatenate(rows)

  def reasons(self, images: Sequence[np.ndarray]) -> list[str]:
    """For each picture why it must not be shown, or "" if it may."""
    n = len(self.rules.denied)
    if not n:
      return [""] * len(images)
    out = []
    parts = [squares(i) for i in images]
    rows = iter(self.scores([s for own in parts for s in own]))
    for own in parts:
      reason = ""
      for row in itertools.islice(rows, len(own)):
        denied, harmless = row[:n], row[n:]
        hit = denied.max() > harmless.max(initial=-1.0) + self.rules.margin
        if hit and not reason:
          reason = f"left blank: the picture check saw {self.rules.denied[int(denied.argmax())]}"
      out.append(reason)
    return out

  def _pixels(self, square: np.ndarray) -> np.ndarray:
    """A square at the network's size, normalised."""
    image = Image.fromarray(square)
    small = np.asarray(image.resize((self.side, self.side), Image.Resampling.BICUBIC), np.float32) / 255
    return (small - self.mean) / self.std


def squares(image: np.ndarray) -> list[np.ndarray]:
  """Overlapping squares that cover a picture, so that nothing at its edges is overlooked; a square is itself."""
  height, width = image.shape[:2]
  side = min(height, width)
  count = 1 if max(height, width) == side else -(-max(height, width) // side) + 1
  starts = np.linspace(0, max(height, width) - side, count).round().astype(int)
  return [image[a : a + side] if height > width else image[:, a : a + side] for a in starts]


def _see(config: dict[str, Any], params: Any, pixels: jax.Array) -> jax.Array:
  _, vision = judges.towers(config)
  out: Any = vision.apply({"params": params["vision"]}, pixels)
  return judges.unit(out.embeds)


def _read(config: dict[str, Any], params: Any, ids: jax.Array) -> jax.Array:
  text, _ = judges.towers(config)
  out: Any = text.apply({"params": params["text"]}, jnp.asarray(ids))
  return judges.unit(out.pooled)
