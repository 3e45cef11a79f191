"""`idejax export` of an add-on, or of a person by one: a pipeline folder that takes faces, with card and certificate."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from idejax import config
from idejax.errors import UserError, tell
from idejax.exporting import certificate, faces
from idejax.exporting.folders import least_size
from idejax.faces import npz
from idejax.runtime.progress import waiting
from idejax.sampling import pipeline
from idejax.sampling.learned import Learned
from idejax.storage import hub
from idejax.storage.files import need_space, write_json


def main(c: config.Export, folder: Path, person: Learned | None = None):
  """Exports the add-on in `folder`, with the person's face if one is given."""
  if c.format not in ("auto", "pipeline", "certificate-only"):
    raise UserError(f"--format {c.format} cannot hold a face that steers pictures: leave --format out, or use pipeline")
  model = c.model or (person.model if person else base_of(folder))
  base = hub.resolve(model)
  need_space(c.to, least_size(base) + least_size(folder), "the model's weights")
  with waiting("reading the model"):
    pipe = pipeline.load(base, dtype=jnp.float32, devices=jax.devices()[:1], notify=tell)
    if person:
      pipe.with_people(person)  # refuses another base, and an add-on that was trained since
    e = faces.open_addon(pipe, folder, person)
  c.to.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=c.to.parent, prefix=f".{c.to.name}-") as tmp:
    target = Path(tmp) / c.to.name
    faces.write(target, e)
    facts = check(c, target, e)
    if c.format == "certificate-only":
      shutil.rmtree(target)
      target.mkdir()
    else:
      text = faces.card(c.to.name, model, e.added.about, e, checked(facts))
      (target / "README.md").write_text(text, "utf-8")
    write_json(target / "certificate.json", facts)
    if c.to.exists():
      c.to.rmdir()
    os.replace(target, c.to)
  tell(
    f"{c.to}: {person.word if person else folder} as a pipeline that takes faces; how to open it: {c.to / 'README.md'}"
  )


def base_of(folder: Path) -> str:
  """The base model that an add-on's card names, where that is one that is found by its name."""
  from idejax.model import addon
  from idejax.model.backbone import make_config

  name = make_config(addon.About, folder / "addon.json").model
  if name not in hub.BUILT_IN:
    raise UserError(f"{folder} was made for {name}: give --model FOLDER, where that model is")
  return name


def check(c: config.Export, target: Path, e: faces.Exported) -> dict[str, Any]:
  """Compares with diffusers; returns the certificate. UserError if the two differ."""
  about = e.added.about
  facts: dict[str, Any] = {
    "method": "facesnap",
    "format": "pipeline",
    "lossy": "",
    "code": True,
    "base": {"model": e.pipe.name, "digest": e.pipe.digest},
    "addon": {"recogniser": about.recogniser, "licence": about.licence, "data": about.data, "steps": about.steps},
    "files": certificate.digests(target),
    "verified": c.verify,
    "versions": certificate.versions(),
  } | ({"word": e.person.word} if e.person else {})
  if not c.verify:
    tell("not verified: no certificate was measured (--no-verify)")
    return facts
  with tempfile.TemporaryDirectory(prefix="idejax-face-") as tmp, waiting("comparing with diffusers"):
    facts |= certificate.certify(check_of(target, e, Path(tmp) / "face.npz", (10,) if c.quick else (10, 50)))[0]
  if bad := certificate.verdict(facts):
    raise UserError(f"the pipeline is not the same in diffusers: {'; '.join(bad)}; nothing was written")
  tell(checked(facts))
  return facts


def check_of(target: Path, e: faces.Exported, file: Path, steps: tuple[int, ...]) -> certificate.Check:
  """The comparison of an exported folder, whose face is written to `file`."""
  face, steer = faces.example(e)
  npz.write(file, face)
  more = {"face": str(file.resolve())}
  return certificate.Check(target, e.pipe, None, True, True, steps, steer, more)


def checked(facts: dict[str, Any]) -> str:
  """The certificate in a sentence."""
  if not facts["verified"]:
    return "Not verified: exported with --no-verify."
  worst = max(x["relative"] for x in facts["final_latents"].values())
  return (
    f"certified: final latents of a face in a pose within {worst:.1e} of diffusers {facts['versions']['diffusers']}, in a "
    "process without idejax"
  )
