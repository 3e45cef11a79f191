"""What an identity is made of, in the tensors and names that the PyTorch world uses."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from idejax import tensorfiles, weights
from idejax.backbone import Backbone
from idejax.errors import UserError
from idejax.learned import Learned
from idejax.methods import METHODS, textual_inversion

WORDS = "learned_embeds.safetensors"  # the names that diffusers looks for by itself
LORA = "pytorch_lora_weights.safetensors"
CUSTOM = "pytorch_custom_diffusion_weights.safetensors"


def staged(person: Learned) -> bool:
  """Whether its words differ by stage, or for keys and values."""
  return person.identity["rows"][0].shape[:2] != (1, 1)


def adapted(person: Learned) -> bool:
  return "adapter" in person.identity or "face" in person.identity


def weighted(person: Learned) -> bool:
  """Whether it changes the UNet."""
  return any(k in person.identity for k in ("kv", "unet", "lora"))


def lost(person: Learned, kind: str) -> str:
  """What a form leaves out, in words; "" if nothing. `kind` as --format of `idejax export`."""
  parts = []
  if kind == "pipeline": return ""
  if staged(person): parts.append("words by stage, and apart for keys and values: their mean takes their place")
  if adapted(person): parts.append("the adapter")
  if kind == "textual-inversion" and weighted(person): parts.append("the changed weights of the UNet")
  return "; ".join(parts)


def as_written(person: Learned, kind: str) -> Learned:
  """The person as the written form has it: the same, less what is lost. What idejax compares with."""
  if not lost(person, kind): return person
  rows = tuple(np.asarray(r, np.float32)[None, None] for r in mean_rows(person))
  if kind == "textual-inversion":
    return Learned(person.word, "textual-inversion", textual_inversion.Config(vectors=person.rows), {"rows": rows},
                   person.model, person.digest, person.licence)  # fmt: skip
  kept = {k: v for k, v in person.identity.items() if k not in ("adapter", "face")}
  return Learned(person.word, person.method, person.cfg, {**kept, "rows": rows}, person.model, person.digest,
                 person.licence)  # fmt: skip


def mean_rows(person: Learned) -> list[np.ndarray]:
  """[P, d] per text encoder, over stages and keys and values."""
  return [np.asarray(r, np.float32).mean((0, 1)) for r in person.identity["rows"]]


def words(person: Learned, *, by_stage: bool) -> list[list[tuple[str, np.ndarray]]]:
  """(token, row [d]) per text encoder. Several rows are <id>, <id>_1, ..., as diffusers numbers them.

  by_stage: <id>-k0, <id>-v0, <id>-k1, ..., stage 0 the noisiest.
  """
  numbered = lambda name, rows: [(name if i == 0 else f"{name}_{i}", row) for i, row in enumerate(rows)]
  if not by_stage: return [numbered(person.word, rows) for rows in mean_rows(person)]
  out = []
  for rows in person.identity["rows"]:
    x = np.asarray(rows, np.float32)
    out.append([pair for s in range(len(x)) for kind, w in (("k", 0), ("v", -1))
                for pair in numbered(f"{person.word}-{kind}{s}", x[s, w])])  # fmt: skip
  return out


def write_words(folder: Path, person: Learned):
  """A textual-inversion file: {word: [P, d]}, or SDXL's {"clip_l", "clip_g"}."""
  rows = mean_rows(person)
  tensors = {person.word: rows[0]} if len(rows) == 1 else dict(zip(("clip_l", "clip_g"), rows))
  about = {"word": person.word, "method": person.method, "lossy": lost(person, "textual-inversion"),
           "base_digest": person.digest, "idejax": json.dumps({"vectors": len(rows[0])})}  # fmt: skip
  tensorfiles.write(folder / WORDS, tensors, about)


def write_lora(folder: Path, person: Learned):
  """diffusers' and PEFT's LoRA of the UNet; alpha, rank and strength are in the factors already."""
  tensorfiles.write(folder / LORA, lora(person), {"method": person.method})


def lora(person: Learned) -> dict[str, np.ndarray]:
  """{unet.MODULE.lora_A.weight [r, I], unet.MODULE.lora_B.weight [O, r]}. UserError without low-rank changes."""
  identity, out = person.identity, {}
  if "lora" in identity: factors, names, scale = identity["lora"], ("lora_A", "lora_B"), person.cfg.alpha / person.cfg.rank
  else: factors, names, scale = identity.get("kv"), ("A", "B"), 1.0
  is_pair = lambda x: isinstance(x, Mapping) and set(x) == set(names)
  pairs = jax.tree.leaves(factors, is_leaf=is_pair)
  if not pairs or not all(map(is_pair, pairs)):
    raise UserError(f"{person.word} has no low-rank changes ({person.method}): use --format pipeline")
  scale *= float(identity.get("scale", 1.0))
  for i, side in enumerate(("lora_A", "lora_B")):
    part = jax.tree.map(lambda f, i=i: np.asarray(f[names[i]], np.float32), factors, is_leaf=is_pair)
    for key, x in weights.to_torch(part).items():
      out[f"unet.{key.removesuffix('.weight')}.{side}.weight"] = x * np.float32(scale if i else 1.0)
  return out


def changed_unet(person: Learned, b: Backbone) -> dict[str, np.ndarray]:
  """The UNet's tensors that the person changes, whole, float32."""
  changes = METHODS[person.method].override([person.identity], b, person.cfg)
  return {k: np.asarray(x, np.float32) for k, x in weights.to_torch(changes).items()} if changes else {}


def write_custom_diffusion(folder: Path, person: Learned, b: Backbone):
  """Keys and values in Custom Diffusion's layout. UserError if anything else of the UNet changes."""
  changes, out = changed_unet(person, b), dict[str, np.ndarray]()
  for key, x in changes.items():
    module, _, name = key.removesuffix(".weight").rpartition(".")
    if not module.endswith(".attn2") or name not in ("to_k", "to_v"):
      raise UserError(f"{person.word} changes {key}; custom-diffusion holds keys and values of cross-attention only")
    out[f"{module}.processor.{name}_custom_diffusion.weight"] = x
    # diffusers wants every attention named; an empty tensor says "as it is".
    out[f"{module.removesuffix('.attn2')}.attn1.processor"] = np.zeros(0, np.float32)
  if not out: raise UserError(f"{person.word} changes no keys and values ({person.method}): use --format textual-inversion")
  tensorfiles.write(folder / CUSTOM, out, {"method": person.method})


def adapter(person: Learned) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """(config, tensors) of ID-EA's adapter for one person, as the IDAdapter of the folder's code."""
  identity, cfg = person.identity, person.cfg
  face = np.asarray(identity["face"], np.float32)
  width = sum(r.shape[-1] for r in identity["rows"])
  config: dict[str, Any] = {"_class_name": "IDAdapter", "width": width, "face_tokens": face.shape[0], "face_width": face.shape[1],
            "heads": cfg.heads, "strength": float(cfg.beta * np.asarray(identity["scale"])) if "scale" in identity else 1.0,
            "replaces": "adapter" not in identity}  # fmt: skip
  tensors = {"face": face}
  if "adapter" in identity:
    layers = {k: v for k, v in identity["adapter"].items() if k != "gamma"}
    tensors |= weights.to_torch(jax.tree.map(lambda x: np.asarray(x, np.float32), layers))
    tensors["gamma"] = np.asarray(identity["adapter"]["gamma"], np.float32).reshape(1)
  return config, tensors
