"""`idejax pose`: source, driver and prediction on one picture; what is refused."""

import numpy as np
import pytest
from PIL import Image
from support import facepack
from support.command import run

from idejax import config, faces
from idejax.errors import UserError
from idejax.faces import control, predictor
from idejax.jobs import pose


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp("pose")
  facepack.pack(root / "green", landmarks=True)
  facepack.pack(root / "blind")
  Image.fromarray(facepack.picture((1, 1), seed=1)).save(root / "anna.png")
  Image.fromarray(facepack.picture((2, 0), seed=2, size=96)).save(root / "bert.png")
  Image.fromarray(facepack.picture()).save(root / "nobody.png")
  return root


def settings(root, driver, source="anna.png", **more):
  named = str(root / driver) if driver.endswith(".png") else driver
  return config.Pose((str(root / source), named), root / "out.png", str(root / "green"), side=64, **more)


def has(sheet: np.ndarray, part: np.ndarray) -> bool:
  """Whether a picture stands on a sheet, somewhere."""
  windows = np.lib.stride_tricks.sliding_window_view(sheet, part.shape[:2], (0, 1))
  return any((w == part.transpose(2, 0, 1)).all() for row in windows for w in row)


def test_the_prediction_is_where_the_driver_is(root):
  pose.main(settings(root, "bert.png"))
  sheet = np.asarray(Image.open(root / "out.png"))
  marks = faces.read(root / "bert.png", str(root / "green"), cached=False, notify=lambda _: None).landmarks
  assert has(sheet, np.uint8(255 * control.raster(control.place(marks, (96, 96), 64, 64), 64, 64)))


def test_a_pose_by_name(root):
  pose.main(settings(root, "left"))
  want = control.raster(predictor.drivers_own(None, predictor.pose("left", 64, 64)).landmarks, 64, 64)
  assert has(np.asarray(Image.open(root / "out.png")), np.uint8(255 * want))


@pytest.mark.parametrize(
  "change, words",
  [
    (dict(faces=("a.png",)), "1 faces are named; idejax pose SOURCE DRIVER takes two"),
    (dict(faces=("anna.png", "sideways")), "sideways is neither a photo nor a pose; poses are front"),
    (dict(out="out.jpg"), "out.jpg must end in .png"),
    (dict(out="anna.png"), "is one of the photos"),
    (dict(faces=("nobody.png", "left")), "found no face"),
    (dict(pack="blind"), "has no landmark network"),
    (dict(shape="flame.npz"), "a morphable model is two files"),
  ],
)
def test_bad_input(root, change, words):
  import dataclasses

  path = lambda x: root / x if "." in x or (root / x).exists() else x
  given = {k: tuple(str(path(y)) for y in x) if k == "faces" else path(x) for k, x in change.items()}
  if "pack" in given:
    given["pack"] = str(given["pack"])
  before = (root / "anna.png").read_bytes()
  with pytest.raises(UserError, match=words):
    pose.main(dataclasses.replace(settings(root, "bert.png"), **given))
  assert (root / "anna.png").read_bytes() == before


@pytest.mark.slow
def test_the_command(root):
  out = run("pose", str(root / "anna.png"), "left", "--pack", str(root / "green"), "--out", str(root / "command.png"))
  assert out.code == 0, out.err
  with Image.open(root / "command.png") as image:
    assert image.size[0] > 1000
