"""`idejax sample`: prompts in, PNG files, a manifest and a contact sheet out; resumable."""

import dataclasses
import functools
import json
import math
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from idejax import __version__, config
from idejax.cli import hints
from idejax.errors import UserError, tell
from idejax.jobs import picture_folder, sample_steering
from idejax.jobs.latents_file import LatentsFile, sha256
from idejax.runtime import distributed
from idejax.runtime.progress import waiting
from idejax.sampling import prompt_files as prompts
from idejax.storage import pictures
from idejax.storage.files import need_space, replacing
from idejax.storage.folders import claim

MOST = 1_000_000  # pictures in one folder


def main(c: config.Sample):
  # ---- What is asked, checked before jax is imported and anything is loaded --------------------
  check(c)
  prompt_list = read_prompts(c)
  if c.num is None:
    c = dataclasses.replace(c, num=4 if len(prompt_list) == 1 else 1)
  if c.identity:
    c = dataclasses.replace(c, identity=people_files(c.identity, prompt_list))
  warn_of_strangers(c, prompt_list)
  facts = known_records(c, prompt_list)
  out = c.out or Path(distributed.from_first(str(picture_folder.choose(facts, model_name(c)))))
  picture_folder.refuse_other(out, facts)
  check_disk(out, sum(r.get("height", 0) * r.get("width", 0) for r in facts))  # unknown: of a model not here yet
  with distributed.by_first(lambda: claim(out)):
    run(c, prompt_list, out)


def run(c: config.Sample, prompt_list: list[prompts.Prompt], out: Path):
  # ---- Model and people ------------------------------------------------------------------------
  import jax

  from idejax.runtime import cores
  from idejax.sampling import learned, pipeline, sampler
  from idejax.storage import hub, tensorfiles

  people = [learned.load(path) for path in c.identity]
  model = model_name(c)
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
  pipe = sample_steering.open_controls(c, prompt_list, pipe, people).with_people(*people, other=c.other_model)
  settings = pipeline.Settings(c.steps, c.sampler, c.height, c.width, c.batch, c.spacing, c.karras, c.eta, c.tiled)
  guidance = pipeline.default_guidance(pipe) if c.guidance is None else c.guidance
  requests = make_requests(c, guidance, prompt_list, [p.word for p in people])
  height, width = pipe.size(settings)
  requests, skipped = sample_steering.steer(c, prompt_list, requests, pipe, (height, width))
  h, w, channels = pipe.latent_shape(settings)
  pipeline.make_table(pipe, settings)
  check_memory(pipe, settings, len(requests))
  check_disk(out, len(requests) * height * width)
  shape = (len(requests), channels, h, w)
  latents = None
  if c.init_latents:
    latents = pictures.read_latents(c.init_latents, shape[0], shape[1:])
  with waiting("computing the model's digest (kept for next time)"):
    digest = pipe.digest

  # ---- Resume: what an earlier run of this command finished ----------------------------------
  nets = pipe.backbone.nets
  common = dict(
    model=c.model,
    model_digest=digest,
    variant=c.variant,
    sampler=(nets.sampler or sampler.folder_sampler(nets.schedule)[0]) if c.sampler == "folder" else c.sampler,
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
    addon=tensorfiles.digest(pipe.faces.folder) if pipe.faces and c.addon else None,
    controlnet=pipe.controls if c.controlnet else None,
    idejax_version=__version__,
    jax_version=jax.__version__,
  )
  files = [out / f"{i:05d}.png" for i in range(len(requests))]
  records = [_record(i, r, common) for i, r in enumerate(requests)]
  with waiting("looking at the pictures that are there"):
    complete = [
      picture_folder.complete_record(file, record, by_folder=c.sampler == "folder")
      for file, record in zip(files, records)
    ]
    saved = LatentsFile(c.save_latents, shape, complete) if c.save_latents else None
  todo = [i for i, old in enumerate(complete) if old is None or (saved and not saved.holds(i, old))]
  todo = [i for i in todo if i not in skipped]
  again = set(todo)
  records = [r if i in again else complete[i] or r for i, r in enumerate(records)]
  if done := len(files) - len(todo) - len(skipped):
    tell(f"{done} of {len(files)} pictures are there already")
  reopen = saved and (todo or not saved.path.exists())
  distributed.meet("looked")  # all processes have seen the same before one writes
  if saved and reopen:
    saved.reopen()

  # ---- Sample --------------------------------------------------------------------------------
  try:
    batches = pipeline.generate(pipe, requests, settings, latents, positions=todo, progress=True)
    with ThreadPoolExecutor(4) as pool:  # a batch is compressed while the device makes the next
      writing: list[Future] = []
      for batch in batches:
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
      records = [r if "latents_sha256" in r else _record_of(f) or r for f, r in zip(files, records)]
    if rows := [r for f, r in zip(files, records) if "latents_sha256" in r and f.exists()]:
      with replacing(out / "manifest.jsonl") as temporary:
        lines = [json.dumps(r, ensure_ascii=False) + "\n" for r in rows]
        temporary.write_text("".join(lines), "utf-8")
  if saved:
    saved.close()
  if not distributed.first():
    return
  num = c.num or 1
  columns = min(num, 8)
  picks = [i for i in range(len(requests)) if i % num < columns and i not in skipped][: 32 * columns]
  pictures.sheet(out / "sheet.png", [files[i] for i in picks], [requests[i].prompt for i in picks[::columns]], columns)
  count = len(requests) - len(skipped)
  tell(f"{count} picture{'s' * (count > 1)} in {out}, all on {out / 'sheet.png'}")


