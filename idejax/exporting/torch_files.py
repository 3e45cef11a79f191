"""The parts of an identity, in the tensors and names that the PyTorch world uses."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from idejax.errors import UserError
from idejax.methods import IDENTITIES, textual_inversion
from idejax.methods.contract import Adapter, Export
from idejax.model import conditioning
from idejax.model.backbone import Backbone
from idejax.sampling.learned import Learned
from idejax.sampling.pipeline import Pipeline
from idejax.storage import tensorfiles, weights
from idejax.storage.files import write_json

WORDS = "learned_embeds.safetensors"  # the names that diffusers looks for by default
LORA = "pytorch_lora_weights.safetensors"
CUSTOM = "pytorch_custom_diffusion_weights.safetensors"


def parts(person: Learned, b: Backbone) -> Export:
  """The parts of a person's identity, from their method's `export`."""
  return IDENTITIES[person.method].export(person.identity, b, person.cfg)


def has_stages(e: Export) -> bool:
  """Whether the words differ by stage, or between keys and values."""
  return any(r.shape[:2] != (1, 1) for r in e.rows)


def losses(e: Export, kind: str) -> str:
  """What a form leaves out, in words; "" if nothing. `kind` is the --format of `idejax export`."""
  out = []
  if e.stock is not None and kind != "textual-inversion" and not (kind == "pipeline" and e.adapter):
    out.append("negative prompts are read by the person's weights, not by the base model's")
  if e.text and kind != "textual-inversion":
    out.append("negative prompts are encoded by the person's text encoder, not by the base model's")
  if kind == "pipeline":
    return "; ".join(out)
  if has_stages(e):
    out.append("words by stage, and apart for keys and values: their mean takes their place")
  if e.adapter:
    out.append("the adapter")
  if kind == "textual-inversion" and e.unet:
    out.append("the changed weights of the UNet" + (" and of the text encoder" if e.text else ""))
  return "; ".join(out)


def as_written(person: Learned, e: Export, kind: str) -> Learned:
  """The person without what the written form loses: the reference for the certificate."""
  if not losses(e, kind):
    return person
  cfg = e.stock or person.cfg
  if e.without_text and kind != "textual-inversion":
    person = dataclasses.replace(person, identity=e.without_text)
  if kind == "pipeline":
    return dataclasses.replace(person, cfg=cfg)
  rows = tuple(r[None, None] for r in mean_rows(e))
  if kind == "textual-inversion":
    cfg = textual_inversion.Config(vectors=person.rows)
    return dataclasses.replace(person, method="textual-inversion", cfg=cfg, identity={"rows": rows})
  return dataclasses.replace(person, cfg=cfg, identity={**(e.without_adapter or person.identity), "rows": rows})


def model_as_written(pipe: Pipeline, e: Export, kind: str) -> Pipeline:
  """The model under `as_written`'s person: with the person's text encoders, where the form holds them."""
  if not e.text or kind == "textual-inversion":
    return pipe
  return dataclasses.replace(pipe, backbone=conditioning.with_text(pipe.backbone, e.text))


def mean_rows(e: Export) -> list[np.ndarray]:
  """The mean over stages, keys and values: [P, d] per text encoder, float32."""
  return [np.asarray(r, np.float32).mean((0, 1)) for r in e.rows]


def words(word: str, e: Export, *, by_stage: bool) -> list[list[tuple[str, np.ndarray]]]:
  """(token, row [d]) per text encoder. Several rows are <id>, <id>_1, ..., as diffusers numbers them.

  by_stage: <id>-k0, <id>-v0, <id>-k1, ..., stage 0 the noisiest.
  """
  if not by_stage:
    return [_number(word, rows) for rows in mean_rows(e)]
  out = []
  for rows in e.rows:
    x = np.asarray(rows, np.float32)
    out.append(
      [
        pair
        for s in range(len(x))
        for kind, w in (("k", 0), ("v", -1))
        for pair in _number(f"{word}-{kind}{s}", x[s, w])
      ]
    )
  return out


def _number(name: str, rows: np.ndarray) -> list[tuple[str, np.ndarray]]:
  return [(name if i == 0 else f"{name}_{i}", row) for i, row in enumerate(rows)]


def write_words(folder: Path, person: Learned, e: Export):
  """A textual-inversion file: {word: [P, d]}, or SDXL's {"clip_l", "clip_g"}."""
  rows = mean_rows(e)
  tensors = {person.word: rows[0]} if len(rows) == 1 else dict(zip(("clip_l", "clip_g"), rows))
  about = {
    "word": person.word,
    "method": person.method,
    "lossy": losses(e, "textual-inversion"),
    "base_digest": person.digest,
    "idejax": json.dumps({"vectors": len(rows[0])}),
  }
  tensorfiles.write(folder / WORDS, tensors, about)


