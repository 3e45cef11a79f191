"""A folder of people as a TFDS data set, and the stream of batches from it."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support import facepack

from idejax import faces
from idejax.data import face_folder, people_folder, stream
from idejax.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Three people with four photos, and files that are no photos."""
  root = tmp_path_factory.mktemp("faces") / "people"
  (root / "Cleo B").mkdir(parents=True)
  for i, name in enumerate(("ben.png", "Cleo B/1.png", "Cleo B/2.jpg", "dora.png")):
    Image.fromarray(facepack.picture((1, 1 + i % 2), seed=i)).save(root / name)
  (root / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
  (root / "notes.txt").write_text("not a picture")
  return root


@pytest.fixture(scope="module")
def data(folder):
  return face_folder.prepare(folder, folder.parent / "data", shards=2)


def test_a_prepared_folder_holds_the_bytes_of_every_picture(folder, data, capsys):
  assert len(list(data.glob("*.array_record*"))) == 2
  examples = face_folder.source(data)
  pictures = {examples[i]["file"].decode(): examples[i]["image"] for i in range(len(examples))}
  assert pictures == {n: (folder / n).read_bytes() for n in ("ben.png", "Cleo B/1.png", "Cleo B/2.jpg", "dora.png")}


def test_the_people_of_a_data_set_are_those_of_the_folder(folder, data, tmp_path):
  facepack.pack(tmp_path / "pack")
  pack = faces.open_pack(str(tmp_path / "pack"))
  by_name = lambda people: {p.stem: p for p in people}
  a = by_name(people_folder.read(data, pack, "<id>"))
  b = by_name(people_folder.read(folder, pack, "<id>"))
  assert a.keys() == b.keys() == {"ben", "cleo_b", "dora"}
  for name in a:  # the order of the shards is that of keys' hashes
    digests = [sorted(p.meta["photo_sha256"] for p in people[name].photos) for people in (a, b)]
    assert digests[0] == digests[1] and a[name].word == b[name].word


def test_tensorflow_is_not_needed(data):
  code = (
    "import sys; from idejax.data import face_folder\n"
    f"print(len(face_folder.source({str(data)!r})), 'tensorflow' in sys.modules)"
  )
  process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert (process.returncode, process.stdout, process.stderr) == (0, "4 False\n", "")


def test_mistakes_are_one_sentence(folder, data, tmp_path):
  for call, says in (
    (lambda: face_folder.prepare(tmp_path / "no", tmp_path), "no folder of people"),
    (lambda: face_folder.prepare(tmp_path, tmp_path / "x"), "no pictures here"),
    (lambda: face_folder.prepare(folder, data.parent.parent), "is there already"),
    (lambda: face_folder.source(tmp_path), "cannot be read as a data set"),
  ):
    with pytest.raises(UserError, match=says) as e:
      call()
    assert "\n" not in str(e.value)


# The stream.


def number(x):
  return {"x": np.int64(x)}


def rows(count, batch, seed, start, steps, hosts=1):
  """The global batches `start` and on, put together from all hosts' parts by their index."""
  streams = [stream.Stream(range(count), number, batch=batch, seed=seed, host=h, hosts=hosts) for h in range(hosts)]
  out = np.full((steps, batch), -1)
  for s in streams:
    for i in range(steps):
      part = s(start + i)
      assert len(part["x"]) == batch // hosts
      out[i, part["index"]] = part["x"]
  return out


@settings(max_examples=8, deadline=None)
@given(
  count=st.integers(1, 20),
  each=st.integers(1, 3),
  hosts=st.integers(1, 4),
  start=st.integers(0, 30),
  seed=st.integers(0, 99),
)
def test_batches_depend_on_seed_and_step_alone(count, each, hosts, start, seed):
  """Not on the number of hosts nor on where reading began: that is what a resumed run needs."""
  batch = each * hosts
  np.testing.assert_array_equal(
    rows(count, batch, seed, start, 3, hosts), rows(count, batch, seed, 0, start + 3)[start:]
  )


@settings(max_examples=6, deadline=None)
@given(count=st.integers(1, 20), batch=st.integers(1, 6), seed=st.integers(0, 99))
def test_every_epoch_has_each_example_once(count, batch, seed):
  flat = rows(count, batch, seed, 0, -(-3 * count // batch)).ravel()
  for epoch in range(3):
    assert sorted(flat[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_epochs_and_seeds_differ():
  one, other = rows(50, 50, 0, 0, 2), rows(50, 50, 1, 0, 1)
  assert not np.array_equal(one[0], one[1]) and not np.array_equal(one[0], other[0])


def test_a_batch_that_the_hosts_do_not_divide_is_refused():
  with pytest.raises(ValueError, match="batch of 5"):
    stream.Stream(range(9), number, batch=5, seed=0, hosts=2)


def test_pictures_are_decoded_to_their_middle_square(data, folder):
  load = stream.Stream(face_folder.source(data), stream.Picture(16), batch=4, seed=0)
  first = load(0)
  assert first["image"].shape == (4, 16, 16, 3) and first["image"].dtype == np.uint8
  np.testing.assert_array_equal(first["image"], load(0)["image"])  # back again: the same
  wide = np.zeros((20, 40, 3), np.uint8)
  wide[:, 10:30] = 255
  assert (stream.Picture(8)({"image": wide})["image"] == 255).all()


@pytest.mark.slow
def test_worker_processes_give_the_same_batches_from_any_step(data):
  """Spawned, so each imports grain and the rest anew: half a minute."""
  threads = stream.Stream(face_folder.source(data), stream.Picture(16), batch=2, seed=0)
  workers = stream.Stream(face_folder.source(data), stream.Picture(16), batch=2, seed=0, workers=2)
  for i in (3, 4, 5, 6):
    np.testing.assert_array_equal(workers(i)["image"], threads(i)["image"])
