"""Sheets of pictures that wrap, and text in any script that a font has."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, features

from idejax.errors import UserError
from idejax.storage import fonts, sheets
from idejax.storage.sheets import Group, Section

RED, BLUE = (200, 0, 0), (0, 0, 200)


def flat(colour, size=(16, 16)):
  return np.full((*size, 3), colour, np.uint8)


def places(sheet, colour, side):
  """Top left corners (x, y) of the squares of a colour."""
  on = (np.asarray(sheet) == colour).all(-1)
  ys, xs = np.nonzero(on)
  return sorted({(x, y) for y, x in zip(ys, xs) if not on[y - 1, x] and not on[y, x - 1]}, key=lambda p: p[::-1])


def test_one_persons_sheet_is_not_a_strip():
  """Photo and six prompts of three: no wider than asked, every picture there, and filled row by row."""
  groups = [Group("photo", [flat(RED)]), *(Group(f"prompt {k}", [flat(BLUE)] * 3) for k in range(6))]
  sheet = sheets.compose([Section("<anna>", groups)], side=128, width=1200)
  assert sheet.width <= 1200 and sheet.height > sheet.width / 3
  blue = (np.asarray(sheet) == BLUE).all(-1).sum()
  assert blue == 18 * 128 * 128 and (np.asarray(sheet) == RED).all(-1).sum() == 128 * 128
  assert len(places(sheet, BLUE, 128)) == 6
  assert len({y for _, y in places(sheet, BLUE, 128)}) == 3  # three rows: 2, 3 and 1 groups


def test_a_group_wider_than_the_sheet_goes_on_below():
  sheet = sheets.compose([Section("", [Group("", [flat(RED)] * 7)])], side=64, width=64 * 3 + 2 * sheets.EDGE)
  assert sheet.size[0] == 3 * 64 + 2 * sheets.EDGE
  assert (np.asarray(sheet) == RED).all(-1).sum() == 7 * 64 * 64
  assert sheet.size[1] == 3 * 64 + sheets.GAP + 2 * sheets.EDGE


def test_the_heading_and_every_word_of_a_caption_are_written(monkeypatch):
  lines = []
  monkeypatch.setattr(fonts, "write", lambda draw, at, more, *a: lines.extend(more))
  prompt = "a photo of <zoë> in the snow wearing a hat and a very long scarf of many colours, at night"
  sheets.compose([Section("<zoë>", [Group(prompt, [flat(RED)])])], side=64)
  assert lines[0] == "<zoë>" and " ".join(lines[1:]) == prompt
  assert all(fonts.width(line, sheets.TEXT) <= 64 for line in lines[1:])


@pytest.mark.parametrize("text", ["a plain line of words", "x" * 200, "日本語" * 30, "", "two\nlines"])
def test_lines_fit_and_lose_no_letter(text):
  lines = fonts.wrap(text, 90, 12)
  assert "".join("".join(lines).split()) == "".join(text.split())
  assert all(fonts.width(line, 12) <= 90 for line in lines)


def drawn(text):
  image = Image.new("L", (300, 24))
  fonts.write(ImageDraw.Draw(image), (2, 2), [text], 16, 255)
  return np.asarray(image)


@pytest.mark.parametrize("text", ["Zoë Müller", "Анна на пляже", "سارة", "Ελένη", "Łódź", "שרה"])
def test_letters_of_our_font_are_no_boxes(text):
  """Each letter has a shape of its own; what a font has not is the same box for all."""
  assert all(r.font.path == str(fonts.own()) for r in fonts.runs(text, 16))
  box = drawn("\U0010fffd")
  letters = {x for x in text if not x.isspace()}
  assert all(drawn(x).any() and not np.array_equal(drawn(x), box) for x in letters)


NAMES = ["美咲", "王小明", "サクラ", "서연", "राहुल", "অনন্যা", "ਗੁਰਪ੍ਰੀਤ", "કિરણ", "தமிழ்", "రాము", "ಅನಿತಾ", "മീര", "නිමල්", "สมชาย",
         "ສົມສັກ", "အောင်", "សុភា", "አበበ"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_of_other_scripts_are_written_on_a_machine_without_fonts(name, monkeypatch, capfd):
  monkeypatch.setattr(fonts, "_PLACES", ())
  fonts.chain.cache_clear()
  fonts._font_of.cache_clear()
  assert all(ord(x) in fonts._letters(Path(r.font.path)) for r in fonts.runs(name, 16) for x in r.text)
  assert drawn(name).any() and "no font" not in capfd.readouterr().err
  fonts.chain.cache_clear()


@pytest.mark.skipif(not features.check("raqm"), reason="this Pillow does not join letters")
def test_arabic_is_joined_and_runs_from_right_to_left():
  apart = sum(fonts.width(x, 16) for x in "سارة")
  assert fonts.width("سارة", 16) < 0.95 * apart
  first, last = (drawn(x) for x in ("س", "ة"))
  whole = drawn("سارة")
  assert whole[:, 2:8].any() and first.any() and last.any()
  assert not np.array_equal(whole, drawn("ةراس"))


def test_a_letter_that_no_font_has_is_told_once(capfd, monkeypatch):
  monkeypatch.setattr(fonts, "chain", lambda: (fonts.own(),))
  letter = "\U0001f9ea"  # a test tube
  for _ in range(2):
    assert drawn(f"a {letter} b").any()
  said = capfd.readouterr().err
  assert said.count("no font here has") == 1 and "U+1F9EA" in said


def test_without_the_font_it_says_what_to_install(monkeypatch):
  monkeypatch.setattr(fonts.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match="pip install matplotlib"):
    fonts.own()


def test_stacked_pictures_keep_every_pixel_under_their_names(tmp_path):
  for name, colour, size in (("a", RED, (300, 40)), ("b", BLUE, (100, 20))):
    Image.new("RGB", size, colour).save(tmp_path / f"{name}.png")
  sheets.stack(tmp_path / "all.png", [("first", tmp_path / "a.png"), ("second", tmp_path / "b.png")])
  with Image.open(tmp_path / "all.png") as image:
    pixels = np.asarray(image)
  assert pixels.shape[1] == 300
  assert (pixels == RED).all(-1).sum() == 300 * 40 and (pixels == BLUE).all(-1).sum() == 100 * 20
  assert (pixels[:20] < 128).any()  # a name
