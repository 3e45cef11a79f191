"""`idejax prepare`: every photo once, by stated rules, into shards that TFDS opens; interrupted, repeated, shared work."""

import io
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from support import facepack
from support.command import IDEJAX, assert_one_sentence, environment, run

from idejax import config, faces
from idejax.data import face_batches
from idejax.data.face_shards import open_shards
from idejax.data.preparing import parts, rules, shards, stages
from idejax.errors import UserError
from idejax.jobs import prepare
from idejax.miniature.world import data, people, scene, world


def write(path: Path, *cells, size: int = 128, seed: int = 0, **how) -> Path:
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(facepack.picture(*cells, size=size, seed=seed)).save(path, **how)
  return path


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
  return str(facepack.pack(tmp_path_factory.mktemp("pack"), landmarks=True))


@pytest.fixture
def photos(tmp_path):
  """Two people with two photos each, a photo of nobody, a damaged file and one with two faces of a size."""
  root = tmp_path / "photos"
  for person, n in (("anna", 0), ("anna", 1), ("ben", 2), ("ben", 3)):
    write(root / person / f"{n}.png", (1 + n % 2, 1), seed=n)
  (root / "anna" / "0.txt").write_text("a woman\nwith a hat\n")
  write(root / "ben" / "nobody.png", seed=9)
  write(root / "ben" / "two.png", (0, 0), (2, 2), seed=10)
  (root / "ben" / "bad.jpg").write_bytes(b"\xff\xd8\xff no picture")
  return root


def prepared(photos, out, pack, **more) -> dict:
  """The job's own report."""
  given = dict(face=8.0) | more
  prepare.main(config.Prepare(out=out, photos=(photos,), pack=pack, **given))
  return json.loads((out / "report.json").read_text())


def test_photos_become_records_and_what_is_dropped_is_counted(photos, pack, tmp_path):
  report = prepared(photos, tmp_path / "out", pack, shard=3)
  assert report["kept"] == 4 and report["people"] == 2
  assert report["dropped"] == {"no face": 1, "several faces": 1, "unreadable": 1}
  assert {w["name"]: w["why"] for w in report["which"]}["ben/bad.jpg"] == "unreadable"
  with Image.open(tmp_path / "out" / "dropped.png") as sheet:
    assert min(sheet.size) > 64

  rows = tfds.builder_from_directory(str(tmp_path / "out")).as_data_source("train")
  assert len(rows) == 4
  for row in rows:
    file = photos / row["name"].decode()
    record = faces.read(file, pack, cached=False)
    assert np.array_equal(row["image"], record.photo)
    np.testing.assert_array_equal(row["points"], record.points)
    np.testing.assert_allclose(row["embedding"], record.embedding, atol=1e-6)
    np.testing.assert_array_equal(row["landmarks"], record.landmarks)
    assert np.array_equal(row["face"][..., 0] > 127, record.face)
    assert row["person"].decode() == file.parent.name and row["photo_sha256"].decode() == record.meta["photo_sha256"]
  assert rows[0]["caption"] == b"a woman with a hat" and rows[1]["caption"] == b""


def test_the_square_holds_the_face_where_its_points_say(photos, pack, tmp_path):
  """The recogniser sees the same person in the square at its points as in the photo."""
  prepared(photos, tmp_path / "out", pack, size=96, around=2.0)
  net = faces.open_pack(pack)
  for row in tfds.builder_from_directory(str(tmp_path / "out")).as_data_source("train"):
    assert row["image"].shape == (96, 96, 3) and row["face"].shape == (96, 96, 1)
    assert np.array_equal(row["square"][2:], [64]) and (row["box"] >= 0).all() and (row["box"] <= 96).all()
    again = net.embed([net.crop(row["image"], row["points"])])[0]
    assert again @ row["embedding"] > 0.99
    inside = row["face"][..., 0] > 127
    middle = np.argwhere(inside).mean(0)[::-1]
    assert np.abs(middle - row["landmarks"].mean(0)).max() < 12 and 0.05 < inside.mean() < 0.9


