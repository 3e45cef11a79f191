"""The cross-attentions of a UNet, read off its parameters: where they are, and their keys and values."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp


def attention_paths(params) -> dict[str, tuple[int, int]]:
  """{path of each cross-attention: (context width, attention width)}, read off the parameters."""
  flat = jax.tree_util.tree_leaves_with_path(params)
  keys = {".".join(k.key for k in path): leaf.shape[-2:] for path, leaf in flat}
  tail = ".to_k.kernel"
  return {k.removesuffix(tail): v for k, v in keys.items() if k.endswith(".attn2" + tail)}


def project_context(params, k, v, dtype=None) -> dict[str, tuple[jax.Array, jax.Array]]:
  """Keys and values of every cross-attention for a context that stays fixed while sampling.

  k, v [..., L, D] -> {path: ([..., L, C], [..., L, C])}; [depth, ..., L, C] where blocks are
  scanned. The result is a `Context`.
  """
  out: dict[str, tuple[jax.Array, jax.Array]] = {}

  def project(kernel, y):
    dt = dtype or y.dtype
    form = "...ld,dc->...lc" if kernel.ndim == 2 else "...ld,ndc->n...lc"
    return jnp.einsum(form, y.astype(dt), kernel.astype(dt))

  def walk(node, path):
    if "to_k" in node and path and path[-1].endswith("attn2"):
      out[".".join(path)] = project(node["to_k"]["kernel"], k), project(node["to_v"]["kernel"], v)
      return
    for name, child in node.items():
      if isinstance(child, Mapping):
        walk(child, (*path, name))

  walk(params, ())
  return out
