"""idejax: identity-preserving portraits with Stable Diffusion in JAX.

    import idejax
    anna = idejax.personalize("anna.png", name="<anna>")          # learn a person from a photo
    pipe = idejax.load(people=[anna])
    images = pipe.sample(["a photo of <anna> on the beach"] * 4)   # uint8 [4, H, W, 3]
    idejax.sheet(images, "a photo of <anna> on the beach")         # a picture of them

What the commands do, by the same code. Bad input raises `idejax.Error` with the commands' sentences. jax is
imported when it is needed, so that importing idejax is quick. docs/python.md has more.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from idejax.errors import UserError as Error

if TYPE_CHECKING:
  import os
  from pathlib import Path

  import numpy as np
  from PIL.Image import Image

  from idejax.faces import FaceRecord, Pack
  from idejax.sampling.learned import Learned
  from idejax.sampling.pipeline import Pipeline

  StrPath = str | os.PathLike[str]

__version__ = "0.1.0"
__all__ = [
  "Error",
  "convert",
  "evaluate",
  "export",
  "identity",
  "load",
  "open_person",
  "personalize",
  "portrait",
  "sheet",
]


def load(
  model: "StrPath" = "miniature",
  *,
  people: "Iterable[Learned | StrPath]" = (),
  addon: "StrPath | None" = None,
  pack: "str | Pack" = "miniature",
  vision: "StrPath | None" = None,
  shape: "StrPath | None" = None,
  table: "StrPath | None" = None,
  controlnet: "StrPath | None" = None,
  dtype: Any = "float32",
  variant: str | None = None,
  allow_pickle: bool = False,
  attention: str | None = None,
  remat: bool = False,
  devices: Sequence[Any] | None = None,
  notify: Callable[[str], None] | None = None,
) -> "Pipeline":
  """Open a pipeline: the built-in miniature, a folder in diffusers layout, or a hub id.

  people: whom prompts may name, as `personalize` returns them or as their run folders. addon: a folder of `idejax
  pretrain`, by which `sample` takes faces; pack, vision: its face networks, and its image encoder where it brings none;
  shape, table: a morphable model's file and its landmarks', for poses of photographs.
  controlnet: a stock ControlNet's folder, by which `sample` takes control pictures. dtype: float32 or bfloat16, of
  weights and computation. variant: of the weights' files, such as "fp16". allow_pickle: open .bin files too, which
  can run code. attention, remat: see `nets.attention` and `model.backbone.load`. devices: jax's, all by default.
  notify: receives notices, such as that a prompt was cut; by default they go to stderr.
  """
  from idejax.errors import tell
  from idejax.runtime import cores
  from idejax.sampling import learned, pipeline

  several = [learned.load(p) if not isinstance(p, learned.Learned) else p for p in people]
  if devices is None:
    cores.use(str(model))
  pipe = pipeline.load(
    model,
    dtype=dtype,
    variant=variant,
    allow_pickle=allow_pickle,
    attention=attention,
    remat=remat,
    devices=devices,
    notify=notify or tell,
  )
  if controlnet is not None:
    pipe = pipe.with_controlnet(controlnet, allow_pickle=allow_pickle)
  if addon is not None:
    from pathlib import Path

    from idejax.personalizing import posers

    clip, model_of_faces, marks = (None if x is None else Path(x) for x in (vision, shape, table))
    pipe = posers.with_addon(pipe, addon, pack, clip, model_of_faces, marks, notify or tell)
  return pipe.with_people(*several)


def personalize(
  photos: Any = None,
  method: str = "id-ea",
  model: "StrPath | Pipeline" = "miniature",
  preset: str | None = None,
  name: str = "<id>",
  *,
  pack: "str | Pack" = "miniature",
  out: "StrPath | None" = None,
  progress: Callable[[int, int, dict[str, Any]], None] | None = None,
  **settings: Any,
) -> "Learned | dict[str, Learned]":
  """Learn a person from photos: whoever `name` is in prompts then.

  photos: of one person, a path, an array [H, W, 3], a PIL image, a FaceRecord, or a list of these; of many, a dict of
  name -> photos, or a folder. Many train at once, each is called <name>, and a dict of them is returned. None: a
  portrait of the drawn world. method, preset, settings: as `idejax personalize --method M --help` lists them, such as
  steps=300, lr=0.01, seed=1, describe="on a beach"; of facesnap addon=FOLDER, of id-ea shared=FOLDER. model: a name, a
  folder or an open pipeline. pack: face networks, as of `identity`. out: a run folder to keep (loss.png,
  identity.safetensors, checkpoints, from which the same call continues); without it nothing is kept on disk. progress:
  called as progress(step, of, metrics) for every step, in order and a little late, in place of lines on stderr.
  """
  from idejax.personalizing import interface

  return interface.personalize(photos, method, model, preset, name, pack, out, progress, settings)


def open_person(folder: "StrPath") -> "Learned":
  """Someone who was learned before: a run folder of `personalize`, or its identity.safetensors."""
  from idejax.sampling import learned

  return learned.load(folder)


def identity(
  photo: Any, pack: "str | Pack" = "miniature", *, face: int | None = None, parsing: "StrPath | None" = None
) -> "FaceRecord | list[FaceRecord]":
  """What is found of the face in a photo: embedding, box, points, masks, landmarks, crops. Of a list, a list.

  photo: a path, bytes, an array (uint8, uint16, or floats from 0 to 1) or a PIL image. pack: miniature (drawn
  portraits), an insightface pack by name, a folder of ONNX files, or an open `faces.Pack`. face: which one, from the
  left, from 1; by default the largest. parsing: a face-parsing network (ONNX, 19 classes) for masks.
  """
  from pathlib import Path

  from idejax import faces

  photos = list(photo) if isinstance(photo, tuple) else photo
  return faces.read(photos, pack, face, None if parsing is None else Path(parsing))


def export(
  person: "Learned | StrPath",
  folder: "StrPath",
  format: str = "auto",
  verify: bool = True,
  *,
  model: str | None = None,
  quick: bool = False,
) -> "Path":
  """Write a person as files that diffusers opens, with a card and a certificate; returns the folder.

  format: auto, textual-inversion, pipeline, lora, custom-diffusion or certificate-only. verify: run diffusers
  (PyTorch) and compare; where they differ, nothing is written. model: where the base model is now. quick: compare 10
  steps, not 10 and 50.
  """
  import tempfile
  from pathlib import Path

  from idejax.sampling.learned import Learned

  with tempfile.TemporaryDirectory(prefix="idejax-") as scratch:
    run = person.save(scratch).parent if isinstance(person, Learned) else Path(person)
    _run("export", to=folder, run=run, format=format, model=model, quick=quick, verify=verify)
  return Path(folder)


def convert(source: "StrPath | Sequence[StrPath]", target: "StrPath", **options: Any) -> "Path":
  """Rewrite a model in another dtype or layout, or bring in a person who was learned elsewhere; returns the target.

  source: a folder or file; of a person, possibly several files. options: as `idejax convert --help` lists them, such
  as dtype="float16", max_shard_size="2GB", kind="identity", name="<anna>", model=..., allow_pickle=True.
  """
  import os
  from pathlib import Path

  sources = [source] if isinstance(source, str | os.PathLike) else list(source)
  _run("convert", paths=tuple(Path(p) for p in (*sources, target)), **options)
  return Path(target)


def evaluate(what: "StrPath | Sequence[StrPath]" = (), *, out: "StrPath", **options: Any) -> dict[str, Any]:
  """Score people, methods or pictures by the same judges; returns the figures that `out` holds.

  what: run folders, a pictures.jsonl, or nothing for the built-in model's own exam (`out` is then a JSON file, else a
  folder with tables, curves and sheets). options: as `idejax evaluate --help` lists them, such as protocol="p1-lite",
  judges="judges.json", methods="id-ea,textual-inversion", quick=True. docs/evaluation.md says what a figure means.
  """
  import json
  import os
  from pathlib import Path

  given = [what] if isinstance(what, str | os.PathLike) else list(what)
  _run("evaluate", what=tuple(os.fspath(w) for w in given), out=Path(out), **options)
  file = Path(out) / "results.json" if Path(out).is_dir() else Path(out)
  return json.loads(file.read_text("utf-8"))


def sheet(
  images: "np.ndarray | Sequence[Any]", captions: str | Sequence[str] = "", *, side: int = 192, width: int = 1200
) -> "Image":
  """Pictures on one sheet, as a PIL image, in rows of at most `width` pixels.

  images: arrays uint8 [H, W, 3], PIL images or paths. captions: one a picture, or one for all of them. side: pixels
  of a picture on the sheet.
  """
  from idejax.storage import sheets

  return sheets.of(images, captions, side, width)


def portrait(n: int = 0, size: int = 64) -> "np.ndarray":
  """A portrait of person n of the drawn world, whom no training has seen, to try things on: uint8 [size, size, 3]."""
  from idejax.miniature.world import portraits

  return portraits.one(n, size)


def _run(command: str, **options: Any) -> None:
  """A command by its row in the table of commands, as the command line runs it."""
  import importlib

  from idejax.cli import command as commands
  from idejax.personalizing import interface

  kind, module, _ = commands.COMMANDS[command]
  importlib.import_module(module).main(interface.config_of(kind, f"idejax.{command}", options))