def test_what_the_drawn_world_knows_is_stored(tmp_path):
  prepare.main(config.Prepare(out=tmp_path / "out", drawn=6, shard=4, seed=3))
  rows = open_shards(tmp_path / "out", ("landmarks", "caption"))
  ids = [int(i) for i in people.split("celebrity")[:2]]
  truth = data.batch(ids, 4, seed=3, calm=scene.WILD)
  everybody, scenes = people.people(np.repeat(ids, 4)), scene.scenes(np.asarray(ids), 4, 3, scene.WILD)
  assert [r["name"] for r in rows] == [f"drawn/{i}/{k}" for i in ids for k in range(4)][:6]
  for n, row in enumerate(rows):
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(row["image"]))), truth.images[n])
    assert row["caption"] == truth.captions[n] and row["person"] == f"drawn_{ids[n // 4]}"
    np.testing.assert_allclose(row["landmarks"], truth.geometry.landmarks[n], atol=1e-5)
  layers = world.layers(np, people.take(everybody, 5), scene.Scene(*(f[5] for f in scenes)))
  assert (np.asarray(rows[5]["face"])[..., 0] > 127).sum() == pytest.approx(layers.face.sum(), abs=3)
  assert (np.asarray(rows[5]["hair"])[..., 0] > 127).sum() == pytest.approx(layers.hair.sum(), abs=3)


def digests(out: Path) -> list[str]:
  return [s["sha256"] for s in json.loads((out / "manifest.json").read_text())["shards"]]


def times(out: Path) -> dict[str, int]:
  return {p.name: p.stat().st_mtime_ns for p in [*out.glob("parts/*.npz"), *out.glob("*.array_record*")]}


def test_a_second_run_makes_only_what_changed(photos, pack, tmp_path):
  out = tmp_path / "out"
  prepared(photos, out, pack, shard=3)
  first = times(out)
  prepared(photos, out, pack, shard=3)
  assert times(out) == first

  write(photos / "zoe" / "9.png", (2, 1), seed=9)  # comes into the last shard
  old = digests(out)
  assert prepared(photos, out, pack, shard=3)["kept"] == 5
  changed = {k for k, t in times(out).items() if first.get(k) != t and k.endswith(".npz")}
  assert changed == {f"00002.{s}.npz" for s in stages.STAGES} and digests(out)[:2] == old and len(old) == 2

  second = times(out)
  write(photos / "anna" / "0.png", (2, 2), seed=77)  # another photo under a name of the first shard
  os.remove(photos / "ben" / "nobody.png")
  prepared(photos, out, pack, shard=3)
  changed = {k for k, t in times(out).items() if second.get(k) != t}
  assert {f"00000.{s}.npz" for s in stages.STAGES} <= changed
  rows = tfds.builder_from_directory(str(out)).as_data_source("train")
  assert np.array_equal(rows[0]["image"], np.asarray(Image.open(photos / "anna" / "0.png")))


def test_rules_alone_read_no_photo_again(photos, pack, tmp_path, monkeypatch):
  out = tmp_path / "out"
  prepared(photos, out, pack)
  before = {k: t for k, t in times(out).items() if k.endswith(".npz")}
  assert prepared(photos, out, pack, second=1.0)["kept"] == 5
  assert {k: t for k, t in times(out).items() if k.endswith(".npz")} == before


def test_a_killed_run_loses_at_most_a_part_and_ends_as_one_that_was_not(photos, pack, tmp_path, monkeypatch):
  whole, out = tmp_path / "whole", tmp_path / "out"
  prepared(photos, whole, pack, shard=2)
  real, calls = stages.STAGES["embed"], []

  def dies(*args):
    calls.append(1)
    if len(calls) == 2:
      raise KeyboardInterrupt
    return real.run(*args)

  monkeypatch.setitem(stages.STAGES, "embed", real._replace(run=dies))
  with pytest.raises(KeyboardInterrupt):
    prepared(photos, out, pack, shard=2)
  monkeypatch.undo()
  assert (out / "parts/00000.embed.npz").exists() and not (out / "parts/00001.embed.npz").exists()
  kept = (out / "parts/00000.embed.npz").stat().st_mtime_ns
  prepared(photos, out, pack, shard=2)
  assert (out / "parts/00000.embed.npz").stat().st_mtime_ns == kept
  assert digests(out) == digests(whole)


