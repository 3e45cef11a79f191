"""Variants of a photo: geometry shared by picture and masks, colours in range, shares as stated."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idejax.person import augment
from idejax.person.augment import Augment


@pytest.fixture
def photo():
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
  face, hair = np.zeros((48, 48), bool), np.zeros((48, 48), bool)
  face[12:36, 10:30], hair[:14, 8:40] = True, True
  return image, face, hair


def variants(photo, size=32, seed=1, **how):
  return augment.make(*photo, size, Augment(**how), np.random.default_rng(seed))


def test_flipping_alone_gives_the_photo_and_its_mirror_image(photo):
  v = variants(photo)
  assert v.images.shape == (2, 32, 32, 3) and list(v.flips) == [False, True]
  for x in (v.images, v.face, v.hair):
    np.testing.assert_array_equal(x[1], x[0][:, ::-1])
  assert len(variants(photo, flip=False).images) == 1


def test_the_first_variant_is_always_the_photo_itself(photo):
  plain = variants(photo).images[0]
  busy = variants(photo, jitter=0.2, crop=0.75, scale=(0.1, 1.0), variants=5)
  np.testing.assert_array_equal(busy.images[0], plain)
  assert not np.array_equal(busy.images[1], plain)


def test_the_same_seed_gives_the_same_variants(photo):
  how = dict(jitter=0.2, scale=(0.1, 1.0), variants=6)
  a, b, c = variants(photo, **how), variants(photo, **how), variants(photo, seed=2, **how)
  for x, y in zip(a, b):
    np.testing.assert_array_equal(x, y)
  assert not np.array_equal(a.images, c.images)


def test_a_pasted_photo_lies_on_black_and_covers_what_was_asked():
  """SeFi-IDE: share of the canvas in [0.1^2 * 0.9, 1]; -1 outside; masks follow; half are mirrored."""
  white, all_face, no_hair = np.full((32, 32, 3), 255, np.uint8), np.ones((32, 32), bool), np.zeros((32, 32), bool)
  v = variants((white, all_face, no_hair), scale=(0.1, 1.0), variants=400)
  inside = v.face[1:] == 1
  share = inside.mean((1, 2))
  assert (share >= 0.01 * 0.9 * 0.8).all() and (share <= 1).all() and share.std() > 0.1  # a pixel is 1 / 32
  assert (v.images[1:][~inside] == -1).all() and (v.images[1:][inside] == 1).all()
  assert abs(v.flips[1:].mean() - 0.5) < 3 * 0.5 / 20


@pytest.mark.parametrize("how", [dict(crop=0.6), dict(scale=(0.3, 1.0)), dict(crop=0.75, scale=(0.5, 1.0))])
def test_masks_follow_the_picture_through_crop_and_canvas(how):
  """A photo that is white where the face is, and a hair mask that is not the face's."""
  face, hair = np.zeros((48, 48), bool), np.zeros((48, 48), bool)
  face[12:36, 10:26], hair[:10, 30:44] = True, True
  white = np.repeat(255 * face[..., None].astype(np.uint8), 3, -1)
  by_hair = np.repeat(255 * hair[..., None].astype(np.uint8), 3, -1)
  of = lambda image: variants((image, face, hair), variants=12, **how)
  white_face, hairy = of(white), of(by_hair)
  np.testing.assert_array_equal(white_face.images[..., 0] > 0, white_face.face > 0)
  np.testing.assert_array_equal(hairy.images[..., 0] > 0, hairy.hair > 0)
  assert len({v.tobytes() for v in white_face.face}) > 6


def test_colours_are_recorded_and_stay_in_their_ranges(photo):
  v = variants(photo, jitter=0.2, variants=12)
  np.testing.assert_array_equal(v.colours[0], [1, 1, 1, 0])
  assert (np.abs(v.colours[1:, :3] - 1) <= 0.2).all() and (np.abs(v.colours[1:, 3]) <= 0.2 / 20).all()
  small = augment.resize(photo[0], 32)
  for image, flipped, colour in zip(v.images, v.flips, v.colours):
    want = augment.tint(small, colour)[:, :: -1 if flipped else 1]
    np.testing.assert_array_equal(image, want.astype(np.float32) / 127.5 - 1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([16, 24, 32]))
def test_masks_are_zeros_and_ones_and_never_overlap(seed, size):
  rng = np.random.default_rng(seed)
  image = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
  face, hair = rng.random((40, 40)) < 0.3, rng.random((40, 40)) < 0.3
  v = augment.make(image, face, hair, size, Augment(jitter=0.2, crop=0.75, scale=(0.5, 1.0), variants=4), rng)
  assert set(np.unique(v.face)) | set(np.unique(v.hair)) <= {0.0, 1.0}
  assert (v.face * v.hair).max() == 0
  assert v.images.min() >= -1 and v.images.max() <= 1


def test_tint_changes_what_it_says():
  image = np.random.default_rng(0).integers(60, 190, (8, 8, 3), dtype=np.uint8)
  one = lambda **k: np.array([k.get(n, d) for n, d in zip(("b", "c", "s", "h"), (1, 1, 1, 0))], np.float32)
  np.testing.assert_array_equal(augment.tint(image, one()), image)
  assert augment.tint(image, one(b=1.2)).mean() > image.mean() * 1.15
  assert augment.tint(image, one(c=0.5)).std() < 0.6 * image.std()
  grey = augment.tint(image, one(s=0.0)).astype(int)
  assert np.ptp(grey, axis=-1).max() <= 1
  flat = np.full((2, 2, 3), 90, np.uint8)
  np.testing.assert_array_equal(augment.tint(flat, one(h=0.01)), flat)  # grey has no hue
  assert not np.array_equal(augment.tint(image, one(h=0.05)), image)


@pytest.mark.parametrize(
  "shape, box, want",
  [
    ((60, 100), (10, 10, 30, 30), (0, 0, 60)),
    ((60, 100), (80, 10, 95, 30), (0, 40, 60)),
    ((100, 60), (10, 40, 50, 80), (30, 0, 60)),
    ((50, 50), (0, 0, 50, 50), (0, 0, 50)),
  ],
)
def test_the_square_holds_the_face_and_stays_in_the_photo(shape, box, want):
  assert augment.square(shape, np.array(box, float)) == want
