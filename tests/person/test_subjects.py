"""Several photos of one person as one subject."""

import dataclasses

import numpy as np
import pytest
from support import facepack, tiny_pipelines
from support import subjects as people

from idejax import faces
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
