"""Reads identities that were trained elsewhere.

a word's embeddings   {"<x>": [P, d]}, {"v1*": [d], "v2*": [d]}, {"clip_l", "clip_g"}, {"emb_params"}
LoRA                  of the UNet's attention, in the spellings of PEFT, diffusers and kohya
Custom Diffusion      keys and values of cross-attention
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from idejax import tree
from idejax.errors import UserError
from idejax.methods import dreambooth, id_ea, textual_inversion
from idejax.model import anchors
from idejax.sampling.learned import Learned
from idejax.sampling.pipeline import Pipeline
from idejax.storage import tensorfiles, weights

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_KV = [r"\.attn2\.to_[kv]\.kernel$"]
_MOST = 77  # rows of a word; a prompt has no room for more

Tensors = Mapping[str, np.ndarray]


def read(path: Path, allow_pickle: bool = False) -> dict[str, np.ndarray]:
  """The tensors of one file by name, as float32. UserError says what is wrong with it."""
  if not path.is_file():
    raise UserError(f"{path} does not exist or is no file")
  tensors: Tensors
  if path.suffix == ".safetensors":
    tensors = tensorfiles.read(path.parent, path.stem)
  elif path.suffix in PICKLES:
    tensors = _pickle(path, allow_pickle)
  else:
    raise UserError(f"{path}: identities from elsewhere are .safetensors files, or pickles ({', '.join(PICKLES)})")
  out = {}
  for k, x in tensors.items():
    if x.dtype.kind not in "fV" and not np.issubdtype(x.dtype, np.floating) and x.size > 1:
      raise UserError(f"{path}: {k} holds {x.dtype}, not floats")
    out[k] = np.asarray(x, np.float32)
    if not np.isfinite(out[k]).all():
      raise UserError(f"{path}: {k} holds numbers that are not finite")
  if not out:
    raise UserError(f"{path} holds no tensors")
  return out


def _pickle(path: Path, allow: bool) -> dict[str, np.ndarray]:
  if not allow:
    raise UserError(
      f"{path} is a pickle, which can run code when it is opened; pass --allow-pickle if you trust its author"
    )
  content = tensorfiles.unpickle(path)
  import torch  # it is there: the line above says what to do where it is not

  if isinstance(content, torch.Tensor):
    content = {"*": content}
  if isinstance(content, dict) and "string_to_param" in content:
    content = dict(content["string_to_param"])
  if not isinstance(content, dict):
    raise UserError(f"{path} holds {type(content).__name__}, not tensors")
  return {str(k): v.detach().float().numpy() for k, v in content.items() if isinstance(v, torch.Tensor)}


def identity(
  files: list[Path], pipe: Pipeline, model: str, word: str, *, phrase: str = "sks person", allow_pickle: bool = False
) -> Learned:
  """The person in one or more files (words beside a LoRA, or SDXL's two), under the name `word`.

  phrase: what prompts called the person while a LoRA was trained, if no file brings words.
  """
  rows: tuple[np.ndarray, ...] | None = None
  per_file: list[np.ndarray] = []
  change: dict[str, Any] = {}
  for path in files:
    tensors = read(path, allow_pickle)
    form = kind(tensors)
    if form == "words":
      embeddings = words(tensors, path)
      if len(embeddings) == 2:
        rows = embeddings
      else:
        per_file += embeddings
    elif change:
      raise UserError(f"{path}: a second file of weights; give one, and files of words beside it")
    elif form == "lora":
      change = {"lora": lora(tensors, pipe, path)}
    else:
      change = {"kv": keys_and_values(tensors, pipe, path)}
  if per_file:
    rows = tuple(per_file)
  if rows is None:
    if "kv" in change:
      raise UserError(f"{files[0]} has keys and values, but no word: give its word's file too")
    parts = [anchors.word_rows(pipe.backbone, pipe.tokenizers, w) for w in phrase.split()]
    if not parts:
      raise UserError("--word is empty; say what prompts called the person, such as sks person")
    rows = tuple(np.concatenate([np.asarray(x, np.float32) for x in r]) for r in zip(*parts))
  check_rows(rows, pipe, model, files)
  arrays: dict[str, Any] = {"rows": tuple(jnp.asarray(r)[None, None] for r in rows)} | change
  cfg: Any
  if "lora" in change:
    rank = jax.tree.leaves(change["lora"])[0].shape[-1]  # of lora_A
    method, cfg = "dreambooth", dreambooth.Config(trains="lora", word=phrase, rank=rank, alpha=float(rank))
  elif "kv" in change:
    method, cfg = "id-ea", dataclasses.replace(id_ea.Config(), adapter=False, kv="full", phrase="{}", negative="person")
  else:
    method, cfg = "textual-inversion", textual_inversion.Config(vectors=len(rows[0]))
  if change:
    arrays["scale"] = jnp.ones(())
  return Learned(word, method, cfg, arrays, model, pipe.digest)


def kind(tensors: Tensors) -> str:
  """custom-diffusion, lora or words, by the names of the tensors."""
  if any("custom_diffusion" in k for k in tensors):
    return "custom-diffusion"
  return "lora" if any("lora" in k for k in tensors) else "words"


# Words.


def words(tensors: Tensors, path: Path) -> tuple[np.ndarray, ...]:
  """A word's rows [P, d] per text encoder, from one tensor or from several in the order of their names."""
  if {"clip_l", "clip_g"} <= set(tensors):
    groups = [[tensors["clip_l"]], [tensors["clip_g"]]]
  else:
    groups = [[tensors[k] for k in sorted(tensors, key=_natural)]]
  return tuple(_rows(x, path) for x in groups)


def _natural(name: str) -> list[tuple[int, str]]:
  """The sorting key that puts v2* before v10*, and <x> before <x>_1."""
  return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name)]


