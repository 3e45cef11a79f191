"""People and pictures of the drawn world by numpy: compiling its renderer takes longer than a few dozen pictures."""

import jax
import numpy as np

from idejax import faces
from idejax.data.people import Person
from idejax.miniature.world import people, scene, world


def render(who, scenes, size=64):
  """`data.render_all` without a compiler: fields [N] to uint8 [N, S, S, 3] and geometry."""
  pairs = [(people.take(who, n), people.take(scenes, n)) for n in range(len(who.gender))]
  images = [(np.asarray(world.render(np, *p, size)) * 255 + 0.5).astype(np.uint8) for p in pairs]
  return np.stack(images), jax.tree.map(lambda *x: np.stack(x), *(world.geometry(np, *p, size) for p in pairs))


def picture(person, **factors):
  """One picture uint8 [64, 64, 3] of an identity; `factors` as `scene.scene` names them."""
  return render(
    jax.tree.map(lambda x: np.asarray(x)[None], person), jax.tree.map(lambda x: x[None], scene.scene(**factors))
  )[0][0]


def portraits(count, pack, first=0):
  """The people and photos that `idejax personalize --drawn` would take, as persons <0>, <1>, ..."""
  who = people.people(people.split("heldout")[first : first + count])
  photos = [picture(people.take(who, n), clothes="red sweater", background="gray") for n in range(count)]
  read = lambda photo: faces.read(photo, pack, notify=lambda _: None)
  return [Person(f"p{n}", f"<{n}>", (read(photo),), alone=False) for n, photo in enumerate(photos)]
