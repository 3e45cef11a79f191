"""Photo -> FaceRecord: agreement with insightface, masks and their sources, files, cache, batches."""

import dataclasses
import json
import subprocess
import sys

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support import facepack

from idejax import faces
from idejax.errors import UserError
from idejax.faces import align, batch, mask, npz, overlay
from idejax.faces import record as records
from idejax.storage import files


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
  folder = facepack.pack(tmp_path_factory.mktemp("packs") / "green")
  return faces.open_pack(folder, notify=lambda _: None)


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
  """A pack with the 106-point stub."""
  folder = facepack.pack(tmp_path_factory.mktemp("packs") / "marked", landmarks=True)
  return faces.open_pack(folder, notify=lambda _: None)


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
  monkeypatch.setenv("IDEJAX_CACHE", str(tmp_path / "cache"))
  return tmp_path / "cache" / "faces"


def quiet(photo, pack, **more):
  return faces.read(photo, pack, notify=lambda _: None, **more)


@pytest.mark.filterwarnings("ignore:.*estimate.*:FutureWarning")  # insightface calls scikit-image's old name
@pytest.mark.parametrize("size", [128, 300, 1111])
def test_agrees_with_insightface(size, marked):
  """insightface's own FaceAnalysis on the same pack: embedding to 1e-5, key points to 0.1 px."""
  image = facepack.picture((2, 1), size=4 * (size // 4))
  theirs = marked.app.get(np.ascontiguousarray(image[..., ::-1]))[0]
  ours = quiet(image, marked)
  np.testing.assert_allclose(ours.embedding, theirs.normed_embedding, atol=1e-5)
  np.testing.assert_allclose(ours.points, theirs.kps, atol=0.1)
  np.testing.assert_allclose(ours.box, theirs.bbox, atol=0.1)
  from idejax.faces.landmarks import FROM_106

  np.testing.assert_allclose(ours.landmarks, theirs.landmark_2d_106[FROM_106], atol=0.1)
  assert ours.meta["score"] == pytest.approx(float(theirs.det_score))


def test_all_fields(pack, tmp_path):
  Image.fromarray(facepack.picture((1, 2))).save(tmp_path / "a.png")
  one = quiet(tmp_path / "a.png", pack)
  for key, (dtype, _) in records._FIELDS.items():
    if key != "landmarks":
      assert getattr(one, key).dtype == dtype, key
  assert (one.photo.shape, one.crop.shape, one.portrait.shape) == ((128, 128, 3), (112, 112, 3), (512, 512, 3))
  assert np.linalg.norm(one.embedding) == pytest.approx(1, abs=1e-6)
  np.testing.assert_allclose(one.points, facepack.points_of(1, 2), atol=1e-4)
  assert one.landmarks is None and one.meta["landmarks_source"] == "none"
  assert any("72 landmarks" in m for m in one.meta["missing"]) and any("hair" in m for m in one.meta["missing"])
  assert (one.meta["photo"], one.meta["faces"], one.meta["pack"], one.meta["licence"]) == (
    "a.png",
    1,
    "green",
    "Apache-2.0",
  )
  assert one.meta["pack_sha256"] == pack.digest and len(one.meta["photo_sha256"]) == 64
  assert one.quality["size"] == pytest.approx(32) and abs(one.quality["yaw"]) < 1
  with pytest.raises(dataclasses.FrozenInstanceError):
    one.box = 0


def test_quality(rng):
  noise = rng.integers(0, 255, (112, 112, 3), dtype=np.uint8)
  box, points = np.array([10, 20, 50, 90], np.float32), align.ARCFACE
  sharp, soft, flat = (
    batch.quality(x, box, points) for x in (noise, cv2.GaussianBlur(noise, (0, 0), 2), noise * 0 + 7)
  )
  assert sharp["blur"] > 50 * soft["blur"] > 0 and flat["blur"] == 0
  assert sharp["size"] == 40 and abs(sharp["yaw"]) < 2


def test_several_faces(pack):
  image = facepack.picture((0, 1), (3, 2), (2, 0), size=256)
  notices: list[str] = []
  one = faces.read(image, pack, notify=notices.append)
  assert one.meta["faces"] == 3 and len(notices) == 1 and "3 faces" in notices[0] and "--face N" in notices[0]
  notices.clear()
  for n, cell in enumerate([(0, 1), (2, 0), (3, 2)], 1):
    got = faces.read(image, pack, face=n, notify=notices.append)
    np.testing.assert_allclose(got.points, facepack.points_of(*cell, 256), atol=1e-3)
    assert got.meta["face"] == n
  assert not notices
  for n in (0, 4):
    with pytest.raises(UserError, match="3 faces"):
      quiet(image, pack, face=n)


def test_the_largest_face_is_taken(pack, monkeypatch):
  image = facepack.picture((0, 0), (2, 2), (3, 0))
  detections = pack.detect(image)
  detections.boxes[1] += [-9, -9, 9, 9]
  monkeypatch.setattr(type(pack), "detect", lambda *_: detections)
  assert quiet(image, pack, cached=False).meta["face"] == 2


def test_no_face_says_what_was_not_found(pack):
  with pytest.raises(UserError) as e:
    quiet(facepack.picture(), pack)
  assert "found no face" in str(e.value) and "'green'" in str(e.value) and "nothing scores" in str(e.value)
  nearly = facepack.picture((1, 1))
  nearly[32:64, 32:64] = (70, 255, 80)  # candidates below the threshold
  with pytest.raises(UserError, match=r"best candidate scores 0\.\d\d, below 0.5"):
    quiet(nearly, pack)


def test_key_points_that_coincide(pack, monkeypatch):
  image = facepack.picture((1, 1))
  detections = pack.detect(image)
  detections.points[:] = 5
  monkeypatch.setattr(type(pack), "detect", lambda *_: detections)
  with pytest.raises(UserError, match="cannot be aligned"):
    quiet(image, pack, cached=False)


# ---- Masks ---------------------------------------------------------------------------------------


def iou(a, b):
  return (a & b).sum() / (a | b).sum()


def test_mask_of_an_ellipse_about_the_points(pack):
  one = quiet(facepack.picture((1, 1), size=256), pack)
  assert (one.meta["face_source"], one.meta["hair_source"]) == ("points", "none")
  assert not one.hair.any() and one.face[100, 96] and not one.face[:40].any()
  assert one.face[tuple(one.points.round().astype(int).T[::-1])].all()
  assert 0.3 < iou(one.face, _square(256, 1, 1)) < 1


def _square(size, x, y):
  step, out = size // 4, np.zeros((size, size), bool)
  out[y * step : (y + 1) * step, x * step : (x + 1) * step] = True
  return out


def test_mask_of_the_landmarks_hull(marked):
  one = quiet(facepack.picture((1, 1), size=256), marked)
  assert one.meta["face_source"] == "landmarks" and one.landmarks.shape == (72, 2)
  inside = one.landmarks.mean(0).round().astype(int)
  assert one.face[inside[1], inside[0]]
  on = one.landmarks + 0.1 * (one.landmarks.mean(0) - one.landmarks)
  assert one.face[tuple(on.round().astype(int).T[::-1])].all()
  assert not one.face[:40].any()


@pytest.mark.parametrize("side", [512, 256])
def test_masks_of_a_parsing_network(side, marked, tmp_path):
  """The network reads the portrait; its classes are mapped back to the photo."""
  onnx.save(facepack.parsing(size=side), tmp_path / "parse.onnx")
  image = facepack.picture((1, 1), size=256)
  image[56:64, 64:128] = (255, 0, 0)  # hair, above the face
  one = quiet(image, marked, parsing=tmp_path / "parse.onnx")
  assert (one.meta["face_source"], one.meta["hair_source"]) == ("parsing", "parsing")
  assert len(one.meta["parsing_sha256"]) == 64 and not one.meta["missing"]
  assert iou(one.face, _square(256, 1, 1)) > 0.95
  want = np.zeros((256, 256), bool)
  want[56:64, 64:128] = True
  assert iou(one.hair, want) > 0.9 and not (one.face & one.hair).any()


def test_classes_of_face_and_hair():
  points = align.FFHQ / 2 - 20
  for label in range(19):
    got = mask.masks((256, 256), points, labels=np.full((512, 512), label, np.uint8))
    skin = label in (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13)
    assert (got.face.any(), got.hair.any()) == (skin, label == 17), label


def test_masks_that_the_world_knows(marked):
  image = facepack.picture((1, 1))
  known = faces.Truth(face=_square(128, 0, 0), hair=_square(128, 3, 3), landmarks=np.ones((72, 2), np.float32))
  one = quiet(image, marked, truth=known)
  assert (one.meta["face_source"], one.meta["hair_source"], one.meta["landmarks_source"]) == ("world",) * 3
  assert (one.face == known.face).all() and (one.hair == known.hair).all() and (one.landmarks == 1).all()
  assert not one.meta["missing"]
  with pytest.raises(ValueError, match="known mask"):
    quiet(image, marked, truth=faces.Truth(face=np.zeros((9, 9), bool)))


def test_masks_of_faces_beyond_the_edge():
  for shift in (-1e6, -300, 200, 1e6):
    got = mask.masks((100, 120), align.FFHQ + shift)
    assert got.face.shape == (100, 120) and got.face.dtype == bool


# ---- Files ---------------------------------------------------------------------------------------


def equal(a, b):
  for f in dataclasses.fields(a):
    x, y = getattr(a, f.name), getattr(b, f.name)
    if isinstance(x, np.ndarray):
      np.testing.assert_array_equal(x, y, strict=True)
    else:
      assert x == y


def test_save_and_load(pack, marked, tmp_path):
  one, two = quiet(facepack.picture((1, 1)), pack), quiet(facepack.picture((2, 2), size=256), marked)
  faces.save(tmp_path / "a.npz", one)
  equal(faces.load(tmp_path / "a.npz"), one)
  faces.save(tmp_path / "b.npz", [one, two])
  got = faces.load_all(tmp_path / "b.npz")
  assert len(got) == 2
  for a, b in zip(got, (one, two)):
    equal(a, b)
  equal(faces.load(tmp_path / "b.npz"), one)
  with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:  # anyone can open it
    np.testing.assert_array_equal(arrays["embedding"], one.embedding)
    assert json.loads(str(arrays["record"]))["meta"]["licence"] == "Apache-2.0"
  before = (tmp_path / "a.npz").read_bytes()
  faces.save(tmp_path / "a.npz", one)
  assert (tmp_path / "a.npz").read_bytes() == before
  assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "b.npz", "cache"]  # nothing temporary


def test_a_failed_save_leaves_the_old_file(pack, tmp_path, monkeypatch):
  one = quiet(facepack.picture((1, 1)), pack)
  faces.save(tmp_path / "a.npz", one)

  def full(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(files.os, "replace", full)
  with pytest.raises(OSError, match="space") as e:
    faces.save(tmp_path / "a.npz", one)
  assert e.value.filename == str(tmp_path / "a.npz")
  monkeypatch.undo()
  equal(faces.load(tmp_path / "a.npz"), one)
  assert not list(tmp_path.glob(".*.tmp"))


def broken(arrays, **changes):
  out = dict(arrays) | changes
  return {k: v for k, v in out.items() if v is not None}


@pytest.mark.parametrize(
  "change, said",
  [
    (dict(embedding=None), "embedding is missing"),
    (dict(embedding=np.zeros(128, np.float32)), "embedding is float32 [128]"),
    (dict(box=np.zeros(4)), "box is float64"),
    (dict(face=np.zeros((9, 9), bool)), "face is bool [9, 9]"),
    (dict(points=np.full((5, 2), np.nan, np.float32)), "not finite"),
    (dict(record=None), "record is missing"),
    (dict(record=np.array("[]")), "not a record"),
    (dict(record=np.array("{")), "no record file"),
    (dict(record=np.array('{"version": 9, "meta": {}, "quality": {}}')), "version is 9"),
    (dict(landmarks=np.zeros((68, 2), np.float32)), "landmarks is float32 [68, 2]"),
  ],
)
def test_files_with_something_else_in_them(change, said, pack, tmp_path):
  faces.save(tmp_path / "a.npz", quiet(facepack.picture((1, 1)), pack))
  npz.write(tmp_path / "a.npz", broken(npz.read(tmp_path / "a.npz"), **change))
  with pytest.raises(UserError) as e:
    faces.load(tmp_path / "a.npz")
  assert said in str(e.value) and "a.npz" in str(e.value)


def test_files_that_are_none(tmp_path):
  np.savez(tmp_path / "pickled.npz", record=np.array([{}], dtype=object))
  (tmp_path / "words.npz").write_text("hello")
  np.save(tmp_path / "array.npz.npy", np.zeros(3))
  for name in ("pickled.npz", "words.npz", "array.npz.npy", "nowhere.npz", "."):
    with pytest.raises(UserError) as e:
      faces.load(tmp_path / name)
    assert str(tmp_path) in str(e.value)
    assert records.peek(tmp_path / name) is None


def test_a_zip_bomb_is_refused(tmp_path, monkeypatch):
  npz.write(tmp_path / "bomb.npz", {"record": np.zeros(10**6)})
  monkeypatch.setattr(npz, "MOST_BYTES", 10**6)
  with pytest.raises(UserError, match="unpacks to more"):
    faces.load(tmp_path / "bomb.npz")


SMALL = records.FaceRecord(
  np.eye(512, dtype=np.float32)[0],
  np.array([1, 2, 6, 7], np.float32),
  np.ones((5, 2), np.float32),
  np.zeros((112, 112, 3), np.uint8),
  np.zeros((512, 512, 3), np.uint8),
  np.full((8, 9, 3), 7, np.uint8),
  np.eye(8, 9, dtype=bool),
  np.zeros((8, 9), bool),
  None,
  {"size": 5.0},
  {"photo_sha256": "ab"},
)


def test_an_undamaged_file_comes_back(tmp_path):
  faces.save(tmp_path / "a.npz", SMALL)
  record = faces.load(tmp_path / "a.npz")
  for field in dataclasses.fields(SMALL):
    np.testing.assert_equal(getattr(record, field.name), getattr(SMALL, field.name))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
  st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4), st.booleans()
)
def test_damaged_files(changes, cut):
  import tempfile
  from pathlib import Path

  with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "a.npz"
    faces.save(file, SMALL)
    content = file.read_bytes()
    data = bytearray(content)
    for at, value in changes:
      data[int(at * len(data))] = value
    file.write_bytes(data[: int(changes[0][0] * len(data))] if cut else data)
    try:
      record = faces.load(file)
    except UserError as e:
      assert "a.npz" in str(e) and file.read_bytes() != content
    else:  # bytes that say nothing, such as a date in the zip's directory
      assert not cut
      for field in dataclasses.fields(SMALL):
        np.testing.assert_equal(getattr(record, field.name), getattr(SMALL, field.name))


