"""One picture of several prompts, each in a box of its own: several people who keep their faces.

In one prompt, people take on one another's features. Here every box has its prompt, and the whole picture one that
names nobody; at every step the UNet reads the same latents x with each, and the guided predictions are mixed:

    eps(x, t) = s eps_whole(x, t) + (1 - s) sum_j m_j eps_j(x, t) / sum_j m_j      where a box is, m_j = 1 in box j
    eps(x, t) = eps_whole(x, t)                                                   elsewhere

This is MultiDiffusion's mix (Bar-Tal et al. 2023, equation 5) with one crop, the whole picture, and the share s that
holds the boxes together.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from idejax import sharding
from idejax.errors import UserError
from idejax.model import backbone, conditioning, tokens
from idejax.model.backbone import Backbone, Conditioning
from idejax.sampling import pipeline as pl
from idejax.sampling import sampler
from idejax.sampling.requests import Request, Settings
from idejax.sampling.texts import Texts, Weights

WHOLE = 0.2  # share of the whole picture's prompt inside boxes

Box = tuple[float, float, float, float]  # x0 y0 x1 y1, as shares of width and height


class Part(NamedTuple):
  """A prompt and the box that it describes."""

  prompt: str
  box: Box


def compose(
  pipe: pl.Pipeline, whole: Request, parts: Sequence[Part], settings: Settings, share: float = WHOLE
) -> np.ndarray:
  """One picture, uint8 [H, W, 3]. `whole` says noise, negative prompt, guidance and what is not in a box.

  UserError for a person with weights of their own (DreamBooth), who cannot share a picture with others.
  """
  under = functools.partial(_under, pipe)
  guided = whole.guidance > 1
  empty = None if pipe.backbone.nets.zero_empty_negative else ""
  negative = empty if whole.negative is None else whole.negative
  prompts = [*(p.prompt for p in parts), whole.prompt]
  # As many rows as the devices divide; the mix gives those that were added no weight.
  prompts += prompts[-1:] * (-len(prompts) % pipe.mesh.size)
  rows = [t for p in prompts for t in (p, negative)[: 1 + guided]]
  changes = Weights(pipe.backbone, pipe.people, under)
  groups = [tokens.placeholders_in(p, pipe.people) for p in prompts]
  if own := [g for g in groups if changes.needs_own_batch(g)]:
    raise UserError(f"{own[0][0]} has weights of their own, which no other prompt of a picture can share")
  texts = Texts(pipe.backbone, pipe.tokenizers, pipe.people, rows, pipe.notify, under)
  cond = _condition(pipe, texts, rows, settings)
  readers = [r for g in groups for r in changes.readers(g, guided)]
  shape = pipe.latent_shape(settings)
  mix = np.zeros((len(prompts), *shape[:2], 1), np.float32)
  mix[: len(parts) + 1] = weights([p.box for p in parts], shape[0], shape[1], share)
  z = pl.noise(whole.seed, whole.index, shape)[None]
  key = jax.random.fold_in(jax.random.key(whole.seed % 2**32), whole.index)[None]
  latents = under(
    functools.partial(_run, guided=guided),
    pipe.backbone,
    z,
    pl.make_table(pipe, settings),
    cond,
    changes.project(cond, readers, pipe.mesh),
    jax.device_put(mix, sharding.batch(pipe.mesh)),
    np.float32(whole.guidance),
    key,
  )
  if not np.isfinite(np.asarray(latents)).all():
    raise UserError(f"the latents of {whole.prompt!r} (seed {whole.seed}) are not finite; try float32 or less guidance")
  return np.asarray(under(pl.decode, pipe.backbone, latents, settings.tiled))[0]


def weights(boxes: Sequence[Box], height: int, width: int, share: float = WHOLE) -> np.ndarray:
  """What each prompt counts at each latent, float32 [boxes + 1, height, width, 1], the whole picture's last; their sum is 1."""
  rows, columns = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
  inside = np.zeros((len(boxes), height, width), np.float32)
  for m, (x0, y0, x1, y1) in zip(inside, boxes):
    m[np.ix_((y0 <= rows) & (rows < y1), (x0 <= columns) & (columns < x1))] = 1
  count = inside.sum(0)
  whole = np.where(count > 0, share, 1.0)
  return np.concatenate([inside * (1 - whole) / np.maximum(count, 1), whole[None]])[..., None].astype(np.float32)


def _condition(pipe: pl.Pipeline, texts: Texts, rows: Sequence[str | None], settings: Settings) -> Conditioning:
  """The conditioning of the rows, on all devices."""
  e = texts.encode(rows)
  on = lambda *axes: jax.sharding.NamedSharding(pipe.mesh, jax.sharding.PartitionSpec(*axes))
  by_stage = lambda x: jax.device_put(np.moveaxis(x, 1, 0), on(None, sharding.AXES))
  if e.pooled is None:
    return Conditioning(by_stage(e.k), by_stage(e.v))
  ids = jax.device_put(conditioning.time_ids(len(rows), pipe.size(settings)), on(sharding.AXES))
  return Conditioning(by_stage(e.k), by_stage(e.v), by_stage(e.pooled), ids)


@functools.partial(jax.jit, static_argnames="guided")
def _run(
  b: Backbone,
  z: jax.Array,
  table: sampler.Table,
  cond: Conditioning,
  projected,
  mix: jax.Array,
  scale: jax.Array,
  key: jax.Array,
  guided: bool,
) -> jax.Array:
  """Latents [1, h, w, C] after all steps; prompts and negative prompts alternate in `cond` if `guided`."""

  def model(x, t):
    n = mix.shape[0]
    out = backbone.predict(b, jnp.repeat(x, n * (1 + guided), axis=0), t, cond, projected=projected)
    if guided:
      both = out.reshape(n, 2, *x.shape[1:])
      out = both[:, 1] + scale * (both[:, 0] - both[:, 1])
    return (mix * out).sum(0, keepdims=True)

  return sampler.sample(model, z, table, key)


def _under(pipe: pl.Pipeline, program, *args):
  """Calls a program on the pipeline's mesh, in the arithmetic that its dtype promises (as `pipeline` does)."""
  exact = pipe.backbone.nets.dtype == jnp.float32 and jax.default_backend() != "cpu"
  with jax.set_mesh(pipe.mesh), jax.default_matmul_precision("float32" if exact else None):
    return program(*args)
