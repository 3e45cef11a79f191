"""`idejax sample`: prompts in, PNG files, a manifest and a contact sheet out; resumable."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from idejax import __version__, config, pictures, pipeline, prompts
from idejax.errors import UserError, tell
from idejax.pipeline import Pipeline, Request, Settings


def main(c: config.Sample):
  # ---- Jobs: what is asked, checked before anything is loaded --------------------------------
  if not c.model: raise UserError("--model is missing: give a pipeline folder or a hub id")
  if c.num < 1: raise UserError(f"--num is {c.num}; it must be at least 1")
  if c.batch is not None and c.batch < 1: raise UserError(f"--batch is {c.batch}; it must be at least 1")
  if not 0 <= c.seed < 2**64: raise UserError(f"--seed is {c.seed}; it must be from 0 to 2^64 - 1")
  asked = read_prompts(c)
  if c.out.exists() and not c.out.is_dir(): raise UserError(f"--out {c.out} is a file, not a folder")
  dtype = c.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")

  # ---- Model ---------------------------------------------------------------------------------
  tell(f"opening {c.model} in {dtype} on {jax.device_count()} {jax.devices()[0].device_kind} device(s)")
  pipe = pipeline.load(c.model, dtype=dtype, variant=c.variant, allow_pickle=c.allow_pickle,
                       attention=c.attention, notify=tell)  # fmt: skip
  settings = Settings(c.steps, c.sampler, c.height, c.width, c.batch, c.spacing, c.karras, c.eta, c.tiled)
  requests = make_requests(c, pipe, asked)
  height, width = pipe.size(settings)
  h, w, channels = pipe.latent_shape(settings)
  latents = c.init_latents and pictures.read_latents(c.init_latents, len(requests), (channels, h, w))

  # ---- Resume: what an earlier run of this command finished ----------------------------------
  c.out.mkdir(parents=True, exist_ok=True)
  common = dict(
    model=c.model, model_digest=pipe.digest, sampler=c.sampler, steps=c.steps, height=height,
    width=width, dtype=dtype, spacing=c.spacing, karras=c.karras, eta=c.eta, tiled=c.tiled,
    init_latents=_digest(latents), idejax=__version__, jax=jax.__version__)  # fmt: skip
  files = [c.out / f"{i:05d}.png" for i in range(len(requests))]
  records = [_record(i, r, common) for i, r in enumerate(requests)]
  saved = Saved.open(c.save_latents, (len(requests), channels, h, w))
  todo = [i for i in range(len(requests)) if not _finished(files[i], records[i]) or not saved.has(i)]
  if len(todo) < len(requests): tell(f"{len(requests) - len(todo)} of {len(requests)} pictures are there already")

  # ---- Sample --------------------------------------------------------------------------------
  for batch in pipeline.generate(pipe, requests, settings, latents, positions=todo, progress=True):
    for i, image, z in zip(batch.positions, batch.images, batch.latents):
      saved.put(i, z.transpose(2, 0, 1))
      pictures.write_png(files[i], image, records[i])

  # ---- Manifest and sheet --------------------------------------------------------------------
  with pictures.whole(c.out / "manifest.jsonl") as temporary:
    temporary.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))
  saved.close()
  shown = min(c.num, 8)
  picks = [i for i in range(len(requests)) if i % c.num < shown][: 32 * shown]
  pictures.sheet(c.out / "sheet.png", [files[i] for i in picks],
                 [requests[i].prompt for i in picks[::shown]], shown)  # fmt: skip
  tell(f"{len(requests)} pictures in {c.out}, all on {c.out / 'sheet.png'}")


def read_prompts(c: config.Sample) -> list[prompts.Prompt]:
  """The prompts of --prompt and --prompts, or UserError."""
  if c.prompt and c.prompts: raise UserError("--prompt and --prompts are both given; use one")
  if c.prompts: return prompts.read(c.prompts)
  if not c.prompt: raise UserError('no prompt: give --prompt "..." or --prompts FILE')
  if any(not p.strip() for p in c.prompt): raise UserError("--prompt is empty")
  return [prompts.Prompt(p) for p in c.prompt]


def make_requests(c: config.Sample, pipe: Pipeline, asked: list[prompts.Prompt]) -> list[Request]:
  """`num` pictures a prompt. A row's own seed counts its pictures from index 0."""
  guidance = pipeline.default_guidance(pipe) if c.guidance is None else c.guidance
  out = []
  for p in asked:
    for k in range(c.num):
      seed, index = (c.seed, len(out)) if p.seed is None else (p.seed, k)
      scale = guidance if p.guidance is None else p.guidance
      if not np.isfinite(scale): raise UserError(f"guidance is {scale}; it must be a finite number")
      out.append(Request(p.text, c.negative if p.negative is None else p.negative, seed, index, scale))
  return out


def _record(i: int, r: Request, common: dict[str, Any]) -> dict[str, Any]:
  return dict(file=f"{i:05d}.png", prompt=r.prompt, negative=r.negative, seed=r.seed, index=r.index,
              guidance=r.guidance) | common  # fmt: skip


def _finished(file: Path, record: dict[str, Any]) -> bool:
  """Whether a picture is there already; UserError if it is another command's."""
  if not file.exists(): return False
  found, intact = pictures.read_record(file)
  if found is None:
    raise UserError(f"{file} is there and was not made by idejax; move it or choose another --out")
  strip = lambda r: {k: v for k, v in r.items() if k not in ("idejax", "jax", "model")}
  if strip(found) != strip(record):
    differs = [k for k in strip(record) if found.get(k) != record[k]]
    raise UserError(f"{file} was made with another {differs[0] if differs else 'command'} "
                    f"({found.get(differs[0])!r}, now {record[differs[0]]!r}); choose another --out")  # fmt: skip
  return intact


def _digest(latents: np.ndarray | None) -> str | None:
  import hashlib

  return None if latents is None else hashlib.sha256(latents.tobytes()).hexdigest()


class Saved:
  """Final latents on disk while the job runs: a partial file with NaN where nothing is yet."""

  def __init__(self, path: Path | None, partial: Path | None, array: np.ndarray | None):
    self.path, self.partial, self.array = path, partial, array

  @classmethod
  def open(cls, path: Path | None, shape: tuple[int, ...]) -> "Saved":
    if path is None: return cls(None, None, None)
    if path.is_dir(): raise UserError(f"--save-latents {path} is a folder; give a file name")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():  # finished before
      try:
        array = np.load(path, allow_pickle=False)
      except (OSError, ValueError, EOFError):
        array = None
      if array is not None and array.shape == shape: return cls(None, None, array)
    partial = path.with_name(f".{path.name}.partial.npy")
    try:
      array = np.lib.format.open_memmap(partial, mode="r+")
    except (OSError, ValueError):
      array = None
    if array is None or array.shape != shape:
      array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
      array[:] = np.nan
    return cls(path, partial, array)

  def has(self, i: int) -> bool:
    return self.array is None or bool(np.isfinite(self.array[i]).all())

  def put(self, i: int, latents: np.ndarray):
    if self.path is not None: self.array[i] = latents

  def close(self):
    if self.path is None: return
    self.array.flush()
    self.partial.replace(self.path)

