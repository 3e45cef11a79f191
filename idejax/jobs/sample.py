"""`idejax sample`: prompts in, PNG files, a manifest and a contact sheet out; resumable."""

import dataclasses
import functools
import hashlib
import json
import math
import os
import re
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from idejax import __version__, config
from idejax.errors import UserError, tell
from idejax.runtime import distributed
from idejax.runtime.progress import waiting
from idejax.sampling import prompt_files as prompts
from idejax.storage import pictures
from idejax.storage.files import replacing
from idejax.storage.folders import claim

MOST = 1_000_000  # pictures in one folder


def main(c: config.Sample):
  # ---- What is asked, checked before jax is imported and anything is loaded --------------------
  check(c)
  asked = read_prompts(c)
  if c.num is None:
    c = dataclasses.replace(c, num=4 if len(asked) == 1 else 1)
  with distributed.by_first(lambda: claim(c.out)):
    run(c, asked)


def run(c: config.Sample, asked: list[prompts.Prompt]):
  # ---- Model and people ------------------------------------------------------------------------
  import jax

  from idejax.runtime import cores
  from idejax.sampling import learned, pipeline
  from idejax.storage import hub, tensorfiles

  people = [learned.load(path) for path in c.identity]
  model = c.model or (people[0].model if people else "miniature")
  c = dataclasses.replace(c, model=model)
  cores.use(model)
  if c.strength is not None:
    people = [p.with_strength(c.strength) for p in people]

  dtype = c.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
  kind = jax.devices()[0].device_kind
  tell(f"opening {c.model} in {dtype} on {jax.device_count()} {kind} device(s)")
  folder = hub.resolve(model)  # shows bars of its own if it downloads
  with waiting("reading the weights"):
    pipe = pipeline.load(
      folder, dtype=dtype, variant=c.variant, allow_pickle=c.allow_pickle, attention=c.attention, notify=tell
    )
  pipe = pipe.with_people(*people, other=c.other_model)
  for p in people:
    if not any(p.word in a.text for a in asked):
      tell(f"warning: no prompt names {p.word}")
  settings = pipeline.Settings(c.steps, c.sampler, c.height, c.width, c.batch, c.spacing, c.karras, c.eta, c.tiled)
  guidance = pipeline.default_guidance(pipe) if c.guidance is None else c.guidance
  requests = make_requests(c, guidance, asked, [p.word for p in people])
  height, width = pipe.size(settings)
  h, w, channels = pipe.latent_shape(settings)
  pipeline.make_table(pipe, settings)
  check_memory(pipe, settings, len(requests))
  shape = (len(requests), channels, h, w)
  latents = None
  if c.init_latents:
    latents = pictures.read_latents(c.init_latents, shape[0], shape[1:])
  with waiting("computing the model's digest (kept for next time)"):
    digest = pipe.digest

  # ---- Resume: what an earlier run of this command finished ----------------------------------
  common = dict(
    model=c.model,
    model_digest=digest,
    variant=c.variant,
    sampler=c.sampler,
    steps=c.steps,
    height=height,
    width=width,
    dtype=dtype,
    spacing=c.spacing,
    karras=c.karras,
    eta=c.eta,
    tiled=c.tiled,
    init_latents=None if latents is None else sha256(latents),
    identities=[[p.word, tensorfiles.digest(learned.file(path))] for p, path in zip(people, c.identity)] or None,
    strength=c.strength,
    start=c.start,
    idejax_version=__version__,
    jax_version=jax.__version__,
  )
  files = [c.out / f"{i:05d}.png" for i in range(len(requests))]
  records = [_record(i, r, common) for i, r in enumerate(requests)]
  with waiting("looking at the pictures that are there"):
    there = sorted(p for p in c.out.iterdir() if re.fullmatch(r"\d{5,}\.png", p.name))
    if extra := [p for p in there if int(p.stem) >= len(files)]:
      raise UserError(f"{extra[0]} is there, but this command makes {len(files)} picture(s); choose another --out")
    found = [_finished(file, record) for file, record in zip(files, records)]
    saved = Saved(c.save_latents, shape, found) if c.save_latents else None
  todo = [i for i, old in enumerate(found) if old is None or (saved and not saved.has(i, old))]
  again = set(todo)
  records = [r if i in again else found[i] or r for i, r in enumerate(records)]
  if done := len(files) - len(todo):
    tell(f"{done} of {len(files)} pictures are there already")
  reopen = saved and (todo or not saved.path.exists())
  distributed.meet("looked")  # all processes have seen the same before one writes
  if saved and reopen:
    saved.reopen()

  # ---- Sample --------------------------------------------------------------------------------
  try:
    made = pipeline.generate(pipe, requests, settings, latents, positions=todo, progress=True)
    with ThreadPoolExecutor(4) as pool:  # a batch is compressed while the device makes the next
      writing: list[Future] = []
      for batch in made:
        for each in writing:
          each.result()
        writing = []
        for i, image, z in zip(batch.positions, batch.images, batch.latents):
          z = np.ascontiguousarray(z.transpose(2, 0, 1), np.float32)
          records[i] |= {"latents_sha256": sha256(z)}
          if saved:
            saved.put(i, z)
          writing.append(pool.submit(pictures.write_png, files[i], image, records[i]))
      for each in writing:
        each.result()
    distributed.meet("made")

  # ---- Manifest and sheet --------------------------------------------------------------------
  finally:  # of what is finished, also when the run is interrupted
    if not distributed.first():
      records = []
    elif pipe.divides:
      records = [r if "latents_sha256" in r else _made(f) or r for f, r in zip(files, records)]
    if rows := [r for f, r in zip(files, records) if "latents_sha256" in r and f.exists()]:
      with replacing(c.out / "manifest.jsonl") as temporary:
        lines = [json.dumps(r, ensure_ascii=False) + "\n" for r in rows]
        temporary.write_text("".join(lines), "utf-8")
  if saved:
    saved.close()
  if not distributed.first():
    return
  num = c.num or 1
  shown = min(num, 8)
  picks = [i for i in range(len(requests)) if i % num < shown][: 32 * shown]
  pictures.sheet(c.out / "sheet.png", [files[i] for i in picks], [requests[i].prompt for i in picks[::shown]], shown)
  s = "s" * (len(requests) > 1)
  tell(f"{len(requests)} picture{s} in {c.out}, all on {c.out / 'sheet.png'}")


