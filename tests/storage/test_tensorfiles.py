"""Weight files as diffusers and transformers write them or once wrote them, there and back."""

import json
import os
import pathlib
import re

import flax.serialization
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from support.fakes import scramble, state_dict

from idejax.errors import UserError
from idejax.storage import tensorfiles, weights

UNET, CLIP = "diffusion_pytorch_model", "model"


def small() -> dict[str, np.ndarray]:
  return {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.weight": np.arange(4).astype(ml_dtypes.bfloat16),
    "c": np.float32([np.nan, np.inf]),
    "d": np.zeros((0, 2), np.float16),
    "e": np.array(3, np.int64),
  }


def check(got, want):
  assert sorted(got) == sorted(want)
  for k in want:
    x, y = got[k], np.asarray(want[k])
    assert (x.dtype, x.shape) == (y.dtype, y.shape) and x.tobytes() == y.tobytes(), k


@pytest.fixture(scope="module")
def nets():
  """Tiny torch nets with every name that historic layouts treated specially."""
  from diffusers import AutoencoderKL, UNet2DConditionModel
  from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

  unet = UNet2DConditionModel(
    sample_size=8,
    block_out_channels=(8, 16),
    layers_per_block=1,
    norm_num_groups=4,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    attention_head_dim=2,
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=12,
    transformer_layers_per_block=2,
    addition_embed_type="text_time",
    addition_time_embed_dim=4,
    projection_class_embeddings_input_dim=36,
  )
  vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)
  config = CLIPTextConfig(
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=2,
    vocab_size=20,
    num_attention_heads=2,
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=1,
    projection_dim=6,
    max_position_embeddings=9,
  )
  text, projected = CLIPTextModel(config), CLIPTextModelWithProjection(config)
  return {"unet": scramble(unet), "vae": scramble(vae), "text": scramble(text), "projected": scramble(projected)}


# What diffusers and transformers write.


@pytest.mark.parametrize("kind", ["unet", "vae"])
def test_diffusers_single_sharded_and_fp16_files(nets, kind, tmp_path, capsys):
  net, want = nets[kind], state_dict(nets[kind])
  net.save_pretrained(tmp_path / "single")
  check(tensorfiles.read(tmp_path / "single", UNET), want)
  net.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
  got = tensorfiles.read(tmp_path / "sharded", UNET)
  assert got.source.name == "diffusion_pytorch_model.safetensors.index.json"
  assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
  check(got, want)
  assert capsys.readouterr().err == ""

  import copy

  half = copy.deepcopy(net).half()
  half.save_pretrained(tmp_path / "single", variant="fp16")
  low = {k: v.astype(np.float16) for k, v in want.items()}
  check(tensorfiles.read(tmp_path / "single", UNET, variant="fp16"), low)
  check(tensorfiles.read(tmp_path / "single", UNET), want)  # the variant must be asked for
  half.save_pretrained(tmp_path / "both", variant="fp16", max_shard_size="20KB")
  got = tensorfiles.read(tmp_path / "both", UNET, variant="fp16")
  assert got.source.name == "diffusion_pytorch_model.safetensors.index.fp16.json"
  check(got, low)
  assert capsys.readouterr().err == ""


def test_a_choice_that_was_not_asked_for_is_told(tmp_path, capsys):
  tensorfiles.write(tmp_path / "a/model.safetensors", small())
  assert tensorfiles.read(tmp_path / "a", CLIP, variant="fp16").source.name == "model.safetensors"
  assert "no model.fp16.safetensors, reading model.safetensors instead" in capsys.readouterr().err
  tensorfiles.write(tmp_path / "b/model.fp16.safetensors", small())
  assert tensorfiles.read(tmp_path / "b", CLIP).source.name == "model.fp16.safetensors"
  assert "reading model.fp16.safetensors instead" in capsys.readouterr().err
  shard = "model.fp16-00001-of-00001.safetensors"
  (tmp_path / "b/model.fp16.safetensors").rename(tmp_path / "b" / shard)
  index = {"weight_map": dict.fromkeys(small(), shard)}
  (tmp_path / "b/model.fp16.safetensors.index.json").write_text(json.dumps(index))  # older spelling
  check(tensorfiles.read(tmp_path / "b", CLIP, variant="fp16"), small())


@pytest.mark.parametrize("kind", ["text", "projected"])
def test_both_clip_key_styles_give_the_same_keys(nets, kind, tmp_path):
  nets[kind].save_pretrained(tmp_path / "a")
  got = weights.rename_clip(tensorfiles.read(tmp_path / "a", CLIP))
  want = {(k if k.startswith("text_") else "text_model." + k): v for k, v in state_dict(nets[kind]).items()}
  check(got, want)
  tensorfiles.write(tmp_path / "b/model.safetensors", got)  # as transformers < 5.6 wrote it
  check(weights.rename_clip(tensorfiles.read(tmp_path / "b", CLIP)), want)
  (tmp_path / "b/config.json").write_bytes((tmp_path / "a/config.json").read_bytes())
  again = type(nets[kind]).from_pretrained(tmp_path / "b")
  check(state_dict(again), state_dict(nets[kind]))


