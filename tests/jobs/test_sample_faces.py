"""`idejax sample --addon --face --pose`: pictures, their records, what continues, and what is refused."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
from PIL import Image
from support import addons, facepack, tiny_pipelines

from idejax import config
from idejax.errors import UserError
from idejax.jobs import sample
from idejax.model import backbone


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tiny_pipelines.write(tmp_path_factory.mktemp("faces"), "sd15")
  facepack.pack(root / "green", landmarks=True)
  addons.write(root / "addon", backbone.load(root / "sd15"))
  for n, name in enumerate(("anna", "bert")):
    Image.fromarray(facepack.picture((1, 1), seed=n)).save(root / f"{name}.png")
  Image.fromarray(facepack.picture()).save(root / "nobody.png")
  rows = [{"prompt": "at sea"}, {"prompt": "at sea", "face": str(root / "bert.png"), "pose": "left"}]
  (root / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
  return root


def settings(root, **more):
  usual = dict(
    out=root / "out", model=str(root / "sd15"), addon=str(root / "addon"), face=(root / "anna.png",), pose="none",
    pack=str(root / "green"), prompts=root / "prompts.jsonl", steps=2, guidance=3.0)  # fmt: skip
  return config.Sample(**usual | more)


sha = lambda path: hashlib.sha256(path.read_bytes()).hexdigest()


def test_each_row_has_its_face_and_pose_and_its_record_says_so(root):
  sample.main(settings(root))
  rows = [json.loads(line) for line in (root / "out" / "manifest.jsonl").read_text().splitlines()]
  assert [r["face"] for r in rows] == [[sha(root / "anna.png")], [sha(root / "bert.png")]]
  assert [r["pose"] for r in rows] == ["none", "left"] and rows[0]["addon"]
  first = [(root / "out" / f"0000{n}.png").read_bytes() for n in (0, 1)]
  sample.main(settings(root))  # the same command finds them finished
  assert [(root / "out" / f"0000{n}.png").read_bytes() for n in (0, 1)] == first
  with pytest.raises(UserError, match="was made with another face_strength"):
    sample.main(settings(root, face_strength=0.5))
  with pytest.raises(UserError, match="was made with another (face|addon)"):
    sample.main(settings(root, face=(), addon=None, pose=None, prompts=None, prompt=("at sea", "at sea")))


def test_strength_0_is_the_model_alone(root):
  """The pictures' pixels, through the command."""
  sample.main(settings(root, out=root / "off", face_strength=0.0))
  plain = dict(face=(), addon=None, pose=None, prompts=None, prompt=("at sea", "at sea"))
  sample.main(settings(root, out=root / "plain", **plain))
  pixels = lambda folder: [np.asarray(Image.open(root / folder / f"0000{n}.png")) for n in (0, 1)]
  for a, b in zip(pixels("off"), pixels("plain")):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
  "change, words",
  [
    (dict(addon=None), "--face needs an add-on that reads faces"),
    (dict(addon=None, face=()), "--pose needs an add-on"),
    (dict(face=(), prompts=None, prompt=("x",)), "--pose is where a face lies: give --face PHOTO"),
    (dict(face=("absent.png",)), "absent.png does not exist"),
    (dict(face=("nobody.png",)), "found no face"),
    (dict(pose="sideways"), "no pose 'sideways'"),
    (dict(addon="green"), "is no add-on folder: it has no addon.json"),
    (dict(face=(), pose=None, prompts=None, prompt=("x",)), "reads faces, and none is given"),
  ],
)
def test_bad_input(root, change, words):
  change = dict(change)
  if "face" in change:
    change["face"] = tuple(root / x for x in change["face"])
  if change.get("addon"):
    change["addon"] = str(root / change["addon"])
  with pytest.raises(UserError, match=words):
    sample.main(dataclasses.replace(settings(root), out=root / "bad", **change))
  assert not (root / "bad").exists()


def test_no_add_on_ships_unless_it_is_there(root):
  from idejax.personalizing import posers

  if (posers.BUILT_IN / "addon.json").is_file():
    pytest.skip("the built-in add-on is there")
  with pytest.raises(UserError, match="no add-on ships with the built-in model: idejax pretrain makes one"):
    sample.main(settings(root, addon="miniature", out=root / "bad"))
