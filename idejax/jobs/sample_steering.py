"""What steers the pictures of `idejax sample`: faces and poses by an add-on, control pictures by a stock ControlNet."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from idejax import config
from idejax.errors import UserError, tell
from idejax.runtime.progress import waiting
from idejax.sampling.prompt_files import Prompt

_LISTED = 10  # skipped rows that are told one by one


def check(c: config.Sample):
  """UserError for what can be seen to be wrong without a model."""
  if c.addon is None and (c.face or c.pose and not c.identity):
    raise UserError(f"--{'face' if c.face else 'pose'} needs an add-on that reads faces: give --addon FOLDER")
  if c.pose and not c.face and not c.prompts and not c.identity:
    raise UserError("--pose is where a face lies: give --face PHOTO")
  if (c.shape or c.table) and not c.pose and not c.prompts:
    raise UserError(
      f"--{'shape' if c.shape else 'table'} is of a morphable model, which puts a face into a pose: give --pose"
    )
  if c.controlnet is None and c.control:
    raise UserError("--control is a picture that a ControlNet reads: give --controlnet FOLDER")
  if c.controlnet and c.addon:
    raise UserError("--addon and --controlnet are both given: one job has one ControlNet, and an add-on is one")
  if c.controlnet and not c.control and not c.prompts:
    raise UserError(
      "--controlnet reads a control picture: give --control PICTURE, or --prompts FILE with a field control"
    )
  for name, files in (("face", c.face), ("control", (c.control,) if c.control else ())):
    for file in files:
      if not file.is_file():
        raise UserError(f"--{name} {file} {'is no file' if file.exists() else 'does not exist'}")


def open_controls(c: config.Sample, prompt_list: Sequence[Prompt], pipe: Any, people: Sequence[Any]) -> Any:
  """The pipeline with the add-on or the ControlNet of the command.

  An add-on that only reads poses of people learned by it is theirs.
  """
  if c.controlnet:
    with waiting("reading the ControlNet"):
      return pipe.with_controlnet(c.controlnet, allow_pickle=c.allow_pickle)
  posed = c.pose or any(p.pose for p in prompt_list)
  folder = c.addon or next((p.addon for p in people if p.is_face and posed), None)
  if folder is None:
    return pipe
  from idejax.personalizing import posers

  with waiting("reading the add-on"):
    return posers.with_addon(pipe, folder, c.pack, c.vision, c.shape, c.table)


def steer(
  c: config.Sample, prompt_list: Sequence[Prompt], requests: Sequence[Any], pipe: Any, size: tuple[int, int]
) -> tuple[list[Any], set[int]]:
  """The requests with what steers them, and positions of those that are skipped.

  A row of a file of prompts whose photo, pose or control picture cannot be used is skipped and told; UserError where it
  stands alone, where what is wrong is the command's own, and where no row is left.
  """
  num, out, reasons = c.num or 1, list(requests), dict[int, str]()
  for row in range(0, len(out), num):
    p = prompt_list[row // num]
    try:
      found = steer_row(c, p, pipe, size)
    except UserError as e:
      if c.prompts is None or len(prompt_list) == 1 or not (p.face or p.pose or p.control):
        raise
      reasons[row // num] = str(e)
      continue
    out[row : row + num] = [dataclasses.replace(r, steer=found) for r in out[row : row + num]]
  report(reasons, len(prompt_list))
  if c.addon and not any(r.steer for r in out):
    raise UserError("--addon reads faces, and none is given: --face PHOTO")
  if c.controlnet and not any(r.steer for r in out):
    raise UserError(f"--controlnet reads a control picture, and {c.prompts} has none: --control PICTURE")
  return out, {num * row + k for row in reasons for k in range(num)}


def steer_row(c: config.Sample, p: Prompt, pipe: Any, size: tuple[int, int]) -> Any:
  """The steering of one prompt's pictures, None for plain ones. UserError says what is wrong with its files."""
  from idejax.sampling import controls, steering

  who = steering.face_named(pipe.people, p.text)
  if p.control and not c.controlnet:
    raise UserError(f"{p.text[:60]!r} has a control picture, which a ControlNet reads: give --controlnet FOLDER")
  face, pose, picture = (Path(p.face),) if p.face else c.face, p.pose or c.pose, p.control or c.control
  if who and (face or picture):
    raise UserError(
      f"{p.text[:60]!r} names {who}, whose face steers the picture: leave {'--control' if picture else '--face'} out"
    )
  if picture:
    return controls.steer(Path(picture), size, c.control_strength, c.control_from, c.control_until)
  if who:
    return steering.steer_person(pipe.people[who], pose, size, pipe.faces, c.face_strength, c.face_until)
  if face and pipe.faces is None:
    raise UserError(f"{p.text[:60]!r} has a face, which an add-on reads: give --addon FOLDER")
  if face:
    return pipe.faces.steer(list(face), pose, size, c.face_strength, c.face_until)
  if pose and (p.pose or not c.prompts):
    raise UserError(f"{p.text[:60]!r} has a pose and no face: give it one, or --face PHOTO")
  return None


def report(reasons: dict[int, str], count: int):
  """Tells which rows of a file are skipped, counted from 1. UserError if all of them are."""
  for row, why in list(reasons.items())[:_LISTED]:
    tell(f"skipped: row {row + 1}: {why}")
  if len(reasons) > _LISTED:
    tell(f"... and {len(reasons) - _LISTED} more rows")
  if len(reasons) == count:
    raise UserError(f"not one of {count} rows can be sampled: {next(iter(reasons.values()))}")
  if reasons:
    tell(f"{len(reasons)} of {count} rows skipped")
