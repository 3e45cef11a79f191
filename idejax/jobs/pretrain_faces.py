"""The faces that `idejax pretrain` learns from, and those that it holds out."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from idejax import config, faces
from idejax.data import face_batches, face_rows
from idejax.errors import tell
from idejax.evaluation import validation
from idejax.faces.face_set import FaceSet
from idejax.jobs import encoders
from idejax.miniature.training import drawn_set
from idejax.model.vision import Tower
from idejax.person import face_features
from idejax.person.face_features import Encoded
from idejax.runtime import distributed
from idejax.sampling import pipeline

Faces = Encoded | face_rows.Streamed
Picture = Callable[[int], np.ndarray]


def read(
  c: config.Pretrain, pipe: pipeline.Pipeline, pack: faces.Pack, tower: Tower, moving: bool
) -> tuple[Faces, Picture]:
  """The faces of --data, at the model's size: encoded in memory, or read step by step where they are more than --memory
  or moving; and what gives the picture of each."""
  b, side = pipe.backbone, pipe.size(pipeline.Settings())[0]
  folder, picture = Path(c.data), None
  if c.data == "drawn":
    data = draw(c, "train", c.each, side)
  elif (folder / "manifest.json").is_file():
    rows = face_rows.Rows(folder, pack, side, tower.side, encoders.vae_digest(pipe.folder), tower.digest)
    need = rows.bytes((side // b.nets.factor) ** 2 * b.nets.latent_channels, tower.count * tower.width)
    if moving or need > c.memory * 2**30:
      has_latents = rows.has_latents and not moving
      lacks = [name for name, has in (("latents", has_latents), ("clip", rows.has_clip)) if not has]
      why = "pictures move" if moving and rows.has_clip else "idejax prepare --model, --vision stores them"
      how = f", their {' and '.join(lacks)} computed anew ({why})" if lacks else ""
      tell(f"{folder}: {len(rows)} faces of {int(rows.person.max()) + 1} people, read step by step{how}")
      return face_rows.Streamed(rows, b, pipe.tokenizers, tower), rows.picture
    data, picture = face_batches.told(folder, rows.all()), rows.picture
  else:
    data = face_batches.photos(folder, pack, side, tower.side, c.parsing)
  tell(f"encoding {len(data.person)} faces of {int(np.max(data.person)) + 1} people")
  if moving:
    return face_rows.Streamed(face_rows.InMemory(data, tower), b, pipe.tokenizers, tower), pictures_of(data)
  return face_features.encode(b, pipe.tokenizers, tower, data), picture or pictures_of(data)


def pictures_of(data: FaceSet) -> Picture:
  """The pictures of a FaceSet that holds them."""
  return lambda i: np.asarray(data.images[i])


def hold_out(
  c: config.Pretrain, pipe: pipeline.Pipeline, pack: faces.Pack, tower: Tower, data: Faces, picture: Picture
) -> tuple[np.ndarray | None, validation.Held | None]:
  """The places of the faces that train, None for all, and the faces of those who are held out for --validate-every.

  Drawn people are of the world's own held-out split; of others some of the data's people train nothing.
  """
  if not c.validate_every:
    return None, None
  if c.data == "drawn":
    side = pipe.size(pipeline.Settings())[0]
    others = draw(c, "heldout", 2, side, c.validate_people)
    encoded = face_features.encode(pipe.backbone, pipe.tokenizers, tower, others)
    return None, validation.Held(encoded, np.arange(len(others.person)), pictures_of(others))
  among, out = validation.choose(data.person, c.validate_people)
  return among, validation.Held(data, out, picture)


def draw(c: config.Pretrain, split: str, each: int, side: int, limit: int | None = None) -> FaceSet:
  """Drawn people's faces, which the first process renders and all open."""
  folder = c.out / ("faces" if split == "train" else split)
  render = lambda: drawn_set.render(folder, {split: each}, seed=c.seed, size=side, limit=limit or c.people)
  if distributed.first():
    render()
  distributed.meet("rendered")
  return render()
