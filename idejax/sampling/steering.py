"""Faces that steer pictures: a photo as FaceSnap's tokens, a pose as landmarks, both as rows of a batch.

    photo --pack, vision tower, mixer--> tokens         pose --poser--> landmarks --drawn--> control picture
    rows with and without a face --join--> Conditioning: of one batch, one program

The mixer runs once a photo and a control picture is drawn once a picture, not once a step.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from idejax import faces, sharding
from idejax.errors import UserError
from idejax.faces import control, photo
from idejax.faces.posing import Poser
from idejax.faces.record import FaceRecord
from idejax.model import addon
from idejax.model.addon import Addon
from idejax.model.backbone import Backbone, Conditioning
from idejax.model.vision import Tower
from idejax.sampling import requests
from idejax.sampling.requests import Request, Steer

NONE = "none"  # the pose of a picture whose face may be anywhere


class Faces:
  """An add-on with all that turns photos into what it reads; photos are read once."""

  def __init__(
    self, folder: Path, added: Addon, tower: Tower, pack: faces.Pack, poser: Poser, notify: Callable[[str], None]
  ):
    self.folder, self.addon, self.tower, self.pack = folder, added, tower, pack
    self.poser, self.notify = poser, notify
    self._records: dict[str, FaceRecord] = {}
    self._tokens: dict[tuple[str, ...], np.ndarray] = {}
    self._mix = jax.jit(lambda params, identity, clip: addon.tokens(added._replace(params=params), identity, clip))
    if tower.width != added.mixer.clip_dim and added.mixer.reads_clip:
      raise UserError(
        f"the add-on reads an image encoder of {added.mixer.clip_dim} features ({added.about.vision}), "
        f"{tower.folder} has {tower.width}"
      )

  def record(self, source: Any) -> FaceRecord:
    """The face in a photo: anything that `faces.read` takes, or a record. UserError if there is none."""
    if isinstance(source, FaceRecord):
      return source
    picture = photo.read(source)
    if picture.digest not in self._records:
      self._records[picture.digest] = faces.read(picture, self.pack, notify=self.notify)
    return self._records[picture.digest]

  def tokens(self, photos: Sequence[FaceRecord]) -> np.ndarray:
    """float32 [L, D] of one or several photos of one person; of several the mean of theirs."""
    key = tuple(r.meta["photo_sha256"] for r in photos)
    if key not in self._tokens:
      identity = np.stack([r.embedding for r in photos])
      clip = self.tower.tokens([r.portrait for r in photos])
      self._tokens[key] = np.asarray(self._mix(self.addon.params, identity, clip), np.float32).mean(0)
    return self._tokens[key]

  def steer(self, face: Any, pose: Any, size: tuple[int, int], strength: float = 1.0, until: float = 1.0) -> Steer:
    """One picture's steering.

    face: a photo, or a tuple or list of photos of one person. pose: None for the face's own where its landmarks are
    known, else none; "none"; the name of a pose that ships; or a driver's photo. size: (height, width) of the picture.
    """
    records = [self.record(p) for p in (face if isinstance(face, tuple | list) else (face,))]
    about = {"face": [r.meta["photo_sha256"] for r in records], "face_strength": strength, "face_until": until}
    if isinstance(pose, str) and pose == NONE:
      marks, where = None, NONE
    elif pose is None:
      marks, where = self._own(records[0], size), "own"
    elif isinstance(pose, str) and not Path(pose).exists():
      marks, where = self.poser.by_name(records[0], pose, *size), pose
    else:
      driver = self.record(pose)
      marks = control.place(self.poser.driven(records[0], driver).landmarks, driver.photo.shape[:2], *size)
      where = driver.meta["photo_sha256"]
    about["pose"] = NONE if marks is None else where
    return Steer(self.tokens(records), marks, strength, until, about)

  def _own(self, record: FaceRecord, size: tuple[int, int]) -> np.ndarray | None:
    marks = self.poser.own(record)
    return None if marks is None else control.place(marks, record.photo.shape[:2], *size)


def with_faces(
  who: Faces | None, plain: list[Request], face: Any, pose: Any, strength: Any, until: Any, size: tuple[int, int]
) -> list[Request]:
  """The requests with the faces of the Python interface, see `Pipeline.sample`. UserError for lists of other lengths,
  and where there is no add-on."""
  if face is None:
    if pose is not None:
      raise UserError("a pose needs a face: give face, too")
    return plain
  if who is None:
    raise UserError("this pipeline has no add-on that reads faces: idejax.load(model, addon=FOLDER)")
  each = requests.spread({"face": face, "pose": pose}, len(plain))
  knobs = requests.numbers({"face_strength": (strength, 0.0, 10.0), "face_until": (until, 0.0, 1.0)}, len(plain))
  return [
    r if f is None else dataclasses.replace(r, steer=who.steer(f, p, size, s, u))
    for r, f, p, s, u in zip(plain, *each, *knobs)
  ]


def load(
  b: Backbone, folder: Path, pack: faces.Pack, poser: Poser, notify: Callable[[str], None], vision: Path | None = None
) -> Faces:
  """An add-on folder beside a backbone. UserError for one of another family, another pack, or without its encoder."""
  added = addon.load(b, folder)
  if pack.name != added.about.recogniser:
    raise UserError(
      f"{folder} was trained on faces as the pack {added.about.recogniser} sees them, not {pack.name}: "
      f"give --pack {added.about.recogniser}"
    )
  own = folder / "vision"
  if vision is None and not own.is_dir():
    raise UserError(f"{folder} brings no image encoder: give --vision FOLDER of {added.about.vision}")
  return Faces(folder, added, Tower(vision or own), pack, poser, notify)


def join(
  b: Backbone, cond: Conditioning, steers: Sequence[Steer | None], size: tuple[int, int], mesh: jax.sharding.Mesh
) -> Conditioning:
  """A batch's conditioning with each picture's steering in all its rows, the negative prompt's too.

  steers: one a picture, None for a picture without a face; the conditioning has one row or two a picture.
  """
  first = next(s for s in steers if s is not None)
  blank = Steer(np.zeros_like(first.tokens), None, 0.0)
  rows = [s or blank for s in steers]
  each = cond.k.shape[1] // len(rows)
  put = lambda xs: jax.device_put(np.repeat(np.stack(xs), each, axis=0), sharding.batch(mesh))
  # Timesteps fall from T; a share u of them is those from T (1 - u) on.
  steps = b.nets.schedule.num_train_timesteps
  until = [np.float32(steps * (1 - s.until)) for s in rows]
  return dataclasses.replace(
    cond,
    control=put([control.raster(s.marks, *size) for s in rows]),
    control_context=put([np.asarray(s.tokens, np.float32) for s in rows]),
    control_scale=put([np.float32(s.strength) for s in rows]),
    control_until=put(until),
  )
