"""A training example: its random part against diffusers, and the subject that is built from photos."""

import functools
import hashlib

import jax
import numpy as np
import pytest
from support import tiny_pipelines
from support.fakes import relative_error
from support.subjects import opened, person

from idejax.faces.record import FaceRecord
from idejax.model import backbone, conditioning
from idejax.person import augment, subject, subjects
from idejax.person.augment import Augment


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
  """(backbone, tokenizers); Stable Diffusion 2.1's target is v, and its scaling factor is not 1."""
  return opened(tiny_pipelines.write(tmp_path_factory.mktemp("subject"), "sd21"), "sd21")


@pytest.fixture(scope="module")
def frozen(pipeline):
  b, words = pipeline
  captions = conditioning.tokenise(words, ["a photo", "a cat", "the sea"], {})
  return subject.Frozen(b, {}, captions, person(b, variants=4))


@pytest.fixture(scope="module")
def examples(frozen):
  """64 draws, and the moments that they were drawn from."""
  e = jax.jit(subject.draw)(frozen, jax.random.split(jax.random.key(0), 64))
  return jax.device_get(e), frozen.subject.mean[e.variant]


def test_latents_are_the_scaled_sample_of_the_moments(pipeline, examples):
  """scaling_factor * (mean + exp(logvar / 2) * noise), with a noise of its own; logvar is -8 here."""
  e, mean = examples
  factor = pipeline[0].nets.vae.scaling_factor
  beside = (e.latents / factor - mean) / np.exp(-4)
  assert factor != 1 and abs(beside.mean()) < 0.03 and abs(beside.std() - 1) < 0.03
  assert abs(np.corrcoef(beside.ravel(), e.noise.ravel())[0, 1]) < 0.03  # not the noise that is to be removed


def test_noise_and_target_equal_diffusers(pipeline, examples):
  import diffusers
  import torch

  e, schedule = examples[0], pipeline[0].nets.schedule
  assert schedule.prediction_type == "v_prediction"
  theirs = diffusers.DDPMScheduler(
    schedule.num_train_timesteps,
    schedule.beta_start,
    schedule.beta_end,
    schedule.beta_schedule,
    prediction_type="v_prediction",
  )
  z, noise, t = (torch.from_numpy(np.array(x)) for x in (e.latents, e.noise, e.t.astype(np.int64)))
  assert relative_error(e.noisy, theirs.add_noise(z, noise, t)) < 1e-5
  assert relative_error(e.target, theirs.get_velocity(z, noise, t)) < 1e-5
  assert e.t.min() < 100 and e.t.max() > 900


def test_every_variant_and_caption_is_drawn_and_the_caption_goes_with_the_row(frozen, examples):
  e = examples[0]
  assert set(e.variant) == set(range(4)) and set(e.caption) == set(range(3))
  assert abs(np.corrcoef(e.variant, e.caption)[0, 1]) < 0.4
  np.testing.assert_array_equal(subject.prompts(frozen, e).ids[0], frozen.captions.ids[0][e.caption])


# Photos.


class Pack:
  """A recogniser whose embedding is the brightness of a face's left half and right half."""

  def crop(self, photo, points):
    return photo[points[0, 1] : points[0, 1] + 16, points[0, 0] : points[0, 0] + 16]

  def embed(self, crops):
    halves = np.array([[c[:, :8].mean(), c[:, 8:].mean()] for c in crops], np.float32)
    return np.pad(halves, ((0, 0), (0, 510)))


@pytest.fixture(scope="module")
def photo():
  """A wide photo with the face at the right: red face, green hair, all else dark."""
  face, hair, image = np.zeros((64, 96), bool), np.zeros((64, 96), bool), np.full((64, 96, 3), 20, np.uint8)
  face[32:48, 64:80], hair[16:32, 64:88] = True, True
  image[face], image[hair] = (220, 20, 20), (20, 220, 20)
  embedding = np.eye(512, dtype=np.float32)[0]
  meta = {"photo_sha256": hashlib.sha256(image.tobytes()).hexdigest()}
  box, points, none = np.array([64, 32, 80, 48], np.float32), np.array([[72, 32]] * 5), np.zeros(0)
  return FaceRecord(embedding, box, points, none, none, image, face, hair, None, {}, meta)


@pytest.fixture(scope="module")
def built(pipeline, photo):
  return subjects.build(pipeline[0], [photo], Pack(), Augment(), seed=0)


def test_masks_lie_where_face_and_hair_are(built, photo):
  """At the latents' size, in the square about the face; the mirrored variant's masks are mirrored."""
  left = 96 - 64  # the square that holds the face ends at the photo's edge
  for name in ("face", "hair"):
    mask, want = getattr(built, f"{name}_mask"), getattr(photo, name)[:, left:]
    side = mask.shape[1]
    want = want.reshape(side, 64 // side, side, 64 // side).mean((1, 3)) >= 0.5
    np.testing.assert_array_equal(mask[0], want, name)
    np.testing.assert_array_equal(mask[1], want[:, ::-1], name)
  assert not (built.face_mask * built.hair_mask).any() and built.face_mask.any() and built.hair_mask.any()


def test_a_mask_at_the_latents_size_has_the_pixels_that_are_half_covered():
  mask = np.zeros((1, 4, 4), np.float32)
  mask[0, :2, 0] = mask[0, 2, 2] = 1  # half of one block, a quarter of another
  np.testing.assert_array_equal(subjects._shrink(mask, 2)[0], [[1, 0], [0, 0]])


def test_latents_are_those_of_the_variants_in_minus_one_to_one(pipeline, built, photo):
  b = pipeline[0]
  image = photo.photo[:, 96 - 64 :]
  small = augment.resize(image, built.mean.shape[1] * b.nets.factor).astype(np.float32) / 127.5 - 1
  mean, logvar = jax.jit(functools.partial(backbone.encode_image, b))(np.stack([small, small[:, ::-1]]))
  assert relative_error(built.mean, mean) < 1e-5 and relative_error(built.logvar, logvar) < 1e-5
  assert relative_error(mean, logvar) > 0.1


def test_the_recogniser_sees_each_variant_as_it_was_mirrored(built):
  left, right = built.faces[:, 0], built.faces[:, 1]
  assert left[0] > right[0] + 10  # half of the crop is the face's, half the dark beside it
  np.testing.assert_allclose((left[1], right[1]), (right[0], left[0]))
