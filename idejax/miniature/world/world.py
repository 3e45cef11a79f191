"""The world's renderer: (identity, scene) to a picture and its ground truth."""

from typing import Any, NamedTuple

from idejax.miniature.world import body, face, hair, scenery, styles, view, wear
from idejax.miniature.world import head as hd
from idejax.miniature.world.landmarks import Geometry, geometry
from idejax.miniature.world.people import Person
from idejax.miniature.world.scene import Scene
from idejax.miniature.world.view import LAYERS

_FACE = tuple(LAYERS.index(n) for n in ("face", "beard", "mouth", "nose", "eyes", "brows"))
_HAIR = tuple(LAYERS.index(n) for n in ("back hair", "hair"))


class Layers(NamedTuple):
  """labels int32 [S, S] into LAYERS; face and hair masks bool [S, S] made of them."""

  labels: Any
  face: Any
  hair: Any


def paint(xp, person: Person, scene: Scene, size: int):
  """The finished canvas and the view it was painted in."""
  h = hd.head(xp, person, scene)
  v = view.view(xp, h, scene, size)
  p = view.palette(xp, person, scene)
  mane = hair.hair(xp, h, v, person, scene)
  c = scenery.paint_background(xp, v, scene)
  c = hair.paint_back(xp, c, v, p, mane)
  c = body.paint_body(xp, c, h, v, p, scene)
  c = face.paint_skin(xp, c, h, v, p, person)
  c = face.paint_beard(xp, c, h, v, p, person)
  c = face.paint_mouth(xp, c, h, v, p)
  c = face.paint_nose(xp, c, h, v, p)
  c = face.paint_eyes(xp, c, h, v, p)
  c = hair.paint_front(xp, c, v, p, mane)
  c = face.paint_brows(xp, c, h, v, p)  # over a fringe: moods must be readable
  return wear.paint_accessory(xp, c, h, v, mane, scene), v


def render(xp, person: Person, scene: Scene, size: int = 64):
  """One picture, float32 [size, size, 3] in 0..1; fields are scalars, `xp` numpy or jax.numpy."""
  canvas, v = paint(xp, person, scene, size)
  return styles.finish(xp, canvas, v, scene)


def layers(xp, person: Person, scene: Scene, size: int = 64) -> Layers:
  """Which layer each pixel shows, and the two masks."""
  canvas, _ = paint(xp, person, scene, size)
  member = lambda names: (canvas.labels[..., None] == xp.asarray(names)[None, None]).any(-1)
  return Layers(canvas.labels, member(_FACE), member(_HAIR))


__all__ = ["LAYERS", "Geometry", "Layers", "geometry", "layers", "paint", "render"]
