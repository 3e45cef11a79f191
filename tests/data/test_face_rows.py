"""Records that stay on the disk: the same batches to the bit, a process's own rows alone, what nets made ahead of time."""

import shutil
import threading
import time
from types import SimpleNamespace as namespace

import jax
import numpy as np
import pytest
from PIL import Image
from support import addons, facepack, tiny_pipelines

import idejax
from idejax import config, faces, sharding
from idejax.data import face_batches, face_rows
from idejax.data.face_rows import Ahead, ByPerson, InMemory, Rows, Streamed
from idejax.errors import UserError
from idejax.jobs import encoders, prepare
from idejax.model import vision
from idejax.person import face_features, moves
from idejax.person.moves import Moves

SIDE = 32


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """Three people with four, three and one photo; their records with what nets made of them, and without."""
  root = tiny_pipelines.write(tmp_path_factory.mktemp("rows"), "sd15")
  addons.tower(root / "tower")
  facepack.pack(root / "green", landmarks=True)
  for person, count in (("anna", 4), ("ben", 3), ("zoe", 1)):
    (root / "photos" / person).mkdir(parents=True)
    for n in range(count):
      picture = facepack.picture((n % 3, 1), seed=n + 10 * count)
      Image.fromarray(picture).save(root / "photos" / person / f"{n}.png")
  (root / "photos" / "anna" / "1.txt").write_text("anna at sea")
  nets = dict(model=str(root / "sd15"), vision=str(root / "tower"))
  prepared(root, "stored", **nets)
  prepared(root, "plain")
  return root


def prepared(root, out, **more):
  given = dict(photos=(root / "photos",), pack=str(root / "green"), face=8.0, size=SIDE, shard=3)
  prepare.main(config.Prepare(out=root / out, **given | more))
  return root / out


@pytest.fixture(scope="module")
def nets(root):
  pipe = idejax.load(root / "sd15", devices=jax.devices()[:1], notify=lambda _: None)
  return pipe.backbone, pipe.tokenizers, vision.Tower(root / "tower")


def rows_of(root, name, side=SIDE) -> Rows:
  pack = faces.open_pack(str(root / "green"), notify=lambda _: None)
  vae = encoders.vae_digest(root / "sd15")
  return Rows(root / name, pack, side, 16, vae, vision.Tower(root / "tower").digest)


def equal(a, b):
  assert a.keys() == b.keys()
  for name in a:
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y, err_msg=name), a[name], b[name])  # noqa: B023


def test_batches_from_the_disk_are_those_from_memory_to_the_bit(root, nets):
  """All rows of every step of two epochs, with references of the same person; also when a run begins in the middle."""
  memory = face_features.encode(*nets, rows_of(root, "stored").all())
  disk = Streamed(rows_of(root, "stored"), *nets)
  assert memory.digest == disk.digest
  for i in (*range(6), 3):
    equal(*(face_batches.load(x, i, 3, seed=5, cross=0.6) for x in (memory, disk)))
  fresh = Streamed(rows_of(root, "stored"), *nets)
  equal(*(face_batches.load(x, 5, 3, seed=5, cross=0.6) for x in (memory, fresh)))


def test_what_prepare_computed_is_what_a_training_computes(root, nets):
  """Latents and CLIP's tokens of the shards against those of the same pictures, in memory and step by step: equal
  within float16's rounding, everything else to the bit."""
  stored = face_features.encode(*nets, rows_of(root, "stored").all())
  rows = rows_of(root, "plain")
  assert not rows.has_latents and not rows.has_clip and rows_of(root, "stored").has_latents
  for other in (face_features.encode(*nets, rows.all()), Streamed(rows, *nets)):
    for i in range(3):
      a, b = (face_batches.load(x, i, 4, seed=1, cross=0.5) for x in (stored, other))
      for name in ("mean", "logvar", "clip"):
        assert np.abs(a[name]).max() > 0.1
        np.testing.assert_allclose(a.pop(name), b.pop(name), rtol=2**-10, atol=2e-6, err_msg=name)
      equal(a, b)


