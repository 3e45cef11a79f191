"""An identity on disk: the part of a person's training that sampling needs."""

import base64
import dataclasses
import html
import io
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open

from idejax.errors import UserError
from idejax.methods import IDENTITIES
from idejax.methods.contract import asked, saved_fields
from idejax.model.backbone import Nets
from idejax.nets.clip import TextConfig
from idejax.storage import tensorfiles

FILE = "identity.safetensors"
_KEY = "idejax"  # the metadata's entry


@dataclasses.dataclass(frozen=True)
class Learned:
  """One person, ready to be used in prompts as `word`."""

  word: str
  method: str  # a key of IDENTITIES
  cfg: Any  # the method's Config
  identity: Mapping[str, Any]  # see idejax.methods
  model: str  # the pipeline it was made on, as it was named
  digest: str  # of that pipeline
  licence: str = ""  # of the face pack
  portrait: np.ndarray | None = dataclasses.field(default=None, compare=False)  # uint8 [S, S, 3], where it is at hand
  addon: str = ""  # folder of the add-on that read the face, of methods that train once for everybody
  addon_digest: str = ""  # of its ControlNet
  shared: str = ""  # digest of the shared modules from which the training started

  @property
  def rows(self) -> int:
    """Tokens that `word` takes."""
    return self.identity["rows"][0].shape[2] if "rows" in self.identity else 0

  @property
  def is_face(self) -> bool:
    """Whether the person is no word but a face that steers whole pictures, by an add-on."""
    return "tokens" in self.identity

  def with_strength(self, scale: float) -> "Learned":
    """The person with another strength. UserError if the method has none."""
    if "scale" not in self.identity:
      raise UserError(f"{self.method} has no strength to set")
    return dataclasses.replace(self, identity={**self.identity, "scale": np.float32(scale)})

  @property
  def strength(self) -> float | None:
    """The runtime strength, of methods that have one."""
    return float(self.identity["scale"]) if "scale" in self.identity else None

  def save(self, folder: str | os.PathLike[str]) -> Path:
    """Write FOLDER/identity.safetensors, which `idejax.open_person` and `idejax sample --identity FOLDER` read."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    return save(Path(folder), self)

  def __repr__(self) -> str:
    strength = "" if self.strength is None else f", strength {self.strength:g}"
    return f"<Learned {self.word} by {self.method} on {self.model}{strength}>"

  def _repr_html_(self) -> str:
    """What a notebook shows: the portrait, where there is one, and the same words."""
    facts = {"method": self.method, "model": self.model, "strength": self.strength}
    rows = "".join(f"<tr><th>{k}</th><td>{html.escape(str(v))}</td></tr>" for k, v in facts.items() if v is not None)
    table = f"<table><caption>{html.escape(self.word)}</caption>{rows}</table>"
    if self.portrait is None:
      return table
    picture = Image.fromarray(self.portrait).resize((128, 128), Image.Resampling.LANCZOS)
    picture.save(data := io.BytesIO(), "PNG")
    code = base64.b64encode(data.getvalue()).decode()
    return (
      f'<div style="display:flex;gap:1em"><img width=128 height=128 src="data:image/png;base64,{code}">{table}</div>'
    )


def save(folder: Path, person: Learned) -> Path:
  """Write `folder`/identity.safetensors."""
  return write(folder / FILE, person)


def write(path: Path, person: Learned) -> Path:
  """A person as a file: float32 tensors, and all else as JSON in its metadata."""
  facts = {
    "word": person.word,
    "method": person.method,
    "config": dataclasses.asdict(person.cfg),
    "model": person.model,
    "digest": person.digest,
    "licence": person.licence,
  } | ({"addon": [person.addon, person.addon_digest]} if person.addon else {})
  facts |= {"shared": person.shared} if person.shared else {}
  tensors = {k: np.asarray(v, np.float32) for k, v in _flatten(person.identity, "")}
  tensorfiles.write(path, tensors, {_KEY: json.dumps(facts)})
  return path


def file(path: Path) -> Path:
  """One identity's file, given as such or by its run folder. UserError if it is not there, or if there are several."""
  paths = files(path)
  if len(paths) > 1:
    raise UserError(f"{path} holds {len(paths)} people: name one, such as {paths[0].parent}")
  return paths[0]


def files(path: Path) -> list[Path]:
  """The identities of a run: of one person, or of everyone in a crowd's folder. UserError if there are none."""
  if (path / "compare.json").is_file():
    runs = sorted(p.name for p in path.iterdir() if (p / "config.json").is_file())
    raise UserError(f"{path} compares several methods: name one of its folders ({', '.join(runs)})")
  paths = [path / FILE] if path.is_dir() else [path]
  if not paths[0].is_file():
    paths = sorted(path.glob(f"*/{FILE}")) if path.is_dir() else []
  if not paths:
    raise UserError(
      f"{path} holds no {FILE}: give the folder that idejax personalize wrote"
      + (", once it has finished" if path.is_dir() else "")
    )
  return paths


def word(file: Path) -> str:
  """The word of an identity's file, without its tensors. UserError says what is wrong with it."""
  try:
    with safe_open(file, "numpy") as f:
      return str(json.loads((f.metadata() or {})[_KEY])["word"])
  except (SafetensorError, OSError, ValueError, KeyError, TypeError) as e:
    raise _not_ours(file, e) from e


def _not_ours(path: Path, e: Exception) -> UserError:
  return UserError(f"{path} is no identity of this idejax: {type(e).__name__} {str(e)[:120]}")


def load(path: str | os.PathLike[str]) -> Learned:
  """A run folder or its identity.safetensors. UserError says what is wrong with it."""
  path = Path(path)
  try:
    with safe_open(file(path), "numpy") as f:
      facts = json.loads((f.metadata() or {})[_KEY])
      tensors = {k: f.get_tensor(k) for k in f.keys()}
    kind, _ = asked(IDENTITIES[facts["method"]])
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in saved_fields(kind, facts["config"]).items()}
    addon, addon_digest = facts.get("addon", ("", ""))
    return Learned(
      facts["word"],
      facts["method"],
      kind(**fields),
      _nest(tensors),
      facts["model"],
      facts["digest"],
      facts.get("licence", ""),
      addon=addon,
      addon_digest=addon_digest,
      shared=facts.get("shared", ""),
    )
  except (SafetensorError, OSError, ValueError, KeyError, TypeError) as e:
    raise _not_ours(path, e) from e


def guidance(people: Iterable[Learned], nets: Nets) -> float | None:
  """The guidance of the paper by which people were learned; None if theirs has none, or not all were learned by one."""
  found = {IDENTITIES[p.method].needs(p.cfg, nets).guidance for p in people}
  return found.pop() if len(found) == 1 else None


def check(person: Learned, text: tuple[TextConfig, ...], digest: str, model: str, *, other: bool = False):
  """UserError unless the identity fits a pipeline: its widths, and unless `other` its digest."""
  expected = [t.hidden_size for t in text]
  widths = [r.shape[-1] for r in person.identity.get("rows", ())] or expected
  if person.is_face and person.identity["tokens"].shape[-1] != sum(expected):
    widths = [person.identity["tokens"].shape[-1]]
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
