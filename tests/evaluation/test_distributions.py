"""FID and KID against closed forms, and against what they must be for equal sets."""

import numpy as np
import pytest

from idejax.evaluation import distributions as d


def gaussian(n, width=6, seed=0, shift=0.0, scale=1.0):
  return shift + scale * np.random.default_rng(seed).standard_normal((n, width))


def test_a_set_is_at_no_distance_from_itself():
  for n in (4, 500):
    a = gaussian(n)
    assert d.fid(a, a) == pytest.approx(0, abs=1e-3)
    assert d.fid(a, a[::-1]) == pytest.approx(0, abs=1e-3)


def test_the_closed_form_of_two_gaussians():
  """Diagonal covariances: |m|^2 + sum (s - t)^2 of the standard deviations."""
  s, t, m = np.array([1.0, 2, 3]), np.array([2.0, 0.5, 1]), np.array([0.5, -1, 2])
  got = d.fid_of_moments(np.zeros(3), np.diag(s**2), m, np.diag(t**2))
  assert got == pytest.approx(np.square(m).sum() + np.square(s - t).sum())


def test_few_pictures_and_the_general_formula_agree():
  from scipy.linalg import sqrtm

  a, b = gaussian(9, 12), gaussian(7, 12, 1, 0.3, 1.4)
  ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
  root = np.real(sqrtm(ca @ cb + 1e-12 * np.eye(12)))
  want = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(ca + cb - 2 * root)
  assert d.fid(a, b) == pytest.approx(want, rel=1e-4)
  assert d.fid(a, b) == pytest.approx(d.fid_of_moments(a.mean(0), ca, b.mean(0), cb), rel=1e-4)


def test_kid_is_unbiased_and_fid_is_not():
  small = [d.kid(gaussian(12, seed=2 * k), gaussian(12, seed=2 * k + 1)).mean for k in range(300)]
  assert abs(np.mean(small)) < 3 * np.std(small) / np.sqrt(300)
  assert np.mean([d.fid(gaussian(12, seed=2 * k), gaussian(12, seed=2 * k + 1)) for k in range(50)]) > 1


def test_kid_by_hand_and_over_subsets():
  a, b = gaussian(3, 2), gaussian(4, 2, 1, 1.0)
  k = lambda x, y: (x @ y / 2 + 1) ** 3
  within = lambda x: np.mean([k(p, q) for i, p in enumerate(x) for j, q in enumerate(x) if i != j])
  want = within(a) + within(b) - 2 * np.mean([k(p, q) for p in a for q in b])
  got = d._mmd(a, b)
  assert got == pytest.approx(want)
  many = d.kid(gaussian(200), gaussian(200, seed=1, shift=0.5), size=50, subsets=20)
  assert many == d.kid(gaussian(200), gaussian(200, seed=1, shift=0.5), size=50, subsets=20)
  assert many.std > 0 and many.mean > 0.1


@pytest.mark.parametrize("call", [d.fid, d.kid])
def test_one_picture_is_no_distribution(call):
  with pytest.raises(ValueError, match="two pictures on each side"):
    call(gaussian(1), gaussian(5))
