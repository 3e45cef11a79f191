"""Face packs: which open, which are refused and how, and the order of the 106 landmarks."""

import importlib.metadata
import json
import shutil
import socket
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from support import facepack

from idejax.errors import UserError
from idejax.faces import landmarks, pack
from idejax.faces.mask import Parser


@pytest.fixture
def green(tmp_path):
  return facepack.pack(tmp_path / "green")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  monkeypatch.setattr(pack, "_licences", set())
  return tmp_path / "home"


def quiet(name, **more):
  return pack.open_pack(name, notify=lambda _: None, **more)


def said(name):
  with pytest.raises(UserError) as e:
    quiet(name).app  # noqa: B018
  assert "\n" not in str(e.value)
  return str(e.value)


def test_a_folder_opens_and_finds(green):
  p = quiet(green)
  assert (p.name, p.licence, p.det_size, p.det_threshold) == ("green", "Apache-2.0", (128, 128), 0.5)
  assert (p.crop_size, p.has_landmarks) == (112, False)
  detections = p.detect(facepack.picture((2, 1), (0, 3)))  # reported from left to right
  np.testing.assert_allclose(detections.boxes, [[0, 96, 32, 128], [64, 32, 96, 64]], atol=1e-4)
  np.testing.assert_allclose(detections.points, [facepack.points_of(0, 3), facepack.points_of(2, 1)], atol=1e-4)
  assert (detections.scores > 0.99).all() and detections.boxes.dtype == detections.points.dtype == np.float32
  wide = p.detect(facepack.picture((2, 1), size=512))
  np.testing.assert_allclose(wide.points, [facepack.points_of(2, 1, 512)], atol=1e-3)
  assert len(p.detect(facepack.picture()).scores) == 0
  assert len(p.detect(np.zeros((20, 29_000, 3), np.uint8)).scores) == 0


def test_no_socket_is_opened(green, monkeypatch):
  def refuse(*_, **__):
    raise AssertionError("a socket was opened")

  monkeypatch.setattr(socket, "socket", refuse)
  monkeypatch.setattr(socket, "create_connection", refuse)
  assert len(quiet(green).detect(facepack.picture((1, 1))).scores) == 1
  assert "buffalo_l.zip" in said("buffalo_l")


def test_insightface_packs_by_name(green, home):
  text = said("buffalo_l")
  assert str(home / ".insightface" / "models" / "buffalo_l") in text and "https://" in text and "research" in text
  there = home / ".insightface" / "models" / "buffalo_l"
  shutil.copytree(green, there)
  (there / "pack.json").unlink()
  p = quiet("buffalo_l")
  assert (p.name, p.det_size) == ("buffalo_l", (640, 640))
  assert "non-commercial research only" in p.licence and p.licence_url
  assert p.app.det_size == (640, 640)


def test_the_licence_is_shown_once(green):
  notices: list[str] = []
  for _ in range(3):
    pack.open_pack(green, notify=notices.append)
  assert notices == ["face pack green: Apache-2.0"]


def test_the_digest_is_of_the_networks(green, tmp_path):
  first = quiet(green).digest
  copy = shutil.copytree(green, tmp_path / "copy")
  assert quiet(copy).digest == first and len(first) == 64
  onnx.save(facepack.recogniser(224), copy / "rec.onnx")
  assert quiet(copy).digest != first


def test_folders_that_are_no_pack(green, tmp_path):
  (tmp_path / "empty").mkdir()
  assert "no .onnx file" in said(tmp_path / "empty")
  assert f"did you mean {green}" in said(tmp_path)
  assert "is a file" in said(green / "det.onnx") and "does not exist" in said(tmp_path / "nowhere")
  for name, what in (("det.onnx", "detector"), ("rec.onnx", "recogniser")):
    copy = shutil.copytree(green, tmp_path / f"without_{name}")
    (copy / name).unlink()
    text = said(copy)
    assert f"no face {what}" in text and "reads [" in text


