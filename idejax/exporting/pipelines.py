"""A complete pipeline folder with a person in it: their words in the vocabulary, their weights, their code.

The folder needs no call after `from_pretrained`. Vocabulary and end token are set so that stock
transformers pools SDXL's vector at the end of the text, where idejax does.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from idejax.errors import UserError
from idejax.exporting import folders, torch_files
from idejax.methods.contract import Export
from idejax.model import tokens
from idejax.sampling.learned import Learned
from idejax.sampling.pipeline import Pipeline
from idejax.storage.files import write_json

_EMBEDDING = "text_model.embeddings.token_embedding.weight"


def template(name: str) -> str:
  """The text of a PyTorch file that is copied into exported folders."""
  text = resources.files("idejax.exporting").joinpath("templates", name).read_text("utf-8")
  return re.sub(r"  # (?:type: ignore|noqa|fmt).*", "", text)  # directives to this project's linters


def needs_code(e: Export) -> bool:
  """Whether stock pipelines cannot run the person without a pipeline.py."""
  return torch_files.has_stages(e) or e.adapter is not None


def write(folder: Path, pipe: Pipeline, person: Learned, e: Export):
  """Write base and person as one pipeline. Changed components are float32, the others unchanged."""
  base, index = pipe.folder, folders.index_of(pipe.folder)
  per_encoder = torch_files.words(person.word, e, by_stage=torch_files.has_stages(e))
  encoders = dict(zip(("text_encoder", "text_encoder_2"), per_encoder))
  changes = {} if e.adapter and e.adapter.changes else torch_files.unet_changes(e)
  for name in folders.components(index):
    source, target = base / name, folder / name
    if not source.is_dir():
      index[name] = [None, None]  # such as a safety checker that was never fetched
    elif name in encoders:
      tokenizer = "tokenizer" + name.removeprefix("text_encoder")
      ids = add_words(base / tokenizer, folder / tokenizer, [w for w, _ in encoders[name]])
      eos = tokens.load(base / tokenizer).eos
      write_text_encoder(source, target, ids, encoders[name], eos, torch_files.text_changes(e, name))
    elif name == "unet" and changes:
      folders.component(source, target, dtype="float32", changes=changes)
    elif not name.startswith("tokenizer"):
      copy(source, target)
  if needs_code(e):
    write_code(folder, person, e, index, "text_encoder_2" in index)
  folders.finish(index, base, folder)


def copy(source: Path, target: Path):
  """A component's copy, its weights as safetensors."""
  if (stem := folders.stem_of(source)) is None or (source / f"{stem}.safetensors").exists():
    target.mkdir(parents=True, exist_ok=True)
    for p in source.iterdir():
      if p.suffix in (".json", ".txt") or stem and p.name == f"{stem}.safetensors":
        shutil.copyfile(p, target / p.name)
  else:
    folders.component(source, target)


def add_words(source: Path, target: Path, words: list[str]) -> list[int]:
  """Write a tokenizer with new words, in the files of both transformers 4 and 5 -> the words' ids."""
  tokens.load(source)  # says in our words what may be wrong with it
  os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
  import transformers

  transformers.logging.set_verbosity_error()  # "PyTorch was not found" is no concern of a JAX user
  bpe = transformers.CLIPTokenizer.from_pretrained(str(source), local_files_only=True)
  for word in words:
    if word in bpe.get_vocab():
      raise UserError(f"{source}: the model knows the word {word} already; choose another --name")
  bpe.add_tokens(words)
  ids = [int(bpe.convert_tokens_to_ids(w)) for w in words]
  target.mkdir(parents=True, exist_ok=True)
  bpe.save_pretrained(str(target))
  for name in ("vocab.json", "merges.txt", "special_tokens_map.json"):
    if (source / name).exists():
      shutil.copyfile(source / name, target / name)
  if not (target / "vocab.json").exists():  # transformers 4 reads these two
    model = json.loads((target / "tokenizer.json").read_text("utf-8"))["model"]
    write_json(target / "vocab.json", model["vocab"])
    pairs = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    (target / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n", "utf-8")
  if not (target / "special_tokens_map.json").exists():
    special = {f"{k}_token": str(getattr(bpe, f"{k}_token")) for k in ("bos", "eos", "unk", "pad")}
    write_json(target / "special_tokens_map.json", special)
  old = json.loads((source / "added_tokens.json").read_text("utf-8")) if (source / "added_tokens.json").exists() else {}
  write_json(target / "added_tokens.json", old | dict(zip(words, ids)))
  return ids


def write_text_encoder(source: Path, target: Path, ids: list[int], words, eos: int, changes: Mapping[str, np.ndarray]):
  """Write the encoder with `changes`, a row for each new id, and the end token's true id in its config.

  Old configs say eos_token_id 2, for which transformers pools at the largest id: with new words,
  whose ids are larger than the end token's, at the word.
  """

  def grow(tensors):
    if odd := changes.keys() - set(tensors):
      raise UserError(f"{source}: has no tensor {min(odd)} to replace")
    tensors = {**tensors, **changes}
    old = np.asarray(tensors[_EMBEDDING], np.float32)
    table = np.zeros((max(len(old), max(ids) + 1), old.shape[1]), np.float32)
    table[: len(old)] = old
    for i, (_, row) in zip(ids, words):
      table[i] = row
    sizes.append(len(table))
    return {**tensors, _EMBEDDING: table}

  sizes: list[int] = []
  folders.component(source, target, dtype="float32", rename=grow)
  about = json.loads((target / "config.json").read_text())
  about |= {"vocab_size": sizes[0], "eos_token_id": eos}
  write_json(target / "config.json", {k: v for k, v in about.items() if k not in ("torch_dtype", "dtype")})


def write_code(folder: Path, person: Learned, e: Export, index: dict[str, Any], xl: bool):
  """Write pipeline.py and the adapter's files, and enter both in `index`."""
  index["_class_name"] = ["pipeline", "PersonPipeline"]
  index["word"] = person.word
  if torch_files.has_stages(e):
    if e.adapter:
      raise UserError(f"{person.word} has an adapter and stages: no such pipeline is known")
    index["stages"] = e.rows[0].shape[0]
    text = template("staged.py")
  else:
    assert e.adapter is not None  # needs_code said so
    module = f"modeling_{e.adapter.name}"
    torch_files.write_adapter(folder / e.adapter.name, e.adapter)
    (folder / e.adapter.name / f"{module}.py").write_text(template(f"{e.adapter.name}.py"), "utf-8")
    index[e.adapter.name] = [module, e.adapter.class_name]
    text = template(f"{e.adapter.pipeline}.py")
  (folder / "pipeline.py").write_text(for_family(text, xl), "utf-8")


def for_family(text: str, xl: bool) -> str:
  """A template without the other family's constructor."""
  head, sd, sdxl, rest = re.split(r"  # -- .* --\n", text)
  text = head + (sdxl if xl else sd) + rest
  for kind in ("Pipeline", "ControlNetPipeline") if xl else ():
    text = text.replace(f"StableDiffusion{kind}", f"StableDiffusionXL{kind}")
  return text
