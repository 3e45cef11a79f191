"""What is asked of a pipeline: pictures one by one, and what they share; and how Python values become that.

Wherever a number goes, numpy's scalars and arrays go too. Anything else is refused with one sentence.
"""

import dataclasses
import difflib
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

from idejax.errors import UserError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, eq=False)
class Steer:
  """What steers one picture."""

  tokens: np.ndarray | None  # float32 [L, D], the ControlNet's context; None: a stock one, which reads the text
  marks: np.ndarray | None  # float32 [72, 2] in the picture's pixels; None: a black control picture
  strength: float = 1.0  # the ControlNet's scale; 0: the picture of the model without it
  until: float = 1.0  # share of the steps, from the first, after which it no longer acts
  about: dict[str, Any] = dataclasses.field(default_factory=dict)  # for the picture's record
  start: float = 0.0  # share of the steps before it acts
  picture: np.ndarray | None = None  # float32 [H, W, 3] in [0, 1], in place of drawn landmarks
  person: str = ""  # the word of the person whose face it is, where somebody learned it


@dataclasses.dataclass(frozen=True)
class Request:
  """One picture. `(seed, index)` names its noise; `negative` None is the family's default.

  start: the share of the trajectory, 0 to 1, that is drawn with `plain` in place of the prompt: a
  person enters when the layout stands. steer: the face and pose, or the control picture, that steer the picture.
  """

  prompt: str
  negative: str | None = None
  seed: int = 0
  index: int = 0
  guidance: float = 7.5
  start: float = 0.0
  plain: str = ""
  steer: Steer | None = None


@dataclasses.dataclass(frozen=True)
class Settings:
  """What all pictures of a run share."""

  steps: int = 50
  sampler: str = "folder"  # the scheduler that the model folder names
  height: int | None = None  # pixels; None: the size that the model was trained at
  width: int | None = None
  batch: int | None = None  # pictures at a time over all devices
  spacing: str | None = None  # timestep spacing: leading, trailing, linspace
  karras: bool | None = None  # Karras noise levels
  eta: float | None = None  # noise of stochastic samplers
  tiled: bool = False  # decode in overlapping tiles: large pictures in little memory


def build(prompts: Any, negative: Any, seeds: Any, guidance: Any, default_guidance: float) -> list[Request]:
  """A request per prompt. One negative prompt, seed and guidance for all, or one a picture.

  A single seed s gives picture i the noise (s, i); several give each picture (seed, 0).
  """
  texts = [_text(x, "prompt") for x in _several(prompts, "prompts")]
  n = len(texts)
  each: Callable[[Any, Callable[[Any], T], str], list[T]] = lambda x, of, name: (
    [of(x)] * n if _single(x) else [of(y) for y in _several(x, name)]
  )
  one_seed = _single(seeds)
  seed_list = each(seeds, _seed, "seeds")
  places = range(n) if one_seed else [0] * len(seed_list)
  scale = each(default_guidance if guidance is None else guidance, lambda x: _number(x, "guidance"), "guidance")
  other = each(negative, lambda x: None if x is None else _text(x, "negative prompt"), "negative")
  if uneven := {len(seed_list), len(scale), len(other)} - {n}:
    raise UserError(f"{n} prompts, but a list of {min(uneven)} beside them")
  return [Request(p, m, s, i, g) for p, m, s, i, g in zip(texts, other, seed_list, places, scale)]


def spread(given: Mapping[str, Any], count: int) -> list[list[Any]]:
  """Each value `count` times, or the list that it is. UserError for a list of another length."""
  for name, x in given.items():
    if isinstance(x, list) and len(x) != count:
      raise UserError(f"{count} prompts, but a list of {len(x)} as {name}")
  return [x if isinstance(x, list) else [x] * count for x in given.values()]


def numbers(given: Mapping[str, tuple[Any, float, float]], count: int) -> list[list[float]]:
  """Each number, or list with one a picture, checked against its least and its most."""
  values = spread({n: x if _single(x) else _several(x, n) for n, (x, _, _) in given.items()}, count)
  out = [[_number(x, name) for x in xs] for name, xs in zip(given, values)]
  for (name, (_, least, most)), xs in zip(given.items(), out):
    if odd := [x for x in xs if not least <= x <= most]:
      raise UserError(f"{name} is {odd[0]:g}; it must be from {least:g} to {most:g}")
  return out


