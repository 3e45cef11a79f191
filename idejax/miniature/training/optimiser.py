"""How the miniature's UNet is updated: Adam, or Muon for its matrices and convolutions.

Muon (Jordan, 2024) replaces a matrix' momentum by the nearest orthogonal matrix, so that all directions
of a layer learn at one rate. A convolution counts as the matrix of outputs by everything else.
"""

import re
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from idejax import tree
from idejax.miniature.training import training
from idejax.miniature.training.recipe import Recipe

# They meet the latents, whose channels are not alike as hidden ones are.
_ENDS = re.compile(r"(^|[./])(conv_in|conv_out)\.kernel$")
_RMS = 0.2  # of an orthogonal update at rate 1, about Adam's (Liu et al., arXiv 2502.16982)


def make(r: Recipe, steps: int) -> optax.GradientTransformation:
  """Warm-up, a flat rate and a fall; what Muon does not update, Adam does at the same rate."""
  rate = training.flat(r.lr, steps, r.decay)
  if not r.muon:
    return optax.adam(rate, b2=0.99)
  return muon(rate, adam_b2=0.99, consistent_rms=_RMS, muon_weight_dimension_numbers=matrices)


def matrices(params: Any) -> Any:
  """The tree of which axes of a parameter are summed over and which are its outputs; None: Adam's.

  Kernels are [in, out], [h, w, in, out], or [blocks, in, out] where transformer blocks are scanned.
  """

  def one(path: str, x: jax.Array) -> MuonDimensionNumbers | None:
    if not path.endswith("kernel") or _ENDS.search(path):
      return None
    if x.ndim == 4:
      return MuonDimensionNumbers((0, 1, 2), 3)
    return MuonDimensionNumbers(x.ndim - 2, x.ndim - 1)

  return tree.map_with_path(one, params)
