"""The face pack and the judges as shipped: what insightface, ONNX Runtime and transformers make of them."""

import hashlib
import json
import warnings

import numpy as np
import onnxruntime
import pytest
from support.fakes import relative_error

from idejax.miniature.judging import crops, face_metrics, judges
from idejax.miniature.training import face_report, judges_training, to_onnx
from idejax.miniature.world import data, people
from idejax.nets import convnet, scrfd, smallface

FACES, JUDGES = face_report.WEIGHTS / "faces", face_report.WEIGHTS / "judges"
WHO, EACH = 12, 4


@pytest.fixture(scope="module")
def pictures():
  """Held-out people whom nothing was trained or tuned on, any style, mood and accessory."""
  return data.batch(people.split("heldout")[:WHO], EACH, seed=77)


@pytest.fixture(scope="module")
def app():
  from insightface.app import FaceAnalysis

  app = FaceAnalysis(name=str(FACES), providers=["CPUExecutionProvider"])
  pack = json.loads((FACES / "pack.json").read_text())
  app.prepare(ctx_id=-1, det_thresh=pack["det_threshold"], det_size=tuple(pack["det_size"]))
  return app


@pytest.fixture(scope="module")
def found(app, pictures):
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # skimage deprecates what insightface calls
    return [app.get(np.ascontiguousarray(image[..., ::-1])) for image in pictures.images]


def test_insightface_loads_the_pack(app):
  assert set(app.models) == {"detection", "recognition"}
  assert app.models["recognition"].input_size == (112, 112)
  assert (app.models["recognition"].input_mean, app.models["recognition"].input_std) == (127.5, 127.5)


def test_a_face_is_found_where_it_is(found, pictures):
  best = [max(f, key=lambda x: x.det_score, default=None) for f in found]
  assert sum(b is None for b in best) <= 1  # of 48: recall is 99 %
  errors = [
    np.linalg.norm(b.kps - p, axis=1).mean() / (box[2] - box[0])
    for b, p, box in zip(best, pictures.geometry.points, pictures.geometry.box)
    if b is not None
  ]
  assert np.mean(errors) < 0.04


def test_embeddings_tell_people_apart(found, pictures):
  photo = pictures.factors["style"] == 0
  rows = [i for i in np.flatnonzero(photo) if found[i]]
  vectors = np.stack([max(found[i], key=lambda x: x.det_score).normed_embedding for i in rows])
  assert vectors.shape[1] == 512
  np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
  got = face_metrics.verification(vectors, pictures.factors["id"][rows])
  assert got["mean_same"] > got["mean_other"] + 0.3 and got["equal_error"] < 0.08
  thresholds = json.loads((FACES / "pack.json").read_text())["thresholds"]
  at = face_metrics.at_threshold(vectors, pictures.factors["id"][rows], thresholds["far_1e-3"])
  assert at["far_at_pack_threshold"] < 0.02 and at["tar_at_pack_threshold"] > 0.6


def test_the_detector_keeps_scrfds_contract():
  session = onnxruntime.InferenceSession(str(FACES / "det.onnx"), providers=["CPUExecutionProvider"])
  (x,) = session.get_inputs()
  assert [str(d) for d in x.shape] == ["1", "3", "height", "width"]  # free sides have names
  out = session.run(None, {x.name: np.zeros((1, 3, 96, 160), np.float32)})
  assert [o.shape for o in out] == [(1, 96 * 160 // s**2 * 2, w) for w in (1, 4, 10) for s in (8, 16, 32)]
  assert all(((o >= 0) & (o <= 1)).all() for o in out[:3])


@pytest.mark.parametrize(
  "path, body, side",
  [
    (FACES / "det.onnx", scrfd.body, 128),
    (FACES / "rec.onnx", smallface.recogniser, 112),
    (JUDGES / "recogniser.onnx", smallface.judge, 96),
    (JUDGES / "attributes.onnx", judges.BODY, 64),
  ],
  ids=lambda x: getattr(x, "name", ""),
)
def test_the_jax_twin_agrees(path, body, side, rng):
  x = rng.uniform(-1, 1, (1, side, side, 3)).astype(np.float32)
  ours = convnet.Net(body, folded=True).apply({"params": to_onnx.read(path)}, x)
  session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
  theirs = session.run(None, {"input": np.ascontiguousarray(x.transpose(0, 3, 1, 2))})
  for a, b in zip(ours if isinstance(ours, tuple) else (ours,), theirs, strict=True):
    assert relative_error(a, b) < 1e-4


def test_cards_name_the_files_that_are_there():
  for folder, card in ((FACES, "pack.json"), (JUDGES, "card.json")):
    digests = json.loads((folder / card).read_text())["training"]["sha256"]
    assert digests
    for file, digest in digests.items():
      assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == digest, file
  assert sum(p.stat().st_size for p in face_report.WEIGHTS.rglob("*") if p.parent in (FACES, JUDGES)) < 20e6


def test_judge_recogniser_tells_people_apart_by_its_own_crops(found, pictures):
  rows = [i for i in np.flatnonzero(pictures.factors["style"] == 0) if found[i]]
  points = np.stack([max(found[i], key=lambda x: x.det_score).kps for i in rows])
  faces = crops.cut(pictures.images[rows], points, crops.JUDGE)
  got = face_metrics.verification(face_metrics.embed(JUDGES / "recogniser.onnx", faces), pictures.factors["id"][rows])
  assert got["mean_same"] > got["mean_other"] + 0.3 and got["equal_error"] < 0.08


def test_attributes_are_read_off_pictures(pictures):
  classes = json.loads((JUDGES / "attributes.json").read_text())
  assert {n: tuple(c) for n, c in classes.items()} == judges.CLASSES
  photo = pictures.factors["style"] == 0
  out = face_metrics.run(JUDGES / "attributes.onnx", pictures.images)
  got = face_metrics.classification(out, smallface.ATTRIBUTES, judges.labels(pictures.factors), photo)
  assert min(got.values()) > 0.75 and np.mean(list(got.values())) > 0.88, got


def test_clip_opens_in_transformers_and_reads_what_its_card_says(pictures):
  import torch
  from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

  model = CLIPModel.from_pretrained(JUDGES / "clip", local_files_only=True).eval()
  words = CLIPTokenizer.from_pretrained(JUDGES / "clip", local_files_only=True)
  see = CLIPImageProcessor.from_pretrained(JUDGES / "clip", local_files_only=True)
  pixels = see(list(pictures.images), return_tensors="pt")["pixel_values"]
  np.testing.assert_allclose(pixels.numpy().transpose(0, 2, 3, 1), data.pixels(pictures.images), atol=1e-5)
  reads = json.loads((JUDGES / "card.json").read_text())["clip"]["reads"]
  assert set(reads) >= {"accessory", "background", "hair"}
  truth, photo = judges.labels(pictures.factors), pictures.factors["style"] == 0
  for attribute in reads:
    texts = judges.prompts()[attribute]
    ids = words(texts, padding="max_length", max_length=judges.LENGTH, return_tensors="pt")["input_ids"]
    with torch.no_grad():
      out = model(input_ids=ids, pixel_values=pixels)
    right = (out.logits_per_image.argmax(1).numpy() == truth[attribute])[photo]
    assert right.mean() > 0.75, attribute


def test_the_clips_contrasts_differ_in_one_factor_each(rng):
  texts = judges_training.contrasts(rng)
  assert len(texts) == sum(judges.COUNTS)
  for attribute, count in zip(smallface.ATTRIBUTES, judges.COUNTS):
    texts, group = texts[count:], texts[:count]
    assert len(set(group)) == count, attribute
