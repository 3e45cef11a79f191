"""Converted folders and people imported from elsewhere: bits are kept where the dtype stays, mistakes are one sentence."""

import dataclasses
import json
import struct

import flax.serialization
import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support import learned_people as people
from support import tiny_pipelines
from support.converting import go, refused

import idejax
from idejax.errors import UserError
from idejax.exporting import folders, torch_files
from idejax.methods import dreambooth, id_ea
from idejax.sampling import learned
from idejax.storage import tensorfiles

PARTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  return tiny_pipelines.write(tmp_path_factory.mktemp("convert"), "sd15", "sdxl")


@pytest.fixture(scope="module")
def pipe(root):
  return idejax.load(root / "sd15", devices=jax.devices()[:1])


def tensors(folder):
  return {(part, k): v for part, stem in PARTS.items() for k, v in tensorfiles.read(folder / part, stem).items()}


def test_shards_and_dtypes(root, tmp_path):
  go(root / "sd15", tmp_path / "shards", max_shard_size="20KB")
  assert len(list((tmp_path / "shards" / "unet").glob("*-of-*.safetensors"))) > 2
  go(tmp_path / "shards", tmp_path / "one")
  go(tmp_path / "one", tmp_path / "half", dtype="bfloat16")
  go(tmp_path / "half", tmp_path / "wide", dtype="float32")
  want, one, half, wide = (tensors(f) for f in (root / "sd15", tmp_path / "one", tmp_path / "half", tmp_path / "wide"))
  assert want.keys() == one.keys() == half.keys()
  for k, x in want.items():
    assert one[k].dtype == np.float32 and one[k].tobytes() == x.tobytes()  # to the bit
    np.testing.assert_array_equal(half[k], x.astype(ml_dtypes.bfloat16))
    np.testing.assert_array_equal(wide[k], x.astype(ml_dtypes.bfloat16).astype(np.float32))
  assert not list((tmp_path / "one" / "unet").glob("*.index.json"))
  for name in ("model_index.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json"):
    assert json.loads((tmp_path / "wide" / name).read_text()) == json.loads((root / "sd15" / name).read_text())
  idejax.load(tmp_path / "one", devices=jax.devices()[:1])


def test_numbers_too_large_for_float16(tmp_path):
  save_file({"a": np.array([1e5], np.float32)}, _component(tmp_path / "net") / "diffusion_pytorch_model.safetensors")
  refused(tmp_path / "net", tmp_path / "out", dtype="float16", words=["a has numbers beyond", "bfloat16"])
  go(tmp_path / "net", tmp_path / "out", dtype="bfloat16")


def _component(folder, **fields):
  folder.mkdir()
  (folder / "config.json").write_text(json.dumps({"_class_name": "ControlNetModel"} | fields))
  return folder


def test_an_orphaned_flax_component(tmp_path, rng):
  net = _component(tmp_path / "net", _class_name="FlaxControlNetModel")
  kernel, bias = rng.standard_normal((3, 3, 4, 8)).astype(np.float32), rng.standard_normal(8).astype(np.float32)
  tree = {"down_blocks_0": {"resnets_1": {"conv1": {"kernel": kernel, "bias": bias}}}}
  (net / "diffusion_flax_model.msgpack").write_bytes(flax.serialization.msgpack_serialize(tree))
  go(net, tmp_path / "out")
  result = load_file(tmp_path / "out" / "diffusion_pytorch_model.safetensors")
  assert json.loads((tmp_path / "out" / "config.json").read_text())["_class_name"] == "ControlNetModel"
  np.testing.assert_array_equal(result["down_blocks.0.resnets.1.conv1.weight"], kernel.transpose(3, 2, 0, 1))
  np.testing.assert_array_equal(result["down_blocks.0.resnets.1.conv1.bias"], bias)


def test_an_orphaned_flax_pipeline_names_classes_that_exist(tmp_path):
  index = {
    "_class_name": "FlaxStableDiffusionPipeline",
    "unet": ["diffusers", "FlaxUNet2DConditionModel"],
    "text_encoder": ["transformers", "FlaxCLIPTextModel"],
    "scheduler": ["diffusers", "FlaxPNDMScheduler"],
    "safety_checker": [None, None],
  }
  (tmp_path / "model_index.json").write_text(json.dumps(index))
  result = folders.index_of(tmp_path)
  assert "Flax" not in json.dumps(result) and result["unet"][1] == "UNet2DConditionModel"