CHANGES = {
  "rec of 100 px": ("rec.onnx", lambda: facepack.recogniser(128 + 16), "multiple of 112 or 128"),
  "rec of 256 numbers": ("rec.onnx", lambda: facepack.recogniser(features=256), "gives [?, 256]"),
  "det without points": ("det.onnx", lambda: facepack.detector(6), "key points"),
  "det of 8 outputs": ("det.onnx", lambda: facepack.detector(8), "has 8"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_networks_of_other_shapes(case, green):
  file, make, word = CHANGES[case]
  onnx.save(make(), green / file)
  text = said(green)
  assert file in text and word in text


@pytest.mark.parametrize("junk", [b"", b"junk" * 99, b"\x08\x07", bytes(1000)])
def test_files_that_are_no_onnx(junk, green):
  (green / "rec.onnx").write_bytes(junk)
  text = said(green)
  assert "rec.onnx" in text and "no ONNX file" in text


@pytest.mark.parametrize(
  "about, word",
  [
    ("{", "JSON"),
    ("[]", "object"),
    ('{"det_size": 640}', "det_size is 640"),
    ('{"det_size": [100, 100]}', "multiples of 32"),
    ('{"det_threshold": 2}', "det_threshold"),
    ('{"det_threshold": NaN}', "det_threshold"),
    ('{"licence": 1}', "licence is 1"),
    ('{"thresholds": {"a": "b"}}', "thresholds"),
    ("\xff", "JSON"),
  ],
)
def test_pack_json_is_checked(about, word, green):
  (green / "pack.json").write_text(about, "latin-1")
  text = said(green)
  assert "pack.json" in text and word in text


def test_more_of_pack_json_is_kept_or_ignored(green):
  about = json.loads((green / "pack.json").read_text()) | {"thresholds": {"far_1e-3": 0.4}, "training": {"steps": 1}}
  (green / "pack.json").write_text(json.dumps(about))
  assert quiet(green).thresholds == {"far_1e-3": 0.4}


def test_other_networks_in_the_folder_do_not_disturb(green):
  onnx.save(facepack.landmarks106(), green / "2d106.onnx")
  onnx.save(facepack.recogniser(96), green / "genderage.onnx")
  onnx.save(facepack.parsing(), green / "a_parser.onnx")
  p = quiet(green)
  assert p.has_landmarks and set(p.app.models) == {"detection", "recognition", "landmark_2d_106"}


def test_embeddings(green, rng):
  p = quiet(green)
  crops = list(rng.integers(0, 255, (5, 112, 112, 3), dtype=np.uint8))
  together, alone = p.embed(crops), np.concatenate([p.embed([c]) for c in crops])
  np.testing.assert_allclose(together, alone, atol=1e-6)
  np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
  onnx.save(facepack.recogniser(batch=1), green / "rec.onnx")
  np.testing.assert_allclose(quiet(green).embed(crops), together, atol=1e-6)


def test_a_recogniser_of_larger_crops(green):
  for size in (224, 128):
    onnx.save(facepack.recogniser(size), green / "rec.onnx")
    p = quiet(green)
    image = facepack.picture((1, 1))
    crop = p.crop(image, facepack.points_of(1, 1))
    assert crop.shape == (size, size, 3) and p.embed([crop]).shape == (1, 512)


def test_a_recogniser_that_gives_nonsense(green):
  model = onnx.load(green / "rec.onnx")
  for t in model.graph.initializer:
    t.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(t) * 0, t.name))
  onnx.save(model, green / "rec.onnx")
  p = quiet(green)
  with pytest.raises(UserError, match="all zero"):
    p.embed([np.zeros((112, 112, 3), np.uint8)])


def test_two_onnxruntimes_are_warned_of(monkeypatch, capsys):
  pack._warn_of_two_runtimes.cache_clear()
  names = ["onnxruntime", "OnnxRuntime-GPU"]
  monkeypatch.setattr(
    importlib.metadata, "distributions", lambda: [SimpleNamespace(metadata={"Name": n}) for n in names]
  )
  pack._warn_of_two_runtimes()
  assert "overwrite each other" in capsys.readouterr().err
  pack._warn_of_two_runtimes.cache_clear()
  names.pop()
  pack._warn_of_two_runtimes()
  assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
  "make, word", [(lambda: facepack.parsing(17), "19"), (lambda: facepack.recogniser(), "19"), (lambda: None, "no ONNX")]
)
def test_parsers_that_are_none(make, word, tmp_path):
  model = make()
  (tmp_path / "p.onnx").write_bytes(model.SerializeToString() if model else b"x")
  with pytest.raises(UserError, match=word):
    Parser(tmp_path / "p.onnx").session  # noqa: B018
  with pytest.raises(UserError, match="does not exist"):
    Parser(tmp_path / "q.onnx")


# ---- 106 -> 72 -----------------------------------------------------------------------------------

# insightface's 106, part by part, as its published picture numbers them.
PARTS = {
  "contour": ({*range(33)}, {*range(17)}),
  "left brow": ({*range(43, 52)}, {*range(17, 22)}),
  "right brow": ({*range(97, 106)}, {*range(22, 27)}),
  "nose": ({*range(72, 87)}, {*range(27, 36)}),
  "left eye": ({*range(33, 43)}, {*range(36, 44)}),
  "right eye": ({*range(87, 97)}, {*range(44, 52)}),
  "mouth": ({*range(52, 72)}, {*range(52, 72)}),
}


def test_72_of_106_part_by_part():
  source = landmarks.FROM_106
  assert len(set(source)) == 72
  for part, (theirs, ours) in PARTS.items():
    assert {int(source[i]) for i in ours} <= theirs, part
  assert set(source[52:]) == set(range(52, 72))  # the mouth has the same twenty
  assert not {34, 38, 88, 92} & set(source)  # pupils
  assert (source[[0, 8, 9, 16]] == [1, 0, 17, 24 - 1]).all()  # one side down to the chin, then the other from its top


def test_72_of_106_mirror_alike():
  """The 72 landmarks' own mirror order agrees with insightface's: the n-th of a part from the left is the n-th from the right."""
  from idejax.miniature.world.landmarks import MIRROR

  pairs = dict(zip([1, 10, 12, 14, 16, 3, 5, 7, 0], [17, 26, 28, 30, 32, 19, 21, 23, 0]))
  pairs |= dict(zip([43, 48, 49, 51, 50], [101, 105, 104, 103, 102])) | dict(
    zip([72, 73, 74, 86, 80], [72, 73, 74, 86, 80])
  )
  pairs |= dict(zip([78, 79], [84, 85])) | dict(zip([35, 41, 40, 42, 39, 37, 33, 36], [93, 96, 94, 95, 89, 90, 87, 91]))
  pairs |= dict(zip([52, 64, 63, 71, 65, 66, 62, 54, 60, 55, 56, 53], [61, 68, 67, 71, 69, 70, 62, 57, 60, 58, 59, 53]))
  pairs |= {b: a for a, b in pairs.items()}
  assert [pairs[int(n)] for n in landmarks.FROM_106] == [int(n) for n in landmarks.FROM_106[MIRROR]]


def test_none_and_other_counts():
  assert landmarks.from_106(None) is None
  with pytest.raises(ValueError, match="68"):
    landmarks.from_106(np.zeros((68, 2), np.float32))