def test_a_process_reads_its_own_rows_and_no_others(root, nets, monkeypatch):
  disk, read = Streamed(rows_of(root, "stored"), *nets), []
  real = type(disk.rows.records).__getitem__
  monkeypatch.setattr(type(disk.rows.records), "__getitem__", lambda self, i: read.append(i) or real(self, i))
  whole = face_batches.load(disk, 2, 4, seed=3, cross=0.0)
  assert len(read) == 4
  parts = []
  for places in ([0, 2], [1, 3]):
    read.clear()
    parts.append(face_batches.load(disk, 2, 4, seed=3, cross=0.0, places=np.array(places)))
    assert len(read) == 2
    for name in ("mean", "clip", "marks", "index"):
      np.testing.assert_array_equal(parts[-1][name], whole[name][places])
  read.clear()
  face_batches.load(disk, 2, 4, seed=3, cross=1.0, places=np.array([0]))
  assert len(read) <= 2  # the picture, and the reference


def test_people_who_are_kept_out_are_never_read(root, nets):
  disk, seen = Streamed(rows_of(root, "stored"), *nets), set()
  among = np.flatnonzero(disk.person != 1)
  real = disk.take
  disk.take = lambda at, who: seen.update(at, who) or real(at, who)
  for i in range(5):
    face_batches.load(disk, i, 2, seed=0, cross=0.5, among=among)
  assert seen == set(among)


def test_rows_of_a_batch_lie_on_their_devices(root, nets):
  """As `device_put` of all rows puts them, on meshes that divide the batch and on one that repeats it."""
  data = face_batches.load(Streamed(rows_of(root, "stored"), *nets), 0, 8, seed=0, cross=0.0)
  mesh = sharding.make_mesh(fsdp=2)
  for where in (sharding.batch(mesh), sharding.batch(mesh, ("replica",)), sharding.replicated(mesh)):
    assert list(face_batches.places(where, 8)) == list(range(8))
    out = face_batches.put(data, where, 8)
    assert out["mean"].sharding == where and out["ids"][0].sharding == where
    equal(jax.device_get(out), data)


def test_the_records_of_each_person():
  person = np.array([2, 0, 1, 0, 2, 2], np.int32)
  by = ByPerson(person)
  assert len(by) == 3 and [list(by[n]) for n in range(3)] == [[1, 3], [2], [0, 4, 5]]


# ---- Pictures that move ----------------------------------------------------------------------------------

HOW = Moves(0.7, 1.5, 15)


def test_moved_pictures_are_a_function_of_seed_step_and_place(root, nets):
  """The same from disk and memory, and for a process that reads some of the rows; the faces they shall show, and the
  pictures that stay, are those of a training that moves nothing. Latents of unmoved pictures are not taken for theirs."""
  plain, stored = Streamed(rows_of(root, "plain"), *nets), Streamed(rows_of(root, "stored"), *nets)
  memory = Streamed(InMemory(rows_of(root, "plain").all(), nets[2]), *nets)
  whole = face_batches.load(plain, 2, 8, seed=5, cross=0.5, how=HOW)
  equal(whole, face_batches.load(memory, 2, 8, seed=5, cross=0.5, how=HOW))
  still = face_batches.load(plain, 2, 8, seed=5, cross=0.5)
  for name in ("ids", "eos", "identity", "clip", "person", "index"):
    equal({name: whole[name]}, {name: still[name]})
  stay = np.array([m is None for m in moves.draw(HOW, 5, 2, 8)])
  assert 0 < stay.sum() < 8
  for name in ("mean", "mask", "marks"):
    same = np.array([np.array_equal(a, b) for a, b in zip(whole[name], still[name])])
    assert same[stay].all() and (same.sum() == stay.sum() or name == "mask"), name
  np.testing.assert_array_equal(whole["inside"][stay], 1)
  assert "inside" not in still and "time_ids" not in whole
  at = np.array([1, 6])
  few = face_batches.load(plain, 2, 8, seed=5, cross=0.5, places=at, how=HOW)
  for name in ("mean", "mask", "marks", "inside", "clip", "index"):
    np.testing.assert_array_equal(few[name], whole[name][at])
  anew = face_batches.load(stored, 2, 8, seed=5, cross=0.5, how=HOW)
  equal(
    {n: anew[n] for n in ("mean", "logvar", "mask", "inside")},
    {n: whole[n] for n in ("mean", "logvar", "mask", "inside")},
  )
  other = face_batches.load(plain, 3, 8, seed=5, cross=0.5, how=HOW)
  assert not np.array_equal(other["inside"], whole["inside"])


