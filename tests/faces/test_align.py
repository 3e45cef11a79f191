"""Similarities, crops and estimates from five points."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idejax.faces import align

motions = st.tuples(st.floats(-3.1, 3.1), st.floats(0.2, 5), st.floats(-200, 200), st.floats(-200, 200))


def motion(angle, scale, x, y):
  c, s = scale * np.cos(angle), scale * np.sin(angle)
  return np.array([[c, -s, x], [s, c, y]])


@settings(deadline=None, derandomize=True)
@given(motions)
def test_a_moved_template_comes_back_exactly(how):
  for template in (align.ARCFACE, align.FFHQ):
    points = align.apply(motion(*how), template)
    back = align.similarity(points, template)
    np.testing.assert_allclose(align.apply(back, points), template, atol=1e-8)
    np.testing.assert_allclose(align.apply(align.invert(back), template), points, atol=1e-7)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(motions, st.integers(0, 99))
def test_equal_to_least_squares_and_to_scikit_image(how, seed):
  """The similarity's four numbers enter linearly: solve the normal equations."""
  from skimage.transform import SimilarityTransform

  rng = np.random.default_rng(seed)
  points = align.apply(motion(*how), align.ARCFACE) + rng.normal(0, 2, (5, 2))
  rows = np.concatenate([[[x, -y, 1, 0], [y, x, 0, 1]] for x, y in points])
  a, b, x, y = np.linalg.lstsq(rows, align.ARCFACE.reshape(-1), rcond=None)[0]
  ours = align.similarity(points, align.ARCFACE)
  np.testing.assert_allclose(ours, [[a, -b, x], [b, a, y]], atol=1e-6)
  theirs = SimilarityTransform.from_estimate(points, align.ARCFACE)
  np.testing.assert_allclose(ours, theirs.params[:2], atol=1e-6)


def test_a_mirrored_face_is_not_turned_inside_out():
  mirrored = align.ARCFACE * [-1, 1] + [112, 0]
  matrix = align.similarity(mirrored, align.ARCFACE)
  assert np.linalg.det(matrix[:, :2]) > 0


def test_points_that_coincide():
  with pytest.raises(ValueError, match="coincide"):
    align.similarity(np.full((5, 2), 7.0), align.ARCFACE)
  with pytest.raises(ValueError, match="coincide"):
    align.similarity(np.full((5, 2), np.nan), align.ARCFACE)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(motions, st.integers(0, 99))
@pytest.mark.filterwarnings("ignore:.*estimate.*:FutureWarning")  # insightface calls scikit-image's old name
def test_crops_equal_insightfaces_to_the_last_pixel(how, seed):
  from insightface.utils import face_align

  rng = np.random.default_rng(seed)
  points = (align.apply(motion(*how), align.ARCFACE) + rng.normal(0, 3, (5, 2))).astype(np.float32)
  noise = rng.integers(0, 255, (200, 200, 3), dtype=np.uint8)
  for size in (112, 224, 128):
    np.testing.assert_array_equal(align.crop(noise, points, size), face_align.norm_crop(noise, points, size))


def scene(height=240, width=320):
  y, x = np.mgrid[:height, :width]
  waves = [127 + 60 * np.sin(x / 17 + k) + 60 * np.cos(y / 13 - k) for k in range(3)]
  return np.stack(waves, -1).astype(np.uint8)


@pytest.mark.parametrize("angle, scale", [(0.0, 2.0), (0.5, 1.0), (-2.0, 1.4), (3.0, 0.8)])
def test_crops_do_not_depend_on_the_photos_rotation_and_scale(angle, scale):
  image = scene()
  points = align.apply(motion(0.1, 0.9, 100, 70), align.ARCFACE)
  move = motion(angle, scale, 0, 0)
  corners = align.apply(move, np.array([[0, 0], [319, 0], [0, 239], [319, 239]]))
  move[:, 2] -= corners.min(0)
  size = tuple(int(n) + 1 for n in np.ptp(corners, axis=0))
  turned = cv2.warpAffine(image, move, size, flags=cv2.INTER_CUBIC)
  for make in (align.crop, lambda i, p: align.portrait(i, p)[150:400, 150:360]):
    a, b = make(image, points), make(turned, align.apply(move, points))
    assert np.abs(a.astype(int) - b).mean() < 1.5
    assert np.abs(a.astype(int) - make(image, points + 6)).mean() > 10  # the test can fail


