"""Several photos of one person as one subject."""

import dataclasses

import numpy as np
import pytest
from support import facepack, tiny_pipelines
from support import subjects as people

from idejax import faces
from idejax.faces import align
from idejax.person import subjects
from idejax.person.augment import Augment


def test_the_face_of_several_photos_is_a_unit_vector(tmp_path, monkeypatch):
  """It has the direction of the photos' mean; methods were trained on vectors of length 1."""
  monkeypatch.setenv("IDEJAX_CACHE", "off")
  b, _ = people.opened(tiny_pipelines.write(tmp_path, "sd15"), "sd15")
  pack = faces.open_pack(facepack.pack(tmp_path / "pack"), notify=lambda _: None)
  monkeypatch.setattr(subjects, "encode", lambda b, images: (np.zeros((len(images), 16, 16, 4), np.float32),) * 2)
  photos = [faces.read(facepack.picture((1, 1), seed=i), pack, notify=lambda _: None) for i in range(2)]
  photos = [dataclasses.replace(p, embedding=np.eye(512, dtype=np.float32)[i]) for i, p in enumerate(photos)]
  got = subjects.build(b, photos, pack, Augment(), 0)
  np.testing.assert_allclose(got.face[:3], [0.5**0.5, 0.5**0.5, 0], rtol=1e-6)
  assert got.face.dtype == np.float32 and np.linalg.norm(got.face) == pytest.approx(1)
  assert got.faces.shape == (4, 512)  # two photos and their mirror images
  np.testing.assert_allclose(np.linalg.norm(got.faces, axis=1), 1, rtol=1e-5)


def small_face(tmp_path):
  """A photo of 128 pixels whose face fills a quarter of its width, off its middle, and the pack."""
  pack = faces.open_pack(facepack.pack(tmp_path / "pack"), notify=lambda _: None)
  picture = facepack.picture((2, 1), size=128)
  return faces.read(picture, pack, notify=lambda _: None), pack


def test_the_head_is_framed_as_in_ffhq_whatever_the_photo(tmp_path):
  """Upright, at the model's size: the points lie where FFHQ's do, the mask goes with them, and a small face is large."""
  record, pack = small_face(tmp_path)
  assert subjects.usual_crop(pack) == "head"
  np.testing.assert_array_equal(subjects.frame(record, 512, "head")[0], record.portrait)
  image, face, hair = subjects.frame(record, 64, "head")
  assert (image.shape, image.dtype, face.shape, hair.dtype) == ((64, 64, 3), np.uint8, (64, 64), bool)
  eyes = np.round(align.FFHQ[:2] / 8).astype(int)
  assert all(face[y, x] for x, y in eyes)
  _, in_square, _ = subjects.frame(record, 64, "square")
  assert face.mean() > 1.5 * in_square.mean()
  turned = dataclasses.replace(
    record,
    photo=np.rot90(record.photo).copy(),
    face=np.rot90(record.face).copy(),
    points=np.stack([record.points[:, 1], record.photo.shape[1] - 1 - record.points[:, 0]], 1),
  )
  again = subjects.frame(turned, 64, "head")
  assert np.abs(again[0].astype(int) - image).mean() < 2 and (again[1] != face).mean() < 0.02


def test_beyond_the_photo_its_mirror_image_is_no_face(tmp_path):
  record, _ = small_face(tmp_path)
  whole = dataclasses.replace(record, face=np.ones_like(record.face), points=record.points - [[64, 0]])
  image, face, _ = subjects.frame(whole, 64, "head")
  assert not face[:, :7].any() and face[:, 9:].all() and image[:, :7].any()


def test_drawn_portraits_are_framed_as_the_built_in_models_draw(monkeypatch):
  monkeypatch.setenv("IDEJAX_CACHE", "off")
  assert subjects.usual_crop(faces.open_pack("miniature", notify=lambda _: None)) == "square"
