"""The face pack's training: crops, frames, who answers for a face, losses, figures, and tiny runs."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from idejax.miniature.judging import crops, face_metrics, judges
from idejax.miniature.training import detector, face_data, face_training, frames, judges_training, recogniser, tokenizer
from idejax.miniature.world import people
from idejax.model import tokens
from idejax.model.families import random_params
from idejax.nets import clip, clip_vision, scrfd
from idejax.training import loop


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
  return face_data.render(tmp_path_factory.mktemp("faces"), {"development": 2}, limit=6)


# Crops.


@settings(max_examples=30, deadline=None)
@given(some.floats(-3, 3), some.floats(0.1, 9), some.floats(-200, 200), some.floats(-200, 200))
def test_a_turned_scaled_moved_template_is_brought_back(angle, scale, x, y):
  turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
  template = crops.RECOGNISER.template()
  points = template @ turn.T + [x, y]
  matrix = crops.similarity(points[None], template)[0]
  np.testing.assert_allclose(points @ matrix[:, :2].T + matrix[:, 2], template, atol=1e-3)
  np.testing.assert_allclose(np.linalg.det(matrix[:, :2]), scale**-2, rtol=1e-4)  # no mirror image


def test_crops_put_eyes_where_the_template_has_them():
  """A white square on each eye of a black picture arrives at the template's eyes."""
  image, points = np.zeros((64, 64, 3), np.uint8), crops.TEMPLATE / 2
  for x, y in points[:2].round().astype(int):
    image[y - 1 : y + 2, x - 1 : x + 2] = 255
  for how in (crops.RECOGNISER, crops.JUDGE):
    crop = crops.cut(image[None], points[None], how)[0]
    assert crop.shape == (how.side, how.side, 3)
    for x, y in how.template()[:2].round().astype(int):
      assert crop[y, x].min() > 100
    assert crop.mean() < 30


# Frames.


def test_frames_are_a_function_of_seed_and_step_and_boxes_hold_their_points(faces):
  empties = face_data.empty(4, 0)
  a, b = (frames.frames(5, 16, faces, empties, 1) for _ in range(2))
  for x, y in zip(a, b):
    np.testing.assert_array_equal(x, y)
  assert (frames.frames(6, 16, faces, empties, 1).images != a.images).any()
  assert set(np.unique(a.kind)) <= {0, 1, 2} and (a.kind == frames.FACE).sum() > 4
  inside = (a.points >= a.boxes[:, :, None, :2] - 1) & (a.points <= a.boxes[:, :, None, 2:] + 1)
  assert inside[a.kind > 0].all()
  assert (a.boxes[a.kind == 0] == 0).all()


def test_empty_scenes_have_backgrounds_and_nobody_before_them():
  empty = face_data.empty(24, 3)
  assert len({e.tobytes() for e in empty}) > 8
  # Nobody: left and right halves hold as much detail as the middle, where a sitter would be.
  assert np.abs(np.diff(empty.astype(int), axis=2)).mean() < 8


# The detector's loss.


@pytest.mark.parametrize("size, stride", [(20, 8), (55, 8), (88, 16), (120, 32)])
def test_a_face_is_answered_for_in_its_middle_at_its_size(size, stride):
  boxes = np.zeros((1, 3, 4), np.float32)
  boxes[0, 0] = [64 - size / 2, 60 - size / 2, 64 + size / 2, 60 + size / 2]
  yes, excused, face = detector.assign(jnp.asarray(boxes), jnp.asarray([[1, 0, 0]]))
  grid = scrfd.centres(128, 128)
  cells = grid[np.asarray(yes[0])]
  assert len(cells) and stride in cells[:, 2]
  assert (np.abs(cells[:, :2] - [64, 60]).max(1) <= np.maximum(0.22 * size, 0.75 * cells[:, 2])).all()
  assert not (yes & excused).any() and (np.asarray(face)[np.asarray(yes)] == 0).all()


