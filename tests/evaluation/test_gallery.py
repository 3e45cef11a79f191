"""What a protocol asks a pipeline for: the same noise for everyone, and a table that reads back as it was."""

import hashlib
from types import SimpleNamespace

import pytest
from PIL import Image

from idejax.errors import UserError
from idejax.evaluation import gallery, protocols, rows
from idejax.evaluation.rows import Row
from idejax.sampling import pipeline
from idejax.storage import pictures


@pytest.fixture
def job(tmp_path):
  return gallery.Job(SimpleNamespace(digest="abc"), protocols.load("p1"), tmp_path)  # type: ignore[arg-type]


def test_a_seed_is_one_noise_for_all_methods_people_and_prompts(job, tmp_path):
  noise = lambda r: hashlib.sha256(pipeline.noise(r.seed, r.index, (8, 8, 4)).tobytes()).hexdigest()
  shots = [
    gallery._shot(job, tmp_path / "x.png", word, cell, {"method": m})
    for m in ("a", "b")
    for word in ("<anna>", "<ben>")
    for cell in job.cells()
  ]
  assert len(shots) == 2 * 2 * 20 * 32
  by_seed = {}
  for shot in shots:
    by_seed.setdefault(shot.request.seed, set()).add(noise(shot.request))
  assert sorted(by_seed) == list(range(32)) and all(len(hashes) == 1 for hashes in by_seed.values())
  assert len(set.union(*by_seed.values())) == 32
  assert (
    shots[0].request.prompt == "<anna> eats bread in front of the Eiffel Tower" and shots[0].request.guidance == 7.5
  )
  assert (shots[0].record["steps"], shots[0].record["height"], shots[0].record["sampler"]) == (50, 512, "dpmpp_2m")


def test_the_table_reads_back_as_it_was(job, tmp_path):
  for name in ("a.png", "b.png", "anna.png", "second.png"):
    Image.new("RGB", (32, 32)).save(tmp_path / name)
  made = [Row(tmp_path / "a.png", "m", "anna", "{} at sea", "background", 3, tmp_path / "anna.png", tmp_path / "second.png", people=2,
              strength=0.5, train_seconds=1.5, trained_with=("ab",)),
          Row(tmp_path / "b.png", "m", "anna", "{} at sea", "background", 4, tmp_path / "anna.png")]  # fmt: skip
  gallery._write(tmp_path, made)
  assert rows.read(tmp_path / gallery.TABLE) == made


def test_a_picture_that_is_there_is_kept_if_it_is_this_commands(job, tmp_path):
  import numpy as np

  shot = gallery._shot(job, tmp_path / "x.png", "<anna>", gallery.Cell(0, 0), {"method": "m", "strength": None})
  assert not gallery._is_complete(shot)
  pictures.write_png(shot.file, np.zeros((64, 64, 3), np.uint8), shot.record)
  assert gallery._is_complete(shot)
  other = shot._replace(record=shot.record | {"identity_sha256": "new"})
  with pytest.raises(UserError, match="made with another identity_sha256"):
    gallery._is_complete(other)
  shot.file.write_bytes(shot.file.read_bytes()[:-40])
  assert not gallery._is_complete(shot)  # cut off: made again
  Image.new("RGB", (64, 64)).save(shot.file)
  with pytest.raises(UserError, match="was not made by idejax"):
    gallery._is_complete(shot)


def test_every_training_of_a_person_is_sampled_with_the_same_noise(tmp_path, monkeypatch):
  """A folder, and a row, for each training; the floor stands beside each. Whoever was trained once is as before."""
  who = lambda n: SimpleNamespace(identity={"scale": 1}, is_face=False, word="<id>")
  person = lambda name, training: SimpleNamespace(
    name=name, training=training, who=who(name), folder=tmp_path / f"{name}{training}", train_seconds=None
  )
  several, once = (
    [person("anna", 0), person("ben", 0), person("anna", 7), person("ben", 7)],
    [person("anna", 4), person("ben", 5)],
  )
  asked = []
  pipe = SimpleNamespace(digest="abc", with_people=lambda *p: [x.word for x in p])
  job = gallery.Job(pipe, protocols.load("miniature-lite"), tmp_path, floor=True)  # type: ignore[arg-type]
  monkeypatch.setattr(gallery, "_sample", lambda job, pipe, shots, what: asked.append((what, pipe, shots)))
  monkeypatch.setattr(gallery, "_ready", lambda t, scale: SimpleNamespace(word=f"<{t.name}>", is_face=False))
  monkeypatch.setattr(gallery, "references", lambda out, methods: (dict.fromkeys(("anna", "ben")), {}))
  monkeypatch.setattr(gallery.learned, "file", lambda folder: folder)
  monkeypatch.setattr(gallery.tensorfiles, "digest", str)
  monkeypatch.setattr(gallery, "default_guidance", lambda pipe: 2.0)
  got = gallery.make(job, {"a": several, "b": once}, {})
  assert [what for what, _, _ in asked] == ["a seed 0", "a seed 7", "b", gallery.FLOOR]
  assert [pipe for _, pipe, _ in asked[:3]] == [["<anna>", "<ben>"]] * 3  # never two of one name in one job
  folders = [{s.file.relative_to(tmp_path).parts[1] for s in shots} for _, _, shots in asked]
  assert folders == [{"0-a-seed-0"}, {"0-a-seed-7"}, {"1-b"}, {"floor"}]
  first, second = ([(s.request.prompt, s.request.seed) for s in shots] for _, _, shots in asked[:2])
  assert first == second and len({s.record["identity_sha256"] for _, _, shots in asked[:2] for s in shots}) == 4
  trainings = {m: {r.training for r in got if r.method == m} for m in ("a", "b", gallery.FLOOR)}
  assert trainings == {"a": {0, 7}, "b": {0}, gallery.FLOOR: {0, 7}}
  assert len({r.key for r in got}) == len(got)


@pytest.mark.parametrize(
  "name, folder", [("id-ea/steps=5", "id-ea-steps-5"), ("../..", "method"), ("a" * 99, "a" * 60), ("ä b", "ä-b")]
)
def test_a_method_as_a_folder(name, folder):
  assert gallery._plain(name) == folder