# ---- Cache ---------------------------------------------------------------------------------------


@pytest.fixture
def runs(monkeypatch):
  """Counts how often the detector runs."""
  count = []
  real = faces.Pack.detect
  monkeypatch.setattr(faces.Pack, "detect", lambda *a: count.append(1) or real(*a))
  return count


def test_the_same_photo_needs_no_network_again(pack, kept, runs):
  image = facepack.picture((1, 1))
  first = quiet(image, pack)
  fresh = faces.Pack(pack.folder)
  equal(quiet(image.copy(), fresh), first)
  assert len(runs) == 1 and "app" not in vars(fresh)  # insightface was not even opened
  quiet(facepack.picture((2, 1)), pack)
  quiet(image, pack, face=1)
  assert len(runs) == 3
  for file in kept.iterdir():
    assert file.stat().st_size < 20_000  # no picture in it


def test_another_pack_or_parser_is_another_answer(pack, marked, runs, tmp_path):
  image = facepack.picture((1, 1))
  assert quiet(image, pack).landmarks is None and quiet(image, marked).landmarks is not None
  onnx.save(facepack.parsing(), tmp_path / "p.onnx")
  assert quiet(image, pack, parsing=tmp_path / "p.onnx").meta["face_source"] == "parsing"
  first = quiet(image, pack, parsing=tmp_path / "p.onnx")
  assert first.meta["face_source"] == "parsing" and len(runs) == 3


