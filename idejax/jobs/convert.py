"""`idejax convert`: models into other dtypes, shards and layouts, and identities from elsewhere into run folders."""

import os
import shlex
import tempfile
from pathlib import Path
from typing import Any

from idejax import config
from idejax.errors import UserError, tell
from idejax.storage import hub
from idejax.storage.files import need_space, write_json

_INSTALL = 'pip install -e ".[export]"'
_SINGLE = (".safetensors", ".ckpt")


def main(c: config.Convert):
  if len(c.paths) < 2:
    raise UserError("give what to convert and where to: idejax convert SOURCE TARGET")
  *sources, target = c.paths
  if target.exists() and (not target.is_dir() or any(target.iterdir())):
    raise UserError(f"{target} exists and is not empty; choose another name")
  sources = [hub.BUILT_IN[str(s)] if str(s) in hub.BUILT_IN and not s.exists() else s for s in sources]
  for s in sources:
    if not s.exists():
      raise UserError(f"{s} does not exist; built-in models are {' and '.join(hub.BUILT_IN)}")
  as_identity = c.kind == "identity" or c.kind == "auto" and c.name
  target.parent.mkdir(parents=True, exist_ok=True)
  if not as_identity:
    from idejax.exporting.folders import least_size

    need_space(target, sum(least_size(s, c.dtype) for s in sources), "the weights")
  with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as tmp:
    path = Path(tmp) / target.name
    if as_identity:
      message = identity(c, sources, path)
    else:
      message = model(c, sources, path)
    if target.exists():
      target.rmdir()
    os.replace(path, target)
  tell(f"{target}: {message}")


def model(c: config.Convert, sources: list[Path], target: Path) -> str:
  """Converts a pipeline, a component or a checkpoint to a folder or a file; returns a summary."""
  from idejax.exporting import folders, orbax, single_file

  if len(sources) > 1:
    raise UserError(f"{len(sources)} models; convert one at a time")
  source = sources[0]
  how: dict[str, Any] = dict(dtype=c.dtype, allow_pickle=c.allow_pickle)
  if source.is_file():
    return from_single_file(c, source, target)
  is_pipeline = (source / "model_index.json").exists()
  if orbax.step_of(source) is not None:
    return orbax.read(source, base_of(c, source), target, c.dtype, c.max_shard_size)
  if not is_pipeline and not (source / "config.json").exists():
    raise UserError(
      f"{source} has neither model_index.json nor config.json, nor checkpoints: it is no pipeline, no "
      "component and no run of idejax"
    )
  if c.to == "orbax" or target.suffix in _SINGLE:
    if not is_pipeline:
      raise UserError(f"{source} is one component; only a whole pipeline becomes {target.name}")
    if c.to == "orbax":
      return orbax.write(source, target, variant=c.variant, **how)
    if target.suffix == ".ckpt":
      raise UserError(f"{target.name} would be a pickle, which idejax does not write; call it .safetensors")
    return single_file.write(source, target, variant=c.variant, **how)
  how |= dict(max_shard_size=c.max_shard_size, variant=c.variant)
  if not is_pipeline:
    return folders.component(source, target, **how)
  report = folders.pipeline(source, target, **how)
  return "; ".join(f"{name}: {what}" for name, what in report.items())


def base_of(c: config.Convert, source: Path) -> Path:
  """The pipeline folder with what a checkpoint lacks: configs, tokenizer, other components."""
  from idejax.exporting import orbax

  name = c.model or orbax.base_of(source)
  if not name:
    raise UserError(f"{source} does not say which model it was trained on: give --model with its pipeline folder")
  return hub.resolve(name)


def from_single_file(c: config.Convert, source: Path, target: Path) -> str:
  """Converts a one-file checkpoint, with configs from --model's folder or, through diffusers, from the hub."""
  from idejax.exporting import single_file

  if source.suffix not in _SINGLE:
    raise UserError(f"{source} is no checkpoint: they are {' or '.join(_SINGLE)} files")
  if source.suffix == ".ckpt" and not c.allow_pickle:
    raise UserError(
      f"{source} is a pickle, which can run code when it is opened; pass --allow-pickle if you trust its author"
    )
  if target.suffix in _SINGLE:
    raise UserError(f"{source} is a single file already; give a folder to make")
  xl = single_file.family(source) == "sdxl" if source.suffix == ".safetensors" else False
  if c.model and (Path(c.model).is_dir() or c.model in hub.BUILT_IN):
    return single_file.read(
      source, hub.resolve(c.model), target, dtype=c.dtype, max_shard_size=c.max_shard_size, allow_pickle=c.allow_pickle
    )
  try:
    import diffusers
    import torch
  except ImportError as e:
    raise UserError(
      f"{source}: configs and tokenizer are not in it; give --model with a pipeline folder of the same "
      f"family, or let diffusers fetch them, which needs PyTorch: {_INSTALL}"
    ) from e
  kind = diffusers.StableDiffusionXLPipeline if xl else diffusers.StableDiffusionPipeline
  dtype = getattr(torch, c.dtype or (single_file.dtype_of(source) if source.suffix == ".safetensors" else "float32"))
  try:
    pipe = kind.from_single_file(str(source), torch_dtype=dtype, **({"config": c.model} if c.model else {}))
    pipe.save_pretrained(str(target), max_shard_size=c.max_shard_size or "1000GB")
  except Exception as e:  # a foreign loader on a stranger's file raises nearly anything
    raise UserError(
      f"{source}: diffusers cannot read it ({' '.join(str(e).split())[:300]}); without network give --model "
      "with a pipeline folder of the same family"
    ) from e
  return f"a {kind.__name__} folder"


def identity(c: config.Convert, sources: list[Path], target: Path) -> str:
  """Converts a person's files to a run folder that idejax sample opens; returns a summary."""
  if not c.name:
    raise UserError("--name is missing: one word that prompts shall call the person, such as <anna>")
  if not c.model:
    raise UserError("--model is missing: the model that the person was learned on")
  import jax
  import jax.numpy as jnp

  from idejax.exporting import imports
  from idejax.runtime.progress import waiting
  from idejax.sampling import learned, pipeline
  from idejax.storage import tensorfiles

  for s in sources:
    imports.read(s, c.allow_pickle)  # a bad file is told before a large model is read
  with waiting("reading the model"):
    pipe = pipeline.load(hub.resolve(c.model), dtype=jnp.float32, devices=jax.devices()[:1], notify=tell)
  person = imports.identity(sources, pipe, c.model, c.name, phrase=c.word, allow_pickle=c.allow_pickle)
  target.mkdir()
  learned.save(target, person)
  facts = {
    "imported": {s.name: tensorfiles.digest(s) for s in sources},
    "consent": "not stated",
    "model": c.model,
    "model_digest": pipe.digest,
    "ai_generated": "pictures made with this identity are synthetic",
  }
  write_json(target / "provenance.json", facts)
  return (
    f"{person.word} as {person.method}; try: idejax sample --identity {shlex.quote(str(c.paths[-1]))} "
    f"--prompt {shlex.quote(f'a photo of {person.word}')}"
  )
