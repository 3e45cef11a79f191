"""Shape, expression and pose in the records: landmarks come out of them again, in the record's own pixels."""

import json

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from support import facepack

from idejax import config, faces
from idejax.data.preparing import stages
from idejax.errors import UserError
from idejax.faces import fitting, morphable, predictor
from idejax.jobs import prepare
from idejax.miniature.judging import shapes
from idejax.storage.files import read_json


def model(folder, seed: int = 0):
  """A morphable model whose mean face is the one that ships, with two shapes and an expression; (its file, its table)."""
  rng = np.random.default_rng(seed)
  x, y = ((predictor.poses()["front"] - 0.5) * [1, -1]).T
  z = 0.8 * np.sqrt(np.maximum(0.2 - x**2 - 0.3 * y**2, 0))
  z[27:36] += 0.15
  points = np.stack([x, y, z], -1)
  vertices = np.repeat(points, 3, axis=0)  # each landmark has a triangle of its own
  waves = np.stack([np.sin(5 * vertices + rng.uniform(0, 6, 3)) for _ in range(3)])
  basis = 0.02 * waves
  np.savez(
    folder / "model.npz",
    vertices=vertices,
    shape=basis[:2],
    expression=basis[2:],
    triangles=np.arange(216).reshape(72, 3),
  )
  table = dict(lmk_faces_idx=list(range(72)), lmk_bary_coords=[[0.2, 0.3, 0.5]] * 72)
  (folder / "table.json").write_text(json.dumps(table))
  return folder / "model.npz", folder / "table.json"


def test_a_rotation_and_its_vector():
  for v in ([0.3, -0.2, 0.9], [0, 0, 0], [0, 1e-9, 0], [-1.2, 0.4, 0.1]):
    np.testing.assert_allclose(fitting.vector(fitting.rotate(np.array(v, float))), v, atol=1e-8)


@pytest.fixture
def root(tmp_path, monkeypatch):
  """Three photos whose landmarks are those of the model in a pose, of the last random ones; a photo of nobody."""
  facepack.pack(tmp_path / "green", landmarks=True)
  file, table = model(tmp_path)
  m = morphable.load(file, table)
  for n in range(4):
    (tmp_path / "photos" / "anna").mkdir(parents=True, exist_ok=True)
    Image.fromarray(facepack.picture(*([(1, 1)] if n < 3 else []), seed=n)).save(
      tmp_path / "photos" / "anna" / f"{n}.png"
    )
  rng = np.random.default_rng(4)
  truth = [
    fitting.Fit(
      rng.normal(0, 1, 2), rng.normal(0, 1, 1), fitting.rotate(rng.normal(0, 0.15, 3)), 60.0, np.array([48.0, 50.0]), 0
    )
    for _ in range(2)
  ]
  marks = [fitting.project(m, f) for f in truth] + [rng.uniform(30, 70, (72, 2))]
  seen = iter(marks)
  monkeypatch.setattr(stages.landmarks, "from_106", lambda _: next(seen).astype(np.float32))
  return tmp_path, m, truth, marks


def prepared(root, **more) -> list[dict]:
  given = dict(photos=(root / "photos",), pack=str(root / "green"), face=8.0, threads=1)
  given |= dict(shape=str(root / "model.npz"), table=root / "table.json", size=64, around=2.0)
  prepare.main(config.Prepare(out=root / "out", **given | more))
  return list(tfds.builder_from_directory(str(root / "out")).as_data_source("train"))


def test_a_record_holds_what_its_landmarks_come_from(root):
  """In the square of the record, half as large as in the photo or not; nothing is told of landmarks that the model misses."""
  folder, m, truth, marks = root
  rows = prepared(folder)
  for row, fit in zip(rows, truth):
    pose = row["pose"].astype(np.float64)
    again = fitting.Fit(row["shape"], row["expression"], fitting.rotate(pose[:3]), pose[3], pose[4:], 0)
    np.testing.assert_allclose(fitting.project(m, again), row["landmarks"], atol=0.5)
    assert row["residual"][0] < 0.01
    np.testing.assert_allclose(row["shape"], fit.shape, atol=0.35)
    assert pose[3] == pytest.approx(60 * 64 / row["square"][2], rel=0.05)
  lost = rows[2]
  assert lost["residual"][0] > fitting.LIMIT and all(np.isnan(lost[n]).all() for n in ("shape", "expression", "pose"))
  assert read_json(folder / "out" / "manifest.json")["shapes"]["name"] == "model.npz"


def test_the_stage_alone_and_another_model_make_that_part_anew_and_no_other(root):
  folder = root[0]
  prepared(folder)
  times = lambda: {p.name: p.stat().st_mtime_ns for p in (folder / "out").glob("parts/*.npz")}
  before = times()
  prepared(folder)
  assert times() == before and "00000.shapes.npz" in before
  model(folder, seed=1)
  prepared(folder, stage="shapes")
  assert {n for n, t in times().items() if before[n] != t} == {"00000.shapes.npz"}


def test_the_drawn_worlds_own_coefficients(tmp_path):
  """Read from the drawn photos; measures, mood and pose are a reading again, whose landmarks lie near the world's, at any size."""
  given = dict(drawn=6, seed=3, shape="miniature")
  out = {}
  for name, more in (("plain", {}), ("squares", {"size": 32})):
    prepare.main(config.Prepare(out=tmp_path / name, **given, **more))
    out[name] = list(tfds.builder_from_directory(str(tmp_path / name)).as_data_source("train"))
  pack = faces.open_pack("miniature", notify=lambda _: None)
  for plain, square in zip(out["plain"], out["squares"]):
    reading = shapes.read(shapes.load(), plain["image"], plain["points"])
    for row, scale in ((plain, 1), (square, 32 / plain["image"].shape[0])):
      again = shapes.of_coefficients(row["shape"], row["expression"], row["pose"])
      want = (shapes.marks(reading) + 0.5) * scale - 0.5
      np.testing.assert_allclose(shapes.marks(again), want, atol=0.02)
      wide = np.ptp(row["landmarks"][:, 0])
      assert np.hypot(*(shapes.marks(again) - row["landmarks"]).T).mean() < 0.15 * wide
  assert read_json(tmp_path / "plain" / "manifest.json")["shapes"]["name"] == "miniature" and pack.bundled


@pytest.mark.parametrize(
  "given, words",
  [
    (dict(stage="shapes", shape=None, table=None), "--stage shapes needs --shape"),
    (dict(table=None), "a morphable model is two files: give --shape MODEL and --table LANDMARKS"),
    (dict(shape=None), "--table is of a morphable model: give its file as --shape"),
    (dict(shape="miniature"), "--table is of a morphable model's file; --shape miniature has none"),
  ],
)
def test_what_is_refused(root, given, words):
  with pytest.raises(UserError, match=words):
    prepared(root[0], **given)
  assert not (root[0] / "out").exists()
