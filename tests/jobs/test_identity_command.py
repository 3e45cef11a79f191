"""`idejax identity`: what it writes and says, resuming, bad photos; through its entry point."""

import csv
import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image
from support import facepack

from idejax import config, faces
from idejax.cli import options
from idejax.errors import UserError
from idejax.jobs import identity


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
  return str(facepack.pack(tmp_path_factory.mktemp("packs") / "green", thresholds={"far_1e-3": 0.99999}))


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
  monkeypatch.setenv("IDEJAX_CACHE", str(tmp_path / "cache"))


def write(path, *cells, seed=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(facepack.picture(*cells, seed=seed)).save(path)
  return str(path)


def run(pack, *photos, out, **more):
  identity.main(config.Identity(out=out, photo=tuple(map(str, photos)), pack=pack, **more))


def size_of(path):
  with Image.open(path) as image:
    return image.size


def refused(*args, **more):
  with pytest.raises(UserError) as e:
    run(*args, **more)
  assert "\n" not in str(e.value)
  return str(e.value)


def test_one_photo(pack, tmp_path, capsys):
  photo = write(tmp_path / "me.png", (1, 1))
  before = (tmp_path / "me.png").read_bytes()
  run(pack, photo, out=tmp_path / "new" / "me.npz")
  streams = capsys.readouterr()
  assert (
    streams.out == ""
    and "not found: 72 landmarks" in streams.err
    and "hair mask" in streams.err
    and "face of 32 px" in streams.err
  )
  one = faces.load(tmp_path / "new" / "me.npz")
  np.testing.assert_allclose(one.points, facepack.points_of(1, 1), atol=1e-4)
  assert size_of(tmp_path / "new" / "me.drawn.png") == (768, 548)
  run(pack, photo, out=tmp_path / "me.npz")  # beside the photo, which stays
  assert (tmp_path / "me.png").read_bytes() == before


def test_several_photos_of_one_person(pack, tmp_path, capsys):
  a = write(tmp_path / "a.png", (1, 1))
  b, c = write(tmp_path / "b.bmp", (1, 1)), write(tmp_path / "c.png", (1, 1), seed=5)  # c differs in its noise
  run(pack, a, b, c, out=tmp_path / "p.npz")
  got = faces.load_all(tmp_path / "p.npz")
  assert [g.meta["photo"] for g in got] == ["a.png", "b.bmp", "c.png"]
  alike = [float(g.embedding @ got[0].embedding) for g in got[1:]]
  warned = [line for line in capsys.readouterr().err.splitlines() if "another person" in line]
  assert alike[0] > 0.99999 > alike[1]  # the pack's threshold
  assert len(warned) == 1 and "c.png may show another person than a.png" in warned[0]
  assert size_of(tmp_path / "p.drawn.png") == (768, 3 * 548)


def test_a_face_at_the_edge_is_told(pack, tmp_path, capsys):
  run(pack, write(tmp_path / "a.png", (1, 1)), out=tmp_path / "a.npz")
  assert "cut off" not in capsys.readouterr().err
  one = faces.load(tmp_path / "a.npz")
  assert not identity.outside(one)
  assert identity.outside(dataclasses.replace(one, box=one.box - [40, 0, 0, 0]))
  assert identity.outside(dataclasses.replace(one, points=one.points + [80, 0]))


def people(folder):
  """Four good photos, five bad, and a text."""
  for n, name in enumerate(["a.png", "b.jpg", "sub/a.png", "sub/deep/c.png"]):
    write(folder / name, (n % 4, 1), seed=n)
  write(folder / "nobody.png")
  (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:900])
  (folder / "text.png").write_text("hello")
  Image.new("RGB", (1, 1)).save(folder / "dot.png")
  (folder / "empty.jpg").touch()
  (folder / "notes.txt").write_text("a text file")
  (folder / ".hidden.png").write_text("x")
  return folder


def table(out):
  with open(out / "identities.csv", encoding="utf-8", newline="") as f:
    return list(csv.DictReader(f))


def test_a_folder(pack, tmp_path, capsys):
  folder, out = people(tmp_path / "people"), tmp_path / "out"
  run(pack, folder, out=out)
  output = capsys.readouterr().err
  assert "4 of 9 photos" in output and "5 skipped" in output and "notes.txt" in output
  for name in ("nobody.png", "broken.png", "text.png", "dot.png", "empty.jpg"):
    assert f"{name}" in output
  rows = {r["photo"]: r for r in table(out)}
  assert list(rows) == sorted(rows) and len(rows) == 9
  for n, name in enumerate(["a.png", "b.jpg", "sub/a.png", "sub/deep/c.png"]):
    one = faces.load(out / rows[name]["identity"])
    assert rows[name]["error"] == "" and rows[name]["photo_sha256"] == one.meta["photo_sha256"]
    assert abs(float(rows[name]["x0"]) - 32 * n) < 0.6 and float(rows[name]["size"]) == pytest.approx(32, abs=0.6)
    assert (out / rows[name]["identity"].replace(".npz", ".drawn.png")).exists()
  assert rows["dot.png"]["identity"] == "" and "1 x 1" in rows["dot.png"]["error"]
  assert (out / "sub" / "deep" / "c.npz").exists() and not list(out.rglob(".*"))


