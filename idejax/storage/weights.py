"""torch state dict <-> Flax params. A parameter's path IS its checkpoint key; only leaves differ.

A `*` in a path marks a scanned run of blocks: `blocks.*.proj` of shape (N, I, O) is
`blocks.0.proj` .. `blocks.{N-1}.proj` on disk. Trees are the inner dict of a Flax net; one
wrapped as {"params": ...} is unwrapped, and what comes back is always the inner dict.
Everything here runs in numpy on the host, one tensor at a time.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from idejax.errors import UserError

_LEAF = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
_MOST = 8  # keys listed per kind of problem


def key_of(path) -> str:
  """The checkpoint key of a jax key path, `*` kept: (down_blocks.0, conv, kernel) -> ...weight."""
  *module, leaf = (str(getattr(k, "key", getattr(k, "name", k))) for k in path)
  return ".".join([*module, _LEAF.get(leaf, leaf)])


def keys(shapes) -> dict[str, tuple[int, ...]]:
  """{torch key: torch shape} of a tree of arrays or ShapeDtypeStructs, stars expanded."""
  out: dict[str, tuple[int, ...]] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(_inner(shapes)):
    names, shape, (to_torch_axes, _) = _layout(path, leaf.shape)
    for name in names:
      if name in out:
        raise ValueError(f"two parameters of the net have the checkpoint key {name}")
      out[name] = tuple(shape[a] for a in to_torch_axes)
  return out


def with_dtype(tree, dtype):
  """The same tree with every floating leaf as `dtype`; for arrays and for ShapeDtypeStructs."""

  def cast(x):
    if not jnp.issubdtype(x.dtype, np.floating):
      return x
    if isinstance(x, jax.ShapeDtypeStruct):
      return jax.ShapeDtypeStruct(x.shape, dtype)
    return x.astype(dtype)

  return jax.tree.map(cast, tree)


def from_torch(shapes, tensors: Mapping[str, np.ndarray], *, name: str = "", ignore: Iterable[str] = ()):
  """Params like `shapes` (from jax.eval_shape) out of `tensors`; every key on both sides is used.

  Params get the dtypes of `shapes`; bits are kept if the dtype is the same. Unused keys in which a regex
  of `ignore` is found (re.search) are excused. All missing, unused and mis-shaped keys raise
  one UserError that starts with `name` (the file or component). Arrays may alias `tensors`.
  """
  shapes = _inner(shapes)
  expected = keys(shapes)
  missing = [k for k in expected if k not in tensors]
  patterns = [re.compile(p) for p in ignore]
  unused = [k for k in tensors if k not in expected and not any(p.search(k) for p in patterns)]
  misfits: list[str] = []

  def load(path, want):
    names, shape, (_, to_flax_axes) = _layout(path, want.shape)
    is_stack = len(shape) < len(want.shape)
    out = np.empty(want.shape, want.dtype) if is_stack and not (missing or unused) else None
    for i, key in enumerate(names):
      if key not in tensors:
        continue
      x = np.asarray(tensors[key])
      if x.shape != expected[key] or _kind(x.dtype) != _kind(want.dtype):
        misfits.append(f"{key} is {_text(x)} there and {_text(want, expected[key])} in the model")
      elif missing or unused or misfits:
        continue  # the load has failed: look on for shapes, but keep nothing
      elif out is not None:
        out[i] = x.transpose(to_flax_axes)
      else:
        out = x.transpose(to_flax_axes).astype(want.dtype, order="C", copy=False)
    return out

  params = jax.tree_util.tree_map_with_path(load, shapes)
  problems = [("missing", missing), ("not used by the model", unused), ("of another shape or type", misfits)]
  if text := "; ".join(_list(what, problem_keys) for what, problem_keys in problems if problem_keys):
    raise UserError(
      f"{name or 'checkpoint'}: the weights do not fit the model: {text}. "
      "Check that config.json and the weights come from the same model."
    )
  return params


def to_torch(params) -> dict[str, np.ndarray]:
  """The exact inverse of `from_torch`: {torch key: contiguous array}, dtypes kept."""
  keys(params)  # refuses two parameters with one key
  out = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(_inner(params)):
    x = np.asarray(leaf)
    names, shape, (to_torch_axes, _) = _layout(path, x.shape)
    parts = x if len(shape) < x.ndim else x[None]
    for key, part in zip(names, parts, strict=True):
      out[key] = np.asarray(part.transpose(to_torch_axes), order="C")
  return out


# Historic spellings, one function per family. Each takes and returns a (lazy) mapping.


def rename_clip(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
  """CLIP towers with the prefix `text_model.` or `vision_model.`, exactly once.

  transformers >= 5.6 writes CLIPTextModel without it, the safety checker holds it twice; old
  files carry a `position_ids` buffer, which is dropped.
  """
  vision = any(
    k.endswith(("embeddings.class_embedding", "patch_embedding.weight"))
    for k in tensors
    if not k.startswith(("text_model.", "vision_model."))
  )
  tower = "vision_model." if vision else "text_model."
  bare = ("embeddings.", "encoder.", "final_layer_norm.", "pre_layrnorm.", "post_layernorm.")

  def rename(key):
    if key.endswith("embeddings.position_ids"):
      return None
    key = re.sub(r"^(text_model\.|vision_model\.)\1", r"\1", key)
    return tower + key if key.startswith(bare) else key

  return _Renaming(tensors, rename)


def rename_vae(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
  """VAE attention as to_q, to_k, to_v, to_out.0 with 2-D weights.

  Before diffusers 0.15 the names were query, key, value, proj_attn; files converted from the
  original checkpoints may hold the weights as 1x1 convolutions.
  """
  new = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
  old = re.compile(r"(\battentions\.\d+\.)(query|key|value|proj_attn)\.(weight|bias)$")
  linear = re.compile(r"\battentions\.\d+\.to_(q|k|v|out\.0)\.weight$")

  def squeeze(key, x):
    return x[:, :, 0, 0] if linear.search(key) and x.shape[2:] == (1, 1) else x

  return _Renaming(tensors, lambda k: old.sub(lambda m: m[1] + new[m[2]] + "." + m[3], k), squeeze)


class _Renaming(Mapping):
  """A view of `tensors` under other keys; `rename` gives None for a key to drop."""

  def __init__(
    self,
    tensors: Mapping[str, np.ndarray],
    rename: Callable[[str], str | None],
    convert: Callable[[str, np.ndarray], np.ndarray] = lambda key, x: x,
  ):
    self._tensors, self._convert, self._old = tensors, convert, dict[str, str]()
    for old in tensors:
      new = rename(old)
      if new is None:
        continue
      if new in self._old:
        raise UserError(
          f"checkpoint: {old} and {self._old[new]} are the same tensor, {new}, under two names; remove one of them."
        )
      self._old[new] = old

  def __getitem__(self, key: str) -> np.ndarray:
    return self._convert(key, self._tensors[self._old[key]])

  def __iter__(self) -> Iterator[str]:
    return iter(self._old)

  def __len__(self) -> int:
    return len(self._old)

  def __contains__(self, key) -> bool:
    return key in self._old


def _inner(tree) -> Any:
  """The inner dict of {"params": ...}; any other tree unchanged."""
  return tree["params"] if isinstance(tree, Mapping) and set(tree) == {"params"} else tree


def _layout(path, shape):
  """(keys on disk, Flax shape of one of them, (axes to torch, axes to flax)) of a parameter."""
  key, shape = key_of(path), tuple(shape)
  if key.count("*") > 1:
    raise ValueError(f"{key}: at most one * in a parameter's path")
  names = [key]
  if "*" in key:
    if not shape:
      raise ValueError(f"{key}: a scanned parameter needs its stack axis first")
    names = [key.replace("*", str(i)) for i in range(shape[0])]
    shape = shape[1:]
  n = len(shape)
  if str(getattr(path[-1], "key", path[-1])) != "kernel":
    return names, shape, (range(n), range(n))
  if n < 2:
    raise ValueError(f"{key}: a kernel has at least two axes, not shape {shape}")
  # torch holds (O, I, *window), Flax (*window, I, O): Dense, 1-D, 2-D and 3-D convolutions alike.
  return names, shape, ((n - 1, n - 2, *range(n - 2)), (*range(2, n), 1, 0))


def _kind(dtype) -> str:
  # Integers in place of floats are a quantised checkpoint: a cast would give nonsense silently.
  return "float" if jnp.issubdtype(dtype, np.floating) else np.dtype(dtype).kind


def _text(x, shape=None) -> str:
  return f"{np.dtype(x.dtype).name}{list(x.shape if shape is None else shape)}"


def _list(what: str, names: list[str]) -> str:
  rest = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
  return f"{len(names)} {what}: {', '.join(names[:_MOST])}{rest}"
