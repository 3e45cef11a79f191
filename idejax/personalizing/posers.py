"""A pipeline with an add-on by which photos steer pictures, and who says where landmarks lie."""

import os
from collections.abc import Callable
from pathlib import Path

from idejax import faces
from idejax.errors import UserError, tell
from idejax.faces import morphable, predictor
from idejax.faces.posing import ByLandmarks, Poser
from idejax.miniature.judging import shapes
from idejax.sampling import steering
from idejax.sampling.pipeline import Pipeline
from idejax.storage import hub

BUILT_IN = hub.BUILT_IN["miniature"].parent / "facesnap"  # what --addon miniature is, where it ships


def with_addon(
  pipe: Pipeline,
  folder: str | os.PathLike[str],
  pack: str | faces.Pack = "miniature",
  vision: Path | None = None,
  shape: Path | None = None,
  table: Path | None = None,
  notify: Callable[[str], None] = tell,
) -> Pipeline:
  """The pipeline with the add-on of a folder, or the built-in one.

  pack: the face pack that the add-on was trained with. vision: its image encoder, where the folder brings none.
  shape, table: a morphable model's file and its landmarks', see `of_pack`. UserError says what does not fit.
  """
  path = find(folder)
  networks = pack if isinstance(pack, faces.Pack) else faces.open_pack(pack, notify=notify)
  poser = of_pack(networks, shape, table)
  return pipe.with_faces(steering.load(pipe.backbone, path, networks, poser, notify, vision))


def find(folder: str | os.PathLike[str]) -> Path:
  """The folder of an add-on, the built-in one's for `miniature`. UserError if there is no add-on."""
  path = Path(folder)
  if str(folder) == "miniature" and not path.is_dir():
    path = BUILT_IN
    if not (path / "addon.json").is_file():
      raise UserError("no add-on ships with the built-in model: idejax pretrain makes one, --addon FOLDER names it")
  if not (path / "addon.json").is_file():
    raise UserError(f"{path} is no add-on folder: it has no addon.json")
  return path


def of_pack(pack: faces.Pack, shape: Path | None = None, table: Path | None = None) -> Poser:
  """Who says where a face's landmarks lie.

  Of the built-in pack the drawn world's own geometry; of others a morphable model of the user's (`shape`, with its
  `table` of landmarks), fitted to both faces, or without one the driver's landmarks as they are.
  """
  if shape is not None or table is not None:
    if shape is None or table is None:
      raise UserError("a morphable model is two files: give --shape MODEL and --table LANDMARKS")
    return ByLandmarks(predictor.by_model(morphable.load(shape, table)))
  if pack.bundled:
    return shapes.Drawn()
  return ByLandmarks()