def test_crop_sizes():
  image, points = scene(), align.apply(motion(0, 1, 50, 50), align.ARCFACE)
  assert align.crop(image, points, 224).shape == (224, 224, 3)
  np.testing.assert_array_equal(align.crop(image, points), image[50:162, 50:162])
  # In 128, a crop of 112 has a margin of 8 at the sides and below.
  np.testing.assert_array_equal(align.crop(image, points, 128), image[50:178, 42:170])
  with pytest.raises(ValueError, match="100"):
    align.template(100)


def test_a_large_face_is_averaged_not_sampled():
  """A checkerboard of single pixels is grey from afar."""
  board = np.repeat(((np.indices((1600, 1600)).sum(0) % 2) * 255).astype(np.uint8)[..., None], 3, -1)
  portrait = align.portrait(board, align.FFHQ * 3 + 13)
  assert np.abs(portrait[20:-20, 20:-20].astype(int) - 127).max() < 12


def test_the_portrait_goes_beyond_the_edge_without_black():
  image = np.full((100, 100, 3), 90, np.uint8)
  assert (align.portrait(image, align.FFHQ * 0.3 - 20) == 90).all()
  assert (align.crop(image, align.ARCFACE - 50) == 0).any()


def test_celeb_basis_released_warp():
  """Where the released code puts FFHQ's points: the face is 28 % smaller than ArcFace's."""
  got = align.apply(align.released_matrix(), align.FFHQ)
  np.testing.assert_allclose(got[:2], [[43.0, 53.3], [68.4, 52.5]], atol=0.1)
  assert ((got[3:, 1] > 78.9) & (got[3:, 1] < 80.1)).all()
  eyes = lambda p: np.linalg.norm(p[1] - p[0])
  assert eyes(got) / eyes(align.ARCFACE) == pytest.approx(0.72, abs=0.005)
  # The picture agrees with the points: a dot at an eye lands there.
  image = np.zeros((512, 512, 3), np.uint8)
  cv2.circle(image, tuple(int(round(v)) for v in align.FFHQ[0]), 6, (255, 255, 255), -1)
  small = align.released(image)[..., 0].astype(float)
  y, x = np.mgrid[:112, :112]
  centre = np.array([(small * x).sum(), (small * y).sum()]) / small.sum()
  np.testing.assert_allclose(centre, got[0], atol=0.2)


@pytest.mark.parametrize("degrees", [-40, -15, 0, 15, 40])
@pytest.mark.parametrize("roll", [-0.6, 0.0, 0.9])
def test_yaw_of_a_turned_head(degrees, roll):
  """Points on a head that turns about its vertical axis: eyes 63 mm apart, nose 38 mm before them."""
  head = np.array([[-31.5, 0, 0], [31.5, 0, 0], [0, 38, 38], [-25, 68, 6], [25, 68, 6]])
  t = np.deg2rad(degrees)
  turned = np.stack([head[:, 0] * np.cos(t) + head[:, 2] * np.sin(t), head[:, 1]], -1)
  points = align.apply(motion(roll, 1.7, 100, 100), turned)
  assert align.yaw(points) == pytest.approx(degrees, abs=6)
  assert align.yaw(np.zeros((5, 2))) == 0


def test_a_crop_of_another_size_shows_the_same():
  """Half the size is every two by two pixels' mean, to the rounding: centres lie where they should."""
  y, x = np.mgrid[:300, :300]
  image = np.stack([x * 0.8, y * 0.8, (x + y) * 0.4], -1).astype(np.uint8)
  points = align.FFHQ * 0.4 + 30  # one pixel of the photo is 2.5 of the portrait
  large, small = (align.portrait(image, points, n).astype(float) for n in (512, 256))
  means = large.reshape(256, 2, 256, 2, 3).mean((1, 3))
  assert abs((means - small)[8:-8, 8:-8].mean()) < 0.03
  assert align.enlargement(points, 512) == pytest.approx(2.5)
