"""Batches of face records: from a folder of people, in a fixed order, with references of the same person."""

import jax
import numpy as np
import pytest
from PIL import Image
from support import addons, facepack, tiny_pipelines

import idejax
from idejax import faces
from idejax.data import face_batches
from idejax.errors import UserError
from idejax.faces import control
from idejax.faces.mask import at_latent_size
from idejax.model import vision
from idejax.person import face_features


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Two people with three photos and one; a caption; a photo without a face; a file that is none."""
  root = tmp_path_factory.mktemp("people")
  for name, count in (("anna", 3), ("bert", 1)):
    (root / name).mkdir()
    for n in range(count):
      Image.fromarray(facepack.picture((1, 2), seed=n + 10 * count)).save(root / name / f"{n}.png")
  (root / "anna" / "1.txt").write_text("anna at sea\n")
  Image.fromarray(facepack.picture()).save(root / "anna" / "nobody.png")
  Image.fromarray(facepack.picture((0, 0))).save(root / "loose.png")
  return root


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
  return faces.open_pack(
    facepack.pack(tmp_path_factory.mktemp("packs") / "green", landmarks=True), notify=lambda _: None
  )


@pytest.fixture(scope="module")
def data(folder, pack):
  return face_batches.photos(folder, pack, 32, 16)


def test_a_folder_of_people(data, folder, pack, capsys):
  assert len(data.images) == 4 and list(data.person) == [0, 0, 0, 1] and data.clear.all()
  assert data.captions == [face_batches.PLAIN, "anna at sea", face_batches.PLAIN, face_batches.PLAIN]
  assert data.images.shape == (4, 32, 32, 3) and data.portraits.shape == (4, 16, 16, 3)
  record = faces.read(folder / "anna" / "0.png", pack, cached=False)
  np.testing.assert_array_equal(data.embedding[0], record.embedding)
  np.testing.assert_allclose(data.marks[0], control.place(record.landmarks, (128, 128), 32, 32), atol=1e-5)
  again = face_batches.photos(folder, pack, 32, 16)
  assert again.digest == data.digest
  told = capsys.readouterr().err
  assert "nobody.png" in told and "4 faces of 2 people, 1 skipped" in told


def test_another_caption_is_other_data(folder, pack, data, tmp_path):
  import shutil

  shutil.copytree(folder, tmp_path / "people")
  (tmp_path / "people" / "anna" / "1.txt").write_text("anna at home")
  assert face_batches.photos(tmp_path / "people", pack, 32, 16).digest != data.digest


def test_folders_that_will_not_do(tmp_path, pack):
  with pytest.raises(UserError, match="no photos in sub-folders, one for each person$"):
    face_batches.photos(tmp_path, pack, 32, 16)
  Image.fromarray(facepack.picture((0, 0))).save(tmp_path / "loose.png")
  with pytest.raises(UserError, match="it has photos, but none in a sub-folder per person"):
    face_batches.photos(tmp_path, pack, 32, 16)
  (tmp_path / "anna").mkdir()
  Image.fromarray(facepack.picture((0, 0))).save(tmp_path / "anna" / "small.png")
  with pytest.raises(UserError, match="no photo here can be used"):
    face_batches.photos(tmp_path, pack, 512, 16)


@pytest.fixture(scope="module")
def encoded(data, tmp_path_factory):
  root = tiny_pipelines.write(tmp_path_factory.mktemp("models"), "sd15")
  pipe = idejax.load(root / "sd15", devices=jax.devices()[:1], notify=lambda _: None)
  tower = vision.Tower(addons.tower(root / "tower"))
  return face_features.encode(pipe.backbone, pipe.tokenizers, tower, data), tower


def test_what_is_encoded(encoded, data):
  out, tower = encoded
  pictures, clip = out.pictures, out.looks.clip
  assert pictures.mean.shape[:1] == (4,) and clip.shape == (4, 5, 8)
  np.testing.assert_allclose(clip, tower.tokens(data.portraits), atol=2e-3)
  np.testing.assert_allclose(pictures.mask[1], at_latent_size(data.masks[1], pictures.mean.shape[1:3], 1), atol=1e-3)
  assert [list(r) for r in out.references] == [[0, 1, 2], [3]]


def test_a_step_is_a_function_of_seed_and_step_and_an_epoch_leaves_nobody_out(encoded):
  out, _ = encoded
  steps = [face_batches.load(out, i, 2, seed=5, cross=0.5) for i in range(4)]
  for i, batch in enumerate(steps):
    again = face_batches.load(out, i, 2, seed=5, cross=0.5)
    jax.tree.map(np.testing.assert_array_equal, batch, again)
  which = lambda batch: [
    int(np.abs(out.pictures.mean.astype(np.float32) - m).sum((1, 2, 3)).argmin()) for m in batch["mean"]
  ]
  assert sorted(which(steps[0]) + which(steps[1])) == sorted(which(steps[2]) + which(steps[3])) == [0, 1, 2, 3]


def test_references_are_other_pictures_of_the_same_person(encoded):
  """All of them with a share of 1, none with 0; who has one picture is their own reference."""
  out, _ = encoded
  where = lambda batch, name, all_of: [int(np.abs(all_of.astype(np.float32) - x).reshape(len(all_of), -1).sum(1).argmin()) for x in batch[name]]  # fmt: skip
  for i in range(6):
    same, other = (face_batches.load(out, i, 2, seed=1, cross=c) for c in (0.0, 1.0))
    at = where(same, "mean", out.pictures.mean)
    assert where(same, "identity", out.looks.identity) == where(same, "clip", out.looks.clip) == at
    seen = where(other, "identity", out.looks.identity)
    assert seen == where(other, "clip", out.looks.clip) and where(other, "mean", out.pictures.mean) == at
    for target, reference in zip(at, seen):
      assert out.person[target] == out.person[reference]
      assert (target != reference) == (out.person[target] == 0)


def test_several_references_are_of_the_person_and_as_often_as_one_another(encoded):
  """From one to three, the first as without; of a person with one photo it is that one three times."""
  encoded, _ = encoded
  load = lambda step, **how: face_batches.load(encoded, step, 4, 0, 0.5, **how)
  sizes = set()
  for step in range(12):
    plain, many = load(step), load(step, photos=3)
    assert many["identity"].shape == (4, 3, 512) and many["clip"].shape[:2] == (4, 3)
    np.testing.assert_array_equal(many["identity"][:, 0], plain["identity"])
    np.testing.assert_array_equal(many["clip"][:, 0], plain["clip"])
    np.testing.assert_array_equal(many["mean"], plain["mean"])
    for row, who in zip(many["identity"], many["person"]):
      own = encoded.looks.identity[np.asarray(encoded.person) == who]
      assert all((own == x).all(1).any() for x in row)
      sizes.add((int(who), len({x.tobytes() for x in row})))
  assert {n for who, n in sizes if who == 0} >= {1, 2} and {n for who, n in sizes if who == 1} == {1}
  np.testing.assert_array_equal(load(3, photos=3)["identity"], load(3, photos=3)["identity"])
