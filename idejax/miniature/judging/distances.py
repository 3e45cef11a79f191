"""How far one set of pictures is from another, in the features of a judge."""

import numpy as np


def kernel(a: np.ndarray, b: np.ndarray) -> float:
  """Squared distance of two sets of unit features [N, D], [M, D] by the cubic kernel (x.y + 1)^3.

  Unbiased (Binkowski et al., arXiv 1801.01401, eq. 4): about 0, and as often below it, for two sets of
  one kind, however few there are.
  """
  k = lambda x, y: (x.astype(np.float64) @ y.T.astype(np.float64) + 1) ** 3
  within = lambda x: (np.sum(s := k(x, x)) - np.trace(s)) / (len(x) * (len(x) - 1))
  return float(within(a) + within(b) - 2 * k(a, b).mean())


def frechet(a: np.ndarray, b: np.ndarray) -> float:
  """Frechet distance of the Gaussians of two sets of features [N, D], [M, D] (arXiv 1706.08500, eq. 6).

  It is too large for few pictures: compare it with the distance of two sets of real ones of the same sizes.
  """
  (m, s), (n, t) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (a.astype(np.float64), b.astype(np.float64)))
  values, vectors = np.linalg.eigh(s)
  root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
  cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ t @ root), 0)).sum()
  return float(np.square(m - n).sum() + np.trace(s) + np.trace(t) - 2 * cross)