def check(c: config.Sample):
  """UserError for what can be seen to be wrong without a model."""
  whole = dict(num=c.num, batch=c.batch, steps=c.steps, height=c.height, width=c.width)
  for name, count in whole.items():
    if count is not None and count < 1:
      raise UserError(f"--{name} is {count}; it must be at least 1")
  if not 0 <= c.seed < 2**64:
    raise UserError(f"--seed is {c.seed}; it must be from 0 to 2^64 - 1")
  for name, value in dict(guidance=c.guidance, eta=c.eta).items():
    if value is not None and not math.isfinite(value):
      raise UserError(f"--{name} is {value}; it must be a finite number")
  if not 0 <= c.start < 1:
    raise UserError(f"--start is {c.start}; it must be from 0 to below 1")
  if c.start and not c.identity:
    raise UserError("--start delays an identity: give --identity")
  if c.strength is not None and not (c.identity and math.isfinite(c.strength)):
    raise UserError(f"--strength {c.strength} needs --identity, and must be a finite number")
  if c.init_latents and not c.init_latents.is_file():
    why = "is no file" if c.init_latents.exists() else "does not exist"
    raise UserError(f"--init-latents {c.init_latents} {why}")
  if c.save_latents:
    if c.save_latents.is_dir():
      raise UserError(f"--save-latents {c.save_latents} is a folder; give a file name")
    c.save_latents.parent.mkdir(parents=True, exist_ok=True)


def read_prompts(c: config.Sample) -> list[prompts.Prompt]:
  """The prompts of --prompt and --prompts, or UserError."""
  if c.prompt and c.prompts:
    raise UserError("--prompt and --prompts are both given; use one")
  if not c.prompt and not c.prompts:
    raise UserError('no prompt: give --prompt "..." or --prompts FILE')
  if any(not p.strip() for p in c.prompt):
    raise UserError("--prompt is empty")
  asked = prompts.read(c.prompts) if c.prompts else [prompts.Prompt(p) for p in c.prompt]
  where = c.prompts or "--prompt"
  for p in asked:
    for text in (p.text, p.negative or c.negative or ""):
      try:
        text.encode()
      except UnicodeEncodeError:
        raise UserError(f"{where}: {ascii(text[:60])} is not valid UTF-8 text") from None
    if p.seed is not None and not 0 <= p.seed < 2**64:
      raise UserError(f"{where}: the seed {p.seed} of {p.text[:60]!r} is not from 0 to 2^64 - 1")
    if p.guidance is not None and not math.isfinite(p.guidance):
      raise UserError(f"{where}: the guidance of {p.text[:60]!r} is {p.guidance}; it must be a finite number")
  if len(asked) * (c.num or 1) > MOST:
    raise UserError(f"{len(asked)} prompt(s) x --num {c.num or 1} are more than {MOST} pictures; use several folders")
  return asked


def make_requests(c: config.Sample, guidance: float, asked: list[prompts.Prompt], words: Sequence[str] = ()):
  """`num` pictures a prompt. A row's own seed counts its pictures from index 0."""
  from idejax.sampling.pipeline import Request

  out: list[Request] = []
  plain = lambda text: functools.reduce(lambda t, word: t.replace(word, "person"), words, text)
  for p in asked:
    for k in range(c.num or 1):
      seed, index = (c.seed, len(out)) if p.seed is None else (p.seed, k)
      negative = c.negative if p.negative is None else p.negative
      scale = guidance if p.guidance is None else p.guidance
      out.append(Request(p.text, negative, seed, index, scale, c.start, plain(p.text)))
  if any(r.negative for r in out) and all(r.guidance <= 1 for r in out):
    tell("warning: guidance up to 1 is none, so the negative prompt has no effect")
  return out