def test_a_damaged_cache_is_passed_over(pack, kept, runs):
  image = facepack.picture((1, 1))
  first = quiet(image, pack)
  for damage in (lambda b: b[:50], lambda b: b"", lambda b: b[:200] + b"x" * 50 + b[250:]):
    (file,) = kept.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    equal(quiet(image, pack), first)
  assert len(runs) == 4


def test_no_cache(pack, kept, runs, monkeypatch, tmp_path):
  image = facepack.picture((1, 1))
  for _ in range(2):
    quiet(image, pack, cached=False)
  monkeypatch.setenv("IDEJAX_CACHE", "off")
  for _ in range(2):
    quiet(image, pack)
  assert len(runs) == 4 and not kept.exists()
  (tmp_path / "file").touch()
  monkeypatch.setenv("IDEJAX_CACHE", str(tmp_path / "file"))  # cannot be written: no matter
  quiet(image, pack)
  monkeypatch.delenv("IDEJAX_CACHE")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
  assert files.cache("faces") == tmp_path / "xdg" / "idejax" / "faces"


# ---- Many ----------------------------------------------------------------------------------------


def test_many_equal_one_by_one(marked, tmp_path):
  names = []
  for n in range(11):
    names.append(tmp_path / f"{n}.png")
    Image.fromarray(facepack.picture((n % 4, n // 4), seed=n)).save(names[-1])
  names[3].write_bytes(b"nothing")
  Image.fromarray(facepack.picture()).save(names[7])
  got = list(faces.many(names, marked, batch=4, threads=3))
  assert [p for p, _ in got] == names
  for n, (path, one) in enumerate(got):
    if n in (3, 7):
      assert isinstance(one, UserError) and str(path) in str(one)
      continue
    alone = quiet(path, marked)
    np.testing.assert_allclose(one.embedding, alone.embedding, atol=1e-6)
    equal(dataclasses.replace(one, embedding=alone.embedding), alone)


def test_large_photos_come_in_small_batches(tmp_path):
  for n in range(5):
    Image.fromarray(facepack.picture(size=128)).save(tmp_path / f"{n}.png")
  names = sorted(tmp_path.glob("*.png"))
  sizes = lambda most, pixels: [len(c) for c in batch._chunks(names, most, pixels)]
  assert sizes(2, 10**9) == [2, 2, 1] and sizes(9, 2 * 128 * 128) == [2, 2, 1] and sizes(9, 1) == [1] * 5


def test_an_error_of_ours_is_not_taken_for_a_bad_photo(pack, tmp_path):
  Image.fromarray(facepack.picture((1, 1))).save(tmp_path / "a.png")

  def then(*_):
    raise OSError(28, "disk full")

  with pytest.raises(OSError, match="full"):
    list(faces.many([tmp_path / "a.png"], pack, then=then))


# ---- Drawing, imports ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [64, 128, 1500])
def test_the_drawing_shows_what_was_found(size, marked):
  one = quiet(facepack.picture((1, 1), (3, 3), size=4 * (size // 4)), marked)
  pixels = np.asarray(overlay.picture(one, 256))
  assert pixels.shape == (256 + 36, 256 + 128, 3)
  at = ((one.points + 0.5) * 256 / one.photo.shape[0]).astype(int)
  assert (pixels[at[:, 1], at[:, 0]] == (255, 60, 60)).all()  # key points
  assert (pixels[:256, :256] == (60, 220, 60)).all(-1).sum() > 200  # the box
  assert (pixels[:256, :256] == (160, 160, 160)).all(-1).sum() > 100  # the other one's
  plain = np.asarray(overlay.picture(dataclasses.replace(one, face=one.hair), 256))
  assert (plain != pixels).any(-1).sum() > 300  # the tint
  dataclasses.replace(one, photo=one.photo[:20], face=one.face[:20], hair=one.hair[:20])
  wide = dataclasses.replace(
    one, photo=np.zeros((20, 900, 3), np.uint8), face=np.zeros((20, 900), bool), hair=np.zeros((20, 900), bool)
  )
  assert overlay.picture(wide, 256).height == 292


def test_faces_need_no_jax():
  code = "import sys, idejax.faces, idejax.jobs.identity; assert not {'jax', 'flax', 'insightface', 'onnx', 'torch'} & set(sys.modules)"
  subprocess.run([sys.executable, "-c", code], check=True)
