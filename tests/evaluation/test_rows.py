"""pictures.jsonl from strangers: every line is checked, and what is wrong is named in one sentence."""

import json

import numpy as np
import pytest
from PIL import Image

from idejax.errors import UserError
from idejax.evaluation import looking, rows
from idejax.evaluation.judges import About, Judges


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "in").mkdir()
  for name in ("a.png", "b.png", "anna.png"):
    Image.new("RGB", (32, 32)).save(tmp_path / "in" / name)
  Image.new("RGB", (32, 32)).save(tmp_path / "secret.png")
  return tmp_path / "in"


GOOD = {"file": "a.png", "method": "ours", "person": "anna", "reference": "anna.png", "prompt": "a photo of {} at sea"}


def write(folder, *lines):
  path = folder / "pictures.jsonl"
  path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
  return path


def test_what_a_line_may_say(folder):
  line = GOOD | {"prompt": "a photo of sks at sea", "word": "sks", "category": "background", "seed": 3, "others": {"ben": "b.png"},
                 "people": 2, "trained_with": ["ab12"], "train_seconds": 480, "driver": None}  # fmt: skip
  (got,) = rows.read(write(folder, "", line, "  "))
  assert got.prompt == "a photo of {} at sea" and got.seed == 3 and got.others == (("ben", folder / "b.png"),)
  assert got.file == folder / "a.png" and got.driver is None and got.trained_with == ("ab12",)
  (alone,) = rows.read(
    write(folder, {"file": "a.png", "method": "x", "person": None, "prompt": "a cat", "base": "b.png"})
  )
  assert alone.person is None and alone.base == folder / "b.png"


@pytest.mark.parametrize("change, said", [
  ({"file": "../secret.png"}, r"leads out of"), ({"reference": "/etc/passwd"}, "leads out of"), ({"file": "a\0.png"}, "must be a path"),
  ({"file": 7}, "must be a path"), ({"others": {"ben": "../secret.png"}}, "leads out of"), ({"others": [1]}, "object of names"),
  ({"seed": 1.5}, "whole number"), ({"seed": True}, "whole number"), ({"train_seconds": "fast"}, "must be a number"),
  ({"prompt": "a photo of anna"}, r"has no \{\}"), ({"person": None}, "has a person, the row has none"), ({"method": " "}, "must be text"),
  ({"reference": None}, "reference is missing: a photo of anna"), ({"method": None}, "method is missing"),
  ({"extra": 1}, "unknown field 'extra'"), ({"people": 0}, "people is 0"), ({"trained_with": "x"}, "list of sha256"), ({"word": ""}, "word is ''"),
])  # fmt: skip
def test_a_bad_line_is_named_by_its_number(folder, change, said):
  path = write(folder, GOOD, GOOD | {"seed": 1} | change)
  with pytest.raises(UserError, match=said) as e:
    rows.read(path)
  assert str(e.value).startswith(f"{path}:2") and "\n" not in str(e.value)


@pytest.mark.parametrize("text, said", [
  ("", "holds no row"), ("[1]", "no JSON object"), ("{", "is not JSON"), ("[" * 40_000, "is not JSON"), ("{\"seed\": NaN, " + json.dumps(GOOD)[1:], "whole number"),
])  # fmt: skip
def test_what_is_no_table(folder, text, said):
  with pytest.raises(UserError, match=said):
    rows.read(write(folder, text))


def test_what_is_no_text_and_what_is_not_there(folder):
  (folder / "x.jsonl").write_bytes(b"\xff\xfe\x00")
  with pytest.raises(UserError, match="UTF-8"):
    rows.read(folder / "x.jsonl")
  with pytest.raises(UserError, match="does not exist"):
    rows.read(folder / "nowhere.jsonl")


def test_a_link_that_leads_out_is_no_way_out(folder):
  (folder / "link.png").symlink_to(folder.parent / "secret.png")
  with pytest.raises(UserError, match="leads out of"):
    rows.read(write(folder, GOOD | {"file": "link.png"}))


def test_the_first_missing_picture_is_named_and_the_others_counted(folder):
  lines = [GOOD, *(GOOD | {"file": f"gone-{i}.png", "seed": i} for i in (1, 2, 3))]
  with pytest.raises(UserError, match=r"gone-1.png does not exist, and 2 more are missing"):
    rows.read(write(folder, *lines))


def test_the_same_picture_twice_is_refused_and_another_seed_is_not(folder):
  assert len(rows.read(write(folder, GOOD, GOOD | {"seed": 1}, GOOD | {"method": "theirs"}))) == 3
  with pytest.raises(UserError, match=r":3 repeats line 1"):
    rows.read(write(folder, GOOD, GOOD | {"seed": 1}, GOOD | {"file": "b.png"}))


def test_pictures_of_all_kinds_are_seen_alike(folder, tmp_path):
  """Grey, with alpha, of 16 bits, of any size: what reaches the judges is RGB; a damaged one is named."""
  rng = np.random.default_rng(0)
  Image.fromarray(rng.integers(0, 255, (40, 52), np.uint8)).save(folder / "grey.png")
  Image.fromarray(rng.integers(0, 255, (33, 64, 4), np.uint8), "RGBA").save(folder / "alpha.png")
  Image.fromarray(rng.integers(0, 65535, (48, 48), np.uint16)).save(folder / "deep.png")

  class Shapes:
    about = About("shapes", "", "", "")

    def features(self, images):
      assert all(i.dtype == np.uint8 and i.shape[-1] == 3 for i in images)
      return np.array([i.shape[:2] for i in images], np.float32)

  files = [folder / n for n in ("grey.png", "alpha.png", "deep.png", "a.png", "grey.png")]
  seen = looking.see(Judges(inception=Shapes()), files)
  assert [tuple(seen[f].features) for f in files] == [(40, 52), (33, 64), (48, 48), (32, 32), (40, 52)] and len(
    seen
  ) == 4
  (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
  with pytest.raises(UserError, match="broken.png"):
    looking.see(Judges(inception=Shapes()), [folder / "broken.png"])
