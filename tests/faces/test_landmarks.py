"""72 landmarks out of 68, five points out of 72, and the control image that is drawn of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from idejax.faces import control, landmarks, mask, predictor
from idejax.miniature.world import poses
from idejax.person import control as device


@pytest.fixture
def face():
  return predictor.pose("front", 64, 64)


def test_68_points_keep_their_places():
  """Along a face drawn by hand: each of iBUG's points is one of ours, in the order in which both are drawn."""
  ibug = np.arange(136, dtype=np.float32).reshape(68, 2) ** 1.1
  ours = landmarks.from_68(ibug)
  assert ours.shape == (72, 2) and ours.dtype == np.float32
  same = lambda mine, theirs: np.testing.assert_allclose(ours[list(mine)], ibug[list(theirs)], rtol=1e-6)
  contour = landmarks.POLYLINES[0][0]
  same(contour, range(17))
  same(range(17, 36), range(17, 36))
  same((36, 40, 44, 48), (36, 39, 42, 45))
  same(landmarks.POLYLINES[-2][0][:-1], range(48, 60))
  same(landmarks.POLYLINES[-1][0][:-1], range(60, 68))
  np.testing.assert_allclose(landmarks.FROM_68.sum(1), 1, atol=1e-12)
  with pytest.raises(ValueError, match="expected 68 landmarks"):
    landmarks.from_68(ours)


def test_points_between_are_on_the_lids_curve():
  """Lids as cubics: the points that iBUG lacks lie on them, at quarters."""
  curve = lambda t: np.stack([t, 1 + 2 * t - 3 * t**2 + t**3], -1)
  ibug = np.zeros((68, 2))
  for i, ends in ((36, (0, 1)), (39, (1, 0)), (42, (0, 1)), (45, (1, 0))):
    ring = [i, i + 1, i + 2, {36: 39, 39: 36, 42: 45, 45: 42}[i]]
    ibug[ring] = curve(np.linspace(*ends, 4))
  ours = landmarks.from_68(ibug)
  for start, ends in ((36, (0, 1)), (40, (1, 0)), (44, (0, 1)), (48, (1, 0))):
    np.testing.assert_allclose(ours[start : start + 4], curve(np.linspace(*ends, 5)[:4]), atol=1e-6)


def test_five_points(face):
  marks = np.stack([face, face + 3])
  points = landmarks.five(marks)
  wanted = [face[36:44].mean(0), face[44:52].mean(0), face[30], face[52], face[57]]
  np.testing.assert_allclose(points[0], wanted, rtol=1e-5)
  np.testing.assert_allclose(points[1], points[0] + 3, rtol=1e-5)
  np.testing.assert_allclose(landmarks.five(jnp.asarray(marks)), points, rtol=1e-5)


def test_ten_poses_are_the_worlds():
  assert predictor.poses().keys() == poses.POSES.keys() and len(poses.POSES) == 10
  for name, numbers in poses.draw().items():
    np.testing.assert_array_equal(predictor.poses()[name].reshape(-1), numbers)
  front, left, right = (predictor.poses()[n] for n in ("front", "left", "right"))
  assert left[30, 0] < front[30, 0] - 0.02 and right[30, 0] > front[30, 0] + 0.02  # the nose says where it looks
  np.testing.assert_allclose(front[30, 0], 0.5, atol=1e-3)
  wide = predictor.pose("front", 64, 128)  # in the middle, and no wider
  np.testing.assert_allclose(wide - predictor.pose("front", 64, 64), np.tile([32.0, 0.0], (72, 1)), atol=1e-4)


def test_a_control_image(face):
  """Every landmark is a dot of its part's colour, lines join them, all else is black; nothing is random."""
  big = predictor.pose("front", 512, 512)
  drawn = control.raster(big, 512, 512)
  assert drawn.shape == (512, 512, 3) and drawn.dtype == np.float32 and drawn.min() == 0 and drawn.max() <= 1
  assert {i for run, _ in landmarks.POLYLINES for i in run} == set(range(72))
  for run, colour in landmarks.POLYLINES:
    for i, j in zip(run, run[1:]):
      middle = np.round((big[i] + big[j]) / 2).astype(int)
      assert drawn[middle[1], middle[0]].any()
    place = np.round(big[run[1]]).astype(int)
    np.testing.assert_allclose(drawn[place[1], place[0]], np.array(colour) / 255, atol=1e-6)
  assert 0.005 < (drawn.max(-1) > 0).mean() < 0.1
  np.testing.assert_array_equal(control.raster(big, 512, 512), drawn)
  np.testing.assert_array_equal(control.raster(None, 8, 6), np.zeros((8, 6, 3)))


def test_lines_are_as_wide_as_the_face_asks():
  """Width = face's width / 128, at least 2: measured across a brow of a large face and of a small one."""
  for side, wide in ((1024, 5), (64, 2)):
    marks = predictor.pose("front", side, side)
    assert control.width(np, marks) == max(2, round(np.ptp(marks[:, 0]) / 128)) == wide
    flat = np.full((72, 2), -1000.0, np.float32)
    flat[17:22] = [[4 + 20 * i, 30] for i in range(5)]  # one brow, a level line
    flat[0, 0] = flat[17:22, 0].max() - np.ptp(marks[:, 0])
    flat[flat == -1000] = flat[0, 0]
    column = control.raster(flat, 60, 100)[:, 14, 0]  # between two dots
    assert column.sum() == pytest.approx(wide, abs=0.01)


@pytest.mark.parametrize("marks", [np.zeros((71, 2)), np.full((72, 2), np.nan)])
def test_what_are_no_landmarks(marks):
  with pytest.raises(ValueError, match="72 finite landmarks"):
    control.raster(marks, 8, 8)


def test_the_device_draws_the_same():
  """A batch, faces half outside, pictures that are not square."""
  marks = np.stack([predictor.pose(n, 48, 40) + shift for n, shift in (("happy", 0), ("left", (20, -9)))])
  drawn = jax.jit(device.raster, static_argnums=(1, 2))(marks, 48, 40)
  for one, m in zip(drawn, marks):
    np.testing.assert_allclose(one, control.raster(m, 48, 40), atol=1e-4)
  assert not np.array_equal(drawn[0], drawn[1])


def test_a_photos_landmarks_are_placed_in_the_picture():
  corners = np.array([[0, 0], [199, 99]], np.float32)  # of a photo 100 high, 200 wide
  np.testing.assert_allclose(control.place(corners, (100, 200), 100, 200), corners)
  # Into a square of twice the height: the photo fits, a bar above and below.
  placed = control.place(corners, (100, 200), 400, 400)
  np.testing.assert_allclose(placed[:, 0], [0.5, 398.5])
  np.testing.assert_allclose(placed[:, 1], [100.5, 298.5])


def test_a_face_at_latent_size():
  face = np.zeros((64, 96), bool)
  face[24:40, 40:56] = True
  soft = mask.at_latent_size(face, (8, 12), grow=4)
  assert soft.shape == (8, 12) and soft.dtype == np.float32
  assert soft[3, 5] == 1 and soft[0].max() == 0 and soft[2, 5] == pytest.approx(0.5)  # 4 of its 8 rows
  np.testing.assert_array_equal(mask.at_latent_size(face, (64, 96), grow=0), face)
