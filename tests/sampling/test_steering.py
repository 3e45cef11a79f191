"""Faces that steer pictures: their strength, their company, their poses, and what is refused."""

import dataclasses

import jax
import numpy as np
import pytest
from support import addons, facepack, tiny_pipelines
from support.fakes import relative_error

import idejax
from idejax import faces
from idejax.errors import UserError
from idejax.faces import control, predictor
from idejax.faces.posing import ByLandmarks
from idejax.personalizing import posers
from idejax.sampling import pipeline, steering
from idejax.sampling.pipeline import Request, Settings

SETTINGS = Settings(3, "ddim", batch=4)
quiet = lambda _: None


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
  return faces.open_pack(facepack.pack(tmp_path_factory.mktemp("packs") / "green", landmarks=True), notify=quiet)


@pytest.fixture(
  scope="module",
  params=[pytest.param("sd15", marks=pytest.mark.slow), pytest.param("sd21-base", marks=pytest.mark.slow), "sdxl"],
)
def pipes(request, pack, tmp_path_factory):
  """(a pipeline, the same with an add-on)"""
  root = tiny_pipelines.write(tmp_path_factory.mktemp("steering"), request.param)
  plain = idejax.load(root / request.param, devices=jax.devices()[:1], notify=quiet)
  folder = addons.write(root / "addon", plain.backbone)
  return plain, plain.with_faces(steering.load(plain.backbone, folder, pack, ByLandmarks(), quiet))


@pytest.fixture(scope="module")
def sd15(pack, tmp_path_factory):
  root = tiny_pipelines.write(tmp_path_factory.mktemp("sd15"), "sd15")
  plain = idejax.load(root / "sd15", devices=jax.devices()[:1], notify=quiet)
  folder = addons.write(root / "addon", plain.backbone)
  return plain, plain.with_faces(steering.load(plain.backbone, folder, pack, ByLandmarks(), quiet)), folder


ANNA, BERT = facepack.picture((1, 1), seed=1), facepack.picture((1, 1), seed=2)


def latents(pipe, requests, settings=SETTINGS):
  out = {}
  for batch in pipeline.generate(pipe, requests, settings):
    out |= dict(zip(batch.positions, batch.latents))
  return np.stack([out[i] for i in range(len(requests))])


def steered(pipe, face, pose="none", **knobs):
  size = pipe.size(SETTINGS)
  return Request("at sea", seed=7, steer=pipe.faces.steer(face, pose, size, **knobs))


def test_with_strength_0_the_pictures_are_the_models_own(pipes):
  """In a batch with a steered one too; and a plain prompt beside a face is as without the add-on."""
  plain, snap = pipes
  want = latents(plain, [Request("at sea", seed=7)])[0]
  none, off, on, never = latents(
    snap,
    [
      Request("at sea", seed=7),
      steered(snap, ANNA, "front", strength=0.0),
      steered(snap, ANNA, "front"),
      steered(snap, ANNA, "front", until=0.0),
    ],
  )
  for x in (none, off, never):
    assert relative_error(x, want) < 1e-5
  assert relative_error(on, want) > 1e-3
  np.testing.assert_array_equal(latents(snap, [Request("at sea", seed=7)])[0], want)  # another program, the same bits


def test_company_changes_nobody(pipes):
  """Another face, another pose and a plain prompt in one batch: each as alone."""
  _, snap = pipes
  requests = [steered(snap, ANNA), steered(snap, BERT), Request("at sea", seed=7), steered(snap, ANNA, "left")]
  together = latents(snap, requests)
  for i, r in enumerate(requests):
    assert relative_error(latents(snap, [r])[0], together[i]) < 2e-5
  assert len({x.tobytes() for x in together}) == 4


def test_knobs_faces_and_poses_compile_nothing(sd15):
  _, snap, _ = sd15
  latents(snap, [steered(snap, ANNA)])
  count = pipeline._run._cache_size()
  latents(snap, [steered(snap, BERT, "left", strength=0.3, until=0.5)])
  latents(snap, [steered(snap, ANNA, facepack.picture((2, 1)), strength=2.0)])
  assert pipeline._run._cache_size() == count


