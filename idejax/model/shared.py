"""A folder of shared modules: what a method trained jointly with many people, from which others may start.

modules.safetensors     float32, parameters' names joined by /
shared.json             what they were made of; written last: a folder without it holds no modules
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from idejax.errors import UserError
from idejax.storage import tensorfiles
from idejax.storage.files import read_json, write_json

CARD = "shared.json"
VERSION = 1
_STEM = "modules"


@dataclasses.dataclass(frozen=True)
class About:
  """What shared modules were made of. Using them needs the same model, recogniser and names."""

  method: str
  model: str  # by name
  model_digest: str
  recogniser: str  # the face pack
  recogniser_digest: str
  licence: str  # of the face pack
  names: str  # sha256 of the celebrities' names, one a line
  data: str
  people: int
  steps: int
  structure: Mapping[str, Any]  # what of the method's Config the modules depend on
  settings: Mapping[str, Any]  # all of that Config
  history: tuple[float, ...]  # the loss, means of equal parts of the steps
  idejax: str

  @classmethod
  def from_json(cls, config: Mapping[str, Any]) -> "About":
    """Reads the content of `shared.json`. ValueError, one sentence, for another version or a missing field."""
    if config.get("version") != VERSION:
      raise ValueError(f"its version is {config.get('version')!r}, not {VERSION}")
    kinds = {"people": int, "steps": int, "structure": dict, "settings": dict, "history": list}
    values = {f.name: config.get(f.name) for f in dataclasses.fields(cls)}
    for name, x in values.items():
      if type(x) is not kinds.get(name, str):
        raise ValueError(f"{name} is {x!r:.80}, not {kinds.get(name, str).__name__}")
    return cls(**(values | {"history": tuple(values["history"])}))  # type: ignore[arg-type]


def write(folder: Path, modules: Mapping[str, Any], about: About):
  """Writes the folder. UserError if a file cannot be written."""
  (folder / CARD).unlink(missing_ok=True)
  tensors = {k: np.asarray(v, np.float32) for k, v in _flatten(modules)}
  tensorfiles.write(folder / f"{_STEM}.safetensors", tensors)
  write_json(folder / CARD, {"version": VERSION, **dataclasses.asdict(about)})


def read(folder: Path) -> About:
  """The card of a folder. UserError if it is none of shared modules."""
  path = folder / CARD
  if not path.is_file():
    raise UserError(f"{folder} holds no shared modules: it has no {CARD}; idejax train-shared writes it")
  try:
    return About.from_json(read_json(path))
  except ValueError as e:
    raise UserError(f"{path}: {e}") from e


def load(folder: Path, like: Mapping[str, Any]) -> dict[str, Any]:
  """The modules, float32. UserError unless each is of `like`, a method's parameters by their shapes, and has its shape."""
  tensors, out = tensorfiles.read(folder, _STEM), dict[str, Any]()
  want = {k: v.shape for k, v in _flatten(like) if k.split("/")[0] in {n.split("/")[0] for n in tensors}}
  for name in sorted(want.keys() | tensors.keys()):
    if name not in want or name not in tensors:
      raise UserError(f"{folder}: {name} is {'missing' if name in want else 'of no module'}")
    x = np.asarray(tensors[name], np.float32)
    if x.shape != want[name]:
      raise UserError(f"{folder}: {name} has shape {list(x.shape)}, not {list(want[name])}")
    node = out
    *parents, leaf = name.split("/")  # parameters' own names hold dots
    for p in parents:
      node = node.setdefault(p, {})
    node[leaf] = x
  if not out:
    raise UserError(f"{folder}: {_STEM}.safetensors is empty")
  return out


def digest(folder: Path) -> str:
  """Of the modules themselves."""
  return tensorfiles.digest(folder / f"{_STEM}.safetensors")


def digest_of(names: Sequence[str]) -> str:
  """Of a list of celebrities' names."""
  return hashlib.sha256("\n".join(names).encode()).hexdigest()


def _flatten(node: Any, path: str = ""):
  if not isinstance(node, Mapping):
    yield path[1:], node
    return
  for key, child in node.items():
    yield from _flatten(child, f"{path}/{key}")