def test_nobody_answers_for_a_face_cut_off_and_nobody_is_blamed_there():
  boxes = np.zeros((1, 3, 4), np.float32)
  boxes[0, 0] = [40, 40, 90, 90]
  yes, excused, _ = detector.assign(jnp.asarray(boxes), jnp.asarray([[2, 0, 0]]))
  assert not yes.any() and excused.any() and not excused.all()
  yes, excused, _ = detector.assign(jnp.asarray(boxes), jnp.zeros((1, 3), int))
  assert not yes.any() and not excused.any()


def test_the_finished_detector_is_moved_by_what_insightface_loses(rng):
  """Half a pixel of the frame up and left, at every stride: a quarter of a 64 px picture's."""
  zeros = {f"stride{s}.{n}": {"bias": np.zeros(2 * w)} for s in scrfd.STRIDES for n, w in (("box", 4), ("points", 10))}
  mapping = detector.shift_points(zeros)
  for s in scrfd.STRIDES:
    assert (s * mapping[f"stride{s}.points"]["bias"] == -0.5).all()
    assert (s * mapping[f"stride{s}.box"]["bias"]).tolist() == [0.5, 0.5, -0.5, -0.5] * 2  # distances
    assert (zeros[f"stride{s}.box"]["bias"] == 0).all()


# ArcFace.


def test_without_a_margin_arcface_is_a_softmax_over_cosines(rng, monkeypatch):
  features = rng.standard_normal((6, recogniser.FEATURES)).astype(np.float32)
  monkeypatch.setattr(recogniser.convnet.Net, "apply", lambda *a, **k: (jnp.asarray(features), {}))
  loss = recogniser.make_loss(lambda f, x: x)
  head = rng.standard_normal((recogniser.FEATURES, 7)).astype(np.float32)
  traits = {"kernel": jnp.zeros((recogniser.FEATURES, 60)), "bias": jnp.zeros(60)}
  params = {"net": {}, "people": {"kernel": jnp.asarray(head)}, "traits": traits}
  batch = {"images": np.zeros((6, 4, 4, 3), np.uint8), "person": np.arange(6, dtype=np.int32)}
  batch |= recogniser.traits(np.arange(6))
  at = lambda m: float(loss(params, {}, batch | {"margin": np.full(6, m, np.float32)}, None)[1]["arcface"])
  cosine = (features / np.linalg.norm(features, axis=1)[:, None]) @ (head / np.linalg.norm(head, axis=0))
  logits = recogniser.SCALE * cosine
  want = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(6), np.arange(6)])
  np.testing.assert_allclose(at(0.0), want, rtol=1e-4)
  assert at(0.0) < at(0.2) < at(0.35)


def test_heads_that_know_everything_have_no_loss_but_the_codes_temperature():
  """Features written into the embedding by hand are read back without error."""
  codes = recogniser.traits(np.arange(4))
  assert codes["sizes"].shape == (4, 20) and codes["codes"].shape == (4, 9)
  assert (codes["codes"].max(0) < list(recogniser.CODES.values())).all()
  kernel = np.zeros((4, 60), np.float32)  # a person each row
  kernel[:, :20] = codes["sizes"] / 8
  at = 20 + np.cumsum([0, *recogniser.CODES.values()])[:-1] + codes["codes"]
  np.put_along_axis(kernel, at, 100.0, axis=1)
  value = recogniser.traits_loss({"kernel": kernel, "bias": np.zeros(60)}, np.eye(4), **codes)
  assert float(value) < 1e-4


def test_the_margin_grows_over_the_first_third():
  assert [recogniser.margin(i, 300) for i in (0, 50, 100, 300)] == [0, 0.175, 0.35, 0.35]


# Figures.


def test_verification_of_what_is_told_apart_and_of_noise(rng):
  ids = np.repeat(np.arange(20), 5)
  apart = np.eye(20, dtype=np.float32)[ids]
  got = face_metrics.verification(apart, ids)
  assert got["equal_error"] == 0 and got["mean_same"] == 1 and got["pairs_same"] == 200
  assert face_metrics.at_threshold(apart, ids, 0.5) == {"tar_at_pack_threshold": 1, "far_at_pack_threshold": 0}
  noise = rng.standard_normal((200, 64)).astype(np.float32)
  noise /= np.linalg.norm(noise, axis=1, keepdims=True)
  got = face_metrics.verification(noise, np.arange(200) // 4)
  assert 0.4 < got["equal_error"] < 0.6 and got["tar@far1e-2"] < 0.05
  assert got["threshold_far1e-3"] > got["threshold_far1e-2"] > got["threshold_equal_error"]


def test_detector_figures():
  boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 20]], float)
  points = np.zeros((2, 5, 2))
  detections = face_metrics.Detections(np.array([True, False]), np.ones(2), boxes, points + [1, 0], np.array([2, 0]))
  got = face_metrics.detector(detections, boxes, points)
  assert got["recall"] == 0.5 and got["point_error"] == pytest.approx(0.1) and got["extra_faces"] == 0.5
  half = face_metrics.iou(boxes[:1], boxes[1:])
  assert half[0] == pytest.approx(0.5)


