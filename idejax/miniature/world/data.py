"""Pictures with captions and ground truth, rendered in chunks by one compiled function."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from idejax.miniature.world import captions as words
from idejax.miniature.world import people as pp
from idejax.miniature.world import scene as sc
from idejax.miniature.world.head import ZOOM
from idejax.miniature.world.world import Geometry, geometry, render

_CHUNK = 256  # one compiled shape; the last chunk is padded
VERSION = {"captions": words.VERSION, "zoom": ZOOM, "calm": sc.CALM}  # pictures of another are rendered anew
_NAME_SHARE = 0.9  # share of the captions of celebrities that name them


class Batch(NamedTuple):
  """uint8 images [N, S, S, 3], N captions, factor codes by name [N], geometry in pixels [N, ..]."""

  images: np.ndarray
  captions: list[str]
  factors: dict[str, np.ndarray]
  geometry: Geometry


def batch(ids, count: int, seed: int = 0, size: int = 64, world: int = 0, calm: float = sc.CALM) -> Batch:
  """`count` pictures of each person, person by person; N = len(ids) * count.

  `world` is the seed of the people, `seed` that of scenes and captions; `calm` as `scene.scenes`: captions do
  not mention poses.
  """
  ids = np.atleast_1d(np.asarray(ids))
  who = np.repeat(ids, count)
  people, scenes = pp.people(ids, world), sc.scenes(ids, count, seed, calm)
  people = pp.Person(*(np.repeat(f, count) for f in people))
  images, truth = render_all(people, scenes, size)
  factors = {"id": who} | {n: getattr(scenes, n) for n in sc.Scene._fields[:5]}
  factors |= {n: getattr(people, n) for n in pp.DISCRETE}
  return Batch(images, captions(ids, count, seed, world), factors, truth)


def captions(ids, count: int, seed: int = 0, world: int = 0) -> list[str]:
  """The captions of `batch` with these arguments, without the pictures."""
  ids = np.atleast_1d(np.asarray(ids))
  people, scenes, names = pp.people(ids, world), sc.scenes(ids, count, seed), pp.celebrity_names()
  texts = []
  for place, i in enumerate(ids):
    who = pp.take(people, place)
    for k in range(count):
      rng = np.random.Generator(np.random.Philox(key=[seed, int(i)], counter=[0, k, 2, 0]))
      name = names[i] if i < pp.CELEBRITIES and rng.random() < _NAME_SHARE else ""
      texts.append(words.caption(who, pp.take(scenes, place * count + k), rng, name))
  return texts


def render_all(people: pp.Person, scenes: sc.Scene, size: int = 64) -> tuple[np.ndarray, Geometry]:
  """Renders fields [N] to uint8 images [N, S, S, 3] and their geometry."""
  total = len(people.gender)
  chunks = []
  for start in range(0, total, _CHUNK):
    rows = np.minimum(np.arange(start, start + _CHUNK), total - 1)
    chunks.append(_render_chunk(pp.take(people, rows), pp.take(scenes, rows), size))
  return jax.tree.map(lambda *parts: np.concatenate(parts)[:total], *chunks)


@partial(jax.jit, static_argnums=2)
def _render_chunk(people, scenes, size):
  def one(pair):
    image = render(jnp, *pair, size)
    return (image * 255 + 0.5).astype(jnp.uint8), geometry(jnp, *pair, size)

  # One picture at a time keeps its planes in a core's cache: 2.5 times vmap's rate on a CPU.
  each = jax.lax.map if jax.default_backend() == "cpu" else lambda f, xs: jax.vmap(f)(xs)
  return each(one, (people, scenes))


def pixels(images) -> jax.Array:
  """uint8 [..] -> float32 in [-1, 1]."""
  return jnp.asarray(images).astype(jnp.float32) / 127.5 - 1


def stack(rows: list[Any]):
  """Joins identities or scenes with scalar fields into one with fields [N]."""
  return type(rows[0])(*(np.stack(column) for column in zip(*rows)))
