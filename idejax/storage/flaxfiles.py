"""Orphaned Flax checkpoints (msgpack of diffusers < 0.36, transformers < 5) under PyTorch's keys.

No library opens them any more. Nothing in them is code: maps, strings and two kinds of array.
"""

import functools
import math
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.tree_util as jtu
import ml_dtypes
import msgpack
import numpy as np

from idejax.storage import weights

_DTYPES = {
  n: np.dtype(n) for n in ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
}
_DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def read(path: pathlib.Path) -> dict[str, Callable[[], np.ndarray]]:
  """{torch key: function that gives the array in torch's axes}; OSError or ValueError if damaged.

  The file's arrays stay in memory as long as the result does.
  """
  try:
    return _leaves(_tree(path))
  except (TypeError, KeyError, AttributeError, msgpack.UnpackException) as e:
    raise ValueError(str(e) or type(e).__name__) from e


def key_of(names: Sequence[str]) -> str:
  """The torch key of a Flax path: (resnets_0, conv1, kernel) -> resnets.0.conv1.weight."""
  module, leaf = _module_and_leaf(names)
  return weights.key_of([jtu.DictKey(n) for n in ((module, leaf) if module else (leaf,))])


def class_names(fields: Mapping[str, Any]) -> dict[str, Any]:
  """A config or model_index.json with PyTorch's class names: FlaxUNet2DConditionModel -> UNet2DConditionModel."""
  bare = lambda x: re.sub(r"^Flax(?=[A-Z])", "", x) if isinstance(x, str) else x
  out: dict[str, Any] = {}
  for k, v in fields.items():
    if k == "_class_name" and not isinstance(v, list):
      v = bare(v)
    elif k == "architectures" and isinstance(v, list):
      v = [bare(x) for x in v]
    elif isinstance(v, list) and len(v) == 2 and v[0] in ("diffusers", "transformers", "stable_diffusion"):
      v = [v[0], bare(v[1])]
    out[k] = v
  return out


def _tree(path: pathlib.Path):
  size = max(path.stat().st_size, 1)  # bounds every length that the file may claim
  with open(path, "rb") as f:
    unpacker = msgpack.Unpacker(f, ext_hook=_array, max_buffer_size=size, read_size=min(size, 1 << 24))
    try:
      tree = unpacker.unpack()
    except msgpack.OutOfData as e:
      raise ValueError("it ends too early") from e
    if unpacker.tell() != size:
      raise ValueError("bytes after the end")
  return tree["params"] if isinstance(tree, dict) and set(tree) == {"params"} else tree


def _leaves(tree) -> dict[str, Callable[[], np.ndarray]]:
  out: dict[str, Callable[[], np.ndarray]] = {}
  todo: list[tuple[tuple[str, ...], Any]] = [((), tree)]
  while todo:
    names, x = todo.pop()
    if isinstance(x, dict) and "__msgpack_chunked_array__" in x:  # flax splits above 1 GB
      shape, chunks = (tuple(x[k][str(i)] for i in range(len(x[k]))) for k in ("shape", "chunks"))
      x = np.concatenate(chunks).reshape(shape)
    if isinstance(x, dict):
      todo += [((*names, k), v) for k, v in x.items()]
    elif isinstance(x, np.ndarray) and names:
      key = key_of(names)
      if key in out:
        raise ValueError(f"two tensors are {key}")
      out[key] = functools.partial(_to_torch, *_module_and_leaf(names), x)
    else:
      raise ValueError(f"{'/'.join(names) or 'the root'} is {type(x).__name__}, not an array")
  return out


def _module_and_leaf(names: Sequence[str]) -> tuple[str, str]:
  """diffusers wrote `resnets.0` as resnets_0, transformers `layers.0` as layers/0."""
  *module, leaf = names
  for i in range(len(module) - 1, -1, -1):  # from the leaf up: a parent must still read as_0
    if i and re.fullmatch(r"attn\d|attentions_\d+", module[i - 1]):
      module[i] = _ATTENTION.get(module[i], module[i])
    if module[i] not in ("linear_1", "linear_2"):  # the only names that end so in PyTorch too
      module[i] = re.sub(r"_(\d+)$", r".\1", module[i])
  return ".".join(module), leaf


def _to_torch(module: str, leaf: str, x: np.ndarray) -> np.ndarray:
  [out] = weights.to_torch({module: {leaf: x}} if module else {leaf: x}).values()
  return out


def _array(code: int, data: bytes) -> np.ndarray:
  """flax's extension types 1 and 3: an array or a scalar as (shape, dtype name, bytes)."""
  if code not in (1, 3):
    raise ValueError(f"unknown extension type {code}")
  shape, name, buffer = msgpack.unpackb(data, raw=True)
  dtype = _DTYPES.get(name.decode("ascii"))
  if dtype is None:
    raise ValueError(f"an array of dtype {name.decode('ascii')}")
  if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != len(buffer):
    raise ValueError(f"{len(buffer)} bytes for an array of shape {list(shape)}")
  return np.frombuffer(buffer, dtype).reshape(shape)