def test_it_acts_in_its_share_of_the_steps(sd15):
  """The first ones: two of three ddim steps lie above a third of the timesteps. A share between the same two changes
  nothing, and one before the first step is no ControlNet."""
  plain, snap, _ = sd15
  table = pipeline.make_table(plain, SETTINGS)
  times = np.asarray(table.rows.t)[np.asarray(table.active)]
  train = plain.backbone.nets.schedule.num_train_timesteps
  share = lambda t: float(1 - t / train)
  after_two = (share(times[1]) + share(times[2])) / 2
  most, same, all_steps, one, never, none = latents(
    snap,
    [
      steered(snap, ANNA, until=after_two),
      steered(snap, ANNA, until=share(times[2]) - 1e-3),
      steered(snap, ANNA),
      steered(snap, ANNA, until=share(times[1]) - 1e-3),
      steered(snap, ANNA, until=share(times[0]) - 1e-3),
      Request("at sea", seed=7),
    ],
  )
  np.testing.assert_allclose(most, same, rtol=1e-6)
  assert relative_error(most, all_steps) > 1e-4 and relative_error(most, one) > 1e-4
  assert relative_error(never, none) < 1e-5


def test_both_branches_of_guidance_have_the_face(sd15):
  """Rows alternate prompt and negative; each picture's face, pose and knobs stand in both of its rows."""
  _, snap, _ = sd15
  size = snap.size(SETTINGS)
  one = snap.faces.steer(ANNA, "left", size, 0.5, 0.25)
  cond = pipeline.Conditioning(*(np.zeros((1, 4, 3, 32), np.float32),) * 2)
  joined = steering.join(snap.backbone, cond, [one, None], size, snap.mesh)
  for row in (0, 1):
    np.testing.assert_array_equal(joined.control_context[row], one.tokens)
    np.testing.assert_array_equal(joined.control[row], control.raster(predictor.pose("left", *size), *size))
  np.testing.assert_array_equal(joined.control_scale, [0.5, 0.5, 0, 0])
  np.testing.assert_array_equal(joined.control_until, [750, 750, 0, 0])
  assert not np.asarray(joined.control[2:]).any() and not np.asarray(joined.control_context[2:]).any()


def test_poses(sd15, pack):
  """None: the photo's own. A driver's photo: its landmarks, where they lie when all of it is fitted into the picture."""
  _, snap, _ = sd15
  size, record = snap.size(SETTINGS), faces.read(ANNA, pack, cached=False)
  driver = faces.read(facepack.picture((2, 0), size=96), pack, cached=False)
  steer = lambda pose: snap.faces.steer(ANNA, pose, size)
  np.testing.assert_allclose(steer(None).marks, control.place(record.landmarks, (128, 128), *size))
  np.testing.assert_allclose(steer(driver).marks, control.place(driver.landmarks, (96, 96), *size))
  assert steer("none").marks is None
  # The photo's own landmarks are the source's: the pose's mean face is replaced by nothing of them here.
  np.testing.assert_allclose(steer("left").marks, predictor.pose("left", *size))
  assert [steer(p).about["pose"] for p in (None, "none", "left")] == ["own", "none", "left"]


def test_several_photos_of_one_person_are_the_mean_of_their_tokens(sd15):
  _, snap, _ = sd15
  a, b, both = (snap.faces.steer(f, "none", (32, 32)).tokens for f in (ANNA, BERT, (ANNA, BERT)))
  np.testing.assert_allclose(both, (a + b) / 2, atol=1e-6)
  assert relative_error(a, b) > 1e-4


def test_a_mixer_that_was_trained_to_read_several_photos_does(sd15, pack, tmp_path):
  plain, snap, _ = sd15
  folder = addons.write(tmp_path / "many", plain.backbone, photos=3)
  many = plain.with_faces(steering.load(plain.backbone, folder, pack, ByLandmarks(), quiet))
  a = faces.read(ANNA, pack, cached=False)
  unlike = dict(embedding=a.embedding[::-1], portrait=255 - a.portrait, meta=a.meta | {"photo_sha256": "other"})
  both = a, dataclasses.replace(a, **unlike)
  fused, mean, one, same = (
    pipe.faces.steer(f, "none", (32, 32)).tokens for pipe, f in ((many, both), (snap, both), (snap, a), (many, a))
  )
  np.testing.assert_allclose(one, same, atol=1e-6)
  assert relative_error(fused, mean) > 1e-4
  assert many.faces.fuses(2) and not many.faces.fuses(1) and not snap.faces.fuses(2)


