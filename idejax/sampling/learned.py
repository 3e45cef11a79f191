"""An identity on disk: the part of a person's training that sampling needs."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from idejax.errors import UserError
from idejax.methods import METHODS
from idejax.nets.clip import TextConfig
from idejax.storage import tensorfiles

FILE = "identity.safetensors"
_KEY = "idejax"  # the metadata's entry


@dataclasses.dataclass(frozen=True)
class Learned:
  """One person, ready to be used in prompts as `word`."""

  word: str
  method: str  # a key of METHODS
  cfg: Any  # the method's Config
  identity: Mapping[str, Any]  # see idejax.methods
  model: str  # the pipeline that it was trained on, as --model named it
  digest: str  # that pipeline's
  licence: str = ""  # the face pack's

  @property
  def rows(self) -> int:
    """Tokens that `word` takes."""
    return self.identity["rows"][0].shape[2] if "rows" in self.identity else 0

  def with_strength(self, scale: float) -> "Learned":
    """The person with another strength. UserError if the method has none."""
    if "scale" not in self.identity:
      raise UserError(f"{self.method} has no strength to set")
    return dataclasses.replace(self, identity={**self.identity, "scale": np.float32(scale)})


def save(folder: Path, person: Learned) -> Path:
  """Write `folder`/identity.safetensors: float32 tensors, and everything else as JSON in its metadata."""
  facts = {
    "word": person.word,
    "method": person.method,
    "config": dataclasses.asdict(person.cfg),
    "model": person.model,
    "digest": person.digest,
    "licence": person.licence,
  }
  tensors = {k: np.asarray(v, np.float32) for k, v in _flatten(person.identity, "")}
  path = folder / FILE
  tensorfiles.write(path, tensors, {_KEY: json.dumps(facts)})
  return path


def file(path: Path) -> Path:
  """The identity's file, from its own path or its run folder's. UserError if it does not exist."""
  target = path / FILE if path.is_dir() else path
  if not target.is_file():
    raise UserError(
      f"{path} holds no {FILE}: give the folder that idejax personalize wrote"
      + (", once it has finished" if path.is_dir() else "")
    )
  return target


def load(path: Path) -> Learned:
  """The identity in a run folder or an identity.safetensors. UserError says what is wrong with it."""
  try:
    with safe_open(file(path), "numpy") as f:
      facts = json.loads((f.metadata() or {})[_KEY])
      tensors = {k: f.get_tensor(k) for k in f.keys()}
    module = METHODS[facts["method"]]
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in facts["config"].items()}
    return Learned(
      facts["word"],
      facts["method"],
      module.Config(**fields),
      _nest(tensors),
      facts["model"],
      facts["digest"],
      facts.get("licence", ""),
    )
  except (SafetensorError, OSError, ValueError, KeyError, TypeError) as e:
    raise UserError(f"{path} is no identity of this idejax: {type(e).__name__} {str(e)[:120]}") from e


def check(person: Learned, text: tuple[TextConfig, ...], digest: str, model: str, *, other: bool = False):
  """UserError unless the identity fits a pipeline: its widths, and unless `other` its digest."""
  expected = [t.hidden_size for t in text]
  widths = [r.shape[-1] for r in person.identity.get("rows", ())] or expected
  if widths != expected:
    raise UserError(
      f"{person.word} was made on {person.model} (text width {_plus(widths)}), "
      f"{model} has width {_plus(expected)}: it cannot be used there"
    )
  if person.digest != digest and not other:
    raise UserError(
      f"{person.word} was made on {person.model} ({person.digest[:12]}), not on {model} "
      f"({digest[:12]}); --other-model tries it all the same"
    )


def _plus(widths) -> str:
  return " + ".join(map(str, widths))


def _flatten(node, path: str):
  items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, tuple | list) else None
  if items is None:
    yield path[1:], node
  else:
    for key, child in items:
      yield from _flatten(child, f"{path}/{key}")  # parameter names hold dots


def _nest(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
  out: dict[str, Any] = {}
  for path, x in tensors.items():
    *parents, leaf = path.split("/")
    node = out
    for p in parents:
      node = node.setdefault(p, {})
    node[leaf] = jnp.asarray(x)
  return _tuples(out)


def _tuples(node):
  """Dicts whose keys count from 0 were tuples."""
  if not isinstance(node, dict):
    return node
  children = {k: _tuples(v) for k, v in node.items()}
  if node and all(k.isdigit() for k in node):
    return tuple(children[str(i)] for i in range(len(node)))
  return children
