"""What is read off a drawn photo: measures, mood, pose; and the landmarks that the world's geometry makes of them."""

import types

import numpy as np
import pytest

from idejax.errors import UserError
from idejax.faces import predictor
from idejax.faces.posing import ByLandmarks
from idejax.miniature.judging import crops, shapes
from idejax.miniature.training import shapes_training
from idejax.miniature.world import landmarks, people, poses, scene, world

DRAWN = shapes.Drawn() if shapes.FILE.is_file() else None
needs_file = pytest.mark.skipif(DRAWN is None, reason="the regressor is not in the package")


def photo(person, **how):
  """(what a Poser reads of a record, its person, its scene)"""
  one, seen = people.person(person), scene.scene(**how)
  pixels = (np.asarray(world.render(np, one, seen, 64)) * 255 + 0.5).astype(np.uint8)
  points = np.asarray(landmarks.geometry(np, one, seen, 64).points, np.float32)
  return types.SimpleNamespace(photo=pixels, points=points, meta={"photo": f"{person}.png"}), one, seen


def off(marks, truth):
  return np.linalg.norm(marks - truth, axis=1).mean() / np.ptp(truth[:, 0])


POSED = dict(expression="happy", tilt=0.12, scale=0.93, yaw=-0.2, shift_x=0.07, shift_y=-0.03)


def test_a_scene_survives_the_way_into_the_crop_and_back():
  """The camera's round trip, whatever the crop: the same scene, hence the same landmarks."""
  record, one, seen = photo(5, **POSED)
  for points in (record.points, record.points @ np.array([[0.9, 0.1], [-0.1, 0.9]]) + 3):
    matrix = crops.similarity(points.astype(np.float64), shapes.CUT.template())
    back = shapes._scene(dict(zip(shapes.PLACE, shapes.place_of(seen, 64, matrix))), int(seen.expression), matrix)
    for name in ("tilt", "scale", "yaw", "shift_x", "shift_y", "expression"):
      np.testing.assert_allclose(getattr(back, name), getattr(seen, name), atol=1e-6, err_msg=name)
  truth = landmarks.geometry(np, one, seen, 64).landmarks
  np.testing.assert_allclose(shapes.marks(shapes.Reading(one, back)), truth, atol=1e-4)


def test_in_a_larger_photo_everything_is_larger():
  """A scene is read in a virtual picture of 64 pixels: landmarks come out in the photo's own."""
  seen = scene.scene(**POSED)
  one = people.person(5)
  truth = landmarks.geometry(np, one, seen, 200)
  matrix = crops.similarity(truth.points.astype(np.float64), shapes.CUT.template())
  back = shapes._scene(dict(zip(shapes.PLACE, shapes.place_of(seen, 200, matrix))), int(seen.expression), matrix)
  np.testing.assert_allclose(shapes.marks(shapes.Reading(one, back)), truth.landmarks, atol=1e-3)


@needs_file
def test_landmarks_of_people_never_seen():
  """Ten of the held-out split, each in a pose: the mean is off by less than a twentieth of the face."""
  errors, moods = [], []
  for n, person in enumerate(people.split("heldout")[:10]):
    mood = scene.EXPRESSIONS[n % 6]
    record, one, seen = photo(person, **POSED | {"expression": mood})
    reading = DRAWN.read(record)
    errors.append(off(shapes.marks(reading), landmarks.geometry(np, one, seen, 64).landmarks))
    moods.append(scene.EXPRESSIONS[int(reading.scene.expression)] == mood)
  assert np.mean(errors) < 0.05 and np.mean(moods) > 0.7, (errors, moods)


@needs_file
def test_shape_is_the_sources_pose_and_mood_the_drivers():
  """The swap test; and a driver with another face in the same scene asks for nearly the same landmarks."""
  a, b, _ = (photo(i, **how)[0] for i, how in ((210, {}), (1500, POSED), (211, {})))
  np.testing.assert_array_equal(DRAWN.driven(b, b).landmarks, DRAWN.own(b))
  driven = DRAWN.driven(a, b).landmarks
  want = shapes.marks(DRAWN.read(a)._replace(scene=DRAWN.read(b).scene))
  np.testing.assert_array_equal(driven, want)
  assert off(driven, DRAWN.own(a)) > 0.05 and off(driven, DRAWN.own(b)) > 0.005