# What the removed Flax classes wrote.


def historic(tensors, *, clip=False, names=None) -> dict:
  """A torch state dict as FlaxModelMixin.save_pretrained laid it out (diffusers 0.35)."""
  tree = {}
  for key, x in tensors.items():
    for now, then in (names or {}).items():
      key = key.replace(f".{now}.", f".{then}.")
    key = key if clip else re.sub(r"\.(\d+)", r"_\1", key)
    *module, leaf = key.split(".")
    if leaf == "weight":
      leaf = "kernel" if x.ndim > 1 else "scale"
      if "embedding" in module[-1] and clip:
        leaf = "embedding"
    if leaf == "kernel":
      x = x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T
    node = tree
    for name in module:
      node = node.setdefault(name, {})
    node[leaf] = x
  return tree


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("kind", ["unet", "vae", "text", "projected"])
def test_flax_checkpoints_equal_the_torch_tensors(nets, kind, wrapped, tmp_path, capsys):
  want, clip = state_dict(nets[kind]), kind in ("text", "projected")
  if kind == "text":
    want = {"text_model." + k: v for k, v in want.items()}
  old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
  tree = historic(want, clip=clip, names=old if kind == "vae" else None)
  if kind == "vae":
    assert "query" in tree["encoder"]["mid_block"]["attentions_0"]
  if kind == "unet":
    block = tree["down_blocks_0"]["attentions_0"]["transformer_blocks_1"]
    assert {"to_q", "to_out_0"} <= set(block["attn1"]) and {"net_0", "net_2"} == set(block["ff"])
    assert {"linear_1", "linear_2"} == set(tree["add_embedding"])
  name = "flax_model.msgpack" if clip else "diffusion_flax_model.msgpack"
  (tmp_path / name).write_bytes(flax.serialization.msgpack_serialize({"params": tree} if wrapped else tree))
  got = tensorfiles.read(tmp_path, CLIP if clip else UNET)
  check(got, want)
  assert name in capsys.readouterr().err


def test_flax_chunks_bfloat16_scalars_and_shards(tmp_path, monkeypatch):
  tree = {
    "a": {"kernel": np.arange(600, dtype=np.float32).reshape(20, 30)},
    "b_0": {"scale": np.arange(5).astype(ml_dtypes.bfloat16)},
    "logit_scale": np.float32(2),
  }
  want = {"a.weight": tree["a"]["kernel"].T, "b.0.weight": tree["b_0"]["scale"], "logit_scale": np.array(2, np.float32)}
  monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 100)
  data = flax.serialization.msgpack_serialize(tree)
  assert b"__msgpack_chunked_array__" in data
  (tmp_path / "diffusion_flax_model.msgpack").write_bytes(data)
  check(tensorfiles.read(tmp_path, UNET), want)
  one, two = {"a": tree["a"], "logit_scale": tree["logit_scale"]}, {"b_0": tree["b_0"]}
  (tmp_path / "s").mkdir()
  for i, part in enumerate((one, two)):
    (tmp_path / f"s/flax_model-0000{i + 1}-of-00002.msgpack").write_bytes(flax.serialization.msgpack_serialize(part))
  index = {
    "weight_map": {"a/kernel": "flax_model-00001-of-00002.msgpack", "b_0/scale": "flax_model-00002-of-00002.msgpack"}
  }
  (tmp_path / "s/flax_model.msgpack.index.json").write_text(json.dumps(index))
  check(tensorfiles.read(tmp_path / "s", CLIP), want)


def test_a_flax_file_that_says_a_tensor_twice_is_refused(tmp_path):
  """`a_0` and `a/0` are both spellings of a.0: neither may silently win."""
  tree = {"a_0": {"scale": np.zeros(3, np.float32)}, "a": {"0": {"scale": np.ones(3, np.float32)}}}
  (tmp_path / "diffusion_flax_model.msgpack").write_bytes(flax.serialization.msgpack_serialize(tree))
  with pytest.raises(UserError, match="two tensors are a.0.weight"):
    tensorfiles.read(tmp_path, UNET)


# Pickles.


class Evil:
  def __reduce__(self):
    return (os.mkdir, (str(Evil.at),))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.ckpt", "model.pt", "model.fp16.bin"])
def test_pickles_are_refused_and_with_the_flag_run_no_code(name, tmp_path):
  import torch

  Evil.at = tmp_path / "owned"
  torch.save({"a": torch.ones(2), "x": Evil()}, tmp_path / name)
  with pytest.raises(UserError, match="pickle.*--allow-pickle") as e:
    tensorfiles.read(tmp_path, CLIP)
  assert str(tmp_path / name) in str(e.value)
  with pytest.raises(UserError, match="weights_only"):
    tensorfiles.read(tmp_path, CLIP, allow_pickle=True)
  assert not Evil.at.exists()
  want = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.ones(3, dtype=torch.bfloat16)}
  torch.save({"state_dict": want, "epoch": 3}, tmp_path / name)
  check(
    tensorfiles.read(tmp_path, CLIP, allow_pickle=True), {"a": want["a"].numpy(), "b": np.ones(3, ml_dtypes.bfloat16)}
  )
  tensorfiles.write(tmp_path / "model.safetensors", small())
  got = tensorfiles.read(tmp_path, CLIP, allow_pickle=True)
  assert got.source.suffix == ".safetensors"  # the flag opens a door, it does not prefer it


