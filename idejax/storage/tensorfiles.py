"""Weight files on the host: safetensors, shards, orphaned Flax msgpack; pickles only when asked.

`read` looks in one component folder and gives a lazy {torch key: array}, whatever the format.
Nothing here runs code from a file, and nothing here computes with jax.
"""

import functools
import hashlib
import json
import math
import os
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from idejax.errors import UserError, tell
from idejax.storage import flaxfiles
from idejax.storage.files import cache as cache_folder

_FLAX = {"diffusion_pytorch_model": "diffusion_flax_model", "model": "flax_model", "pytorch_model": "flax_model"}
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_DTYPES = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"}
_MAX_INDEX = 64 << 20  # bytes; SDXL's index is 0.2 MB

Getters = dict[str, Callable[[], np.ndarray]]


class Lazy(Mapping):
  """{torch key: array}, each array read or computed on access."""

  def __init__(self, getters: Getters):
    self._getters = getters

  def __getitem__(self, key: str) -> np.ndarray:
    return self._getters[key]()

  def __iter__(self) -> Iterator[str]:
    return iter(self._getters)

  def __len__(self) -> int:
    return len(self._getters)

  def __contains__(self, key) -> bool:
    return key in self._getters


class Tensors(Lazy):
  """The tensors of one component; `source` is the file they come from."""

  def __init__(self, source: pathlib.Path, getters: Getters):
    super().__init__(getters)
    self.source = source


def read(folder: str | os.PathLike, stem: str, *, variant: str | None = None, allow_pickle: bool = False) -> Tensors:
  """The weights called `stem` (diffusion_pytorch_model, model) in a component's folder.

  Order: safetensors of the variant, plain safetensors, safetensors of the variant fp16 if no
  variant was asked for, Flax msgpack, and pickles last and only if `allow_pickle`; each as one file
  before shards. A choice other than the first is reported on stderr. Raises UserError.
  """
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    raise UserError(f"{folder}: no such folder, so no {stem} weights.")
  flax, pickles = _FLAX.get(stem), [stem, "pytorch_model"] if stem == "model" else [stem]
  variants = [variant, None] if variant else [None, "fp16"]
  choices = [(name, opener) for v in variants for name, opener in _spellings(stem, v, ".safetensors", _safetensors)]
  choices += _spellings(flax, None, ".msgpack", _flax) if flax else []
  unsafe = [choice for s in pickles for v in variants for end in _PICKLES for choice in _spellings(s, v, end, _pickle)]
  expected = [name for name, _ in _spellings(stem, variant, ".safetensors", _safetensors)]
  for name, opener in choices + (unsafe if allow_pickle else []):
    path = folder / name
    if not os.path.lexists(path):
      continue
    if name not in expected:
      tell(f"notice: {folder}: no {expected[0]}, reading {name} instead")
    return Tensors(path, opener(path))
  for name, _ in unsafe:
    if os.path.lexists(folder / name):
      raise UserError(
        f"{folder / name}: this is a pickle, which can run code when it is opened; convert it with "
        "diffusers on a machine that holds nothing precious (from_pretrained, then "
        "save_pretrained, which writes safetensors), or pass --allow-pickle if you trust its "
        "author."
      )
  entries = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
  raise UserError(f"{folder}: no {expected[0]} here (found: {entries}); is this the right folder?")


def write(
  path: str | os.PathLike,
  tensors: Mapping[str, np.ndarray],
  metadata: Mapping[str, str] | None = None,
  *,
  max_shard_size: int | str | None = None,
) -> None:
  """Write safetensors at `path`, or diffusers' shards and index beside it, completely or not at all.

  Written under a hidden temporary folder beside the target, then moved into place; the files
  of the other layout, if any, are removed last. `max_shard_size`: bytes, or like "10GB".
  """
  path = pathlib.Path(path)
  shards, total = _split(tensors, _bytes(max_shard_size))
  names = [f"{path.stem}-{i + 1:05d}-of-{len(shards):05d}{path.suffix}" for i in range(len(shards))]
  names = names if len(shards) > 1 else [path.name]
  index = path.with_name(path.name + ".index.json")
  old_shards = _own_shards(index, path)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-") as tmp:
      for name, keys in zip(names, shards):
        part = {k: np.asarray(tensors[k], order="C") for k in keys}
        target = pathlib.Path(tmp, name)
        target.touch()
        mode = target.stat().st_mode  # by the user's umask; safetensors writes for the owner only
        save_file(part, target, {"format": "pt", **(metadata or {})})
        _sort_metadata(target)
        target.chmod(mode)
        del part  # one shard in memory at a time, should `tensors` be lazy
      if len(names) > 1:
        weight_map = {k: name for name, keys in zip(names, shards) for k in keys}
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2, sort_keys=True)
        pathlib.Path(tmp, index.name).write_text(text + "\n")
      for name in names + ([index.name] if len(names) > 1 else []):
        os.replace(os.path.join(tmp, name), path.with_name(name))
    stale = old_shards - {path.with_name(n) for n in names}
    for p in stale | ({index} if len(names) == 1 else {path}):
      p.unlink(missing_ok=True)
  except (OSError, SafetensorError) as e:
    raise UserError(
      f"{path}: cannot be written ({_one_line(e)}); choose another output folder or free some space."
    ) from e