# Judges.


def test_bald_people_have_no_hair_colour():
  style = np.array([0, 1, 1])
  assert people.HAIR_STYLES[0] == "bald"
  factors = {n: np.zeros(3, int) for n in ("expression", "accessory", "background")}
  got = judges.labels(factors | {"hair_style": style, "hair_colour": np.array([3, 0, 6])})
  assert [judges.CLASSES["hair"][i] for i in got["hair"]] == ["bald", "black", "blue"]


def test_transformers_reads_the_clip_and_sees_the_same(tmp_path, rng):
  import torch
  from transformers import CLIPModel

  size = tokenizer.write(tmp_path, judges.LENGTH)
  config = judges_training.clip_config(size, tiny=True)
  text, vision = judges.towers(config)
  params = random_params({"text": clip.shapes(text.cfg), "vision": clip_vision.shapes(vision.cfg)}, 0)
  params["logit_scale"] = np.float32(2.0)
  judges_training.write_clip(tmp_path, config, params)
  images = rng.integers(0, 256, (3, 64, 64, 3), np.uint8)
  ids = tokens.load(tmp_path).encode(["a photo of a woman", "", "snow"]).ids
  ours, read = judges.embeddings(config, params, images, ids)
  model = CLIPModel.from_pretrained(tmp_path, local_files_only=True).eval()
  x = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)
  with torch.no_grad():
    out = model(input_ids=torch.from_numpy(ids).long(), pixel_values=x)
  np.testing.assert_allclose(out.image_embeds.numpy(), ours, atol=1e-4)
  np.testing.assert_allclose(out.text_embeds.numpy(), read, atol=1e-4)
  _, again = judges.read_clip(tmp_path)
  assert float(again["logit_scale"]) == 2.0
  np.testing.assert_array_equal(jax.tree.leaves(again["text"])[0], jax.tree.leaves(params["text"])[0])


# Every stage, tiny, as a process of its own: the losses fall and the files appear.


@pytest.mark.slow
def test_tiny_stages(tmp_path):
  stages = ["detector", "recogniser", "attributes", "clip"]
  code = (
    "import sys, pathlib; from idejax.miniature.training import face_training as ft; "
    "[ft.STAGES[n](pathlib.Path(sys.argv[1]), None, 0, True) for n in sys.argv[2:]]"
  )
  env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  subprocess.run([sys.executable, "-c", code, str(tmp_path), *stages], check=True, env=env, timeout=1500)
  for name in ("detector", "recogniser", "judge_attributes", "judge_clip"):
    loss = [r["loss"] for r in loop.records(tmp_path / name / "metrics.jsonl")]
    assert np.mean(loss[-8:]) < 0.9 * np.mean(loss[:4]), name
    assert (tmp_path / name / "loss.png").exists()
    facts = json.loads((tmp_path / name / "result.json").read_text())
    assert facts["steps"] == len(loss) and facts["data"] and facts["device"]
  for file in ("faces/det.onnx", "faces/rec.onnx", "judges/attributes.onnx", "judges/clip/model.safetensors"):
    assert (tmp_path / file).stat().st_size > 1000


def test_stages_that_need_a_detector_say_so(tmp_path, monkeypatch, faces):
  monkeypatch.setattr(face_training, "pictures", lambda *a: faces)
  monkeypatch.setattr(face_training, "render_split", lambda *a: faces)
  with pytest.raises(face_training.UserError, match="train the detector first"):
    face_training.train_recogniser(tmp_path)
