"""A captioner of the user's: what it says of photos that came without words, and which networks are refused."""

import json

import numpy as np
import onnx
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from support import captioners, facepack

from idejax import config
from idejax.data.preparing.captioner import Captioner
from idejax.errors import UserError
from idejax.jobs import prepare
from idejax.storage.files import read_json, write_json

GREEN, RED = (np.full((30, 20, 3), c, np.uint8) for c in ((0, 200, 0), (200, 0, 0)))


@pytest.mark.parametrize("how", [dict(), dict(one=True), dict(batch=2)], ids=["two graphs", "one", "a fixed batch"])
def test_it_says_what_the_network_says(tmp_path, how):
  say = Captioner(captioners.write(tmp_path / "toy", **how))
  assert say([GREEN, RED]) == ["a green face", "a red face"]
  assert say([RED] * 9 + [GREEN]) == ["a red face"] * 9 + ["a green face"]
  assert say([]) == []


def test_rows_that_end_early_wait_for_the_others_and_those_that_never_end_are_cut(tmp_path):
  """Nothing after the end is said; a network that says nothing gives no caption."""
  say = Captioner(captioners.write(tmp_path / "never", says="a face a..."))
  assert say([GREEN])[0].split() == ["a", "face"] * 6
  assert Captioner(captioners.write(tmp_path / "mute", says=""))([GREEN, RED]) == ["", ""]
  folder = captioners.write(tmp_path / "mixed")
  decoder = onnx.load(folder / "decoder_model.onnx")
  table = next(t for t in decoder.graph.initializer if t.name == "next")
  x = onnx.numpy_helper.to_array(table).copy()
  x[4] = 0
  x[4, captioners.END] = 20  # after red the end
  table.CopyFrom(onnx.numpy_helper.from_array(x, "next"))
  onnx.save(decoder, folder / "decoder_model.onnx")
  assert Captioner(folder)([RED, GREEN]) == ["a red", "a green face"]


def test_the_picture_is_read_as_its_config_says(tmp_path):
  folder = captioners.write(tmp_path / "toy", side=4)
  seen = Captioner(folder)._pixels(np.full((9, 9, 3), (0, 51, 255), np.uint8))
  assert seen.shape == (3, 4, 4) and seen.dtype == np.float32
  np.testing.assert_allclose(seen[:, 0, 0], [-1, -0.6, 1], atol=1e-6)


# ---- In prepare ------------------------------------------------------------------------------------------


def prepared(root, **more) -> list[dict]:
  given = dict(photos=(root / "photos",), pack=str(root / "green"), face=8.0, shard=2, size=64) | more
  prepare.main(config.Prepare(out=root / "out", **given))
  return list(tfds.builder_from_directory(str(root / "out")).as_data_source("train"))


@pytest.fixture
def root(tmp_path):
  facepack.pack(tmp_path / "green", landmarks=True)
  for n in range(4):
    (tmp_path / "photos" / "anna").mkdir(parents=True, exist_ok=True)
    Image.fromarray(facepack.picture(*([(1, 1)] if n < 3 else []), seed=n)).save(
      tmp_path / "photos" / "anna" / f"{n}.png"
    )
  (tmp_path / "photos" / "anna" / "1.txt").write_text("anna at sea")
  return tmp_path


def test_photos_without_a_caption_get_one_that_says_whose_it_is(root):
  rows = prepared(root, captioner=captioners.write(root / "toy"))
  assert [r["caption"] for r in rows] == [b"a green face", b"anna at sea", b"a green face"]
  assert [r["caption_by"] for r in rows] == [b"toy", b"", b"toy"]
  assert read_json(root / "out" / "manifest.json")["captions"]["name"] == "toy"
  times = lambda: {p.name: p.stat().st_mtime_ns for p in (root / "out").glob("parts/*.npz")}
  before = times()
  prepared(root, captioner=root / "toy")
  assert times() == before
  captioners.write(root / "other", says="a red face")
  rows = prepared(root, captioner=root / "other")
  assert {n for n, t in times().items() if before[n] != t} == {f"0000{i}.captions.npz" for i in range(2)}
  assert [r["caption"] for r in rows] == [b"a red face", b"anna at sea", b"a red face"]
  rows = prepared(root)
  assert [r["caption"] for r in rows] == [b"", b"anna at sea", b""] and "caption_by" not in rows[0]


