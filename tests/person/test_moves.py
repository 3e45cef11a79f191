"""Pictures that move: all that is measured in them moves with them, the face stays in the frame, nobody learns the black."""

import math

import cv2
import numpy as np
import pytest

from idejax.faces import align
from idejax.person import moves
from idejax.person.moves import Move, Moves

SIDE = 64


def picture(at: np.ndarray, height: int = 128) -> tuple[np.ndarray, np.ndarray]:
  """Grey, with a white dot at each of `at` (pixels of a picture of SIDE), and a mask of a disc about (40, 25) there."""
  grow = height / SIDE
  image, mask = np.full((height, height, 3), 90, np.uint8), np.zeros((height, height), np.uint8)
  large = lambda p: tuple(int(v) for v in np.round(16 * ((np.asarray(p) + 0.5) * grow - 0.5)))
  for p in at:
    cv2.circle(image, large(p), int(16 * 1.2 * grow), (255, 255, 255), -1, cv2.LINE_AA, 4)
  cv2.circle(mask, large((40, 25)), int(16 * 9 * grow), 255, -1, shift=4)
  return image, mask


def dots(image: np.ndarray, near: np.ndarray) -> np.ndarray:
  """The middle of the white within four pixels of each point."""
  y, x = np.mgrid[: image.shape[0], : image.shape[1]]
  out = []
  for px, py in near:
    white = np.clip(image[..., 0].astype(float) - 120, 0, None) * (np.hypot(x - px, y - py) < 4)
    out.append([(white * x).sum() / white.sum(), (white * y).sum() / white.sum()])
  return np.array(out)


MARKS = np.array([[36.0, 22.0], [44.0, 22.0], [40.0, 30.0]])


@pytest.mark.parametrize("height", [64, 128])
@pytest.mark.parametrize(
  "move", [Move(0.6, 0.0, 0.2, 0.9), Move(1.4, 0.25, 0.5, 0.5), Move(1.0, -0.3, 1.0, 0.0), Move(0.8, 2.0, 0.7, 0.1)]
)
def test_landmarks_and_mask_lie_where_the_picture_has_them(move, height):
  image, mask = picture(MARKS, height)
  row = moves.apply(move, image, mask, MARKS, (SIDE, SIDE, 0, 0), SIDE)
  np.testing.assert_allclose(dots(row["images"], row["marks"]), row["marks"], atol=0.25)
  middle = np.argwhere(row["masks"]).mean(0)[::-1]
  m = moves.matrix(move, moves.outline(moves.resize(mask, SIDE) > 127), SIDE)
  np.testing.assert_allclose(middle, align.apply(m, np.array([[40.0, 25.0]]))[0], atol=0.6)
  scale = math.hypot(m[0, 0], m[1, 0])
  assert row["masks"].sum() == pytest.approx(math.pi * (9 * scale) ** 2, rel=0.15)
  black = row["images"].max(-1) == 0
  assert (black == (row["inside"] == 0)).mean() > 0.97 and not (row["masks"] & (row["inside"] < 0.5)).any()
  assert row["inside"].mean() == pytest.approx(min(1.0, scale**2), abs=0.02) or move.turn


def test_a_picture_that_stays_is_the_picture():
  image, mask = picture(MARKS)
  row = moves.apply(None, image, mask, MARKS, (300, 200, 7, 9), SIDE)
  assert np.array_equal(row["images"], moves.resize(image, SIDE)) and row["inside"].min() == 1
  assert np.array_equal(row["marks"], MARKS) and list(row["sizes"]) == [300, 200, 7, 9]


def test_an_enlarged_picture_says_where_its_crop_lies_and_a_shrunk_one_that_it_has_none():
  """Twice as large, the frame begins where the face does, or so that it ends where the face does; never beyond the
  picture. What was cut off before counts at the new scale."""
  image, mask = picture(MARKS)
  sizes = lambda move, *size: list(moves.apply(move, image, mask, MARKS, size, SIDE)["sizes"])
  edges = moves.outline(moves.resize(mask, SIDE) > 127) + 0.5
  first, last = 2 * edges.min(0), 2 * edges.max(0) - SIDE
  assert (0 < last).all() and (last < first).all() and (first <= SIDE).all()
  assert sizes(Move(2.0, 0.0, 1.0, 1.0), SIDE, SIDE, 0, 0) == [SIDE, SIDE, last[1], last[0]]
  assert sizes(Move(2.0, 0.0, 0.0, 1.0), 999, 888, 10, 20) == [999, 888, 20 + last[1], 40 + first[0]]
  assert sizes(Move(0.5, 0.0, 0.3, 0.6), 999, 888, 10, 20) == [999, 888, 5, 10]


def test_the_face_stays_in_the_frame_and_the_frame_full_as_far_as_may_be():
  rng = np.random.default_rng(0)
  for _ in range(300):
    corner, size = rng.uniform(0, 40, 2), rng.uniform(3, 24, 2)
    face = np.array([corner, corner + size, corner + size * [1, 0], corner + size * [0, 1]])
    turn = rng.uniform(-0.5, 0.5) * rng.integers(0, 2)
    move = Move(rng.uniform(0.3, 6), turn, *rng.uniform(0, 1, 2))
    m = moves.matrix(move, face, SIDE)
    there = align.apply(m, face)
    assert there.min() > -0.5 - 1e-6 and there.max() < SIDE - 0.5 + 1e-6
    scale = math.hypot(m[0, 0], m[1, 0])
    assert scale <= move.scale + 1e-9
    if turn == 0:
      edges = align.apply(m, np.array([[-0.5, -0.5], [SIDE - 0.5, SIDE - 0.5]]))
      inner, outer = (edges, np.array([-0.5, SIDE - 0.5])) if scale < 1 else (np.array([[-0.5], [SIDE - 0.5]]), edges)
      assert inner[0].min() > outer[0].min() - 1e-6 and inner[-1].max() < outer[-1].max() + 1e-6


def test_moves_follow_from_seed_step_and_place_alone():
  how = Moves(0.8, 1.5, 15)
  one = moves.draw(how, 7, 3, 4000)
  assert one == moves.draw(how, 7, 3, 4000) != moves.draw(how, 7, 4, 4000) != moves.draw(how, 8, 4, 4000)
  assert moves.draw(how, 7, 3, 5) == one[:5]
  some = [m for m in one if m]
  assert abs(len(some) / 4000 - 0.8) < 0.03
  scales, turns = np.log([m.scale for m in some]) / math.log(1.5), np.rad2deg([m.turn for m in some])
  assert -1 <= scales.min() < -0.99 and 0.99 < scales.max() <= 1 and abs(scales.mean()) < 0.04
  assert -15 <= turns.min() < -14.8 and 14.8 < turns.max() <= 15 and abs(turns.mean()) < 0.6
