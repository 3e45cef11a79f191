"""What steers pictures: a photo as FaceSnap's tokens, a pose as landmarks, or a stock ControlNet's control picture.

    photo --pack, vision tower, mixer--> tokens         pose --poser--> landmarks --drawn--> control picture
    rows with and without a face --join--> Conditioning: of one batch, one program

The mixer runs once a photo; a control picture is drawn, and read by the ControlNet's first layers, once a picture. A person learned by
FaceSnap is tokens and what poses need of the face: a prompt that names them says "a person" and is steered.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from idejax import faces, sharding
from idejax.errors import UserError
from idejax.faces import control, photo, posing
from idejax.faces.posing import Poser
from idejax.faces.record import FaceRecord
from idejax.model import addon, backbone, controlnets
from idejax.model.addon import Addon
from idejax.model.backbone import Backbone, Conditioning
from idejax.model.tokens import placeholders_in
from idejax.model.vision import Tower
from idejax.sampling import controls as controls_of
from idejax.sampling import requests
from idejax.sampling.learned import Learned
from idejax.sampling.requests import Request, Steer
from idejax.storage import tensorfiles

NONE = "none"  # the pose of a picture whose face may be anywhere
SOMEBODY = "a person"  # what a prompt says in place of a person who is a face


class Source(NamedTuple):
  """A face as an add-on and a poser read it, of photos or of a person learned."""

  tokens: np.ndarray  # float32 [L, D]
  marks: np.ndarray | None  # float32 [72, 2] in the photo's pixels, where they are known
  photo: tuple[int, int]  # height and width
  face: posing.Source  # what a poser takes


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

  @functools.cached_property
  def digest(self) -> str:
    """Of the add-on's ControlNet."""
    return addon_digest(self.folder)

  def record(self, source: Any) -> FaceRecord:
    """The face in a photo: anything that `faces.read` takes, or a record. UserError if there is none, or several."""
    if isinstance(source, FaceRecord):
      return source
    picture = photo.read(source)
    if picture.digest not in self._records:
      record = faces.read(picture, self.pack, notify=lambda _: None)
      if (count := record.meta["faces"]) > 1:
        raise UserError(f"{picture.name} has {count} faces, and one is meant: cut it down to that one")
      self._records[picture.digest] = record
    return self._records[picture.digest]

  def tokens(self, photos: Sequence[FaceRecord]) -> np.ndarray:
    """float32 [L, D] of one or several photos of one person; of several, where the mixer was not trained to read them
    at once, the mean of theirs."""
    key = tuple(r.meta["photo_sha256"] for r in photos)
    if key not in self._tokens:
      identity = np.stack([r.embedding for r in photos])
      clip = self.tower.tokens([r.portrait for r in photos])
      if self.fuses(len(photos)):
        identity, clip = identity[None], clip[None]
      self._tokens[key] = np.asarray(self._mix(self.addon.params, identity, clip), np.float32).mean(0)
    return self._tokens[key]

  def fuses(self, count: int) -> bool:
    """Whether the mixer reads so many photos at once."""
    return count > 1 and self.addon.mixer.photos > 1

  def steer(self, face: Any, pose: Any, size: tuple[int, int], strength: float = 1.0, until: float = 1.0) -> Steer:
    """One picture's steering.

    face: a photo, or a tuple or list of photos of one person. pose: None for the face's own where its landmarks are
    known, else none; "none"; the name of a pose that ships; or a driver's photo. size: (height, width) of the picture.
    """
    records = [self.record(p) for p in (face if isinstance(face, tuple | list) else (face,))]
    own = self.poser.own(records[0]) if pose is None else None
    source = Source(self.tokens(records), own, records[0].photo.shape[:2], records[0])
    marks, where = self.place(source, pose, size)
    about = {"face": [r.meta["photo_sha256"] for r in records], "face_strength": strength, "face_until": until}
    return Steer(source.tokens, marks, strength, until, about | {"pose": where})

  def place(self, source: Source, pose: Any, size: tuple[int, int]) -> tuple[np.ndarray | None, str]:
    """(landmarks in the picture's pixels or None, the pose as a record names it); see `steer`."""
    if pose is None or isinstance(pose, str) and pose == NONE:
      return place_own(source, pose, size)
    if isinstance(pose, str) and not Path(pose).exists():
      return self.poser.by_name(source.face, pose, *size), pose
    driver = self.record(pose)
    marks = control.place(self.poser.driven(source.face, driver).landmarks, driver.photo.shape[:2], *size)
    return marks, driver.meta["photo_sha256"]

  def represent(self, photos: Sequence[FaceRecord], strength: float = 1.0) -> dict[str, Any]:
    """The identity of a person: tokens of all photos, and of the first what poses need."""
    first, own = photos[0], self.poser.own(photos[0])
    out: dict[str, Any] = {"tokens": self.tokens(photos), "scale": np.float32(strength)}
    out |= {"photo": np.array(first.photo.shape[:2], np.float32), "face": self.poser.keep(first)}
    return out if own is None else out | {"marks": own}