def test_a_morphable_model_puts_the_persons_shape_into_the_drivers_pose(sd15, pack, tmp_path, monkeypatch):
  """`shape` and `table` of idejax.load reach the poser; its landmarks are placed as a driver's own are."""
  _, snap, folder = sd15
  moved = lambda source, driver: predictor.Prediction(driver + source.mean(0) / 10, {})
  monkeypatch.setattr(posers.predictor, "by_model", lambda model: moved)
  monkeypatch.setattr(posers.morphable, "load", lambda *files: [f.name for f in files])
  given = dict(addon=folder, pack=pack, shape=tmp_path / "m.npz", table=tmp_path / "t.json")
  pipe = idejax.load(snap.folder, devices=jax.devices()[:1], notify=quiet, **given)
  a, b = (faces.read(x, pack, cached=False).landmarks for x in (ANNA, facepack.picture((2, 0), size=96)))
  steer = pipe.faces.steer(ANNA, facepack.picture((2, 0), size=96), (32, 32))
  np.testing.assert_allclose(steer.marks, control.place(b + a.mean(0) / 10, (96, 96), 32, 32), atol=1e-4)
  with pytest.raises(UserError, match="a morphable model is two files"):
    idejax.load(snap.folder, devices=jax.devices()[:1], notify=quiet, **given | dict(table=None))


def test_from_python(sd15):
  """One face for all, or one a picture, with plain pictures between."""
  plain, snap, _ = sd15
  one = snap.sample(["at sea"] * 3, seeds=[7, 7, 7], face=[ANNA, None, BERT], pose="none", steps=2, batch=3)
  np.testing.assert_array_equal(one[1], plain.sample("at sea", seeds=[7], steps=2)[0])
  again = snap.sample(["at sea"] * 3, seeds=[7, 7, 7], face=[ANNA, None, BERT], pose="none", steps=2, batch=3)
  np.testing.assert_array_equal(one, again)
  off = snap.sample("at sea", seeds=[7], face=ANNA, face_strength=0, steps=2)
  np.testing.assert_array_equal(off, plain.sample("at sea", seeds=[7], steps=2))


@pytest.mark.parametrize(
  "given, words",
  [
    (dict(pose="left"), "a pose needs a face"),
    (dict(face=[ANNA, BERT]), "1 prompts, but a list of 2 as face"),
    (dict(face=ANNA, face_strength=11), "face_strength is 11; it must be from 0 to 10"),
    (dict(face=ANNA, face_until=[1.5]), "face_until is 1.5; it must be from 0 to 1"),
    (dict(face=facepack.picture()), "found no face"),
    (dict(face=ANNA, pose="sideways"), "no pose 'sideways'; there are front"),
  ],
)
def test_what_is_refused(sd15, given, words):
  with pytest.raises(UserError, match=words):
    sd15[1].sample("at sea", steps=2, **given)


def test_a_pipeline_without_an_add_on_takes_no_face(sd15):
  with pytest.raises(UserError, match="has no add-on that reads faces"):
    sd15[0].sample("at sea", steps=2, face=ANNA)


def test_add_ons_that_do_not_fit(sd15, pack, tmp_path):
  plain, _, folder = sd15
  other = faces.open_pack(facepack.pack(tmp_path / "blue", name="blue"), notify=quiet)
  with pytest.raises(UserError, match="was trained on faces as the pack green sees them, not blue: give --pack green"):
    steering.load(plain.backbone, folder, other, ByLandmarks(), quiet)
  bare = addons.write(tmp_path / "bare", plain.backbone, vision=False)
  with pytest.raises(UserError, match="brings no image encoder: give --vision FOLDER of toy ViT"):
    steering.load(plain.backbone, bare, pack, ByLandmarks(), quiet)
  wide = addons.tower(tmp_path / "wide", width=12)
  with pytest.raises(UserError, match="reads an image encoder of 8 features .*, .* has 12"):
    steering.load(plain.backbone, bare, pack, ByLandmarks(), quiet, wide)
  steering.load(plain.backbone, bare, pack, ByLandmarks(), quiet, addons.tower(tmp_path / "eight"))


def test_a_pack_without_landmarks(sd15, tmp_path):
  """The face's own pose is none then; poses that ship work; a driver's photo is refused with the reason."""
  plain, _, folder = sd15
  pack = faces.open_pack(facepack.pack(tmp_path / "green"), notify=quiet)
  snap = plain.with_faces(steering.load(plain.backbone, folder, pack, ByLandmarks(), quiet))
  size = plain.size(SETTINGS)
  assert snap.faces.steer(ANNA, None, size).marks is None
  assert snap.faces.steer(ANNA, None, size).about["pose"] == "none"
  np.testing.assert_allclose(snap.faces.steer(ANNA, "left", size).marks, predictor.pose("left", *size))
  with pytest.raises(UserError, match="the source has no landmarks: green has no landmark network"):
    snap.faces.steer(ANNA, BERT, size)


def test_a_steer_is_its_own(sd15):
  """Requests with arrays may be compared and hashed."""
  _, snap, _ = sd15
  r = steered(snap, ANNA)
  assert r == dataclasses.replace(r) and hash(r)
