"""Two jobs on one output, hosts that see photos otherwise, and files that are damaged: one sentence, and nothing is lost."""

import json
import shutil

import pytest
from PIL import Image
from support import facepack

from idejax import config, faces
from idejax.data.face_shards import open_shards
from idejax.data.preparing import parts, sources, stages
from idejax.errors import UserError
from idejax.faces import photo
from idejax.jobs import prepare
from idejax.storage.files import read_json, write_json


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp("company")
  facepack.pack(root / "green", landmarks=True)
  for n in range(3):
    (root / "photos" / "anna").mkdir(parents=True, exist_ok=True)
    Image.fromarray(facepack.picture((1, 1), seed=n)).save(root / "photos" / "anna" / f"{n}.png")
  return root


def prepared(root, out, **more):
  given = dict(photos=(root / "photos",), pack=str(root / "green"), face=8.0, shard=2)
  prepare.main(config.Prepare(out=out, **given | more))
  return read_json(out / "manifest.json")


def settings(root, **more) -> dict:
  """What a run like `prepared` writes of itself for others."""
  c = config.Prepare(out=root, pack=str(root / "green"), face=8.0, shard=2, **more)
  return {k: v for k, v in vars(c).items() if k not in ("out", "photos", "stage", "threads")}


def test_jobs_of_other_settings_do_not_share_an_output(root, tmp_path):
  """While one is at work the other is refused; afterwards it may. One of the same settings shares the work."""
  lock = tmp_path / "out" / "parts" / "run.lock"
  with parts.together(lock, settings(root, size=64)):
    with pytest.raises(
      UserError, match="at work in .*out with other settings: size is 64 there and None here; wait for it"
    ):
      prepared(root, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.npz"))
    assert prepared(root, tmp_path / "out", size=64)["records"] == 3
    prepared(root, tmp_path / "out", size=64, stage="embed", threads=1)
  assert prepared(root, tmp_path / "out")["size"] is None


def test_hosts_that_see_other_times_of_the_photos_are_told(root, tmp_path, monkeypatch):
  """Another host writes its lists while this one embeds; nothing of this one's is lost, and it ends when they agree."""
  out, real = tmp_path / "out", stages.STAGES["embed"]
  file = out / "parts" / "lists" / "00001.jsonl"

  def elsewhere(*args):
    file.write_text(file.read_text().replace("@", "@9"))
    return real.run(*args)

  monkeypatch.setitem(stages.STAGES, "embed", real._replace(run=elsewhere))
  with pytest.raises(
    UserError, match=r"anna/2.png is \d+@\d+ here and \d+@9\d+ for another idejax prepare of this folder"
  ):
    prepared(root, out)
  monkeypatch.undo()
  assert {p.name for p in out.glob("parts/*.npz")} == {f"0000{n}.{s}.npz" for n in (0, 1) for s in ("detect", "embed")}
  times = {p: p.stat().st_mtime_ns for p in out.glob("parts/*.npz")}
  assert prepared(root, out)["records"] == 3
  assert {p: p.stat().st_mtime_ns for p in times} == times


def test_damaged_lists_and_names_that_are_no_text(root, tmp_path):
  shutil.copytree(root / "photos", tmp_path / "photos")
  out = tmp_path / "out"
  prepared(root, out, photos=(tmp_path / "photos",))
  file = out / "parts" / "lists" / "00000.jsonl"
  for content in ("{", "[1]\n", "3\n", '["a", "b", "c", "d", "e", "f"]\n'):
    file.write_text(content)
    with pytest.raises(UserError, match="00000.jsonl is damaged .*; remove it and run idejax prepare again"):
      prepared(root, out, photos=(tmp_path / "photos",))
  file.unlink()
  assert prepared(root, out, photos=(tmp_path / "photos",))["records"] == 3
  with pytest.raises(UserError, match=r"of 'a\\udcff.png' is no valid Unicode text"):
    parts.divide(tmp_path / "lists", [sources.Item("a\udcff.png", "1")], 3)


def test_manifests_that_lack_what_a_training_needs(root, tmp_path):
  prepared(root, tmp_path / "out")
  file = tmp_path / "out" / "manifest.json"
  about = read_json(file)
  recogniser = faces.open_pack(str(root / "green"), notify=lambda _: None).digest
  for spoilt, words in (
    ({k: v for k, v in about.items() if k != "pack"}, "manifest.json says nothing of pack; the same idejax prepare"),
    (about | {"shards": [{"file": "x"}]}, "does not say of each shard its bytes, file, records, sha256"),
    (about | {"shards": [3]}, "does not say of each shard"),
    (about | {"shards": {}}, "does not say of each shard"),
  ):
    write_json(file, spoilt)
    with pytest.raises(UserError, match=words):
      open_shards(tmp_path / "out", recogniser=recogniser)
  file.write_text(json.dumps(about)[:-20])
  with pytest.raises(UserError, match="manifest.json cannot be read"):
    open_shards(tmp_path / "out")


def test_photos_in_tars_that_are_cut_off_or_claim_too_much(root, tmp_path, monkeypatch):
  """Each is a photo that cannot be read, with the reason; the others are read."""
  import tarfile

  with tarfile.open(tmp_path / "a.tar", "w") as tar:
    for n in range(2):
      tar.add(root / "photos" / "anna" / f"{n}.png", f"{n}.png")
  source = sources.of([tmp_path / "a.tar"])
  items = source.items()
  monkeypatch.setattr(photo, "MOST_BYTES", 100)
  assert all("claims " in str(p.data) for p in source.read(items))
  monkeypatch.undo()
  content = (tmp_path / "a.tar").read_bytes()
  second = content.index(b"1.png")
  (tmp_path / "a.tar").write_bytes(content[: second + 512 + 100])
  first, last = source.read(items)
  assert isinstance(first.data, bytes) and "a.tar/1.png ends after 100 bytes of " in str(last.data)
