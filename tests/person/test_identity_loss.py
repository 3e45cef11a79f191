"""The differentiable crop of a face against cv2's, and the identity loss."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from idejax.faces import align, predictor
from idejax.faces.landmarks import five
from idejax.person import likeness

CROP = jax.jit(likeness.crop, static_argnums=2)


@pytest.fixture(scope="module")
def pictures():
  """Smooth pictures [2, 90, 120, 3] and landmarks: one face tilted, one half outside."""
  rng = np.random.default_rng(0)
  rough = rng.uniform(0, 1, (2, 12, 16, 3)).astype(np.float32)
  images = np.stack([cv2.resize(r, (120, 90), interpolation=cv2.INTER_CUBIC) for r in rough])
  marks = [predictor.pose("tilted-left", 90, 120), predictor.pose("happy", 90, 120) + np.float32([45, 20])]
  return images, np.stack(marks).astype(np.float32)


def test_similarities_are_the_front_ends(pictures):
  points = five(pictures[1])
  found = likeness.similarity(points, np.broadcast_to(align.ARCFACE.astype(np.float32), points.shape))
  for one, p in zip(found, points):
    np.testing.assert_allclose(one, align.similarity(p, align.ARCFACE), atol=1e-3, rtol=1e-4)


def test_the_template_is_cropped_as_it_is(rng):
  """Landmarks whose five points are the template's: the crop is the picture."""
  marks = np.zeros((1, 72, 2), np.float32)
  marks[0, 36:44], marks[0, 44:52] = align.ARCFACE[0], align.ARCFACE[1]
  marks[0, [30, 52, 57]] = align.ARCFACE[2:]
  image = rng.uniform(0, 1, (1, 112, 112, 3)).astype(np.float32)
  np.testing.assert_allclose(CROP(image, marks, 112), image, atol=2e-4)


@pytest.mark.parametrize("size", [112, 56])
def test_equal_to_cv2(pictures, size):
  """cv2 rounds places to 1/32 px, hence the tolerance; outside the picture both are 0."""
  images, marks = pictures
  crops = CROP(images, marks, size)
  assert crops.shape == (2, size, size, 3)
  for crop, image, m in zip(crops, images, marks):
    matrix = align.similarity(five(m), align.ARCFACE * (size / 112))
    want = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=0)
    assert np.abs(crop - want).mean() < 2e-3 and np.quantile(np.abs(crop - want), 0.99) < 0.02
  outside = cv2.warpAffine(np.ones_like(image), matrix, (size, size)) == 0
  assert outside.mean() > 0.1 and not np.asarray(crops[1])[outside].any()


def test_its_gradient_is_the_crops_weights(pictures):
  """Finite, linear in the pixels, none to the landmarks; pixels that the crop does not read have none."""
  images, marks = pictures
  weight = np.random.default_rng(1).standard_normal((2, 28, 28, 3)).astype(np.float32)
  value = lambda images, marks: (likeness.crop(images, marks, 28) * weight).sum()
  by_pixels, by_marks = jax.jit(jax.grad(value, (0, 1)))(images, marks)
  assert np.isfinite(by_pixels).all() and not by_marks.any()
  np.testing.assert_allclose((by_pixels * images).sum(), jax.jit(value)(images, marks), rtol=1e-4)
  read = np.asarray(by_pixels).any(-1).mean((1, 2))
  assert (read > 0.02).all() and (read < 0.9).all()


def test_the_loss(rng):
  a, b = rng.standard_normal((2, 4, 16), np.float32)
  loss = likeness.identity_loss
  np.testing.assert_allclose(loss(a, 3 * a), 0, atol=1e-6)
  np.testing.assert_allclose(loss(a, -a), 2, atol=1e-6)
  cos = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
  np.testing.assert_allclose(loss(a, b), 1 - cos, atol=1e-6)
  assert np.isfinite(jax.grad(lambda x: loss(x, jnp.asarray(b)).sum())(jnp.zeros_like(a))).all()


def test_contrast_is_infonce_over_other_people():
  """By hand; pictures of the same person are no negatives, and one person alone has none."""
  rng = np.random.default_rng(4)
  faces, references = (rng.standard_normal((4, 8)).astype(np.float32) for _ in range(2))
  person, t = np.array([0, 1, 0, 2]), 0.2
  cos = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)
  want = []
  for i in range(4):
    own = np.exp(cos(faces[i], references[i]) / t)
    rest = [np.exp(cos(faces[i], references[j]) / t) for j in range(4) if person[j] != person[i]]
    want.append(-np.log(own / (own + sum(rest))))
  got = jax.jit(likeness.contrast)(3 * faces, references, person, t)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  np.testing.assert_allclose(
    likeness.contrast(jnp.asarray(faces), jnp.asarray(references), np.zeros(4, int), t), 0, atol=1e-5
  )
  slope = jax.grad(lambda x: likeness.contrast(x, jnp.asarray(references), person, t).sum())(jnp.asarray(faces))
  assert np.isfinite(slope).all() and np.abs(slope).max() > 0