# A person learned.


def steer_person(
  p: Learned, pose: Any, size: tuple[int, int], who: Faces | None = None, strength: float = 1.0, until: float = 1.0
) -> Steer:
  """The steering by a person's identity; poses but their own and none need the add-on, opened with its face networks."""
  i: Mapping[str, Any] = {k: x if k == "face" else np.asarray(x, np.float32) for k, x in p.identity.items()}
  height, width = (int(n) for n in i["photo"])
  source = Source(i["tokens"], i.get("marks"), (height, width), None)
  if pose is None or isinstance(pose, str) and pose == NONE:
    marks, where = place_own(source, pose, size)
  elif who is None:
    raise UserError(f"a pose of {p.word} needs the add-on's face networks: idejax.load(model, addon={p.addon!r})")
  else:
    kept = {k: np.asarray(x, np.float32) for k, x in i.get("face", {}).items()}
    marks, where = who.place(source._replace(face=who.poser.kept(kept)), pose, size)
  scale = strength * float(i["scale"])
  return Steer(i["tokens"], marks, scale, until, {"pose": where, "face_until": until}, person=p.word)


def place_own(source: Source, pose: str | None, size: tuple[int, int]) -> tuple[np.ndarray | None, str]:
  """The landmarks of the photo itself, where they are known and `pose` is not none, and the pose's name."""
  if pose == NONE or source.marks is None:
    return None, NONE
  return control.place(source.marks, source.photo, *size), "own"


def say_faces(people: Mapping[str, Learned], rows: Sequence[Request], size: tuple[int, int]) -> Sequence[Request]:
  """The requests in which people who are faces are said as "a person" and steer their pictures; others as they are.

  UserError for a prompt that names such a person beside somebody else, or has another control beside them.
  """
  if not (known := {w: p for w, p in people.items() if p.is_face}):
    return rows
  longest = sorted(known, key=len, reverse=True)
  say = lambda text: functools.reduce(lambda t, w: t.replace(w, SOMEBODY), longest, text)
  out = []
  for r in rows:
    if word := face_named(people, r.prompt):
      if r.steer is not None and r.steer.person != word:
        raise UserError(f"{r.prompt!r} names {word}, whose face steers the picture, and has another control beside it")
      steer = r.steer or steer_person(known[word], None, size)
      r = dataclasses.replace(r, steer=dataclasses.replace(steer, start=r.start), start=0.0)
    out.append(dataclasses.replace(r, prompt=say(r.prompt), negative=r.negative and say(r.negative)))
  return out


def face_named(people: Mapping[str, Learned], prompt: str) -> str | None:
  """The person in a prompt who is a face, by their word. UserError where others are named, too."""
  named = placeholders_in(prompt, people)
  word = next((w for w in named if people[w].is_face), None)
  if word and len(named) > 1:
    raise UserError(
      f"{prompt!r} names {' and '.join(named)}: {word}, by {people[word].method}, is a face that steers the whole "
      "picture; give it a prompt of its own"
    )
  return word