def _rows(parts: list[np.ndarray], path: Path) -> np.ndarray:
  if any(x.ndim == 0 or x.ndim > 3 for x in parts) or len({x.shape[-1] for x in parts}) > 1:
    raise UserError(f"{path} holds no word's embeddings: tensors of the shapes {[list(x.shape) for x in parts[:4]]}")
  rows = np.concatenate([x.reshape(-1, x.shape[-1]) for x in parts])
  if not 1 <= len(rows) <= _MOST:
    raise UserError(f"{path} has {len(rows)} rows; a word has 1 to {_MOST}")
  return rows


def check_rows(rows: tuple[np.ndarray, ...], pipe: Pipeline, model: str, files: list[Path]):
  """Raise UserError, with both widths, unless the words fit the model."""
  widths, expected = [r.shape[-1] for r in rows], [t.hidden_size for t in pipe.backbone.nets.text]
  if widths != expected:
    raise UserError(
      f"{', '.join(map(str, files))}: words of width {' + '.join(map(str, widths))}, but the text encoder(s) "
      f"of {model} have width {' + '.join(map(str, expected))}: made for another model"
    )
  if len({len(r) for r in rows}) > 1:
    raise UserError(
      f"{files[0]}: {' and '.join(str(len(r)) for r in rows)} rows for the two text encoders; they must be as many"
    )


# LoRA.

_LORA = re.compile(
  r"^(?P<module>.*?)(?:\.processor\.(?P<old>to_(?:q|k|v|out))_lora)?"
  r"\.(?:(?P<down>lora_A|lora\.down|lora_down|down)|lora_B|lora\.up|lora_up|up)(?:\.default)?\.weight$"
)


def lora(tensors: Tensors, pipe: Pipeline, path: Path) -> dict[str, Any]:
  """{module: {"kernel": {"lora_A" [.., I, r], "lora_B" [.., r, O]}}} of the largest rank; alpha is in B."""
  kernels = tree.split(pipe.backbone.params["unet"], dreambooth.LORA)[0]
  shapes = {k.removesuffix(".weight"): s for k, s in weights.keys(kernels).items()}
  names = {k: k for k in shapes} | {k.replace(".", "_"): k for k in shapes}
  about, factors = _lora_about(path), dict[str, dict[str, np.ndarray]]()
  for key, x in tensors.items():
    if key.endswith(".alpha"):
      continue
    if key.startswith(("text_encoder", "lora_te")):
      raise UserError(
        f"{path} also changes the text encoder ({key}); idejax imports LoRAs of the UNet only: "
        "merge it in diffusers (pipe.fuse_lora(), pipe.save_pretrained(DIR)) and sample from that folder"
      )
    m = _LORA.match(key)
    module = m["module"].removeprefix("unet.").removeprefix("lora_unet_") if m else key
    if m and m["old"]:
      module += "." + m["old"] + (".0" if m["old"] == "to_out" else "")
    if m is None or module not in names or x.ndim != 2:
      raise UserError(
        f"{path} changes {module}, which is no attention layer of this model that idejax imports (to_q, to_k, "
        "to_v, to_out); merge it in diffusers (pipe.fuse_lora(), pipe.save_pretrained(DIR))"
      )
    name = names[module]
    factors.setdefault(name, {})["down" if m["down"] else "up"] = x
    if (alpha := tensors.get(f"{key.rsplit('.lora', 1)[0]}.alpha")) is not None:
      factors[name]["alpha"] = alpha
    elif about:
      factors[name]["alpha"] = _lora_alpha(about, name, x.shape[0 if m["down"] else 1])
  for name, f in factors.items():
    if not {"up", "down"} <= set(f):
      raise UserError(f"{path}: {name} has one factor of its LoRA, not both")
    o, i = shapes[name]
    if f["down"].shape[1] != i or f["up"].shape != (o, len(f["down"])):
      raise UserError(
        f"{path}: {name} is {f['up'].shape[0]} x {f['down'].shape[1]} there and {o} x {i} in {pipe.folder}: "
        "made for another model"
      )
  rank = max(len(f["down"]) for f in factors.values())
  parts = []
  for side in ("down", "up"):
    matrices = {f"{n}.weight": _factor(factors.get(n), side, rank, shape) for n, shape in shapes.items()}
    axis = (lambda w: (*w.shape[:-1], rank)) if side == "down" else (lambda w: (*w.shape[:-2], rank, w.shape[-1]))
    parts.append(
      weights.from_torch(jax.tree.map(lambda w, a=axis: jax.ShapeDtypeStruct(a(w), jnp.float32), kernels), matrices)
    )
  return jax.tree.map(lambda a, b: {"lora_A": jnp.asarray(a), "lora_B": jnp.asarray(b)}, *parts)