@needs_file
def test_poses_that_ship():
  """Each name gives the source's own shape, in the middle of a picture of any size."""
  record = photo(300)[0]
  for name in predictor.poses():
    small, large = (DRAWN.by_name(record, name, *size) for size in ((64, 64), (128, 192)))
    np.testing.assert_allclose(large, (small - 31.5) * 2 + [95.5, 63.5], atol=1e-3)
    assert off(small, predictor.pose(name, 64, 64)) < 0.25
    own_size = shapes.marks(DRAWN.read(record)._replace(scene=scene.scene(**poses.POSES[name])))
    np.testing.assert_allclose(small, own_size, atol=1e-4)
  assert len({DRAWN.by_name(record, n, 64, 64).tobytes() for n in predictor.poses()}) == 10
  with pytest.raises(UserError, match="no pose 'sideways'; there are front"):
    DRAWN.by_name(record, "sideways", 64, 64)


@needs_file
def test_what_an_identity_keeps_of_a_face_is_all_that_poses_need():
  """The measures alone, through a file's float32; what another pack kept is refused, and so is the other way round."""
  a, b = photo(300)[0], photo(301, **POSED)[0]
  kept = DRAWN.keep(a)
  assert set(kept) == {"measures"} and kept["measures"].dtype == np.float32
  face = DRAWN.kept(kept)
  np.testing.assert_array_equal(DRAWN.driven(face, b).landmarks, DRAWN.driven(a, b).landmarks)
  np.testing.assert_array_equal(DRAWN.by_name(face, "left", 64, 64), DRAWN.by_name(a, "left", 64, 64))
  with pytest.raises(UserError, match="it was read by another pack than miniature"):
    DRAWN.kept({"landmarks": np.zeros((72, 2), np.float32)})
  with pytest.raises(UserError, match="is of another pack: measures"):
    ByLandmarks().kept(kept)


def test_a_regressor_is_fitted(monkeypatch):
  """Of few people: on them it is near the truth, and what it writes is read again."""
  monkeypatch.setattr(shapes_training, "FILTERS", 6)
  seen = [photo(person, **POSED | {"expression": scene.EXPRESSIONS[n % 6]}) for n, person in enumerate(range(300, 312))]
  cuts, truth = [], []
  for record, one, where in seen:
    matrix = crops.similarity(record.points.astype(np.float64), shapes.CUT.template())
    cuts.append(crops.crop(record.photo, matrix, 64))
    mood = np.arange(6) == where.expression
    truth.append([*(float(getattr(one, n)) for n in shapes.MEASURES), float(one.gender), *mood, *shapes.place_of(where, 64, matrix)])  # fmt: skip
  monkeypatch.setattr(shapes_training, "faces", lambda *_: (np.stack(cuts), np.array(truth, np.float64)))
  regressor = shapes_training.fit(np.arange(12), 1, 0)
  drawn = shapes.Drawn(regressor)
  errors = [off(drawn.own(r), landmarks.geometry(np, one, where, 64).landmarks) for r, one, where in seen]
  assert np.mean(errors) < 0.02
  moods = [int(drawn.read(r).scene.expression) == int(where.expression) for r, _, where in seen]
  assert all(moods)


def test_a_file_comes_back(tmp_path):
  rng = np.random.default_rng(0)
  f = 6 * 6 * 4 + 192
  sizes = ((2, 5, 5, 3), (f,), (f,), (f, len(shapes.OUTPUTS)), (len(shapes.OUTPUTS),))
  one = shapes.Regressor(*(rng.standard_normal(s).astype(np.float32) for s in sizes))
  shapes_training.save(tmp_path / "shapes.npz", one)
  for x, y in zip(one, shapes.load(tmp_path / "shapes.npz")):
    np.testing.assert_array_equal(x.astype(np.float16), y)
  with pytest.raises(UserError, match="train-miniature --stage shapes makes it"):
    shapes.load(tmp_path / "absent.npz")
