"""Validation of a training for everybody: who is held out, what is scored, what is written and what is not counted twice."""

import json

import numpy as np
import pytest
from PIL import Image
from support import facepack

from idejax import faces
from idejax.errors import UserError
from idejax.evaluation import validation
from idejax.evaluation.validation import Held, Watch
from idejax.model.conditioning import Prompts
from idejax.nets.mixer import MixerConfig
from idejax.person.face_features import Encoded, Looks, Pictures

MIXED = MixerConfig(context_dim=8, clip_dim=8, dim=8, head_dim=4, identity_tokens=3, tokens=4, layers=1)


def test_held_out_people_are_always_the_same_and_leave_with_all_their_pictures():
  person = np.repeat(np.arange(10), [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]).astype(np.int32)
  train, out = validation.choose(person, 4)
  assert sorted([*train, *out]) == list(range(len(person)))
  assert len(set(person[out])) == 4 and not set(person[train]) & set(person[out])
  again = validation.choose(person, 4)
  np.testing.assert_array_equal(out, again[1])
  assert set(validation.choose(person, 3)[1]) < set(out)
  with pytest.raises(UserError, match="--validate-people 10 leaves nobody to train on: the data have 10 people"):
    validation.choose(person, 10)


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
  return faces.open_pack(str(facepack.pack(tmp_path_factory.mktemp("pack"), landmarks=True)), notify=lambda _: None)


def test_a_pack_judges_the_largest_face(pack):
  one, none = facepack.picture((1, 2), seed=1), facepack.picture()
  embed = validation.by_pack(pack)
  alone, nobody = embed([one, none])
  assert nobody is None and alone @ alone == pytest.approx(1, abs=1e-5)
  record = faces.read(one, pack, cached=False)
  np.testing.assert_allclose(alone, record.embedding, atol=1e-5)


class Marks:
  """A poser whose landmarks are those given, whatever the photo."""

  def __init__(self, marks):
    self.marks = marks

  def own(self, record):
    return self.marks


def watch(folder, pack, judge, marks=None, own=None):
  """Three people, of whom the second has no landmarks; a picture each."""
  rng = np.random.default_rng(0)
  zeros = np.zeros((4, 2, 2, 4), np.float16)
  known = np.stack([rng.uniform(0, 100, (72, 2)).astype(np.float32)] * 4) if marks is None else marks
  prompts = Prompts((np.zeros((4, 5), np.int32),), (np.zeros(4, np.int32),), ())
  pictures = Pictures(zeros, zeros, zeros[..., 0], known, prompts)
  looks = Looks(np.ones((4, 512), np.float32), np.zeros((4, 5, 8), np.float16))
  data = Encoded(pictures, looks, (), np.array([5, 5, 2, 7], np.int32), "x")
  held = Held(data, np.arange(4), lambda i: facepack.picture((1, 2), seed=i))
  return Watch(folder, None, MIXED, held, lambda params: 0.25, pack, Marks(own), judge)


def judge(table):
  """Embeddings by the picture's first byte."""
  return lambda images: [table.get(int(x[0, 0, 0])) for x in images]


def marked(n):
  image = facepack.picture((1, 2), seed=50)
  image[0, 0, 0] = n
  return image


def test_identity_is_that_of_the_own_person_less_that_of_the_others(tmp_path, pack):
  """Pictures of persons 0, 1 and 2: the first is alike, the second has no face, the third looks like the first."""
  axes = dict(enumerate(np.eye(3, dtype=np.float32)))
  table = {10: axes[0], 11: None, 12: axes[0]}
  w = watch(tmp_path, pack, lambda images: [axes[i] for i in range(3)])
  w.judge = judge(table)
  out = w.score(np.stack([marked(10), marked(11), marked(12)]))
  assert out["faces"] == pytest.approx(2 / 3)
  assert out["self"] == pytest.approx(0.5) and out["other"] == pytest.approx(0.25)
  assert out["identity"] == pytest.approx(0.25)


def test_the_pose_asked_for_is_the_next_persons(tmp_path, pack):
  marks = np.stack([np.full((72, 2), i, np.float32) + np.arange(144).reshape(72, 2) for i in (0, 99, 10, 20)])
  marks[1] = np.nan
  w = watch(tmp_path, pack, None, marks, own=marks[2] + [3, 4])
  assert [None if m is None else m[0, 0] for m in w.marks] == [10, 20, 0]  # of pictures 2, 3 and 0: a person's first
  images = np.stack([marked(0)] * 3)
  width = np.ptp(marks[2][:, 0])
  distances = [np.linalg.norm(w.poser.marks - m, axis=1).mean() / width for m in w.marks]
  out = w.score(images)
  assert out["followed"] == pytest.approx(np.mean(distances)) and distances[0] == pytest.approx(5 / width)
  assert out["identity"] is None and out["faces"] is None


def test_a_run_that_goes_back_to_its_last_save_writes_each_step_once(tmp_path, pack):
  w = watch(tmp_path, pack, None)
  images = np.stack([marked(0)] * 3)
  for step in (100, 200, 100):
    w.write({"step": step, "loss": 0.25}, images)
  lines = [json.loads(x) for x in (tmp_path / "validation.jsonl").read_text().splitlines()]
  assert [x["step"] for x in lines] == [100]
  with Image.open(tmp_path / "validation" / "0000100.png") as sheet:
    assert min(sheet.size) > 128