def test_several_references_of_a_moved_picture_are_the_unmoved_ones(root, nets):
  data = Streamed(rows_of(root, "plain"), *nets)
  moved, still = (face_batches.load(data, 1, 4, seed=2, cross=0.5, photos=3, how=how) for how in (HOW, None))
  for name in ("identity", "clip"):
    assert moved[name].shape[:2] == (4, 3)
    np.testing.assert_array_equal(moved[name], still[name])


def test_sdxl_is_told_what_its_pictures_were_cut_from(root):
  """Squares of 128 pixels in photos of 128, read at 32; where others lie in theirs is at that scale."""
  rows = rows_of(root, "stored")
  assert (rows.read([0, 5]).sizes == [128, 128, 0, 0]).all()
  record = {"photo_size": np.array([900, 600]), "square": np.array([100, 40, 400])}
  assert list(rows._sizes(record)) == [900, 600, 8, 3]
  told = lambda xl: face_features.pictures(namespace(nets=namespace(xl=xl)), (), rows.read([0, 5]))
  assert told(True).sizes.tolist() == [[128, 128, 0, 0, 32, 32]] * 2 and told(False).sizes is None
  looks = face_features.Looks(np.zeros((2, 512), np.float32), np.zeros((2, 5, 8), np.float16))
  assert face_features.batch(told(True), looks)["time_ids"].dtype == np.float32


# ---- Ahead -----------------------------------------------------------------------------------------------


def test_batches_are_read_ahead_and_no_further_than_said():
  begun, gate = [], threading.Event()

  def read(i):
    begun.append(i)
    gate.wait(10)
    return 10 * i

  ahead = Ahead(read, steps=20, most=3, threads=8)
  first = threading.Thread(target=ahead, args=(5,))
  first.start()
  until(lambda: len(begun) == 4)
  time.sleep(0.05)
  assert sorted(begun) == [5, 6, 7, 8]
  gate.set()
  first.join()
  assert [ahead(i) for i in (6, 7, 2, 19, 8)] == [60, 70, 20, 190, 80]  # any order, also where a run ends
  ahead.close()
  assert max(begun) == 19


def test_a_step_does_not_wait_for_what_was_read_before_it():
  """Reading takes twice as long as a step, four threads read: after the first step all others find their batch."""
  ahead = Ahead(lambda i: time.sleep(0.1), steps=12, most=6, threads=4)
  ahead(0)
  waited = 0.0
  for i in range(1, 12):
    time.sleep(0.05)
    start = time.perf_counter()
    ahead(i)
    waited += time.perf_counter() - start
  ahead.close()
  assert waited < 0.3  # 1.1 s without reading ahead


def test_a_batch_that_cannot_be_read_is_an_error_of_its_own_step():
  def read(i):
    if i == 2:
      raise UserError("shard 7 is missing")
    return i

  ahead = Ahead(read, steps=5)
  assert [ahead(0), ahead(1)] == [0, 1]
  with pytest.raises(UserError, match="shard 7"):
    ahead(2)
  ahead.close()


def until(ready):
  end = time.monotonic() + 10
  while not ready():
    assert time.monotonic() < end
    time.sleep(0.005)