def test_two_processes_share_the_work(photos, pack, tmp_path):
  whole, out = tmp_path / "whole", tmp_path / "out"
  prepared(photos, whole, pack, shard=1)
  command = [IDEJAX, "prepare", photos, "--out", out, "--pack", pack, "--face=8", "--shard=1"]
  job = dict(IDEJAX_COORDINATOR="localhost:1", IDEJAX_PROCESSES="2")  # where nobody listens: they need not meet
  one = lambda i: subprocess.Popen(command, stderr=subprocess.PIPE, env=environment(**job, IDEJAX_PROCESS=str(i)))
  both = [one(i) for i in range(2)]
  ends = [p.communicate(timeout=240)[1].decode() for p in both]
  assert [p.returncode for p in both] == [0, 0], ends
  counts = [sum(int(line.split()[1]) for line in e.splitlines() if line.startswith("detect ")) for e in ends]
  assert sum(counts) == 7  # every photo was looked at by one of them
  assert digests(out) == digests(whole)


def test_stages_run_alone_and_say_what_comes_first(photos, pack, tmp_path):
  command = ["prepare", photos, "--out", tmp_path / "out", "--pack", pack, "--face=8"]
  assert_one_sentence(run(*command, "--stage=embed"), "idejax prepare --stage detect comes first")
  assert_one_sentence(run(*command, "--stage=shards"), "shard 0 has no detect yet")
  assert run(*command, "--stage=detect").code == 0 and run(*command).code == 0
  assert (tmp_path / "out/manifest.json").exists()
  assert_one_sentence(run("prepare", photos, "--out", tmp_path / "out"), "was made with green")
  assert_one_sentence(run("prepare", "--out", tmp_path / "x"), "--drawn N")
  assert_one_sentence(run(*command[:4], "--pack", pack, "--out", photos), "is not empty and not of idejax prepare")


def test_a_full_disk_leaves_no_half_shard(photos, pack, tmp_path, monkeypatch):
  def full(self, record):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(shards.Layout, "serialize", full)
  with pytest.raises(OSError, match="No space left"):
    prepared(photos, tmp_path / "out", pack)
  assert not [p for p in (tmp_path / "out").rglob("*") if "array_record" in p.name]
  monkeypatch.undo()
  assert prepared(photos, tmp_path / "out", pack)["kept"] == 4


# ---- Rules -----------------------------------------------------------------------------------------


def columns(n: int, **changes) -> dict[str, np.ndarray]:
  """`n` photos that nothing is wrong with, each a different picture of a different face."""
  rng = np.random.default_rng(0)
  e = rng.standard_normal((n, 512)).astype(np.float32)
  return dict(
    error=np.full(n, "", "U20"), size=np.full((n, 2), 1000), box=np.tile(np.float32([400, 400, 600, 600]), (n, 1)),
    quality=np.tile(np.float32([200, 50, 0]), (n, 1)), second=np.zeros(n), hash=rng.integers(0, 2**63, n).astype(np.uint64),
    embedding=e / np.linalg.norm(e, axis=1, keepdims=True),
  ) | changes  # fmt: skip


@pytest.mark.parametrize(
  "column, value, why",
  [
    ("error", "no face", "no face"),
    ("error", "x is damaged", "unreadable"),
    ("quality", (55, 50, 0), "face too small"),
    ("quality", (200, 9, 0), "blurred"),
    ("quality", (200, 50, -61), "turned away"),
    ("second", 0.3, "several faces"),
    ("size", (500, 500), "enlarged too much"),
  ],
)
def test_each_rule_drops_what_it_says_and_nothing_else(column, value, why):
  found = columns(3)
  found[column][1] = value
  assert rules.decide(found, rules.Rules(blur=10), 1024, 5.0) == ["", why, ""]


def test_near_duplicates_are_alike_in_looks_and_in_face():
  found = columns(200)
  found["hash"][150] = found["hash"][20] ^ np.uint64(0b1000000000000000000010000000000000000001)
  found["embedding"][150] = found["embedding"][20]
  found["hash"][151] = found["hash"][21]  # the same looks, another face
  found["hash"][152] = found["hash"][22] ^ np.uint64(0b1111)  # four bits
  found["embedding"][152] = found["embedding"][22]
  assert rules.duplicates(found["hash"], found["embedding"]) == [150]
  assert rules.decide(found, rules.Rules(), None, 4.0).count("near-duplicate") == 1
  assert not any(rules.decide(found, rules.Rules(duplicates=False), None, 4.0))


