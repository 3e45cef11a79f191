"""What a prompt controls: expression, accessory, background, clothes, style, pose and light."""

from typing import Any, NamedTuple

import numpy as np

EXPRESSIONS = ("neutral", "happy", "sad", "surprised", "angry", "winking")
ACCESSORIES = ("none", "glasses", "sunglasses", "hat", "headphones")
BACKGROUNDS = ("beach", "snow", "forest", "city", "night", "sunset", "home",
               "blue", "yellow", "pink", "gray")  # fmt: skip
CLOTHES = ("red sweater", "blue shirt", "green hoodie", "black suit", "yellow scarf", "white shirt")
STYLES = ("photo", "sketch", "pop art")

# How often each value is drawn. Tests ask for accessories, so "none" is not the majority.
_ODDS = {
  "expression": (0.20, 0.16, 0.16, 0.16, 0.16, 0.16),
  "accessory": (0.40, 0.15, 0.15, 0.15, 0.15),
  "background": (1 / 11,) * 11,
  "clothes": (1 / 6,) * 6,
  "style": (0.70, 0.15, 0.15),
}
_RANGES = {
  "shift_x": (-0.12, 0.12),
  "shift_y": (-0.04, 0.08),
  "tilt": (-0.17, 0.17),
  "scale": (0.88, 1.06),
  "yaw": (-0.30, 0.30),
  "light": (-1.0, 1.0),
  "exposure": (0.88, 1.05),
  "drift": (-1.0, 1.0),
}
POSE = tuple(_RANGES)  # pose and light, which no prompt names
_FACE = POSE[:5]  # where the face lies and how it is turned
CALM, WILD = 3.0, 1.0  # how poses are spread: see `scenes`


class Scene(NamedTuple):
  """One picture's factors: five int32 codes into the tables above, eight float32; any batch shape.

  shift in half image widths, tilt and yaw in radians (positive: clockwise, turned to image right),
  light -1 (from the left) .. 1, exposure a factor, drift moves the background sideways.
  """

  expression: Any
  accessory: Any
  background: Any
  clothes: Any
  style: Any
  shift_x: Any
  shift_y: Any
  tilt: Any
  scale: Any
  yaw: Any
  light: Any
  exposure: Any
  drift: Any


def pick(u, odds) -> np.ndarray:
  """Inverse CDF: uniforms [...] to int32 codes [...]."""
  edges = np.cumsum(odds)[:-1]
  return np.searchsorted(edges, u, side="right").astype(np.int32)


def scenes(ids, count: int, seed: int, calm: float = CALM) -> Scene:
  """Fields [len(ids) * count], person by person; picture k of person i is from (seed, i, k).

  How far shift, tilt, scale and yaw lie from the middle of their ranges, as a share of the whole way, is a uniform
  number raised to the power `calm`: with CALM half of the faces lie within an eighth of the range, so that a small
  model sees much the same place again and again; WILD spreads them evenly, for what has to read every pose.
  """
  u = np.stack([_uniforms(seed, int(i), k) for i in ids for k in range(count)])
  codes = [pick(u[:, n], odds) for n, odds in enumerate(_ODDS.values())]
  spans = {n: _between(*_RANGES[n], u[:, len(codes) + k], calm if n in _FACE else 1.0) for k, n in enumerate(POSE)}
  return Scene(*codes, **spans)


def _between(low: float, high: float, u: np.ndarray, power: float) -> np.ndarray:
  if power == 1:
    return (low + (high - low) * u).astype(np.float32)
  side = 2 * u - 1
  return ((low + high) / 2 + (high - low) / 2 * np.sign(side) * np.abs(side) ** power).astype(np.float32)


def scene(**fields) -> Scene:
  """One scene from names or codes; the defaults are a plain frontal photo."""
  tables = dict(expression=EXPRESSIONS, accessory=ACCESSORIES, background=BACKGROUNDS,
                clothes=CLOTHES, style=STYLES)  # fmt: skip
  values = dict.fromkeys(Scene._fields, 0.0) | {"scale": 1.0, "exposure": 1.0} | fields
  for name, table in tables.items():
    value = values[name]
    values[name] = np.int32(table.index(value) if isinstance(value, str) else value)
  return Scene(**{n: v if n in tables else np.float32(v) for n, v in values.items()})


def names(scene: Scene) -> dict[str, str]:
  """The codes of one scene in words."""
  return {
    "expression": EXPRESSIONS[int(scene.expression)],
    "accessory": ACCESSORIES[int(scene.accessory)],
    "background": BACKGROUNDS[int(scene.background)],
    "clothes": CLOTHES[int(scene.clothes)],
    "style": STYLES[int(scene.style)],
  }


def _uniforms(seed: int, person: int, k: int) -> np.ndarray:
  """[13] numbers; the counter holds k, so any picture can be rendered without those before it."""
  bits = np.random.Philox(key=[seed, person], counter=[0, k, 1, 0])
  return np.random.Generator(bits).random(len(Scene._fields))
