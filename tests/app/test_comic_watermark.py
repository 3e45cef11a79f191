"""The mark that stays, the metadata, and the log."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from idejax.app import watermark
from idejax.app.audit import Audit


def pictures():
  rng = np.random.default_rng(0)
  y, x = np.mgrid[:320, :256]
  noise = np.clip(rng.normal(128, 30, (320, 256, 3)), 0, 255)
  waves = np.stack([128 + 100 * np.sin(x / 9), 128 + 90 * np.cos(y / 23), 0.4 * (x + y) % 255], -1)
  blocks = np.kron(rng.integers(0, 256, (5, 4, 3)), np.ones((64, 64, 1)))
  return {
    n: a.astype(np.uint8)
    for n, a in dict(noise=noise, waves=waves, blocks=blocks, grey=np.full((320, 256, 3), 120)).items()
  }


@pytest.mark.parametrize("name", pictures())
def test_the_mark_is_found_after_png_and_jpeg_and_only_where_it_is(name):
  image = pictures()[name]
  marked = watermark.embed(image)
  assert not watermark.present(image)
  assert watermark.present(marked)
  for quality in (95, 75) + ((50,) if name in ("noise", "waves") else ()):  # flat areas are rounded away below that
    data = io.BytesIO()
    Image.fromarray(marked).save(data, "JPEG", quality=quality)
    assert watermark.present(np.asarray(Image.open(data))), quality


@pytest.mark.parametrize("name", pictures())
def test_the_mark_cannot_be_seen(name):
  """45 dB: no pixel moves by more than a few grey levels."""
  image = pictures()[name]
  change = np.abs(watermark.embed(image).astype(float) - image)
  assert 10 * np.log10(255**2 / np.square(change).mean()) > 45 and change.max() <= 14


def test_by_chance_it_is_found_nowhere():
  rng = np.random.default_rng(1)
  assert (
    max(watermark.certainty(rng.integers(0, 256, (192, 192, 3)).astype(np.uint8)) for _ in range(200))
    < watermark.CERTAIN - 1
  )


def test_another_crop_at_the_top_left_still_has_it():
  marked = watermark.embed(pictures()["waves"])
  assert watermark.present(marked[:256, :200])


def test_small_pictures_are_left_alone():
  small = np.full((64, 64, 3), 9, np.uint8)
  assert (watermark.embed(small) == small).all() and not watermark.present(small)


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg"])
def test_files_say_that_they_were_generated(tmp_path, suffix):
  path = tmp_path / f"a.{suffix}"
  watermark.save(path, pictures()["waves"], {"prompt": 'é, "quotes"', "seed": 7})
  assert watermark.declares_ai(path) and watermark.present(np.asarray(Image.open(path).convert("RGB")))
  assert b"trainedAlgorithmicMedia" in path.read_bytes()
  with Image.open(path) as image:
    record = json.loads(str(image.getexif()[0x010E]).removeprefix("AI-generated "))
  assert record == {"prompt": 'é, "quotes"', "seed": 7}
  plain = tmp_path / "b.png"
  Image.new("RGB", (8, 8)).save(plain)
  assert not watermark.declares_ai(plain)


def test_metadata_survive_when_pillow_saves_the_other_format(tmp_path):
  watermark.save(tmp_path / "a.png", pictures()["waves"], {"seed": 7})
  with Image.open(tmp_path / "a.png") as image:
    image.save(tmp_path / "b.jpg", exif=image.getexif())
  assert watermark.declares_ai(tmp_path / "b.jpg")


def test_the_log_has_words_and_never_pictures(tmp_path):
  log = Audit(tmp_path)
  log.write("refused", why="x" * 5000, names=["Anna Field"])
  log.write("drawn", seed=3)
  first, second = log.lines()
  assert (first["event"], len(first["why"]), second["seed"]) == ("refused", 1000, 3)
  for picture in (np.zeros((2, 2), np.uint8), b"\x89PNG", {"a": 1}):
    with pytest.raises(TypeError, match="words and numbers"):
      log.write("drawn", image=picture)
  assert log.path.stat().st_mode & 0o077 == 0


def test_several_writers_tear_no_line(tmp_path):
  import threading

  log = Audit(tmp_path)
  write = lambda i: [log.write("drawn", who=i, text="é" * 300) for _ in range(50)]
  threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
  for t in threads:
    t.start()
  for t in threads:
    t.join()
  assert sorted(line["who"] for line in log.lines()) == sorted([*range(4)] * 50)
