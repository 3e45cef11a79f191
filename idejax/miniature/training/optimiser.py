"""The optimiser of the miniature's UNet: Adam, or Muon for its matrices and convolutions.

Muon (Jordan, 2024) replaces a matrix's momentum by the nearest orthogonal matrix, so that all directions
of a layer learn at one rate. A convolution is treated as a matrix of outputs by all other axes.
"""

import re
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from idejax import tree
from idejax.miniature.training import training
from idejax.miniature.training.recipe import Recipe

# First and last layer: the channels of latents differ from one another more than hidden ones do.
_ENDS = re.compile(r"(^|[./])(conv_in|conv_out)\.kernel$")
_RMS = 0.2  # of an orthogonal update at rate 1, about Adam's (Liu et al., arXiv 2502.16982)


def make(r: Recipe, steps: int) -> optax.GradientTransformation:
  """An optimiser with warm-up, a flat rate and a fall; Adam updates what Muon does not, at the same rate."""
  rate = training.flat(r.lr, steps, r.decay)
  if not r.muon:
    return optax.adam(rate, b2=0.99)
  return muon(rate, adam_b2=0.99, consistent_rms=_RMS, muon_weight_dimension_numbers=matrices)


def matrices(params: Any) -> Any:
  """For each parameter which axes are inputs and which are outputs; None: Adam updates it.

  Kernels are [in, out], [h, w, in, out], or [blocks, in, out] where transformer blocks are scanned.
  """

  def one(path: str, x: jax.Array) -> MuonDimensionNumbers | None:
    if not path.endswith("kernel") or _ENDS.search(path):
      return None
    if x.ndim == 4:
      return MuonDimensionNumbers((0, 1, 2), 3)
    return MuonDimensionNumbers(x.ndim - 2, x.ndim - 1)

  return tree.map_with_path(one, params)