def _lora_about(path: Path) -> dict[str, Any]:
  """peft's settings of the UNet's LoRA from a file's metadata, as diffusers >= 0.34 writes them; {} if none."""
  if path.suffix != ".safetensors":
    return {}
  try:
    with safe_open(path, "numpy") as f:
      metadata = json.loads((f.metadata() or {}).get("lora_adapter_metadata", "{}"))
    about = {k.removeprefix("unet."): v for k, v in metadata.items() if k.startswith("unet.")}
    if about:
      patterns = {str(k): float(v) for k, v in (about.get("alpha_pattern") or {}).items()}
      about |= {"lora_alpha": float(about["lora_alpha"]), "alpha_pattern": patterns}
  except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
    raise UserError(
      f"{path}: its LoRA's settings (lora_adapter_metadata) are damaged: {type(e).__name__} {str(e)[:120]}"
    ) from e
  if about.get("use_dora"):
    raise UserError(f"{path} is a DoRA; merge it in diffusers (pipe.fuse_lora(), pipe.save_pretrained(DIR))")
  return about


def _lora_alpha(about: Mapping[str, Any], module: str, rank: int) -> np.ndarray:
  """A module's alpha: alpha / rank scales its factors. peft's patterns match the end of the module's name."""
  matches = [a for p, a in about["alpha_pattern"].items() if module == p or module.endswith(f".{p}")]
  alpha = matches[0] if matches else about["lora_alpha"]
  return np.asarray(alpha * rank**0.5 if about.get("use_rslora") else alpha, np.float32)


def _factor(f: dict[str, np.ndarray] | None, side: str, rank: int, shape: tuple[int, ...]) -> np.ndarray:
  """A factor in torch's axes, [rank, I] or [O, rank], padded with zeros; alpha / rank goes into `up`."""
  o, i = shape
  out = np.zeros((rank, i) if side == "down" else (o, rank), np.float32)
  if f is None:
    return out
  size = len(f["down"])
  if side == "down":
    out[:size] = f["down"]
  else:
    out[:, :size] = f["up"] * (np.float32(f["alpha"]) / size if "alpha" in f else 1)
  return out


# Custom Diffusion.


def keys_and_values(tensors: Tensors, pipe: Pipeline, path: Path) -> dict[str, Any]:
  """The changes of the kernels of cross-attention's keys and values, float32. UserError if they do not fit."""
  kernels = tree.split(pipe.backbone.params["unet"], _KV)[0]
  base, new = weights.to_torch(kernels), dict[str, np.ndarray]()
  for key, x in tensors.items():
    if not x.size:
      continue  # an attention that is not changed
    m = re.fullmatch(r"(?:unet\.)?(.*\.attn2)\.processor\.(to_[kv])_custom_diffusion\.weight", key)
    name = f"{m[1]}.{m[2]}.weight" if m else key
    if name not in base:
      raise UserError(f"{path} changes {key}; idejax imports keys and values of cross-attention only")
    if x.shape != base[name].shape:
      raise UserError(
        f"{path}: {name} is {list(x.shape)} there and {list(base[name].shape)} in {pipe.folder}: made for another model"
      )
    new[name] = x
  changes = {
    k: new[k] - np.asarray(w, np.float32) if k in new else np.zeros(w.shape, np.float32) for k, w in base.items()
  }
  shapes = jax.tree.map(lambda w: jax.ShapeDtypeStruct(w.shape, jnp.float32), kernels)
  return jax.tree.map(jnp.asarray, weights.from_torch(shapes, changes))