def check(c: config.Sample):
  """UserError for what can be seen to be wrong without a model."""
  sample_steering.check(c)
  if c.start and not c.identity:
    raise UserError("--start delays an identity: give --identity")
  if c.strength is not None and not c.identity:
    raise UserError(f"--strength {c.strength} is how strongly an identity acts: give --identity")
  if c.prompts and c.prompts.exists() and not c.prompts.is_file() and not c.prompts.is_dir():
    raise UserError(f"--prompts {c.prompts} is no regular file")
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
  prompt_list = prompts.read(c.prompts) if c.prompts else [prompts.Prompt(p) for p in c.prompt]
  where = c.prompts or "--prompt"
  for p in prompt_list:
    for text in (p.text, p.negative or c.negative or ""):
      try:
        text.encode()
      except UnicodeEncodeError:
        raise UserError(f"{where}: {ascii(text[:60])} is not valid UTF-8 text") from None
    if p.seed is not None and not 0 <= p.seed < 2**64:
      raise UserError(f"{where}: the seed {p.seed} of {p.text[:60]!r} is not from 0 to 2^64 - 1")
    if p.guidance is not None and not math.isfinite(p.guidance):
      raise UserError(f"{where}: the guidance of {p.text[:60]!r} is {p.guidance}; it must be a finite number")
  if len(prompt_list) * (c.num or 1) > MOST:
    raise UserError(
      f"{len(prompt_list)} prompt(s) x --num {c.num or 1} are more than {MOST} pictures; use several folders"
    )
  return prompt_list


def picture_rows(c: config.Sample, prompt_list: list[prompts.Prompt]) -> Iterator[dict[str, Any]]:
  """prompt, negative, seed, index and guidance of every picture, `num` a prompt. A row's own seed counts from 0."""
  at = 0
  for p in prompt_list:
    for k in range(c.num or 1):
      seed, index = (c.seed, at) if p.seed is None else (p.seed, k)
      negative = c.negative if p.negative is None else p.negative
      guidance = c.guidance if p.guidance is None else p.guidance
      yield dict(prompt=p.text, negative=negative, seed=seed, index=index, guidance=guidance)
      at += 1


