"""`idejax export`: a person learned -> files that stock diffusers opens, with a card and a certificate."""

import dataclasses
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from idejax import config
from idejax.errors import UserError, tell
from idejax.storage.files import need_space, write_json


def main(c: config.Export):
  # ---- What is asked, checked before anything is loaded ----------------------------------------
  if c.to.exists() and (not c.to.is_dir() or any(c.to.iterdir())):
    raise UserError(f"--to {c.to} exists and is not empty; choose another folder")
  if c.format == "certificate-only" and not c.verify:
    raise UserError("--format certificate-only with --no-verify leaves nothing to do")
  if c.verify and importlib.util.find_spec("torch") is None:
    raise UserError(
      'the check runs diffusers, which needs PyTorch: pip install -e ".[export]"; --no-verify goes without the check'
    )
  import jax
  import jax.numpy as jnp

  from idejax.exporting import torch_files
  from idejax.exporting.folders import least_size
  from idejax.jobs import export_faces
  from idejax.runtime.progress import waiting
  from idejax.sampling import learned, pipeline
  from idejax.storage import hub

  if (c.run / "addon.json").is_file():
    return export_faces.main(c, c.run)
  person = learned.load(c.run)
  if person.is_face:
    return export_faces.main(c, Path(person.addon), person)
  base = hub.resolve(c.model or person.model)
  if c.format == "pipeline":
    need_space(c.to, least_size(base), "the model's weights")
  if person.word != person.word.lower():  # stock pipelines lower their prompts, and then miss the word
    tell(f"notice: diffusers lowers the case of prompts, so the person is called {person.word.lower()} there")
    person = dataclasses.replace(person, word=person.word.lower())
  with waiting("reading the model"):
    pipe = pipeline.load(base, dtype=jnp.float32, devices=jax.devices()[:1], notify=tell)
    pipe.with_people(person)  # refuses another base
  e = torch_files.parts(person, pipe.backbone)
  kind = torch_form(e) if c.format in ("auto", "certificate-only") else c.format
  if e.called and kind == "textual-inversion":
    raise UserError(f"what {person.method} learned is in the UNet, not in words: use --format pipeline or lora")
  if kind == "pipeline":
    need_space(c.to, least_size(base), "the model's weights")
  losses = torch_files.losses(e, kind)
  if losses:
    tell(f"warning: {kind} is a lossy form of this person; it leaves out: {losses}")

  # ---- Write, check, rename --------------------------------------------------------------------
  c.to.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=c.to.parent, prefix=f".{c.to.name}-") as tmp:
    folder = Path(tmp) / c.to.name
    folder.mkdir()
    write(folder, pipe, person, e, kind)
    facts = check(c, folder, pipe, person, e, kind)
    finish(c, folder, person, e, kind, facts)
    if c.to.exists():
      c.to.rmdir()
    os.replace(folder, c.to)
  tell(f"{c.to}: {person.word} as {kind}" + (" (lossy)" if losses else "") + f"; how to open it: {c.to / 'README.md'}")


def torch_form(e) -> str:
  """The smallest form that loses nothing."""
  from idejax.exporting import torch_files

  return "textual-inversion" if not torch_files.losses(e, "textual-inversion") else "pipeline"


def write(folder: Path, pipe, person, e, kind: str):
  """Writes the exported files, without card and certificate."""
  from idejax.exporting import pipelines, torch_files

  if kind == "pipeline":
    return pipelines.write(folder, pipe, person, e)
  torch_files.write_words(folder, person, e)
  if kind == "lora":
    torch_files.write_lora(folder, person, e)
  if kind == "custom-diffusion":
    torch_files.write_custom_diffusion(folder, person, e)
  (folder / "load.py").write_text(pipelines.template("load.py"), "utf-8")


def check(c: config.Export, folder: Path, pipe, person, e, kind: str) -> dict[str, Any]:
  """Compares with diffusers; returns the certificate. UserError if the two differ."""
  from idejax.exporting import certificate, pipelines, torch_files
  from idejax.runtime.progress import waiting

  code = kind == "pipeline" and pipelines.needs_code(e)
  losses = torch_files.losses(e, kind)
  facts: dict[str, Any] = {
    "word": person.word,
    "method": person.method,
    "format": kind,
    "lossy": losses,
    "code": code,
    "base": {"model": person.model, "digest": person.digest},
    "files": certificate.digests(folder),
    "verified": c.verify,
    "versions": certificate.versions(),
  }
  if not c.verify:
    tell("not verified: no certificate was measured (--no-verify)")
    return facts
  reference = torch_files.as_written(person, e, kind)
  steps: tuple[int, ...] = (10,) if c.quick else (10, 50)
  with waiting("comparing with diffusers"):
    model = torch_files.model_as_written(pipe, e, kind)
    one = certificate.Check(folder, model, reference, kind == "pipeline", code, steps)
    facts |= certificate.certify(one)[0]
    if losses:
      facts["loss"] = certificate.loss((pipe, person), (model, reference))
  if bad := certificate.verdict(facts):
    raise UserError(
      f"{person.word} as {kind} is not the same in diffusers: {'; '.join(bad)}; nothing was written "
      "(--no-verify writes it all the same)"
    )
  worst = max(x["relative"] for x in facts["final_latents"].values())
  tell(f"certified: final latents within {worst:.1e} of diffusers {facts['versions']['diffusers']}")
  return facts


def finish(c: config.Export, folder: Path, person, e, kind: str, facts: dict[str, Any]):
  """Writes card, sheet and certificate."""
  from idejax.exporting import cards

  run = c.run if c.run.is_dir() else c.run.parent
  if c.format == "certificate-only":
    shutil.rmtree(folder)
    folder.mkdir()
  else:
    if (run / "sheet.png").is_file() and not facts["lossy"]:  # a lossy form draws another person than the sheet
      shutil.copyfile(run / "sheet.png", folder / "sheet.png")
    cards.write(folder, run, person, e, kind, facts)
  write_json(folder / "certificate.json", facts)
