"""Floating-point operations of a function, counted from its jaxpr: matmuls and convolutions.

Unlike a compiler's own count this does not miss what kernels do (XLA's counts neither Pallas nor cuDNN), and
of a function without kernels it is the least that any implementation of the same arithmetic must do.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import jax
from jax.extend import core


def count(function: Callable, *args: Any, branch: Callable = max) -> int:
  """FLOPs (a multiply-add is two) of `function(*args)`; args may be ShapeDtypeStructs.

  A scan counts as often as it runs, a `cond` as its dearest branch (or its cheapest: branch=min). A `while` loop
  raises ValueError, as its number of turns is not known.
  """
  return _jaxpr_flops(jax.make_jaxpr(function)(*args).jaxpr, branch)


def _jaxpr_flops(jaxpr, branch: Callable) -> int:
  return sum(_equation_flops(e, branch) for e in jaxpr.eqns)


def _equation_flops(e, branch: Callable) -> int:
  name, p = e.primitive.name, e.params
  if name == "dot_general":
    (contract, _), _ = p["dimension_numbers"]
    return 2 * prod(e.outvars[0].aval.shape) * prod(e.invars[0].aval.shape[i] for i in contract)
  if name == "conv_general_dilated":
    kernel, out_axis = e.invars[1].aval.shape, p["dimension_numbers"].rhs_spec[0]
    return 2 * prod(e.outvars[0].aval.shape) * prod(kernel) // kernel[out_axis]
  if name == "scan":
    return p["length"] * _jaxpr_flops(p["jaxpr"].jaxpr, branch)
  if name == "cond":
    return branch(_jaxpr_flops(b.jaxpr, branch) for b in p["branches"])
  if name == "pallas_call":
    return prod(p["grid_mapping"].grid) * _jaxpr_flops(getattr(p["jaxpr"], "jaxpr", p["jaxpr"]), branch)
  if name.startswith("dot_product_attention_"):
    return _attention_flops(e)
  inner = [
    j
    for v in p.values()
    for j in (v if isinstance(v, tuple | list) else (v,))
    if isinstance(j, core.Jaxpr | core.ClosedJaxpr)
  ]
  total = sum(_jaxpr_flops(getattr(j, "jaxpr", j), branch) for j in inner)
  if name == "shard_map":  # what is inside is of one device
    total *= prod(p["mesh"].shape[a] for a in p["newly_manual_axes"])
  if name == "while" and total:
    raise ValueError("a while loop's number of turns is not known")
  return total


def _attention_flops(e) -> int:
  """cuDNN's attention, from its operands [B, T, N, H] or [B, N, T, H]: two matmuls forward, four more backward."""
  q, k = (v.aval.shape for v in e.invars[:2])
  heads = q[1 + (e.params["layout"] == 0)]
  scores = prod(q) * prod(k) // (q[0] * heads * q[3])  # B N T S H
  return (4 if "_fwd" in e.primitive.name else 8) * scores