def known_records(c: config.Sample, prompt_list: list[prompts.Prompt]) -> list[dict[str, Any]]:
  """What the pictures' records will say, as far as it is known before the model is read."""
  from idejax.storage import tensorfiles

  model = model_name(c)
  usual = hints.facts(model)
  local = usual.side is not None  # else the model is not here: its defaults are not known
  same: dict[str, Any] = {n: getattr(c, n) for n in ("variant", "steps", "spacing", "karras", "eta", "tiled", "start")}
  same |= {"strength": c.strength, "height": c.height or usual.side, "width": c.width or usual.side, "dtype": c.dtype}
  if c.sampler != "folder":
    same["sampler"] = c.sampler
  same |= {name: None for name in ("addon", "controlnet") if getattr(c, name) is None}
  if c.identity:
    from idejax.sampling import learned

    same["identities"] = [[learned.word(f), tensorfiles.digest(f)] for f in c.identity]
  out = []
  for row in picture_rows(c, prompt_list):
    guidance = row["guidance"]
    if guidance is None and local and not c.identity:  # a person's method may have a guidance of its own
      guidance = usual.guidance
    facts = row | same | {"guidance": guidance}
    unknown = [k for k in ("guidance", "height", "width", "dtype") if facts[k] is None]
    out.append({k: v for k, v in facts.items() if k not in unknown} | ({} if c.identity else {"identities": None}))
  return out


def model_name(c: config.Sample) -> str:
  """The model that is meant, as it is named."""
  if c.model or not c.identity:
    return c.model or "miniature"
  from idejax.sampling import learned

  return learned.load(c.identity[0]).model


def make_requests(c: config.Sample, guidance: float, prompt_list: list[prompts.Prompt], words: Sequence[str] = ()):
  """What to sample, a request a picture."""
  from idejax.sampling.pipeline import Request

  plain = lambda text: functools.reduce(lambda t, word: t.replace(word, "person"), words, text)
  out: list[Request] = []
  for row in picture_rows(c, prompt_list):
    scale = guidance if row["guidance"] is None else row["guidance"]
    out.append(Request(row["prompt"], row["negative"], row["seed"], row["index"], scale, c.start, plain(row["prompt"])))
  if any(r.negative for r in out) and all(r.guidance <= 1 for r in out):
    tell("warning: guidance up to 1 is none, so the negative prompt has no effect")
  return out


# People.


def people_files(paths: Sequence[Path], prompt_list: list[prompts.Prompt]) -> tuple[Path, ...]:
  """The identities of --identity; of a crowd's folder those whom a prompt names. UserError for two of one name."""
  from idejax.sampling import learned

  out: dict[str, Path] = {}
  for path in paths:
    files = learned.files(path)
    words = {learned.word(f): f for f in files}
    matches = {w: f for w, f in words.items() if any(w in a.text for a in prompt_list)}
    if not matches:
      many = len(words) > 6
      tell(f"warning: no prompt names {', '.join([*words][:6])}{' or others of ' + str(path) if many else ''}")
    for word, file in (matches or words).items():
      if word in out and out[word] != file:
        raise UserError(
          f"{out[word].parent} and {file.parent} are both called {word}; "
          f"rename one: idejax rename {shlex.quote(str(file.parent))} NEW_NAME"
        )
      out[word] = file
  return tuple(out.values())


def warn_of_strangers(c: config.Sample, prompt_list: list[prompts.Prompt]):
  """A word in angle brackets looks like somebody's name; without their identity a stranger comes."""
  words = dict.fromkeys(w for a in prompt_list for w in re.findall(r"<[^<>\s|]+>", a.text))
  if not words:
    return
  from idejax.sampling import learned

  here = [learned.word(f) for f in c.identity]
  for w in words:
    if not any(w in name for name in here):
      who = f" (here: {', '.join(here)})" if here else ""
      tell(f"warning: nobody here is called {w}, so the pictures show a stranger; --identity RUN brings people in{who}")


def check_disk(out: Path, pixels: int):
  """UserError where even well compressed pictures would not fit on the disk."""
  need_space(out, 3 / 20 * pixels, "the pictures")


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
    | (r.steer.about if r.steer else {})
    | common
  )


def _record_of(file: Path) -> dict[str, Any] | None:
  """The record of a picture that another process has made."""
  record, intact = pictures.read_record(file)
  return record if intact else None
