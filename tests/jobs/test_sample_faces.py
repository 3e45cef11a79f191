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
  Image.fromarray(facepack.picture((0, 0), (2, 2))).save(root / "twins.png")
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
    (dict(face=("nobody.png",), prompts=None, prompt=("x",)), "found no face"),
    (dict(face=("twins.png",), prompts=None, prompt=("x",)), "twins.png has 2 faces, and one is meant"),
    (dict(pose="twins.png", prompts=None, prompt=("x",)), "twins.png has 2 faces"),
    (dict(pose="sideways", prompts=None, prompt=("x",)), "no pose 'sideways'"),
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
  if (change.get("pose") or "").endswith(".png"):
    change["pose"] = str(root / change["pose"])
  with pytest.raises(UserError, match=words):
    sample.main(dataclasses.replace(settings(root), out=root / "bad", **change))
  assert not (root / "bad").exists()


def rows_file(path, *rows):
  path.write_text("\n".join(json.dumps({"prompt": "at sea"} | r) for r in rows))
  return path


def test_rows_that_cannot_be_used_are_skipped_counted_and_listed(root, capsys):
  """Nobody, two faces, a pose that there is not, a driver without a face, no file: five of seven rows. The others keep
  their numbers and their noise, and the same command finds them finished."""
  photo = lambda name: str(root / f"{name}.png")
  bad = [{"face": photo(n)} for n in ("nobody", "twins", "absent")] + [{"pose": "sideways"}, {"pose": photo("nobody")}]
  rows = [{"face": photo("bert")}, *bad, {"face": photo("bert"), "pose": "left"}]
  asked = settings(root, out=root / "some", prompts=rows_file(root / "some.jsonl", *rows), num=2)
  sample.main(asked)
  said = capsys.readouterr().err
  assert [f"skipped: row {n}:" in said for n in range(1, 8)] == [False, *[True] * 5, False]
  for words in ("found no face", "twins.png has 2 faces", "absent.png does not exist", "no pose 'sideways'", "5 of 7 rows skipped", "4 pictures in"):  # fmt: skip
    assert words in said, words
  manifest = [json.loads(line) for line in (root / "some" / "manifest.jsonl").read_text().splitlines()]
  assert [(r["file"], r["index"]) for r in manifest] == [(f"{n:05d}.png", n) for n in (0, 1, 12, 13)]
  assert sorted(p.name for p in (root / "some").glob("0*.png")) == [r["file"] for r in manifest]
  before = [(root / "some" / r["file"]).stat().st_mtime_ns for r in manifest]
  sample.main(asked)
  assert before == [(root / "some" / r["file"]).stat().st_mtime_ns for r in manifest]
  with pytest.raises(UserError, match="not one of 5 rows can be sampled: .*found no face"):
    sample.main(settings(root, out=root / "none", prompts=rows_file(root / "none.jsonl", *bad)))


def test_a_file_of_one_row_is_no_batch(root):
  with pytest.raises(UserError, match="twins.png has 2 faces"):
    sample.main(
      settings(root, out=root / "one", prompts=rows_file(root / "one.jsonl", {"face": str(root / "twins.png")}))
    )


def test_no_add_on_ships_unless_it_is_there(root):
  from idejax.personalizing import posers

  if (posers.BUILT_IN / "addon.json").is_file():
    pytest.skip("the built-in add-on is there")
  with pytest.raises(UserError, match="no add-on ships with the built-in model: idejax pretrain makes one"):
    sample.main(settings(root, addon="miniature", out=root / "bad"))
