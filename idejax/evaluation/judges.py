"""The judges: what each network must be able to do, and what all of them find in a picture.

Judges are given by role. A role that nobody fills makes the metrics that need it unavailable; none of
them becomes a zero.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from idejax.errors import UserError
from idejax.evaluation import likeness
from idejax.faces import align
from idejax.faces.pack import Faces

RECOGNISERS = ("arcface", "facenet", "adaface")
CLIPS = ("clip", "clip_large")  # ViT-B/32 and ViT-L/14
ROLES = ("detector", *RECOGNISERS, *CLIPS, "clip_rn50", "inception", "attributes")
CROP = 224  # pixels a side of the face that CLIP-face looks at


class About(NamedTuple):
  """What a table says of a judge."""

  network: str  # and its preprocessing
  source: str
  licence: str
  digest: str  # sha256


class Detector(Protocol):
  about: About

  def detect(self, image: np.ndarray) -> Faces: ...
  def landmarks(self, image: np.ndarray, faces: Faces) -> np.ndarray | None:
    """[F, L, 2], or None where the detector knows five points only."""
    ...


class Recogniser(Protocol):
  about: About
  threshold: float | None  # similarity above which one stranger in a thousand lies; None: not known

  def embed(self, images: Sequence[np.ndarray], points: Sequence[np.ndarray]) -> np.ndarray:
    """Unit embeddings [N, D] of one face each, by its five points."""
    ...


class Clip(Protocol):
  about: About
  person: str  # what it reads in place of the person's word; "" removes it

  def pictures(self, images: Sequence[np.ndarray]) -> np.ndarray: ...
  def texts(self, texts: Sequence[str]) -> np.ndarray: ...


class Features(Protocol):
  about: About

  def features(self, images: Sequence[np.ndarray]) -> np.ndarray: ...


class Attributes(Protocol):
  about: About

  def attributes(self, images: Sequence[np.ndarray]) -> dict[str, list[str]]: ...
  def parse_prompt(self, prompt: str) -> dict[str, str]:
    """The classes that a prompt names, by attribute."""
    ...


@dataclasses.dataclass(frozen=True)
class Judges:
  """The judges that are there, by role, and why others are not."""

  detector: Detector | None = None
  recognisers: Mapping[str, Recogniser] = dataclasses.field(default_factory=dict)
  clips: Mapping[str, Clip] = dataclasses.field(default_factory=dict)
  inception: Features | None = None
  attributes: Attributes | None = None
  absent: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def about(self) -> dict[str, About]:
    """What a table says of every judge that is there, by role."""
    single = {"detector": self.detector, "inception": self.inception, "attributes": self.attributes}
    roles = {**single, **self.recognisers, **self.clips}
    return {role: roles[role].about for role in ROLES if roles.get(role) is not None}  # type: ignore[union-attr]

  def digest(self) -> str:
    """A digest of all judges together, under which findings are cached."""
    return " ".join(f"{role}:{a.digest[:16]}:{a.network}" for role, a in self.about().items())


class Findings(NamedTuple):
  """What the judges find in one picture with F faces, from left to right. Fields without a judge are empty."""

  points: np.ndarray  # [F, 5, 2]
  areas: np.ndarray  # [F]
  faces: dict[str, np.ndarray]  # by recogniser, unit [F, D]
  picture: dict[str, np.ndarray]  # by CLIP, unit [P]
  crop: dict[str, np.ndarray]  # the same of the largest face; empty without a face
  marks: np.ndarray | None  # [F, L, 2]
  features: np.ndarray | None  # Inception's
  attributes: dict[str, str]

  @property
  def largest(self) -> int | None:
    return int(self.areas.argmax()) if len(self.areas) else None


def look(judges: Judges, images: Sequence[np.ndarray]) -> list[Findings]:
  """What all judges find in uint8 pictures [H, W, 3] of any sizes."""
  detections = [judges.detector.detect(i) for i in images] if judges.detector else [_nobody() for _ in images]
  marks = [
    judges.detector.landmarks(i, f) if judges.detector and len(f.boxes) else None for i, f in zip(images, detections)
  ]
  where = [(i, k) for i, f in enumerate(detections) for k in range(len(f.boxes))]
  faces: list[dict[str, np.ndarray]] = [{} for _ in images]
  for name, recogniser in judges.recognisers.items():
    if judges.detector is None:
      break
    rows = recogniser.embed([images[i] for i, _ in where], [detections[i].points[k] for i, k in where]) if where else ()
    for i in range(len(images)):
      mine = [r for r, (j, _) in zip(rows, where) if j == i]
      faces[i][name] = np.stack(mine) if mine else np.zeros((0, 1), np.float32)
  areas = [np.prod(f.boxes[:, 2:] - f.boxes[:, :2], 1) for f in detections]
  cuts = {
    i: align.crop(images[i], f.points[int(a.argmax())], CROP)
    for i, (f, a) in enumerate(zip(detections, areas))
    if len(a)
  }
  picture: list[dict[str, np.ndarray]] = [{} for _ in images]
  crop: list[dict[str, np.ndarray]] = [{} for _ in images]
  for name, net in judges.clips.items():
    for i, row in enumerate(net.pictures(images)):
      picture[i][name] = row
    if name == "clip_rn50" or not cuts:
      continue
    for i, row in zip(cuts, net.pictures(list(cuts.values()))):
      crop[i][name] = row
  features = judges.inception.features(images) if judges.inception else [None] * len(images)
  classes = judges.attributes.attributes(images) if judges.attributes else {}
  labels = [{n: c[i] for n, c in classes.items()} for i in range(len(images))]
  return [Findings(f.points, a, e, p, c, m, x, n) for f, a, e, p, c, m, x, n in
          zip(detections, areas, faces, picture, crop, marks, features, labels)]  # fmt: skip


def largest(judges: Judges, images: Sequence[np.ndarray], role: str = "arcface") -> list[np.ndarray | None]:
  """A recogniser's unit embedding of the largest face in each picture, None where none is found."""
  assert judges.detector is not None
  detections = [judges.detector.detect(i) for i in images]
  where = [i for i, f in enumerate(detections) if len(f.boxes)]
  points = [
    detections[i].points[int(np.prod(detections[i].boxes[:, 2:] - detections[i].boxes[:, :2], 1).argmax())]
    for i in where
  ]
  out: list[np.ndarray | None] = [None] * len(images)
  if where:
    for i, e in zip(where, judges.recognisers[role].embed([images[i] for i in where], points)):
      out[i] = e
  return out


def _nobody() -> Faces:
  return Faces(*(np.zeros(shape, np.float32) for shape in ((0, 4), 0, (0, 5, 2))))


def calibrate(judges: Judges, findings: Sequence[Findings], far: float = 1e-3) -> Judges:
  """The judges with every recogniser's threshold measured on photos of different people, one photo each: the
  similarity that the share `far` of their pairs exceeds. UserError if there are too few pairs."""
  out = {}
  for name, recogniser in judges.recognisers.items():
    rows = [s.faces[name][s.largest] for s in findings if s.largest is not None]
    try:
      threshold = likeness.threshold_at(list(impostors(rows)) if rows else [], far)
    except ValueError as e:
      raise UserError(f"--strangers shows {len(rows)} people with a face: {e}; 46 people are 1,035 pairs") from e
    out[name] = copy.copy(recogniser)
    out[name].threshold = threshold
  return dataclasses.replace(judges, recognisers=out)


def impostors(embeddings: Sequence[np.ndarray]) -> np.ndarray:
  """Similarities of all pairs of different people, from one unit embedding each."""
  rows = likeness.unit(np.stack(embeddings))
  return (rows @ rows.T)[np.triu_indices(len(rows), 1)]