def test_the_same_command_continues(pack, tmp_path, capsys):
  folder, out = people(tmp_path / "people"), tmp_path / "out"
  run(pack, folder, out=out)
  first = (out / "identities.csv").read_bytes()
  stamps = lambda: {p: p.stat().st_mtime_ns for p in out.rglob("*.npz")}
  before = stamps()
  capsys.readouterr()
  run(pack, folder, out=out)
  assert stamps() == before and (out / "identities.csv").read_bytes() == first
  assert "4 of 9 photos are done already" in capsys.readouterr().err
  # What is damaged, missing, of another photo or another --face is made again; the rest stays.
  (out / "a.npz").write_bytes((out / "a.npz").read_bytes()[:500])
  (out / "b.npz").unlink()
  write(folder / "sub" / "a.png", (3, 3), seed=9)
  run(pack, folder, out=out)
  after = stamps()
  assert {p.relative_to(out).as_posix() for p in after if after[p] != before[p]} == {"a.npz", "b.npz", "sub/a.npz"}
  assert faces.load(out / "a.npz").meta["photo"] == "a.png"
  run(pack, folder, out=out, face=1)
  assert all(v != after[p] for p, v in stamps().items())


def test_an_interrupted_run_leaves_its_table(pack, tmp_path, monkeypatch):
  folder, out = people(tmp_path / "people"), tmp_path / "out"
  real, result = faces.save, []

  def save(path, one):
    if len(result) == 2:
      raise KeyboardInterrupt
    result.append(path)
    real(path, one)

  monkeypatch.setattr(faces, "save", save)
  with pytest.raises(KeyboardInterrupt):
    run(pack, folder, out=out, threads=1)
  assert {r["identity"] for r in table(out) if r["identity"]} == {p.relative_to(out).as_posix() for p in result}
  monkeypatch.undo()
  monkeypatch.setenv("IDEJAX_CACHE", "off")
  run(pack, folder, out=out)
  assert sum(r["identity"] != "" for r in table(out)) == 4


def test_several_faces_in_a_folder(pack, tmp_path, capsys):
  write(tmp_path / "in" / "two.png", (0, 0), (2, 2))
  write(tmp_path / "in" / "one.png", (1, 1))
  run(pack, tmp_path / "in", out=tmp_path / "out")
  assert "1 photo(s) have several faces" in capsys.readouterr().err
  run(pack, tmp_path / "in", out=tmp_path / "second", face=2)
  rows = {r["photo"]: r for r in table(tmp_path / "second")}
  assert rows["two.png"]["face"] == "2" and "--face 2, but it has 1 face" in rows["one.png"]["error"]


def test_names_that_differ_in_their_ending_only():
  names = ["a.jpg", "A.png", "b.tar.png", "sub/a.png"]
  assert identity.npz_names(names) == {
    "a.jpg": "a.jpg.npz",
    "A.png": "A.png.npz",
    "b.tar.png": "b.tar.npz",
    "sub/a.png": "sub/a.npz",
  }


def test_output_inside_the_folder_is_not_read_again(pack, tmp_path):
  write(tmp_path / "a.png", (1, 1))
  for _ in range(2):
    run(pack, tmp_path, out=tmp_path / "out")
  assert [r["photo"] for r in table(tmp_path / "out")] == ["a.png"]


def test_names_that_are_not_utf8(pack, tmp_path, capsys):
  for name in (b"\xff.png", "\u7530.png".encode(), b'a,"b\n.png'):
    write(tmp_path / "in" / name.decode("utf-8", "surrogateescape"), (1, 1))
  for _ in range(2):
    run(pack, tmp_path / "in", out=tmp_path / "out")
  assert "3 of 3 photos are done already" in capsys.readouterr().err
  with open(tmp_path / "out" / "identities.csv", encoding="utf-8", errors="surrogateescape", newline="") as f:
    assert all((tmp_path / "in" / r["photo"]).exists() for r in csv.DictReader(f))


def test_what_is_refused(pack, tmp_path):
  photo, folder = write(tmp_path / "in" / "a.png", (1, 1)), tmp_path / "in"
  npz = tmp_path / "x.npz"
  assert "which photo?" in refused(pack, out=npz)
  assert "nowhere.png does not exist" in refused(pack, tmp_path / "nowhere.png", out=npz)
  assert "must end in .npz" in refused(pack, photo, out=tmp_path / "x.png")
  assert "is a folder; give a file name" in refused(pack, photo, out=tmp_path)
  assert "one folder, or photos" in refused(pack, photo, folder, out=npz)
  for flag, said in (("--face=0", "--face is 0"), ("--threads=-1", "--threads is -1")):
    with pytest.raises(UserError, match=said):
      options.parse(config.Identity, [str(photo), f"--out={npz}", flag], "idejax identity")
  assert "1 face (counted" in refused(pack, photo, out=npz, face=2)
  assert "is the folder of the photos" in refused(pack, folder, out=folder)
  assert "is a file" in refused(pack, folder, out=tmp_path / "in" / "a.png")
  assert "--out is a folder" in refused(pack, folder, out=npz)
  assert "found no face" in refused(pack, write(tmp_path / "nobody.png"), out=npz)
  assert "--parsing" in refused(pack, photo, out=npz, parsing=tmp_path / "no.onnx")
  assert "not on this machine" in refused("buffalo_xxl", photo, out=npz)
  assert not npz.exists()
  (tmp_path / "void").mkdir()
  assert "holds no picture file" in refused(pack, tmp_path / "void", out=tmp_path / "o")
  shutil.copy(__file__, tmp_path / "void" / "a.py")
  assert "such as a.py" in refused(pack, tmp_path / "void", out=tmp_path / "o")
  write(tmp_path / "void" / "nobody.png")
  assert "not one of 1 photos" in refused(pack, tmp_path / "void", out=tmp_path / "o")
  assert "found no face" in table(tmp_path / "o")[0]["error"]