def check_memory(pipe, settings, count: int):
  """UserError where decoding alone would need more memory than there is, before it is asked for.

  A lower bound: input and output of one convolution of the decoder at full resolution.
  """
  import jax

  nets, (height, width) = pipe.backbone.nets, pipe.size(settings)
  stats = [d.memory_stats() for d in jax.local_devices()]
  ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  have = sum(s.get("bytes_limit", 0) for s in stats if s) or ram
  rows = min(settings.batch or 4 * pipe.mesh.size, count)
  conv = 2 * nets.vae.block_out_channels[0] * np.dtype(nets.vae_dtype).itemsize
  each = 12 if settings.tiled else conv  # bytes a pixel
  need = rows * height * width * each
  if need > have:
    raise UserError(
      f"{width} x {height} pixels, {rows} at a time, need at least {need / 2**30:.0f} GiB of memory; "
      f"here are {have / 2**30:.0f} GiB: use a smaller --height and --width, a smaller --batch"
      + ("" if settings.tiled else ", or --tiled")
    )


def _record(i: int, r, common: dict[str, Any]) -> dict[str, Any]:
  return (
    dict(file=f"{i:05d}.png", prompt=r.prompt, negative=r.negative, seed=r.seed, index=r.index, guidance=r.guidance)
    | common
  )


def _finished(file: Path, record: dict[str, Any]) -> dict[str, Any] | None:
  """The record of a picture that is there and whole; UserError if it is another command's."""
  if not file.exists():
    return None
  found, intact = pictures.read_record(file)
  if found is None:
    raise UserError(f"{file} is there and was not made by idejax; move it or choose another --out")
  free = ("idejax_version", "jax_version", "model", "latents_sha256")  # may differ between runs of one command
  for key in [*record, *found]:
    if key not in free and found.get(key) != record.get(key):
      raise UserError(
        f"{file} was made with another {key} ({found.get(key)!r}, now {record.get(key)!r}); choose another --out"
      )
  return found if intact else None


def _made(file: Path) -> dict[str, Any] | None:
  """The record of a picture that another process has made."""
  found, intact = pictures.read_record(file)
  return found if intact else None


def sha256(x: np.ndarray) -> str:
  return hashlib.sha256(np.ascontiguousarray(x).data).hexdigest()


class Saved:
  """The file of --save-latents: `.NAME.partial` with rows filled in as they are made, renamed when
  the last is there. A row belongs to a picture if its sha256 is the one in the picture's record.

  Written with seek and write: a memory map on a full disk would end the process.
  """

  def __init__(self, path: Path, shape: tuple[int, ...], found: list[dict[str, Any] | None]):
    self.path, self.shape, self.partial = path, shape, path.with_name(f".{path.name}.partial")
    self.file: Any = None
    self.rows = self._read(path)
    if path.exists() and (
      self.rows is None or not any(found) or any(old and not self.has(i, old) for i, old in enumerate(found))
    ):
      raise UserError(
        f"--save-latents {path} is there and does not belong to the pictures in --out; move it or choose another name"
      )
    if self.rows is None:
      self.rows = self._read(self.partial)

  def _read(self, path: Path) -> np.ndarray | None:
    try:
      rows = np.load(path, mmap_mode="r", allow_pickle=False)
      return rows if rows.shape == self.shape and rows.dtype == np.float32 else None
    except (OSError, ValueError, EOFError, AttributeError):
      return None

  def has(self, i: int, record: dict[str, Any]) -> bool:
    return self.rows is not None and sha256(self.rows[i]) == record.get("latents_sha256")

  def reopen(self):
    """Make ready for `put`, with room for every row, so that a full disk is told now. One process makes
    the file, all write their rows into it."""
    if distributed.first():
      self._make()
    distributed.meet("room for latents")
    self.file = open(self.partial, "r+b")

  def _make(self):
    if self.path.exists():
      self.path.replace(self.partial)
    if self.rows is None:
      try:
        with open(self.partial, "wb") as f:
          header = dict(descr="<f4", fortran_order=False, shape=self.shape)
          np.lib.format.write_array_header_1_0(f, header)
          for _ in range(self.shape[0]):
            f.write(bytes(4 * math.prod(self.shape[1:])))
      except OSError as e:
        self.partial.unlink(missing_ok=True)
        e.filename = e.filename or str(self.path)
        raise

  def put(self, i: int, latents: np.ndarray):
    self.file.seek(i * latents.nbytes - math.prod(self.shape) * 4, os.SEEK_END)
    self.file.write(latents.astype("<f4").data)
    self.file.flush()

  def close(self):
    if self.file is None:
      return
    self.file.close()
    if distributed.first():
      self.partial.replace(self.path)