def write_lora(folder: Path, person: Learned, e: Export):
  """diffusers' and PEFT's LoRA of the UNet and the text encoders; alpha, rank and strength are in the factors already."""
  tensorfiles.write(folder / LORA, lora(person, e), {"method": person.method})


def lora(person: Learned, e: Export) -> dict[str, np.ndarray]:
  """{unet.MODULE.lora_A.weight [r, I], unet.MODULE.lora_B.weight [O, r]}, and the same of text_encoder and
  text_encoder_2. UserError without low-rank changes."""
  if e.low_rank is None:
    raise UserError(f"{person.word} has no low-rank changes ({person.method}): use --format pipeline")
  out = {}
  for component, both in {"unet": e.low_rank, **e.text_low_rank}.items():
    for side, factors in zip(("lora_A", "lora_B"), both):
      for key, x in _float32(factors).items():
        out[f"{component}.{key.removesuffix('.weight')}.{side}.weight"] = x
  return out


def unet_changes(e: Export) -> dict[str, np.ndarray]:
  """The UNet's tensors that the person changes, with their new values, float32."""
  return _float32(e.unet) if e.unet else {}


def text_changes(e: Export, component: str) -> dict[str, np.ndarray]:
  """A text encoder's tensors that the person changes, with their new values, float32."""
  return _float32(e.text[component]) if component in e.text else {}


def _float32(tree: Any) -> dict[str, np.ndarray]:
  return weights.to_torch(jax.tree.map(lambda x: np.asarray(x, np.float32), tree))


def write_custom_diffusion(folder: Path, person: Learned, e: Export):
  """Keys and values in Custom Diffusion's layout. UserError if anything else of the UNet changes."""
  out = dict[str, np.ndarray]()
  for key, x in unet_changes(e).items():
    module, _, name = key.removesuffix(".weight").rpartition(".")
    if not module.endswith(".attn2") or name not in ("to_k", "to_v"):
      raise UserError(f"{person.word} changes {key}; custom-diffusion holds keys and values of cross-attention only")
    out[f"{module}.processor.{name}_custom_diffusion.weight"] = x
    # diffusers needs a tensor for every attention; an empty one leaves it unchanged.
    out[f"{module.removesuffix('.attn2')}.attn1.processor"] = np.zeros(0, np.float32)
  if not out:
    raise UserError(f"{person.word} changes no keys and values ({person.method}): use --format textual-inversion")
  tensorfiles.write(folder / CUSTOM, out, {"method": person.method})


def write_adapter(folder: Path, a: Adapter):
  """The adapter's config and tensors, for the class in its PyTorch file."""
  tensors = _float32(a.params) if a.params else {}
  tensors |= {k: np.asarray(x, np.float32) for k, x in a.arrays.items()}
  sizes: dict[str, list[int]] = {}  # of the change of each kernel: input, rank if it is low, output
  for i, side in enumerate(a.changes):
    for key, x in _float32(side).items():
      name = key.removesuffix(".weight").replace(".", "-")
      tensors[f"changes.{name}.{i}.weight"] = x
      sizes.setdefault(name, [x.shape[1]]).append(x.shape[0])
  write_json(folder / "config.json", {"_class_name": a.class_name, **a.config, "kernels": sizes})
  tensorfiles.write(folder / "diffusion_pytorch_model.safetensors", tensors)
