"""Lists, tars and data sets of photos; what leads out of them is refused."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image
from support import facepack

from idejax.data import face_folder
from idejax.data.preparing import sources
from idejax.errors import UserError


def png(seed: int) -> bytes:
  Image.fromarray(facepack.picture((1, 1), seed=seed)).save(out := io.BytesIO(), "PNG")
  return out.getvalue()


def tar(path, *members):
  with tarfile.open(path, "w") as t:
    for member in members:
      if isinstance(member, tarfile.TarInfo):
        t.addfile(member)
      else:
        name, content = member
        info = tarfile.TarInfo(name)
        info.size = len(content)
        t.addfile(info, io.BytesIO(content))
  return path


def test_a_tar_of_webdataset(tmp_path):
  about = json.dumps({"caption": "a boy", "person": "p7", "license": "CC0"}).encode()
  path = tar(
    tmp_path / "a.tar", ("x/0001.png", png(1)), ("x/0001.txt", b" a girl\n smiling "), ("0002.png", png(2)),
    ("0002.json", about), ("0003.cls", b"3"),
  )  # fmt: skip
  source = sources.of([path])
  one, two = source.items()
  assert one[2:] == ("a girl smiling", "", "")
  assert two[2:] == ("a boy", "p7", "CC0") and one.name == "a.tar/x/0001.png"
  assert [p.data for p in source.read([two, one])] == [png(2), png(1)]
  assert [i.name for i in sources.of([tmp_path]).items()] == [one.name, two.name]


def link(name: str, to: str) -> tarfile.TarInfo:
  info = tarfile.TarInfo(name)
  info.type, info.linkname = tarfile.SYMTYPE, to
  return info


def huge_header() -> tarfile.TarInfo:
  info = tarfile.TarInfo("././@LongLink")
  info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**32
  return info


@pytest.mark.parametrize(
  "member, words",
  [
    (("../evil.png", b"x"), "leads out of its folder"),
    (("/etc/evil.png", b"x"), "leads out of its folder"),
    (link("a.png", "/etc/passwd"), "a link or a device"),
    (huge_header(), "claims 4,294,967,296 bytes"),
    (("a.txt", b"x" * (2**20 + 1)), "should be a caption"),
    (("a.json", b"[1]"), "holds no JSON object"),
    (("a.json", b"{"), "cannot be read"),
    (("a.txt", b"\xff\xfe\x00"), "cannot be read"),
  ],
)
def test_hostile_tars(member, words, tmp_path):
  path = tar(tmp_path / "bad.tar", ("0.png", png(0)), member)
  with pytest.raises(UserError, match=words) as e:
    sources.of([path]).items()
  assert str(e.value).startswith(str(path))


def test_damaged_tars(tmp_path):
  whole = tar(tmp_path / "a.tar", ("0.png", png(0)), ("1.png", png(1))).read_bytes()
  for n, content in enumerate((b"no tar" * 200, b"", whole[: len(whole) // 3] + b"\1" * 2000)):
    path = tmp_path / f"b{n}.tar"
    path.write_bytes(content)
    try:
      items = sources.Tars([path]).items()
    except UserError as e:
      assert str(path) in str(e)
    else:
      assert len(items) <= 1


def test_a_list_of_lines(tmp_path):
  (tmp_path / "p").mkdir()
  (tmp_path / "p/a.png").write_bytes(png(1))
  rows = [{"image": "p/a.png", "text": "a man", "id": 7}, {"file": "p/b.png", "licence": "CC0"}]
  path = tmp_path / "list.jsonl"
  path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
  source = sources.of([path])
  one, two = source.items()
  assert one[2:] == ("a man", "7", "") and two[2:] == ("", "", "CC0")
  first, second = source.read([one, two])
  assert first.data == png(1) and isinstance(second.data, UserError) and "b.png does not exist" in str(second.data)


@pytest.mark.parametrize(
  "line, words",
  [
    ('{"image": "../x.png"}', "line 2: ../x.png leads out"),
    ('{"image": "/etc/passwd"}', "leads out of its folder"),
    ('{"image": "C:\\\\x.png"}', "leads out of its folder"),
    ('{"image": "out/x.png"}', "a link that leads out of"),
    ('{"caption": "a"}', 'line 2 has no "image"'),
    ("[1]", 'has no "image"'),
    ("{", "line 2 is no JSON"),
    ('{"image": "' + "x" * 2**20 + '"}', "characters"),
  ],
)
def test_hostile_lines(line, words, tmp_path):
  folder = tmp_path / "list"
  folder.mkdir()
  (tmp_path / "secret").mkdir()
  (tmp_path / "secret/x.png").write_bytes(png(1))
  (folder / "out").symlink_to(tmp_path / "secret")
  (folder / "a.jsonl").write_text('{"image": "a.png"}\n' + line)
  with pytest.raises(UserError, match=words):
    sources.of([folder / "a.jsonl"]).items()


def test_a_data_set_of_tfds(tmp_path):
  for n in range(3):
    (tmp_path / "photos" / f"p{n % 2}").mkdir(parents=True, exist_ok=True)
    (tmp_path / "photos" / f"p{n % 2}" / f"{n}.png").write_bytes(png(n))
  source = sources.of([face_folder.prepare(tmp_path / "photos", tmp_path / "data")])
  items = source.items()
  assert sorted(i.person for i in items) == ["p0", "p0", "p1"]
  assert sorted(p.data for p in source.read(items)) == sorted(map(png, range(3)))


def test_what_is_no_source(tmp_path):
  (tmp_path / "x.txt").write_text("")
  for paths, words in (
    ([tmp_path / "x.txt"], "photos come in a folder"),
    ([tmp_path / "none"], "does not exist"),
    ([tmp_path, tmp_path], "several paths are for .tar files"),
  ):
    with pytest.raises(UserError, match=words):
      sources.of(paths)


@pytest.mark.slow
def test_drawn_pictures_are_the_same_alone_and_in_company():
  source = sources.Drawn(10, seed=1)
  items = source.items()
  assert len(items) == 10 and len({i.person for i in items}) == 3
  all_of_them = [p.data for p in source.read(items)]
  some = [p.data for p in sources.Drawn(10, seed=1).read([items[7], items[2]])]
  assert some == [all_of_them[7], all_of_them[2]]
  assert source.captions([items[7]]) == [source.captions(items)[7]]
  assert len(set(all_of_them)) == 10 and np.asarray(Image.open(io.BytesIO(some[0]))).shape == (64, 64, 3)