def settings(given: Mapping[str, Any]) -> Settings:
  """`Settings` of Python values, None being the default. UserError for one that there is not, and for one of another kind."""
  names = [f.name for f in dataclasses.fields(Settings)]
  for name in given:
    if name not in names:
      near = difflib.get_close_matches(name, names, 1)
      hint = f" (did you mean {near[0]}?)" if near else ""
      raise UserError(f"sample has no setting {name!r}{hint}; it has {', '.join(names)}")
  values: dict[str, Any] = {name: _KINDS[name](x, name) for name, x in given.items() if x is not None}
  return Settings(**values)


def latents(x: Any, count: int, shape: tuple[int, int, int]) -> np.ndarray:
  """Initial noise [N, h, w, C] as float32. UserError unless it is real, finite and of that shape."""
  try:
    z = np.asarray(x)
  except (TypeError, ValueError) as e:
    raise UserError(f"init_latents is no array: {e}") from e
  if not np.issubdtype(z.dtype, np.floating):
    raise UserError(f"init_latents holds {z.dtype}; initial latents are float32")
  want = (count, *shape)
  if z.shape != want:
    torch = (count, shape[2], *shape[:2])
    hint = "; PyTorch's order is another: x.transpose(0, 2, 3, 1)" if z.shape == torch else ""
    raise UserError(f"init_latents has shape {z.shape}; {count} images of this size need {want}{hint}")
  if not np.isfinite(z).all():
    raise UserError("init_latents holds values that are not finite")
  return np.ascontiguousarray(z, np.float32)


def _single(x: Any) -> bool:
  """Whether a value stands for all pictures."""
  return (
    x is None or isinstance(x, str | bytes | int | float | np.generic) or (isinstance(x, np.ndarray) and not x.ndim)
  )


def _several(x: Any, name: str) -> list[Any]:
  if isinstance(x, str):
    return [x]
  if isinstance(x, np.ndarray) and x.ndim > 1:
    raise UserError(f"{name} has shape {x.shape}; give one value, or one a picture")
  if isinstance(x, bytes | Mapping) or not isinstance(x, Iterable):
    raise UserError(f"{name} is {x!r:.80}; give one value, or a list with one a picture")
  return list(x)


def _text(x: Any, name: str) -> str:
  if not isinstance(x, str):
    raise UserError(f"a {name} is {x!r:.80}; it must be a text")
  try:
    x.encode()
  except UnicodeEncodeError:
    raise UserError(f"a {name}, {ascii(x[:60])}, is not valid UTF-8 text") from None
  return str(x)


def _integer(x: Any, name: str) -> int:
  try:
    if isinstance(x, bool | np.bool_):
      raise TypeError
    return operator.index(x)
  except TypeError:
    raise UserError(f"{name} is {x!r:.80}; it must be a whole number") from None


def _count(x: Any, name: str) -> int:
  if (count := _integer(x, name)) < 1:
    raise UserError(f"{name} is {count}; it must be at least 1")
  return count


def _seed(x: Any) -> int:
  if not 0 <= (seed := _integer(x, "a seed")) < 2**64:
    raise UserError(f"a seed is {seed}; it must be from 0 to 2^64 - 1")
  return seed


def _number(x: Any, name: str) -> float:
  fits = isinstance(x, int | float | np.number) or (isinstance(x, np.ndarray) and not x.ndim)
  try:
    value = float(x) if fits and not isinstance(x, bool) else math.nan
  except (TypeError, ValueError, OverflowError):
    value = math.nan
  if not math.isfinite(value):
    raise UserError(f"{name} is {x!r:.80}; it must be a finite number")
  return value


def _switch(x: Any, name: str) -> bool:
  if not isinstance(x, bool | np.bool_):
    raise UserError(f"{name} is {x!r:.80}; it must be True or False")
  return bool(x)


_Kind = Callable[[Any, str], Any]
_KINDS: dict[str, _Kind] = dict.fromkeys(("steps", "height", "width", "batch"), _count)
_KINDS |= dict.fromkeys(("sampler", "spacing"), lambda x, name: _text(x, f"{name} name"))
_KINDS |= dict.fromkeys(("karras", "tiled"), _switch) | {"eta": _number}
