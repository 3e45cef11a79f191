"""Pictures of every kind become upright RGB; others are refused in one sentence."""

import io
import os
import struct
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from idejax.errors import UserError
from idejax.faces import photo


def sample(height=24, width=32):
  """A smooth picture without symmetry, so that every turn and mirror shows."""
  y, x = np.mgrid[:height, :width]
  return np.stack([x * 255 / (width - 1), y * 255 / (height - 1), (x + 2 * y) * 2], -1).astype(np.uint8)


def encoded(image, kind="PNG", **options):
  out = io.BytesIO()
  (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(out, format=kind, **options)
  return out.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA", "QOI", "PCX"])
def test_lossless_formats(kind, tmp_path):
  file = tmp_path / f"a.{kind.lower()}"
  file.write_bytes(encoded(sample(), kind))
  got = photo.read(file)
  np.testing.assert_array_equal(got.pixels, sample())
  assert got.pixels.dtype == np.uint8 and got.pixels.flags.c_contiguous
  assert (photo.digest(file), str(file)) == (got.digest, got.name)
  assert photo.header_size(file) == (32, 24)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "AVIF", "JPEG2000"])
def test_lossy_formats(kind):
  got = photo.read(encoded(sample(), kind)).pixels
  assert np.abs(got.astype(int) - sample()).mean() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_undone(kind, orientation):
  orientations = {  # how a camera that is held so stores the upright scene
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
    8: lambda x: np.rot90(x, -1),
  }[orientation](sample())
  exif = Image.Exif()
  exif[0x0112] = orientation
  options = {"JPEG": dict(quality=100, subsampling=0), "WEBP": dict(lossless=True)}.get(kind, {})
  got = photo.read(encoded(np.ascontiguousarray(orientations), kind, exif=exif, **options)).pixels
  assert got.shape == sample().shape
  assert np.abs(got.astype(int) - sample()).max() < 12


