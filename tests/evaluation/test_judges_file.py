"""judges.json: the user's files as judges, on stubs of a few kB; what is missing disables its metrics."""

import json
import shutil

import numpy as np
import onnx
import pytest
from support import facepack

from idejax.errors import UserError
from idejax.evaluation import judges_file, metrics, miniature
from idejax.evaluation.judges import look

CLIP = miniature.FOLDER / "clip"


@pytest.fixture
def folder(tmp_path):
  """A pack, a recogniser with another batch, and a CLIP of the package under the names that users give."""
  facepack.pack(tmp_path / "pack")
  onnx.save(facepack.recogniser(160, 512, 1), tmp_path / "facenet.onnx")
  shutil.copytree(CLIP, tmp_path / "vit")
  return tmp_path


def write(folder, **table):
  path = folder / "judges.json"
  path.write_text(json.dumps(table))
  return path


FULL = {"detector": {"pack": "./pack"}, "arcface": {"onnx": "pack/rec.onnx", "far_1e-3": 0.4, "licence": "ours"},
        "facenet": {"onnx": "facenet.onnx"}, "clip": {"folder": "vit"}}  # fmt: skip


def test_a_full_file_sees_what_it_can(folder):
  judges = judges_file.read(write(folder, **FULL))
  image = facepack.picture((1, 1), (3, 2))
  (seen,) = look(judges, [image])
  assert seen.points.shape == (2, 5, 2) and seen.faces["arcface"].shape == seen.faces["facenet"].shape == (2, 512)
  np.testing.assert_allclose(np.linalg.norm(seen.faces["facenet"], axis=1), 1, atol=1e-5)
  about = judges.about()
  assert about["arcface"].licence == "ours" and about["facenet"].network.startswith(
    "InceptionResnet-V1 on VGGFace2, 160 px, RGB, (x - 127.5) / 128"
  )
  assert judges.recognisers["arcface"].threshold == 0.4 and judges.recognisers["facenet"].threshold is None
  lost = metrics.unavailable(judges.absent, about)
  assert {"fid", "quality", "clip_face", "asked"} <= set(lost) and not {"identity", "prompt", "face_sim"} & set(lost)
  assert "names no inception" in lost["fid"]


def test_the_recogniser_of_a_pack_is_the_packs_own(folder):
  """The same crops and embeddings as through insightface."""
  from idejax import faces

  judges, pack = judges_file.read(write(folder, **FULL)), faces.open_pack(folder / "pack", notify=lambda _: None)
  image = facepack.picture((1, 1), size=512)
  found = pack.detect(image)
  want = pack.embed([pack.crop(image, p) for p in found.points])
  got = judges.recognisers["arcface"].embed([image] * len(found.points), list(found.points))
  np.testing.assert_allclose(got, want, atol=1e-3)


def test_the_files_clip_is_transformers(folder):
  import torch
  from PIL import Image
  from transformers import CLIPImageProcessor, CLIPModel

  judges = judges_file.read(write(folder, clip={"folder": "vit"}))
  rng = np.random.default_rng(0)
  images = [rng.integers(0, 256, s, dtype=np.uint8) for s in ((64, 64, 3), (100, 80, 3), (70, 131, 3))]
  texts = ["a photo of a person on the beach", "a sketch of a woman"]
  model, processor = CLIPModel.from_pretrained(CLIP).eval(), CLIPImageProcessor.from_pretrained(CLIP)
  unit = lambda x: (x / x.norm(dim=-1, keepdim=True)).numpy()
  pick = lambda x: getattr(x, "pooler_output", x)
  with torch.no_grad():
    seen = unit(pick(model.get_image_features(**processor([Image.fromarray(i) for i in images], return_tensors="pt"))))
    ids = torch.from_numpy(judges.clips["clip"].tokenizer.encode(texts).ids).long()
    read = unit(pick(model.get_text_features(input_ids=ids)))
  np.testing.assert_allclose(judges.clips["clip"].pictures(images), seen, atol=2e-4)
  np.testing.assert_allclose(judges.clips["clip"].texts(texts), read, atol=1e-5)


@pytest.mark.parametrize("table, said", [
  ({"arc": {}}, "no judge 'arc'"), ({"arcface": "x"}, "object with 'onnx'"), ({"arcface": {"onnx": "no.onnx"}}, "no.onnx is no file"),
  ({"clip": {"folder": "facenet.onnx"}}, "is no folder"), ({"arcface": {"onnx": "facenet.onnx", "sida": 1}}, "no setting 'sida'"),
  ({"arcface": {"onnx": "facenet.onnx", "side": -1}}, "side is -1"), ({"arcface": {"onnx": "facenet.onnx", "far_1e-3": 7}}, "far_1e-3 is 7"),
  ({"arcface": {"onnx": "facenet.onnx", "bgr": "yes"}}, "bgr is 'yes'"), ({"arcface": {"onnx": "facenet.onnx", "sha256": "00"}}, "another network"),
  ({"inception": {"file": "facenet.onnx"}}, "facenet"), ({"inception": {"file": "x.pth"}}, "x.pth is no file"),
])  # fmt: skip
def test_mistakes_name_the_file_and_the_role(folder, table, said):
  path = write(folder, **table)
  with pytest.raises(UserError, match=said) as e:
    judges_file.read(path)
  assert "\n" not in str(e.value)


def test_a_recogniser_that_is_none_is_one_sentence(folder):
  (folder / "bad.onnx").write_bytes(b"nonsense")
  judges = judges_file.read(write(folder, detector={"pack": "./pack"}, arcface={"onnx": "bad.onnx"}))
  with pytest.raises(UserError, match="ONNX Runtime cannot open"):
    look(judges, [facepack.picture((1, 1))])


def test_the_list_says_source_licence_and_what_is_lost(folder):
  text = judges_file.listing()
  for role, kind in judges_file.KINDS.items():
    assert role in text and kind.source in text and kind.licence in text and kind.metrics in text
  opened = judges_file.listing(judges_file.read(write(folder, **FULL)))
  assert "sha256" in opened and "here: none" in opened
