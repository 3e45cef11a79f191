"""`idejax convert`: model folders into other dtypes, shards and layouts, and identities from elsewhere into run folders."""

import os
import tempfile
from pathlib import Path

from idejax import config_exchange
from idejax.errors import UserError, tell

_INSTALL = ("pip install torch --index-url https://download.pytorch.org/whl/cpu && "
            "pip install diffusers transformers safetensors")  # fmt: skip
_SINGLE = (".safetensors", ".ckpt")


def main(c: config_exchange.Convert):
  if len(c.paths) < 2: raise UserError("give what to convert and where to: idejax convert SOURCE TARGET")
  *sources, target = c.paths
  if target.exists() and (not target.is_dir() or any(target.iterdir())):
    raise UserError(f"{target} exists and is not empty; choose another folder")
  for s in sources:
    if not s.exists(): raise UserError(f"{s} does not exist")
  target.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as tmp:
    made = Path(tmp) / target.name
    made.mkdir()
    if c.kind == "identity" or c.kind == "auto" and c.name: said = identity(c, sources, made)
    else: said = model(c, sources, target, made)
    if target.exists(): target.rmdir()
    os.replace(made, target)
  tell(f"{target}: {said}")


def model(c: config_exchange.Convert, sources: list[Path], target: Path, made: Path) -> str:
  """A pipeline, a component or a checkpoint into a folder; what was done, in words."""
  from idejax.exporting import folders

  if len(sources) > 1: raise UserError(f"{len(sources)} models; convert one at a time")
  source = sources[0]
  if target.suffix in _SINGLE:
    raise UserError(f"{target}: idejax and diffusers write folders, not single files; diffusers' repository has "
                    "scripts/convert_diffusers_to_original_stable_diffusion.py (and _sdxl.py) for a folder")  # fmt: skip
  if source.is_file(): return single_file(c, source, made)
  if not (source / "model_index.json").exists():
    if not (source / "config.json").exists():
      raise UserError(f"{source} has neither model_index.json nor config.json: it is no pipeline and no component")
    return folders.component(source, made, dtype=c.dtype, max_shard_size=c.max_shard_size, variant=c.variant,
                             allow_pickle=c.allow_pickle)  # fmt: skip
  done = folders.pipeline(source, made, dtype=c.dtype, max_shard_size=c.max_shard_size, variant=c.variant,
                          allow_pickle=c.allow_pickle)  # fmt: skip
  return "; ".join(f"{name}: {what}" for name, what in done.items())


def single_file(c: config_exchange.Convert, source: Path, made: Path) -> str:
  """A checkpoint of one file, by diffusers' own loader."""
  if source.suffix not in _SINGLE: raise UserError(f"{source} is no checkpoint: they are {' or '.join(_SINGLE)} files")
  if source.suffix == ".ckpt" and not c.allow_pickle:
    raise UserError(f"{source} is a pickle, which can run code when it is opened; pass --allow-pickle if you trust its author")
  try:
    import diffusers
    import torch
  except ImportError as e:
    raise UserError(f"{source}: single files are read by diffusers, which needs PyTorch: {_INSTALL}") from e
  xl = False
  if source.suffix == ".safetensors":
    from idejax import tensorfiles

    keys = set(tensorfiles.read(source.parent, source.stem))
    xl = any(k.startswith("conditioner.embedders.1.") for k in keys)
    if not xl and not any(k.startswith(("cond_stage_model.", "model.diffusion_model.")) for k in keys):
      raise UserError(f"{source} is no Stable Diffusion checkpoint (its first tensor is {min(keys, default='none')}); "
                      "for a person's file say --kind identity")  # fmt: skip
  kind = diffusers.StableDiffusionXLPipeline if xl else diffusers.StableDiffusionPipeline
  dtype = getattr(torch, c.dtype) if c.dtype else None
  how = {"config": c.model} if c.model else {}
  try:
    pipe = kind.from_single_file(str(source), torch_dtype=dtype, **how)
    pipe.save_pretrained(str(made), max_shard_size=c.max_shard_size or "1000GB")
  except Exception as e:  # a foreign loader on a stranger's file raises nearly anything
    raise UserError(f"{source}: diffusers cannot read it ({' '.join(str(e).split())[:300]}); without network give --model "
                    "with a folder of the same family") from e  # fmt: skip
  return f"a {kind.__name__} folder"


def identity(c: config_exchange.Convert, sources: list[Path], made: Path) -> str:
  """Files of a person into a run folder that idejax sample takes."""
  if not c.name or any(x.isspace() for x in c.name): raise UserError(f"--name is {c.name!r}; it must be one word, such as <anna>")
  if not c.model: raise UserError("--model is missing: the model that the person was learned on")
  import jax
  import jax.numpy as jnp

  from idejax import hub, learned, pipeline, tensorfiles
  from idejax.exporting import folders, imports
  from idejax.progress import waiting

  for s in sources: imports.read(s, c.allow_pickle)  # a bad file is told before a large model is read
  with waiting("reading the model"):
    pipe = pipeline.load(hub.resolve(c.model), dtype=jnp.float32, devices=jax.devices()[:1], notify=tell)
  person = imports.identity(sources, pipe, c.model, c.name, spoken=c.word, allow_pickle=c.allow_pickle)
  learned.save(made, person)
  facts = {"imported": {s.name: tensorfiles.digest(s) for s in sources}, "consent": "not stated", "model": c.model,
           "model_digest": pipe.digest, "ai_generated": "pictures made with this identity are synthetic"}  # fmt: skip
  folders.write_json(made / "provenance.json", facts)
  return f'{person.word} as {person.method}; try: idejax sample --identity {c.paths[-1]} --prompt "a photo of {person.word}"'