# Writing.


def test_write_then_read_is_the_identity_and_diffusers_reads_it(nets, tmp_path):
  path = tmp_path / "new/unet/diffusion_pytorch_model.safetensors"
  tensorfiles.write(path, small(), {"made_by": "a test"})
  check(tensorfiles.read(path.parent, UNET), small())
  with safe_open(path, "np") as f:
    assert f.metadata() == {"format": "pt", "made_by": "a test"}
  (tmp_path / "plain").touch()
  assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode  # the user's umask

  want = state_dict(nets["unet"])
  nets["unet"].save_config(path.parent)
  for size, count in (("20KB", None), (None, 1), (50_000, None)):  # layouts replace each other
    tensorfiles.write(path, want, max_shard_size=size)
    files = {p.name for p in path.parent.iterdir()} - {"config.json"}
    assert (files == {path.name}) if count else (path.name not in files and len(files) > 2)
    check(tensorfiles.read(path.parent, UNET), want)
    check(state_dict(type(nets["unet"]).from_pretrained(path.parent)), want)


def test_the_same_save_gives_the_same_bytes(tmp_path):
  """safetensors keeps metadata in a hash map that is seeded anew each time: one of 24! orders is ours."""
  metadata = {f"key {i} é \n": f'{{"a": "{i}\\"}}' for i in range(24)}
  files = [tmp_path / f"{i}.safetensors" for i in range(3)]
  for file in files:
    tensorfiles.write(file, small(), metadata)
  assert len({file.read_bytes() for file in files}) == 1
  with safe_open(files[0], "np") as file:
    assert file.metadata() == {"format": "pt", **metadata}
  check(tensorfiles.read(tmp_path, "0"), small())


@pytest.mark.parametrize("size", ["10 GB", "5MB", "1kb", 7])
def test_shard_sizes(size, tmp_path):
  tensorfiles.write(tmp_path / "model.safetensors", small(), max_shard_size=size)
  check(tensorfiles.read(tmp_path, CLIP), small())


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
  path = tmp_path / "model.safetensors"
  tensorfiles.write(path, small())
  before = path.read_bytes()

  def full(*args):
    raise OSError(28, "No space left on device")

  with monkeypatch.context() as m:
    m.setattr(tensorfiles, "save_file", full)
    with pytest.raises(UserError, match="No space left"):
      tensorfiles.write(path, {"x": np.ones(9)})
  assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]
  (tmp_path / "folder.safetensors").mkdir()
  for target in (tmp_path / "folder.safetensors", path / "below/model.safetensors"):
    with pytest.raises(UserError, match=re.escape(str(target))):
      tensorfiles.write(target, small())
  assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.safetensors", path.name]
  with pytest.raises(UserError, match="10GB"):
    tensorfiles.write(path, small(), max_shard_size="x")


# Digests.


def test_digest_is_sha256_and_its_cache_is_only_a_cache(tmp_path, monkeypatch):
  import hashlib

  monkeypatch.delenv("IDEJAX_CACHE", raising=False)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  cache = tmp_path / "cache/idejax/digests.json"
  (tmp_path / "d").mkdir()
  big = tmp_path / "d/big"
  big.write_bytes(bytes(2 << 20))
  want = hashlib.sha256(big.read_bytes()).hexdigest()
  assert tensorfiles.digest(big) == want and str(big) in json.loads(cache.read_text())
  with monkeypatch.context() as m:
    m.setattr(hashlib, "file_digest", None)  # a second reading would fail
    assert tensorfiles.digest(big) == want
  for rubbish in ("", "[]", "{", json.dumps({str(big): 3})):
    cache.write_text(rubbish)
    assert tensorfiles.digest(big) == want
  before = tensorfiles.digest(tmp_path / "d")
  big.write_bytes(bytes(2 << 20) + b"x")
  assert tensorfiles.digest(big) != want and tensorfiles.digest(tmp_path / "d") != before
  big.write_bytes(bytes(2 << 20) + b"y")  # as large as before
  os.utime(big, ns=(0, 1))  # file systems may count in ticks
  assert tensorfiles.digest(big) == hashlib.sha256(bytes(2 << 20) + b"y").hexdigest()
  (tmp_path / "d/.hidden").write_text("x")
  after = tensorfiles.digest(tmp_path / "d")
  big.write_bytes(bytes(2 << 20))
  assert tensorfiles.digest(tmp_path / "d") == before != after
  with pytest.raises(UserError, match="cannot be read"):
    tensorfiles.digest(tmp_path / "no")
  monkeypatch.setenv("XDG_CACHE_HOME", str(pathlib.Path(tmp_path / "d/big")))  # cannot be made
  assert tensorfiles.digest(big) == want