# ---- What is refused -------------------------------------------------------------------------------------


def test_a_host_that_loses_its_shards_says_which(root, nets, tmp_path, monkeypatch):
  monkeypatch.setattr("socket.gethostname", lambda: "node7")
  shutil.copytree(root / "stored", tmp_path / "copy")
  rows = Rows(tmp_path / "copy", faces.open_pack(str(root / "green"), notify=lambda _: None), SIDE, 16)
  lost = sorted((tmp_path / "copy").glob("*.array_record-*"))[1]
  lost.unlink()
  assert rows.read([0, 2]).captions == [face_rows.PLAIN] * 2
  with pytest.raises(UserError, match=r"host node7: .*array_record-00001-of-00003 is missing$"):
    rows.read([4])


def test_latents_of_another_model_or_size_and_tokens_of_another_encoder(root, tmp_path):
  pack = faces.open_pack(str(root / "green"), notify=lambda _: None)
  vae, tower = encoders.vae_digest(root / "sd15"), vision.Tower(root / "tower").digest
  with pytest.raises(UserError, match=r"are by the VAE of sd15 \(\w{12}\), not by that of this training \(000"):
    Rows(root / "stored", pack, SIDE, 16, "0" * 64, tower)
  with pytest.raises(UserError, match="latents of .* are of 32 pixels a side, and this training is at 16"):
    Rows(root / "stored", pack, 16, 16, vae, tower)
  with pytest.raises(UserError, match=r"tokens in .* are by tower .*, not by the image encoder of this training \(111"):
    Rows(root / "stored", pack, SIDE, 16, vae, "1" * 64)
  with pytest.raises(UserError, match="have 32 pixels a side; this training reads squares of 64 .* --size 64"):
    Rows(root / "plain", pack, 64, 16)


def test_a_table_of_people_of_other_shards(root, tmp_path):
  copy = shutil.copytree(root / "plain", tmp_path / "copy")
  pack = faces.open_pack(str(root / "green"), notify=lambda _: None)
  about = Rows(copy, pack, SIDE, 16).records.about
  prepare.write_people(copy, [prepare.Item("a", "1")] * 8, about | {"shards": about["shards"][:1]})
  with pytest.raises(UserError, match="people.npz is of other shards than those here; the same idejax prepare again"):
    Rows(copy, pack, SIDE, 16)
  (copy / "people.npz").unlink()
  with pytest.raises(UserError, match="people.npz cannot be read"):
    Rows(copy, pack, SIDE, 16)


@pytest.mark.parametrize(
  "given, words",
  [
    (dict(stage="latents"), "--stage latents needs --model"),
    (dict(stage="clip"), "--stage clip needs --vision"),
    (dict(model="sd15", size=None), "latents are of squares: give --size"),
    (dict(model="sd15", size=33), "--size 33 is no multiple of 2"),
    (dict(vision="nowhere"), "nowhere holds no CLIP image encoder"),
  ],
)
def test_stages_without_what_they_need(root, tmp_path, given, words):
  if "model" in given:
    given |= {"model": str(root / "sd15")}
  with pytest.raises(UserError, match=words):
    prepared(root, tmp_path / "none", **given)


def test_a_stage_alone_and_another_net_make_that_part_anew_and_no_other(root, tmp_path):
  out = shutil.copytree(root / "stored", tmp_path / "out")
  times = lambda: {p.name: p.stat().st_mtime_ns for p in (out / "parts").glob("*.npz")}
  before = times()
  prepared(root, out, model=str(root / "sd15"), vision=str(root / "tower"))
  assert times() == before and len(before) == 21
  addons.tower(tmp_path / "other", seed=9)
  prepared(root, out, model=str(root / "sd15"), vision=str(tmp_path / "other"), stage="clip")
  assert {n for n, t in times().items() if before[n] != t} == {f"0000{i}.clip.npz" for i in range(3)}
