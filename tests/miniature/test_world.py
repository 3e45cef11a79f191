"""The renderer: one source for numpy and JAX, truth that fits the picture, visible factors."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idejax.faces.landmarks import POLYLINES
from idejax.miniature.world import people as pp
from idejax.miniature.world import scene as sc
from idejax.miniature.world import world
from idejax.miniature.world.data import batch, render_all, stack
from idejax.miniature.world.landmarks import MIRROR
from idejax.miniature.world.sheet import sheet
from idejax.miniature.world.view import LAYERS

SIZE = 32  # one size for all compiled tests: one compilation


def render(person, scene, size=64):
  return world.render(np, person, scene, size)


def someone(seed):
  return pp.person(seed), pp.take(sc.scenes([seed], 1, seed), 0)


@pytest.fixture(scope="module")
def plain():
  """A young man with short hair and nothing special about him."""
  return pp.person(25)._replace(
    hair_style=np.int32(1), beard=np.int32(0), mark=np.int32(0), age=np.int32(0), lip_colour=np.int32(0)
  )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_pictures_are_finite_in_range_and_deterministic(seed):
  person, scene = someone(seed)
  image = render(person, scene, 24)
  assert image.shape == (24, 24, 3) and image.dtype == np.float32
  assert np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1
  assert image.std() > 0.02
  assert np.array_equal(image, render(*someone(seed), 24))


def test_numpy_and_jax_agree():
  pairs = [someone(n) for n in range(48)]
  ours = np.stack([render(*pair, SIZE) for pair in pairs])
  theirs = jax.jit(partial(jax.lax.map, lambda pair: world.render(jnp, *pair, SIZE)))
  people, scenes = (stack(list(column)) for column in zip(*pairs))
  assert np.abs(ours - np.asarray(theirs((people, scenes)))).max() < 1e-3


def test_size_changes_nothing_but_sharpness():
  for seed in range(6):
    small, large = (render(*someone(seed), s) for s in (64, 256))
    pooled = large.reshape(64, 4, 64, 4, 3).mean((1, 3))
    assert np.abs(pooled - small).mean() < 0.012


TABLES = dict(gender=2, hair_style=8, hair_colour=7, fringe=3, eye_colour=5, beard=5, mark=4, age=3, lip_colour=3)
SCENES = dict(expression=6, accessory=5, background=11, clothes=6, style=3)


def differences(images):
  """Smallest mean absolute difference of any two pictures, in grey levels of 255."""
  pairs = [(a, b) for n, a in enumerate(images) for b in images[:n]]
  return min(255 * np.abs(a - b).mean() for a, b in pairs)


# Small features (lips, irises, a mole) change few pixels, but these strongly.
@pytest.mark.parametrize("field,floor", [(f, 0.05) for f in TABLES])
def test_each_discrete_feature_shows(plain, field, floor):
  assert list(TABLES) == list(pp.DISCRETE)
  scene = sc.scene(background="gray")
  codes = range(TABLES[field])
  images = [render(plain._replace(**{field: np.int32(n)}), scene) for n in codes]
  assert differences(images) > floor


@pytest.mark.parametrize("field", pp.CONTINUOUS)
def test_each_continuous_feature_shows(plain, field):
  ends = [plain._replace(**{field: np.float32(v)}) for v in (-1, 1)]
  assert differences([render(p, sc.scene(background="gray")) for p in ends]) > 0.10


@pytest.mark.parametrize("field", SCENES)
def test_each_scene_factor_shows(plain, field):
  images = [render(plain, sc.scene(**{field: n})) for n in range(SCENES[field])]
  assert differences(images) > 1


@pytest.mark.parametrize("field", [f for f in sc.Scene._fields if f not in SCENES])
def test_pose_and_light_show(plain, field):
  low, high = sc._RANGES[field]
  images = [render(plain, sc.scene(**{field: v})) for v in (low, high)]
  assert differences(images) > 1.0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_masks_follow_the_label_map(seed):
  person, scene = someone(seed)
  truth = world.layers(np, person, scene)
  assert truth.labels.dtype == np.int32
  assert truth.labels.min() == 0 and truth.labels.max() < len(LAYERS)
  layer = lambda *names: np.isin(truth.labels, [LAYERS.index(n) for n in names])
  assert np.array_equal(truth.hair, layer("back hair", "hair"))
  assert np.array_equal(truth.face, layer("face", "beard", "mouth", "nose", "eyes", "brows"))
  assert 250 < truth.face.sum() < 2400
  assert truth.hair.any() == (person.hair_style != 0) or scene.accessory == 3
  if scene.accessory == 0:
    assert not layer("accessory").any()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_landmarks_are_distinct_and_inside_the_box(seed):
  box, points, marks = world.geometry(np, *someone(seed), 512)
  assert marks.shape == (72, 2) and points.shape == (5, 2) and np.isfinite(marks).all()
  assert (marks >= box[:2] - 1e-3).all() and (marks <= box[2:] + 1e-3).all()
  gaps = np.linalg.norm(marks[:, None] - marks[None], axis=-1) + 1e9 * np.eye(72)
  assert gaps.min() > 0  # features may touch: a full lip and a short nose, a far eye and the cheek
  for part in (slice(0, 17), slice(17, 27), slice(27, 36), slice(36, 52), slice(52, 72)):
    assert gaps[part, part].min() > 0.5
  expected = [marks[36:44].mean(0), marks[44:52].mean(0), marks[30], marks[52], marks[57]]
  assert np.allclose(points, expected, atol=1e-3)
  assert points[0, 0] < points[1, 0] and points[3, 0] < points[4, 0]


def test_landmarks_come_in_facesnaps_order(plain):
  marks = world.geometry(np, plain, sc.scene(expression="surprised"), 512).landmarks
  x, y = marks.T
  assert y[8] == y[:17].max() and (np.diff(y[:9]) > 0).all() and (np.diff(y[9:17]) > 0).all()
  assert (np.diff(x[17:27]) > 0).all() and (np.diff(y[27:31]) > 0).all()
  assert (np.diff(x[31:36]) > 0).all()
  for ring, centre in ((range(36, 44), 0), (range(44, 52), 1)):
    points = marks[list(ring)]
    turns = np.diff(np.unwrap(np.arctan2(*(points - points.mean(0)).T[::-1])))
    assert (turns > 0).all(), centre  # once round, clockwise in the picture
  outer, inner = POLYLINES[-2][0][:-1], POLYLINES[-1][0][:-1]
  assert {*outer, *inner} == set(range(52, 72)) and len(outer) == 12 and len(inner) == 8
  for ring in (outer, inner):
    points = marks[list(ring)]
    turns = np.diff(np.unwrap(np.arctan2(*(points - points.mean(0)).T[::-1])))
    assert (turns > 0).all()
  assert (y[list(inner)].min() > y[list(outer)].min()) and (y[70] < y[71]) and (y[62] < y[63])
  indices = {i for run, _ in POLYLINES for i in run}
  assert indices == set(range(72))


@pytest.mark.parametrize("expression", ["neutral", "happy", "sad", "surprised", "angry"])
def test_landmarks_mirror_with_the_yaw(plain, expression):
  right = world.geometry(np, plain, sc.scene(expression=expression, yaw=0.3), 101).landmarks
  left = world.geometry(np, plain, sc.scene(expression=expression, yaw=-0.3), 101).landmarks
  assert np.array_equal(MIRROR[MIRROR], np.arange(72))
  assert np.allclose(right, left[MIRROR] * [-1, 1] + [100, 0], atol=1e-3)
  assert (right[27:36, 0] > 55).all()  # the nose points to where the head turns


def test_landmarks_lie_on_what_they_name(plain):
  """Eye and mouth centres fall on their layer, the contour on the edge of the skin."""
  for seed in range(30):
    person, scene = someone(seed)
    scene = scene._replace(accessory=np.int32(0), expression=np.int32(0))
    labels = world.layers(np, person._replace(hair_style=np.int32(0)), scene, 128).labels
    marks = world.geometry(np, person, scene, 128).landmarks
    at = lambda p, labels=labels: LAYERS[labels[int(p[1] + 0.5), int(p[0] + 0.5)]]
    assert at(marks[36:44].mean(0)) == at(marks[44:52].mean(0)) == "eyes"
    assert at(marks[52:72].mean(0)) == "mouth"
    chin = marks[8] - marks[36:52].mean(0)
    assert at(marks[8] - 0.05 * chin) in ("face", "beard")
    assert at(marks[8] + 0.1 * chin) in ("neck", "clothes")


def test_batches_are_reproducible_and_agree_with_the_renderer():
  images = batch([1, 300, 7], 4, seed=2, size=SIZE)
  assert images.images.shape == (12, SIZE, SIZE, 3) and images.images.dtype == np.uint8
  assert len(images.captions) == 12 and images.geometry.landmarks.shape == (12, 72, 2)
  assert list(images.factors["id"]) == [1] * 4 + [300] * 4 + [7] * 4
  alone = batch([7], 2, seed=2, size=SIZE)
  assert np.array_equal(images.images[8:10], alone.images) and images.captions[8:10] == alone.captions
  assert np.array_equal(images.factors["background"][8:10], alone.factors["background"])
  scene = pp.take(sc.scenes([300], 1, 2), 0)
  ours = 255 * render(pp.person(300), scene, SIZE)
  assert np.abs(ours - images.images[4]).max() < 1
  names = pp.celebrity_names()
  assert sum(names[1] in c for c in images.captions[:4]) >= 2
  assert not any(n in c for n in names for c in images.captions[4:8])
  more, _ = render_all(*(stack([f] * 2) for f in someone(5)), SIZE)
  assert np.array_equal(more[0], more[1])


def test_sheet_is_one_picture(tmp_path):
  from PIL import Image

  sheet(tmp_path / "world.png", SIZE)
  with Image.open(tmp_path / "world.png") as image:
    assert image.size == (11 * SIZE, 7 * SIZE)