def digest(path: str | os.PathLike) -> str:
  """sha256 in hex of a file, or of the sorted `name sha256` lines of a folder (no dot files).

  Digests of files above 1 MB are remembered by (path, size, mtime) under the user's cache.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    files = sorted(p.relative_to(path) for p in path.rglob("*") if p.is_file())
    lines = [f"{p.as_posix()} {digest(path / p)}\n" for p in files if not any(part.startswith(".") for part in p.parts)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
  try:
    path = path.resolve(strict=True)
    stat = path.stat()
    stamp, cache = [stat.st_size, stat.st_mtime_ns], cache_folder("digests.json")
    entries: Any = {}
    try:
      entries = json.loads(cache.read_text()) if cache else {}
      if entries[str(path)][0] == stamp:
        return entries[str(path)][1]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
      entries = entries if isinstance(entries, dict) else {}  # a lost or broken cache costs time only
    with open(path, "rb") as f:
      value = hashlib.file_digest(f, "sha256").hexdigest()
  except OSError as e:
    raise UserError(f"{path}: cannot be read ({_one_line(e)}).") from e
  if cache and stat.st_size > 1 << 20:
    try:
      cache.parent.mkdir(parents=True, exist_ok=True)
      tmp = cache.with_suffix(f".{os.getpid()}")
      tmp.write_text(json.dumps({**entries, str(path): [stamp, value]}))
      os.replace(tmp, cache)
    except OSError:
      pass  # a read-only home: hash again next time
  return value


# Formats. Each opener takes a path and returns {torch key: function that gives the array}.


def _spellings(stem: str, variant: str | None, end: str, opener):
  """(file name, opener) of one file, then of its shard index: diffusers' and the older spelling."""
  v, open_shards = f".{variant}" if variant else "", functools.partial(_open_shards, opener=opener)
  names = dict.fromkeys((f"{stem}{end}.index{v}.json", f"{stem}{v}{end}.index.json"))
  return [(f"{stem}{v}{end}", opener), *((name, open_shards) for name in names)]


def _open_shards(path: pathlib.Path, opener) -> Getters:
  weight_map = _index(path)
  files = {}
  for name in sorted(set(weight_map.values())):
    # The index is text from a stranger: it may name files of this folder and nothing else.
    if re.search(r"[/\\:\0]", name) or name in ("", ".", ".."):
      raise UserError(f"{path}: names the shard {name!r}, which is not a plain file name; do not use this checkpoint.")
    if opener is not _pickle and name.endswith(_PICKLES):
      raise UserError(f"{path}: names the pickle {name} as a shard; do not use this checkpoint.")
    if not os.path.lexists(path.with_name(name)):
      raise UserError(f"{path}: the shard {name} is missing; download the folder again.")
    files[name] = opener(path.with_name(name))
  if opener is _flax:
    weight_map = {flaxfiles.key_of(k.split("/")): name for k, name in weight_map.items()}
  if missing := [k for k, name in weight_map.items() if k not in files[name]]:
    raise UserError(
      f"{path}: promises {missing[0]} in {weight_map[missing[0]]}, which lacks it "
      f"({len(missing)} such keys); download the folder again."
    )
  # Tensors that are not in the index stay visible, so that a strict loader reports them.
  every = {k: get for getters in files.values() for k, get in getters.items()}
  return every | {k: files[name][k] for k, name in weight_map.items()}


def _index(path: pathlib.Path) -> dict[str, str]:
  try:
    if path.stat().st_size > _MAX_INDEX:
      raise ValueError("too large for an index")
    weight_map = json.loads(path.read_text("utf-8"))["weight_map"]
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
      raise ValueError("weight_map is not a table of file names")
    return weight_map
  except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
    raise UserError(f"{path}: not a readable shard index ({_one_line(e)}).") from e


