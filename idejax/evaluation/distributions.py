"""Distances of two sets of pictures by the features [N, D] of a network: FID and KID.

FID's bias grows as the sets shrink, below 2048 pictures it says little; KID has none. Both are given
with their numbers of pictures.
"""

from typing import NamedTuple

import numpy as np

FEW = 2048  # Inception's features: with fewer pictures the covariance has not full rank


def fid(a: np.ndarray, b: np.ndarray) -> float:
  """|mean a - mean b|^2 + tr(A + B - 2 (A B)^(1/2)), float64, of features [N, D] and [M, D].

  ValueError for fewer than two pictures on one side.
  """
  if min(len(a), len(b)) < 2:
    raise ValueError("FID needs two pictures on each side")
  a, b = (np.asarray(x, np.float64) for x in (a, b))
  if min(len(a), len(b)) < a.shape[1]:
    return _fid_of_few(a, b)
  return fid_of_moments(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))


def fid_of_moments(mean_a: np.ndarray, a: np.ndarray, mean_b: np.ndarray, b: np.ndarray) -> float:
  """The same from means [D] and covariances [D, D]."""
  values, vectors = np.linalg.eigh(np.atleast_2d(a))
  root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
  both = np.linalg.eigvalsh(root @ np.atleast_2d(b) @ root)  # those of A B, but symmetric
  shared = np.sqrt(np.maximum(both, 0)).sum()
  return float(np.square(mean_a - mean_b).sum() + np.trace(np.atleast_2d(a)) + np.trace(np.atleast_2d(b)) - 2 * shared)


def _fid_of_few(a: np.ndarray, b: np.ndarray) -> float:
  """With A = X'X and B = Y'Y, tr (A B)^(1/2) is the sum of the singular values of X Y', which is only
  [N, M]: exact, where roots of [D, D] matrices of low rank are slow and lose digits."""
  rows = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b)]
  shared = np.linalg.svd(rows[0] @ rows[1].T, compute_uv=False).sum()
  return float(np.square(a.mean(0) - b.mean(0)).sum() + sum(np.square(x).sum() for x in rows) - 2 * shared)


class Kid(NamedTuple):
  mean: float
  std: float  # over subsets; 0 if there is only one


def kid(a: np.ndarray, b: np.ndarray, *, size: int = 1000, subsets: int = 100, seed: int = 0) -> Kid:
  """Unbiased MMD^2 with the kernel (x.y / D + 1)^3, mean over random subsets; all pictures at once
  where there are no more than `size`. ValueError for fewer than two on one side."""
  size = min(size, len(a), len(b))
  if size < 2:
    raise ValueError("KID needs two pictures on each side")
  a, b = (np.asarray(x, np.float64) for x in (a, b))
  if max(len(a), len(b)) <= size:
    return Kid(_mmd(a, b), 0.0)
  rng = np.random.default_rng(seed)
  values = [_mmd(*(x[rng.choice(len(x), size, replace=False)] for x in (a, b))) for _ in range(subsets)]
  return Kid(float(np.mean(values)), float(np.std(values)))


def _mmd(a: np.ndarray, b: np.ndarray) -> float:
  kernel = lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3
  within = lambda x: (kernel(x, x).sum() - np.trace(kernel(x, x))) / (len(x) * (len(x) - 1))
  return float(within(a) + within(b) - 2 * kernel(a, b).mean())