def test_hostile_models(root, tmp_path):
  out, bad = tmp_path / "out", tmp_path / "bad"
  bad.mkdir()
  (bad / "model_index.json").write_text(json.dumps({"../unet": ["diffusers", "UNet2DConditionModel"]}))
  refused(bad, out, words=["../unet", "do not use it"])
  net = _component(tmp_path / "net")
  (net / "diffusion_pytorch_model.safetensors.index.json").write_text(
    json.dumps({"weight_map": {"a": "../../x.safetensors"}})
  )
  refused(net, out, words=["plain file name"])
  (net / "diffusion_pytorch_model.safetensors.index.json").unlink()
  (net / "diffusion_pytorch_model.bin").write_bytes(b"cos\nsystem\n")
  refused(net, out, words=["pickle"])
  refused(tmp_path / "nowhere", out, words=["does not exist"])
  refused(bad, tmp_path / "x.safetensors", words=["../unet", "do not use it"])
  (tmp_path / "model.ckpt").write_bytes(b"cos\nsystem\n")
  refused(tmp_path / "model.ckpt", out, words=["pickle"])
  with pytest.raises(UserError, match="not empty"):
    go(bad, root / "sd15")
  assert not list(tmp_path.glob(".out*"))


# People.


def brought(root, tmp_path, *files, family="sd15", **fields):
  go(*files, tmp_path / "run", model=str(root / family), name="<x>", **fields)
  return learned.load(tmp_path / "run")


def write_words(folder, person, pipe):
  torch_files.write_words(folder, person, torch_files.parts(person, pipe.backbone))


def test_words_round_trip(root, pipe, tmp_path):
  write_words(tmp_path, people.inversion(pipe), pipe)
  person = brought(root, tmp_path, tmp_path / torch_files.WORDS)
  assert (person.word, person.method, person.rows, person.digest) == ("<x>", "textual-inversion", 2, pipe.digest)
  np.testing.assert_array_equal(person.identity["rows"][0], people.inversion(pipe).identity["rows"][0])
  assert json.loads((tmp_path / "run" / "provenance.json").read_text())["consent"] == "not stated"


def test_words_of_sdxl_round_trip(root, tmp_path):
  pipe = idejax.load(root / "sdxl", devices=jax.devices()[:1])
  write_words(tmp_path, people.inversion(pipe), pipe)
  person = brought(root, tmp_path, tmp_path / torch_files.WORDS, family="sdxl")
  for a, b in zip(person.identity["rows"], people.inversion(pipe).identity["rows"]):
    np.testing.assert_array_equal(a, b)
  refused(
    tmp_path / torch_files.WORDS,
    tmp_path / "out",
    model=str(root / "sd15"),
    name="<x>",
    words=["width 32 + 40", "width 32:"],
  )


@pytest.mark.parametrize("names", [["<x>", "<x>_1", "<x>_2"], ["v1*", "v2*", "v10*"], ["emb_params"]])
def test_rows_in_the_order_of_their_names(root, tmp_path, rng, names):
  rows = rng.standard_normal((3, 32)).astype(np.float16)
  save_file(dict(zip(names, rows if len(names) > 1 else [rows])), tmp_path / "w.safetensors")
  person = brought(root, tmp_path, tmp_path / "w.safetensors")
  np.testing.assert_array_equal(person.identity["rows"][0][0, 0], rows.astype(np.float32))


def test_token_tensors_of_torch_files(root, tmp_path, rng):
  """StableIdentity's and Celeb Basis' .pt (1, 2, d), learned_embeds.bin, and the older string_to_param."""
  import torch

  rows = rng.standard_normal((1, 2, 32)).astype(np.float32)
  for i, value in enumerate(
    [
      torch.from_numpy(rows),
      {"<x>": torch.from_numpy(rows[0])},
      {"string_to_param": {"*": torch.from_numpy(rows[0])}, "name": "x"},
    ]
  ):
    torch.save(value, tmp_path / "w.pt")
    if not i:
      refused(tmp_path / "w.pt", tmp_path / "out", model=str(root / "sd15"), name="<x>", words=["--allow-pickle"])
    folder = tmp_path / str(i)
    folder.mkdir()
    person = brought(root, folder, tmp_path / "w.pt", allow_pickle=True)
    np.testing.assert_array_equal(person.identity["rows"][0][0], rows)


