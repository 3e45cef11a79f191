"""PNG files with records inside, contact sheets, files of latents."""

import json
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from idejax.errors import UserError
from idejax.storage import files, fonts, pictures, sheets

RECORD = {
  "prompt": "caf\u00e9, \u65e5\u672c\n\U0001f469",
  "negative": None,
  "seed": 2**63,
  "guidance": 7.5,
  "idejax": "0.1.0",
}


@pytest.fixture(scope="module")
def image():
  return np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)


@pytest.fixture(scope="module")
def written(tmp_path_factory, image):
  path = tmp_path_factory.mktemp("written") / "a.png"
  pictures.write_png(path, image, RECORD)
  return path


def test_pixels_and_record_come_back(written, image):
  assert pictures.read_record(written) == (RECORD, True)
  with Image.open(written) as found:
    np.testing.assert_array_equal(np.asarray(found), image)
    # What any other program shows: one field each, and the mark of generated pictures.
    assert found.text["AI-generated"] == "true"
    assert found.text["prompt"] == RECORD["prompt"] and found.text["seed"] == str(2**63)
    assert "negative" not in found.text and json.loads(found.text["idejax"]) == RECORD
  assert [p.name for p in written.parent.iterdir()] == ["a.png"]


def test_a_picture_of_someone_else_has_no_record(tmp_path, image):
  Image.fromarray(image).save(tmp_path / "plain.png")
  Image.fromarray(image).save(tmp_path / "photo.png", format="JPEG")
  (tmp_path / "text.png").write_text("no picture")
  for path in [*tmp_path.iterdir(), tmp_path / "nowhere.png", tmp_path]:
    assert pictures.read_record(path) == (None, False)


def test_a_decompression_bomb_has_no_record(tmp_path, written):
  data = bytearray(written.read_bytes())
  data[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height in the header
  data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
  (tmp_path / "bomb.png").write_bytes(data)
  assert pictures.read_record(tmp_path / "bomb.png") == (None, False)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), cut=st.booleans())
def test_a_damaged_picture_is_never_taken_for_whole(tmp_path_factory, written, image, data, cut):
  whole = written.read_bytes()
  at = data.draw(st.integers(0, len(whole) - 1))
  spoilt = whole[:at] if cut else whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]
  path = tmp_path_factory.getbasetemp() / "spoilt.png"
  path.write_bytes(spoilt)
  record, intact = pictures.read_record(path)
  assert record in (None, RECORD)
  if not intact:
    return
  with Image.open(path) as found:  # the damage is in a checksum that nobody reads
    assert record == RECORD and np.array_equal(np.asarray(found), image)


# Writes that are whole or absent.


@pytest.mark.parametrize("there", [False, True])
def test_a_failed_write_leaves_what_was_there_and_nothing_else(tmp_path, there):
  path = tmp_path / "a.txt"
  if there:
    path.write_text("old")
  with pytest.raises(RuntimeError), files.replacing(path) as temporary:
    temporary.write_text("half")
    assert not path.exists() or path.read_text() == "old"
    raise RuntimeError
  assert {p.name: p.read_text() for p in tmp_path.iterdir()} == ({"a.txt": "old"} if there else {})


def test_a_write_that_succeeds_replaces(tmp_path):
  path = tmp_path / "a.txt"
  path.write_text("old")
  with files.replacing(path) as temporary:
    assert temporary.parent == tmp_path  # the same disk, so that the rename is atomic
    temporary.write_text("new")
  assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.txt": "new"}


def test_an_interrupt_leaves_nothing(tmp_path):
  with pytest.raises(KeyboardInterrupt), files.replacing(tmp_path / "a") as temporary:
    temporary.write_text("half")
    raise KeyboardInterrupt
  assert not list(tmp_path.iterdir())


def test_an_error_of_the_disk_names_the_file(tmp_path):
  with pytest.raises(OSError) as caught, files.replacing(tmp_path / "a.png"):
    raise OSError(28, "full")
  assert caught.value.filename == str(tmp_path / "a.png") and caught.value.errno == 28


def test_an_image_that_cannot_be_written_leaves_nothing(tmp_path):
  with pytest.raises((TypeError, ValueError)):
    pictures.write_png(tmp_path / "a.png", np.zeros((2, 2, 7), np.uint8), {})
  assert not list(tmp_path.iterdir())


# Contact sheets.