def with_addon_of(b: Backbone, controls: str, p: Learned) -> Backbone:
  """The backbone with the ControlNet of a person's add-on. `controls`: digest of the one that it has, "" for none.

  UserError if that is another, and if the add-on is not where it was, or has been trained since.
  """
  folder = Path(p.addon)
  controls_of.check_alone(controls, p.addon_digest, f"{p.word}'s add-on {folder}")
  if not (folder / "addon.json").is_file():
    raise UserError(f"{p.word} needs an add-on that was in {folder}, and is not there: --addon says where it is now")
  if addon_digest(folder) != p.addon_digest:
    raise UserError(
      f"{folder} is not the add-on that {p.word} was made with, or was trained since: make {p.word} again by idejax "
      "personalize, in a moment"
    )
  return controlnets.with_controlnet(b, folder / "controlnet")


def addon_digest(folder: Path) -> str:
  """sha256 of an add-on's ControlNet, which reads an identity's tokens."""
  return tensorfiles.digest(folder / "controlnet")


# Rows.


def with_faces(
  who: Faces | None,
  people: Mapping[str, Learned],
  plain: list[Request],
  face: Any,
  pose: Any,
  strength: Any,
  until: Any,
  size: tuple[int, int],
) -> list[Request]:
  """The requests with the faces of the Python interface, see `Pipeline.sample`. UserError for lists of other lengths,
  and where there is no add-on."""
  names = [face_named(people, r.prompt) for r in plain] if any(p.is_face for p in people.values()) else []
  if face is None and not any(names):
    if pose is not None:
      raise UserError("a pose needs a face: give face, too")
    return plain
  if face is not None and who is None:
    raise UserError("this pipeline has no add-on that reads faces: idejax.load(model, addon=FOLDER)")
  each = requests.spread({"face": face, "pose": pose}, len(plain))
  knobs = requests.numbers({"face_strength": (strength, 0.0, 10.0), "face_until": (until, 0.0, 1.0)}, len(plain))
  out = []
  for r, name, f, p, s, u in zip(plain, names or [None] * len(plain), *each, *knobs):
    if f is not None and who is not None:
      r = dataclasses.replace(r, steer=who.steer(f, p, size, s, u))
    elif name:
      r = dataclasses.replace(r, steer=steer_person(people[name], p, size, who, s, u))
    out.append(r)
  return out


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


@jax.jit
def embed(b: Backbone, cond: Conditioning) -> Conditioning:
  """The conditioning with its control images as the ControlNet's first layers leave them, which no step changes."""
  assert cond.control is not None  # `join` put it there
  return dataclasses.replace(cond, control=None, control_embedded=backbone.embed_control(b, cond.control))


def join(
  b: Backbone, cond: Conditioning, steers: Sequence[Steer | None], size: tuple[int, int], mesh: jax.sharding.Mesh
) -> Conditioning:
  """A batch's conditioning with each picture's steering in all its rows, the negative prompt's too.

  steers: one a picture, None for a picture without a face; the conditioning has one row or two a picture.
  """
  first = next(s for s in steers if s is not None)
  blank = Steer(None if first.tokens is None else np.zeros_like(first.tokens), None, 0.0)
  rows = [s or blank for s in steers]
  each = cond.k.shape[1] // len(rows)
  put = lambda xs: jax.device_put(np.repeat(np.stack(xs), each, axis=0), sharding.batch(mesh))
  # Timesteps fall from T; a share u of them is those from T (1 - u) on.
  steps = b.nets.schedule.num_train_timesteps
  at = lambda share: np.float32(steps * (1 - share))
  contexts = [np.asarray(s.tokens, np.float32) for s in rows if s.tokens is not None]
  return dataclasses.replace(
    cond,
    control=put([control.raster(s.marks, *size) if s.picture is None else s.picture for s in rows]),
    control_context=put(contexts) if contexts else None,
    control_scale=put([np.float32(s.strength) for s in rows]),
    control_until=put([at(s.until) for s in rows]),
    control_from=put([at(s.start) for s in rows]),
  )