@pytest.mark.parametrize("spelling", ["peft", "kohya", "old"])
def test_a_lora_changes_the_same_weights(root, pipe, tmp_path, spelling):
  want = people.low_rank(pipe)
  result = torch_files.lora(want, torch_files.parts(want, pipe.backbone))
  if spelling == "kohya":
    parts = {k: k.removesuffix(".weight").rsplit(".", 1) for k in result}
    alpha = {
      f"lora_unet_{m.removeprefix('unet.').replace('.', '_')}.alpha": np.array(2.0, np.float32)
      for m, _ in parts.values()
    }
    name = lambda m, s: (
      f"lora_unet_{m.removeprefix('unet.').replace('.', '_')}.{'lora_down' if s == 'lora_A' else 'lora_up'}.weight"
    )
    result = {name(*parts[k]): x * (1 if "lora_A" in k else 2) for k, x in result.items()} | alpha  # alpha / rank = 1/2
  if spelling == "old":

    def name(k):
      k = (
        k.removeprefix("unet.")
        .replace(".lora_A.", "_lora.down.")
        .replace(".lora_B.", "_lora.up.")
        .replace("to_out.0_", "to_out_")
      )
      return k.replace(".to_", ".processor.to_")

    result = {name(k): x for k, x in result.items()}
  save_file(result, tmp_path / "l.safetensors")
  write_words(tmp_path, want, pipe)
  person = brought(root, tmp_path, tmp_path / "l.safetensors", tmp_path / torch_files.WORDS)
  assert person.method == "dreambooth"
  np.testing.assert_array_equal(person.identity["rows"][0], want.identity["rows"][0])
  ours = dreambooth.override([person.identity], pipe.backbone, person.cfg)
  theirs = dreambooth.override([want.identity], pipe.backbone, want.cfg)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), ours, theirs)


def test_keys_and_values_of_custom_diffusion(root, pipe, tmp_path):
  want = people.id_ea_person(pipe)
  torch_files.write_custom_diffusion(tmp_path, want, torch_files.parts(want, pipe.backbone))
  refused(tmp_path / torch_files.CUSTOM, tmp_path / "out", model=str(root / "sd15"), name="<x>", words=["no word"])
  write_words(tmp_path, want, pipe)
  person = brought(root, tmp_path, tmp_path / torch_files.CUSTOM, tmp_path / torch_files.WORDS)
  ours = id_ea.override([person.identity], pipe.backbone, person.cfg)
  theirs = id_ea.override([want.identity], pipe.backbone, want.cfg)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), ours, theirs)


def test_a_lora_speaks_of_the_person_as_it_was_trained(root, pipe, tmp_path):
  want = people.low_rank(pipe)
  save_file(torch_files.lora(want, torch_files.parts(want, pipe.backbone)), tmp_path / "l.safetensors")
  person = brought(root, tmp_path, tmp_path / "l.safetensors", word="q x")
  table = np.asarray(pipe.backbone.params["text_encoder"]["text_model.embeddings.token_embedding"]["embedding"])
  ids = pipe.tokenizers[0].bpe.ids("q x")
  np.testing.assert_array_equal(person.identity["rows"][0][0, 0], table[ids])
  assert person.cfg == dataclasses.replace(dreambooth.Config(), trains="lora", word="q x", rank=4, alpha=4.0)


def header(text: bytes, body=b"", length=None) -> bytes:
  return struct.pack("<Q", len(text) if length is None else length) + text + body


BAD = {
  "more than it has": (header(b"{}", length=10**6), ""),
  "absurd shape": (
    header(json.dumps({"a": {"dtype": "F32", "shape": [2**40, 2**30], "data_offsets": [0, 4]}}).encode(), b"1234"),
    "",
  ),
  "a pickle in disguise": (b"\x80\x04cos\nsystem\n", ""),
  "not finite": ({"<x>": np.full(32, np.nan, np.float32)}, "finite"),
  "whole numbers": ({"<x>": np.ones((2, 32), np.int32)}, "int32"),
  "a thousand rows": ({"<x>": np.ones((1000, 32), np.float32)}, "1000 rows"),
  "a picture": ({"<x>": np.ones((1, 2, 3, 4), np.float32)}, "no word's embeddings"),
  "nothing": ({}, ""),
  "another width": ({"<x>": np.ones(48, np.float32)}, "width 48"),
  "a LoRA of another width": (
    {
      "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": np.ones((4, 99), np.float32),
      "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_B.weight": np.ones((16, 4), np.float32),
    },
    "99",
  ),
  "half a LoRA": (
    {"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": np.ones((4, 32), np.float32)},
    "one factor",
  ),
  "a LoRA of the text encoder": ({"text_encoder.x.lora_A.weight": np.ones((4, 32), np.float32)}, "text encoder"),
  "a LoRA of convolutions": ({"unet.conv_in.lora_A.weight": np.ones((4, 32), np.float32)}, "conv_in"),
  "odd custom diffusion": ({"x.attn2.processor.to_q_custom_diffusion.weight": np.ones((4, 4), np.float32)}, "to_q"),
}


@pytest.mark.parametrize("case", BAD)
def test_files_that_are_no_person(case, root, tmp_path):
  content, word = BAD[case]
  path = tmp_path / "bad.safetensors"
  if isinstance(content, bytes):
    path.write_bytes(content)
  else:
    save_file(content, path)
  refused(path, tmp_path / "out", model=str(root / "sd15"), name="<x>", words=[str(path), word])
