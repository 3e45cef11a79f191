"""Copies of pipeline and component folders in diffusers' layout, with other dtypes, shards or tensors."""

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from idejax.errors import UserError
from idejax.model.backbone import is_component, read_json
from idejax.storage import tensorfiles, weights
from idejax.storage.files import write_json

DTYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
_STEMS = ("diffusion_pytorch_model", "model")
_FLAX = {"diffusion_flax_model": "diffusion_pytorch_model", "flax_model": "model", "pytorch_model": "model"}
_WEIGHTS = (".safetensors", ".msgpack", ".bin", ".ckpt", ".pt", ".pth")
_PLAIN = (".json", ".txt", ".model")  # files that are copied beside weights: never code, never pickles

Rename = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


def _is_float(dtype) -> bool:
  return np.issubdtype(dtype, np.floating) or dtype == ml_dtypes.bfloat16


class View(Mapping):
  """A lazy view of tensors: some are replaced, floats are cast. UserError if a number does not fit the dtype."""

  def __init__(
    self, tensors: Mapping[str, np.ndarray], changes: Mapping[str, np.ndarray], dtype: np.dtype | None, where: str
  ):
    if odd := set(changes) - set(tensors):
      raise UserError(f"{where}: has no tensor {sorted(odd)[0]} to replace")
    self.tensors, self.changes, self.dtype, self.where = tensors, changes, dtype, where

  def __getitem__(self, key: str) -> np.ndarray:
    x = self.changes[key] if key in self.changes else self.tensors[key]
    if self.dtype is None or x.dtype == self.dtype or not _is_float(x.dtype):
      return x
    with np.errstate(over="ignore"):
      y = x.astype(self.dtype)
    if self.dtype == np.float16 and not np.isfinite(y).all() and np.isfinite(x).all():
      raise UserError(f"{self.where}: {key} has numbers beyond float16's 65504; choose bfloat16 or float32")
    return y

  def __iter__(self) -> Iterator[str]:
    return iter(self.tensors)

  def __len__(self) -> int:
    return len(self.tensors)


def stem_of(folder: Path) -> str | None:
  """The stem of a component's weights for `tensorfiles.read`; None if it has no weights (a tokenizer)."""
  names = [p.name for p in folder.iterdir()]
  for stem in (*_STEMS, *_FLAX):
    if any(re.match(re.escape(stem) + r"[.-].*(safetensors|msgpack|bin|ckpt|pt|pth)", n) for n in names):
      return _FLAX.get(stem, stem)
  return None


def least_size(source: Path, dtype: str | None = None) -> float:
  """The least bytes of a copy of a pipeline, a component or a file: the smallest weights of each component."""
  share = min(1.0, DTYPES[dtype].itemsize / 4) if dtype else 1.0
  if source.is_file():
    return share * source.stat().st_size
  total = 0
  for part in (source, *(p.parent for p in source.glob("*/config.json"))):
    sizes: Counter[str] = Counter()
    for p in part.iterdir() if (part / "config.json").exists() else ():
      if p.suffix in _WEIGHTS:
        sizes[re.sub(r"-\d{5}-of-\d{5}", "", p.name)] += p.stat().st_size
    total += min(sizes.values(), default=0)
  return share * total


def component(
  source: Path,
  target: Path,
  *,
  dtype: str | None = None,
  changes: Mapping[str, np.ndarray] | None = None,
  rename: Rename | None = None,
  config: Mapping[str, Any] | None = None,
  max_shard_size: str | None = None,
  variant: str | None = None,
  allow_pickle: bool = False,
) -> str:
  """Write a copy of one component under PyTorch's names -> a phrase that says what was written.

  changes: tensors that replace those of the same key. config: fields to replace in config.json.
  """
  if source.is_symlink() and not source.exists():
    raise UserError(f"{source}: a link that leads nowhere")
  stem = stem_of(source)
  _copy_plain(source, target, config or {})
  if stem is None:
    return "copied"
  tensors: Mapping[str, np.ndarray] = tensorfiles.read(source, stem, variant=variant, allow_pickle=allow_pickle)
  if any(k.startswith(("text_model.", "encoder.layers.0.self_attn", "vision_model.")) for k in tensors):
    if not any(k.startswith("vision_model.vision_model.") for k in tensors):  # the safety checker's own names
      tensors = weights.rename_clip(tensors)
  if rename:
    tensors = rename(tensors)
  _write_tensors(target / f"{stem}.safetensors", tensors, changes or {}, dtype, max_shard_size, str(source))
  return f"{len(tensors)} tensors" + (f" as {dtype}" if dtype else "")


def write(
  like: Path,
  target: Path,
  tensors: Mapping[str, np.ndarray],
  stem: str,
  *,
  dtype: str | None = None,
  max_shard_size: str | None = None,
):
  """Write a component from these tensors with the config of `like`, which needs no weights of its own."""
  _copy_plain(like, target, {})
  _write_tensors(target / f"{stem}.safetensors", tensors, {}, dtype, max_shard_size, str(target.name))


def _copy_plain(source: Path, target: Path, config: Mapping[str, Any]):
  target.mkdir(parents=True, exist_ok=True)
  for p in sorted(source.iterdir()):
    if p.is_file() and p.suffix in _PLAIN and not p.name.endswith(".index.json"):
      shutil.copyfile(p, target / p.name)
  for name, changes in (("config.json", config), ("scheduler_config.json", {})):
    if (source / name).exists():
      write_json(target / name, read_json(source / name) | dict(changes))


def _write_tensors(path: Path, tensors, changes, dtype: str | None, max_shard_size: str | None, where: str):
  view = View(tensors, changes, None if dtype is None else DTYPES[dtype], where)
  tensorfiles.write(path, view, max_shard_size=max_shard_size)


def pipeline(
  source: Path,
  target: Path,
  *,
  dtype: str | None = None,
  max_shard_size: str | None = None,
  variant: str | None = None,
  allow_pickle: bool = False,
) -> dict[str, str]:
  """Write a copy of a pipeline folder, with every component that exists -> {component: what was written}."""
  index, report = index_of(source), {}
  for name in components(index):
    if not (source / name).is_dir():
      index[name] = [None, None]
    else:
      report[name] = component(
        source / name,
        target / name,
        dtype=dtype,
        max_shard_size=max_shard_size,
        variant=variant,
        allow_pickle=allow_pickle,
      )
  finish(index, source, target)
  return report


def index_of(folder: Path) -> dict[str, Any]:
  """The model_index.json with PyTorch's class names. UserError for a component outside the folder."""
  index = read_json(folder / "model_index.json")
  for name in components(index):
    if not re.fullmatch(r"\w+", name):
      raise UserError(f"{folder}/model_index.json names the component {name!r}, which is no plain name; do not use it")
  return index


def components(index: Mapping[str, Any]) -> list[str]:
  """The names of a pipeline's components, from its model_index.json."""
  return [k for k, v in index.items() if not k.startswith("_") and is_component(v)]


def finish(index: Mapping[str, Any], source: Path, target: Path):
  """Write licence files and then model_index.json, which makes the folder a pipeline."""
  for name in ("LICENSE", "LICENSE.md", "LICENSE.txt"):
    if (source / name).is_file():
      shutil.copyfile(source / name, target / name)
  write_json(target / "model_index.json", dict(index))