def test_a_changed_setting_or_earlier_part_makes_a_part_old(tmp_path):
  items = [prepare.Item("a", "1")]
  one = parts.key("embed", {"pack": "p"}, items, ["k"])
  parts.write(tmp_path / "x.npz", one, {"a": np.arange(3)})
  assert parts.is_current(tmp_path / "x.npz", one)
  for other in (
    parts.key("embed", {"pack": "q"}, items, ["k"]),
    parts.key("embed", {"pack": "p"}, [prepare.Item("a", "2")], ["k"]),
    parts.key("embed", {"pack": "p"}, items, ["l"]),
  ):
    assert not parts.is_current(tmp_path / "x.npz", other)
  (tmp_path / "x.npz").write_bytes(b"PK damaged")
  assert not parts.is_current(tmp_path / "x.npz", one)


# ---- Reading what was prepared ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def out(tmp_path_factory, pack):
  root = tmp_path_factory.mktemp("reading")
  for n in range(6):
    write(root / "photos" / "anna" / f"{n}.png", (n % 3, 1), seed=n)
  prepared(root / "photos", root / "out", pack, shard=3, size=64)
  return root / "out"


def test_what_a_training_cannot_use_is_said_before_it_begins(out, pack, tmp_path):
  good = faces.open_pack(pack).digest
  assert len(open_shards(out, ("landmarks",), good, 64)) == 6
  with pytest.raises(UserError, match="have no latents; they have box, caption"):
    open_shards(out, ("latents", "image"))
  with pytest.raises(UserError, match="are by green .* not by the recogniser"):
    open_shards(out, recogniser="0" * 64)
  with pytest.raises(UserError, match="have 64 pixels a side, and 512 are asked for"):
    open_shards(out, size=512)
  with pytest.raises(UserError, match="no manifest.json: idejax prepare"):
    open_shards(tmp_path)


def test_a_training_reads_the_records_as_they_are(out, pack):
  """Halved squares: landmarks, mask and portrait of each lie where the record's did."""
  net = faces.open_pack(pack)
  data, rows = face_batches.shards(out, net, 32, 24), list(open_shards(out))
  assert data.images.shape == (6, 32, 32, 3) and data.portraits.shape == (6, 24, 24, 3)
  np.testing.assert_array_equal(data.embedding, [r["embedding"] for r in rows])
  assert data.captions == [face_batches.PLAIN] * 6 and (data.person == 0).all()
  for n, row in enumerate(rows):
    np.testing.assert_allclose(data.marks[n], (row["landmarks"] + 0.5) / 2 - 0.5, atol=1e-4)
    assert abs(data.masks[n].mean() - (row["face"] > 127).mean()) < 0.02
    assert (
      np.abs(data.images[n].astype(float) - np.asarray(Image.open(io.BytesIO(row["image"])).resize((32, 32)))).max() < 2
    )
  assert face_batches.shards(out, net, 32, 24).digest == data.digest != face_batches.shards(out, net, 64, 24).digest
  with pytest.raises(UserError, match="have 64 pixels a side; this training reads squares of 96 pixels .* --size 96"):
    face_batches.shards(out, net, 96, 24)


def test_missing_short_and_damaged_shards_are_named(out, tmp_path):
  copy = shutil.copytree(out, tmp_path / "copy")
  first, second = sorted(copy.glob("*.array_record-*"))
  second.write_bytes(second.read_bytes()[:-9])
  with pytest.raises(UserError, match="00001-of-00002 has .* bytes, not"):
    open_shards(copy)
  second.unlink()
  with pytest.raises(UserError, match="00001-of-00002 is missing"):
    open_shards(copy)
  shutil.copy(next(out.glob("*-00001-of-*")), copy)
  content = bytearray(first.read_bytes())
  for at in range(200, len(content) // 2, 7):
    content[at] ^= 255
  first.write_bytes(bytes(content))
  rows = open_shards(copy)
  with pytest.raises(UserError, match=r"record \d is damaged"):
    [rows[i] for i in range(3)]