def test_nonsense_in_exif_is_passed_over():
  data = encoded(sample(), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
  np.testing.assert_array_equal(photo.read(data).pixels, sample())


def test_colour_modes():
  rgb, grey = sample(), sample()[..., 0]
  three = np.repeat(grey[..., None], 3, -1)
  image = Image.fromarray
  np.testing.assert_array_equal(photo.read(encoded(grey)).pixels, three)
  np.testing.assert_array_equal(photo.read(encoded(grey.astype(np.uint16) * 257)).pixels, three)
  assert set(np.unique(photo.read(encoded(image(grey > 99))).pixels)) == {0, 255}
  np.testing.assert_array_equal(photo.read(encoded((grey / 255).astype(np.float32), "TIFF")).pixels, three)
  np.testing.assert_array_equal(photo.read(encoded(grey.astype(np.int32) * 257, "TIFF")).pixels, three)
  cmyk = photo.read(encoded(image(rgb).convert("CMYK"), "JPEG", quality=100)).pixels
  assert np.abs(cmyk.astype(int) - rgb).mean() < 8
  palette = photo.read(encoded(image(rgb).quantize(256))).pixels
  assert np.abs(palette.astype(int) - rgb).mean() < 12


def test_what_is_transparent_is_white():
  rgba = np.dstack([sample(), np.full((24, 32), 255, np.uint8)])
  rgba[:12, ..., 3] = 0
  rgba[12:, :16, 3] = 128
  want = sample()
  want[:12] = 255
  for got in (
    photo.read(encoded(rgba)),
    photo.read(rgba),
    photo.read(encoded(rgba, "WEBP", lossless=True, exact=True)),
  ):
    np.testing.assert_array_equal(got.pixels[:12], 255)
    np.testing.assert_array_equal(got.pixels[12:, 16:], want[12:, 16:])
    half = (want[12:, :16].astype(int) + 255) / 2
    assert np.abs(got.pixels[12:, :16] - half).max() <= 1.5
  grey = photo.read(encoded(Image.fromarray(rgba).convert("LA"))).pixels
  assert (grey[:12] == 255).all() and (grey[20, 31] < 250).all()
  holes = Image.fromarray(sample()).quantize(16)
  black = photo.read(encoded(holes, transparency=holes.getpixel((0, 0)))).pixels
  assert (black[0, 0] == 255).all()


def test_arrays():
  grey = sample()[..., 0]
  three = np.repeat(grey[..., None], 3, -1)
  for x in (grey, grey[..., None], grey.astype(np.uint16) * 257, grey / 255, (grey / 255).astype(np.float32)):
    np.testing.assert_array_equal(photo.read(x).pixels, three)
  assert photo.read(grey > 99).pixels.max() == 255
  np.testing.assert_array_equal(photo.read(Image.fromarray(sample())).pixels, sample())
  assert photo.read(sample()).digest == photo.read(sample().copy()).digest != photo.read(sample()[::-1]).digest


@pytest.mark.parametrize(
  "bad, said",
  [
    (np.zeros((24, 32, 2), np.uint8), "[24, 32, 2]"),
    (np.zeros((2, 24, 32, 3), np.uint8), "[2, 24, 32, 3]"),
    (np.zeros((24, 32, 3), np.int64), "int64"),
    (np.full((24, 32), 1.5), "0 to 1"),
    (np.full((24, 32), np.nan), "0 to 1"),
    (np.zeros((1, 1, 3), np.uint8), "1 x 1"),
    (np.zeros((0, 5), np.uint8), "5 x 0"),
    (np.array("x"), "not []"),
  ],
)
def test_arrays_that_are_no_pictures(bad, said):
  with pytest.raises(UserError) as e:
    photo.read(bad)
  assert said in str(e.value)


def png_header(width, height):
  """A PNG of 60 bytes that claims to be large."""
  chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
  return (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    + chunk(b"IDAT", zlib.compress(b"\0" * 10))
    + chunk(b"IEND", b"")
  )


@pytest.mark.parametrize(
  "size, said",
  [
    ((20_000, 20_000), "20,000 x 20,000"),
    ((2**31 - 1, 2**31 - 1), "2,147,483,647"),
    ((40_000, 100), "40,000 x 100"),
    ((1, 1), "1 x 1"),
    ((5000, 15), "5,000 x 15"),
  ],
)
def test_sizes_are_judged_by_the_header(size, said, tmp_path):
  (tmp_path / "bomb.png").write_bytes(png_header(*size))
  tracemalloc.start()
  with warnings.catch_warnings(), pytest.raises(UserError) as e:
    warnings.simplefilter("error")
    photo.read(tmp_path / "bomb.png")
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert "bomb.png" in str(e.value) and said in str(e.value)
  assert peak < 5e6


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "JPEG"])
def test_a_real_large_picture_is_refused_unread(kind, tmp_path):
  image = Image.new("1" if kind == "TIFF" else "L", (10_100, 10_100))
  image.save(tmp_path / "large", format=kind, **({"compression": "group4"} if kind == "TIFF" else {}))
  with pytest.raises(UserError, match="10,100 x 10,100"):
    photo.read(tmp_path / "large")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000"])
@pytest.mark.parametrize("part", [0.3, 0.7])
def test_truncated_files(kind, part, tmp_path):
  rng = np.random.default_rng(0)
  data = encoded(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8), kind)
  (tmp_path / "cut.jpg").write_bytes(data[: int(len(data) * part)])
  with pytest.raises(UserError) as e:
    photo.read(tmp_path / "cut.jpg")
  assert "cut.jpg" in str(e.value) and "\n" not in str(e.value)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # over tags of no interest
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
  st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "TGA", "PCX", "ICO", "PPM", "QOI", "AVIF", "JPEG2000"]),
  st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_damaged_bytes_give_a_picture_or_a_sentence(kind, changes):
  data = bytearray(_FILES.setdefault(kind, encoded(sample(), kind)))
  for at, value in changes:
    data[int(at * min(len(data), 200 if at < 0.5 else len(data)))] = value
  try:
    pixels = photo.read(bytes(data)).pixels
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
  except UserError as e:
    assert "\n" not in str(e)


_FILES: dict[str, bytes] = {}


def test_what_is_no_picture(tmp_path):
  (tmp_path / "words.png").write_text("not a picture")
  (tmp_path / "empty.png").touch()
  (tmp_path / "script.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\nshowpage\n")
  os.mkfifo(tmp_path / "pipe.png")
  for name, message in {
    "words.png": "no picture",
    "empty.png": "empty",
    "script.png": "no picture",
    "pipe.png": "regular",
    "nowhere.png": "does not exist",
    ".": "folder",
  }.items():
    with pytest.raises(UserError) as e:
      photo.read(tmp_path / name)
    assert message in str(e.value) and str(tmp_path / name) in str(e.value)
    assert photo.header_size(tmp_path / name) == (0, 0)