def _safetensors(path: pathlib.Path) -> Getters:
  try:
    file = safe_open(_plain(path), framework="np")
    dtypes = {k: file.get_slice(k).get_dtype() for k in file.keys()}
  except (SafetensorError, OSError, ValueError) as e:
    raise _damage_error(path, e) from e
  if odd := [k for k, dtype in dtypes.items() if str(dtype) not in _DTYPES]:
    raise UserError(
      f"{path}: {odd[0]} is stored as {dtypes[odd[0]]}, which idejax does not read; "
      "use the float16, bfloat16 or float32 weights of this model."
    )
  return {k: functools.partial(file.get_tensor, k) for k in dtypes}


def _flax(path: pathlib.Path) -> Getters:
  try:
    return flaxfiles.read(_plain(path))
  except (OSError, ValueError) as e:
    raise _damage_error(path, e) from e


def unpickle(path: pathlib.Path, keep: Callable[[Any], Any] = lambda content: content) -> Any:
  """`keep` of what PyTorch reads from a pickle that holds only data. UserError names the file."""
  try:
    import torch
  except ImportError as e:
    raise UserError(
      f"{path}: reading a pickle needs PyTorch: pip install torch --index-url https://download.pytorch.org/whl/cpu"
    ) from e
  try:
    return keep(torch.load(_plain(path), map_location="cpu", weights_only=True))
  except Exception as e:  # torch.load raises nearly anything
    raise UserError(
      f"{path}: PyTorch refuses to open it with weights_only=True "
      f"({_one_line(e)}); idejax does not open it in any other way."
    ) from e


def _pickle(path: pathlib.Path) -> Getters:
  return {k: functools.partial(_numpy, v) for k, v in unpickle(path, _weights).items()}


def _weights(state: Any) -> dict[str, Any]:
  import torch

  state = state.get("state_dict", state)
  state = {k: v.detach() for k, v in state.items() if isinstance(v, torch.Tensor)}
  if odd := [v.dtype for v in state.values() if "float8" in str(v.dtype) or v.is_quantized]:
    raise ValueError(f"tensors of {odd[0]}, which idejax does not read")
  return state


def _numpy(x: Any) -> np.ndarray:
  import torch

  return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if x.dtype == torch.bfloat16 else x.numpy()


def _plain(path: pathlib.Path) -> pathlib.Path:
  if path.is_dir():
    raise OSError("it is a folder, not a file")
  if not path.exists():
    raise OSError("a link that leads nowhere")
  return path


def _damage_error(path: pathlib.Path, e: BaseException) -> UserError:
  size = path.stat().st_size if path.is_file() else 0
  what = f"damaged or not what its name says ({_one_line(e)}; {size} bytes)"
  if 0 < size < 1024 and path.read_bytes().startswith(b"version https://git-lfs"):
    what = "a Git LFS pointer, not the weights (run `git lfs pull` in its folder)"
  return UserError(f"{path}: {what}; download the file again.")


def _one_line(e: BaseException) -> str:
  return " ".join(str(e).split())[:200] or type(e).__name__


# Writing.


def _sort_metadata(path: pathlib.Path) -> None:
  """Sort a file's metadata: safetensors writes it in the order of a hash map, so equal saves differ."""
  with open(path, "r+b") as f:
    size = int.from_bytes(f.read(8), "little")
    header = json.loads(f.read(size))
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    assert len(text) <= size, f"{path}: a header of {len(text)} bytes in the place of {size}"
    f.seek(8)
    f.write(text.ljust(size))


def _split(tensors: Mapping[str, np.ndarray], limit: float) -> tuple[list[list[str]], int]:
  """Keys in order, cut so that no shard of more than one tensor exceeds `limit` bytes."""
  shards: list[list[str]] = [[]]
  size = total = 0
  for key in tensors:
    n = tensors[key].nbytes
    if shards[-1] and size + n > limit:
      shards, size = [*shards, []], 0
    shards[-1].append(key)
    size, total = size + n, total + n
  return shards, total


def _bytes(size: int | str | None) -> float:
  if size is None:
    return math.inf
  units = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
  m = re.fullmatch(r"(\d+)\s*([KMG]B|)", str(size).upper())
  if not m or not int(m[1]):
    raise UserError(f"shard size {size!r}: write it like 10GB or 500MB.")
  return int(m[1]) * units[m[2]]


def _own_shards(index: pathlib.Path, path: pathlib.Path) -> set[pathlib.Path]:
  """Shards that an earlier sharded save of the same name left; never any other file."""
  pattern = re.compile(re.escape(path.stem) + r"-\d{5}-of-\d{5}" + re.escape(path.suffix))
  here = path.parent.iterdir() if index.exists() else ()
  return {p for p in here if pattern.fullmatch(p.name)}