def test_it_needs_the_faces_first(root):
  with pytest.raises(UserError, match="stage captions needs detect of shard 0: idejax prepare --stage detect comes"):
    prepared(root, captioner=captioners.write(root / "toy"), stage="captions")


# ---- What is refused ---------------------------------------------------------------------------------------


def spoil(folder, name: str, **changes):
  write_json(folder / name, read_json(folder / name) | changes)


def rename(folder, file: str, old: str, new: str):
  model = onnx.load(folder / file)
  for v in (*model.graph.input, *model.graph.output):
    v.name = new if v.name == old else v.name
  for n in model.graph.node:
    n.input[:] = [new if x == old else x for x in n.input]
    n.output[:] = [new if x == old else x for x in n.output]
  onnx.save(model, folder / file)


@pytest.mark.parametrize(
  "spoilt, words",
  [
    (lambda f: rename(f, "decoder_model.onnx", "logits", "scores"), "gives scores, and no logits of the next token"),
    (
      lambda f: rename(f, "decoder_model.onnx", "encoder_hidden_states", "past_key_values.0"),
      "decoder reads input_ids and encoder_hidden_states, and .* reads input_ids, past_key_values.0, encoder_att",
    ),
    (
      lambda f: rename(f, "encoder_model.onnx", "pixel_values", "image"),
      "encoder reads pixel_values, and .* reads image",
    ),
    (lambda f: (f / "decoder_model.onnx").unlink(), "has no decoder_model.onnx; a folder of optimum-cli export onnx"),
    (lambda f: (f / "decoder_model.onnx").write_bytes(b"no onnx"), "decoder_model.onnx is no ONNX file"),
    (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json cannot be read"),
    (lambda f: spoil(f, "preprocessor_config.json", image_std=None), "has no image_std, three numbers"),
    (lambda f: spoil(f, "generation_config.json", eos_token_id=None), "does not say which tokens begin and end"),
    (lambda f: (f / "generation_config.json").write_text("[]"), "holds no JSON object"),
  ],
)
def test_networks_of_another_kind_are_refused_in_one_sentence(tmp_path, spoilt, words):
  folder = captioners.write(tmp_path / "toy")
  spoilt(folder)
  with pytest.raises(UserError, match=words):
    Captioner(folder)


def test_a_folder_that_is_none_is_refused_before_a_photo_is_read(root):
  with pytest.raises(
    UserError, match="--captioner .*nowhere is no folder; give one as optimum-cli export onnx writes it"
  ):
    prepared(root, captioner=root / "nowhere")
  assert not (root / "out").exists()


def test_a_network_that_cannot_be_opened_is_named(tmp_path):
  folder = captioners.write(tmp_path / "toy")
  nodes = captioners.look()
  nodes[1].input[1] = "mean"  # a shape that is no shape
  captioners.save(folder / "encoder_model.onnx", nodes, ["pixel_values"], "seen", "a", "N", 8)
  with pytest.raises(UserError, match="--captioner: .*encoder_model.onnx cannot be opened: "):
    Captioner(folder)([GREEN])


def test_ids_from_the_older_config(tmp_path):
  folder = captioners.write(tmp_path / "toy")
  about = json.loads((folder / "generation_config.json").read_text())
  (folder / "generation_config.json").unlink()
  write_json(
    folder / "config.json", {"bos_token_id": about["decoder_start_token_id"], "eos_token_id": [captioners.END, 9]}
  )
  assert Captioner(folder)([GREEN]) == ["a green face"]