def test_sheet(tmp_path):
  """Five pictures in groups of two, each under its label: in order and whole; sizes and shapes may differ."""
  colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200)]
  sizes = [(8, 8), (8, 8), (512, 256), (8, 8), (1000, 1)]
  files = []
  for i, (colour, size) in enumerate(zip(colours, sizes)):
    files.append(tmp_path / f"{i}.png")
    Image.new("RGB", size, colour).save(files[-1])
  pictures.sheet(tmp_path / "sheet.png", files, ["first", "second", "third"], 2, side=64)
  with Image.open(tmp_path / "sheet.png") as found:
    sheet = np.asarray(found)
  top = sheets.EDGE + fonts.height(sheets.TEXT) + 3
  for i, colour in enumerate(colours):
    left = sheets.EDGE + i // 2 * (2 * 64 + sheets.GAP) + i % 2 * 64
    np.testing.assert_array_equal(sheet[top, left], colour)
  np.testing.assert_array_equal(sheet[top + 63, sheets.EDGE + 63], colours[0])  # scaled up to the whole side
  left = sheets.EDGE + 2 * 64 + sheets.GAP  # 512 x 256 -> 64 x 32
  np.testing.assert_array_equal(sheet[top + 31, left], colours[2])
  np.testing.assert_array_equal(sheet[top + 33, left], (255, 255, 255))
  assert (sheet[sheets.EDGE : top] != 255).any()  # labels


# Files of latents.


@pytest.fixture
def save(tmp_path):
  def write(array, name="z.npy"):
    path = tmp_path / name
    with open(path, "wb") as f:
      np.save(f, array, allow_pickle=True)
    return path

  return write


def test_latents_change_their_axes_and_nothing_else(save, rng):
  z = rng.standard_normal((3, 4, 6, 5)).astype(np.float32)
  out = pictures.read_latents(save(z), 3, (4, 6, 5))
  assert out.dtype == np.float32 and out.flags.c_contiguous
  np.testing.assert_array_equal(out, z.transpose(0, 2, 3, 1))
  np.testing.assert_array_equal(pictures.read_latents(save(np.asfortranarray(z)), 3, (4, 6, 5)), out)


def spoilt(value):
  z = np.zeros((2, 4, 3, 3), np.float32)
  z[1, 0, 0, 0] = value
  return z


@pytest.mark.parametrize(
  "array, said",
  [
    (np.zeros((1, 4, 3, 3), np.float32), "has shape (1, 4, 3, 3); 2 images of this size need (2, 4, 3, 3)"),
    (np.zeros((2, 3, 3, 4), np.float32), "need (2, 4, 3, 3)"),
    (np.float32(3), "has shape ()"),
    (np.zeros((2, 4, 3, 3)), "holds float64; initial latents are float32"),
    (np.zeros((2, 4, 3, 3), np.float16), "holds float16"),
    (np.zeros((2, 4, 3, 3), np.int32), "holds int32"),
    (spoilt(np.nan), "not finite"),
    (spoilt(np.inf), "not finite"),
    (np.array([{"a": 1}], object), "not a readable .npy file"),  # a pickle: never opened
  ],
)
def test_latents_that_do_not_fit(save, array, said):
  path = save(array)
  with pytest.raises(UserError) as caught:
    pictures.read_latents(path, 2, (4, 3, 3))
  assert said in str(caught.value) and str(path) in str(caught.value)


def test_files_that_hold_no_latents(tmp_path, save):
  with pytest.raises(UserError, match="does not exist"):
    pictures.read_latents(tmp_path / "no.npy", 1, (4, 3, 3))
  whole = save(np.zeros((1, 4, 3, 3), np.float32)).read_bytes()
  np.savez(tmp_path / "z.npz", z=np.zeros((1, 4, 3, 3), np.float32))
  archive = (tmp_path / "z.npz").read_bytes()
  huge = whole.replace(b"(1, 4, 3, 3)", b"(9" + 8 * b"9" + b",)")
  for content in (
    b"",
    b"no array",
    whole[:-5],
    whole[:40],
    archive,
    archive[:9],
    huge,
    whole.replace(b"}", b"("),
    whole.replace(b"'descr'", b" 0007 "),
  ):
    (tmp_path / "bad.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"bad.npy is not a readable \.npy file"):
      pictures.read_latents(tmp_path / "bad.npy", 1, (4, 3, 3))
  with pytest.raises(UserError, match="is not a readable"):
    pictures.read_latents(tmp_path, 1, (4, 3, 3))
