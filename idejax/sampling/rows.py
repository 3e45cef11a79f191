"""A batch's rows: their texts, and what the UNet is conditioned on, a row per text."""

from collections.abc import Sequence

import jax
import numpy as np

from idejax import sharding
from idejax.model import conditioning
from idejax.model.backbone import Backbone, Conditioning
from idejax.sampling.requests import Request
from idejax.sampling.texts import Texts


def texts(b: Backbone, rows: Sequence[Request], guided: bool) -> list[str | None]:
  """The texts of a batch, a row each; under guidance prompt and negative alternate.

  Interleaved, not stacked, so that a picture's two rows live on one device.
  """
  empty = None if b.nets.zero_empty_negative else ""
  negative = lambda r: empty if r.negative is None else r.negative
  return [t for r in rows for t in ((r.prompt, negative(r)) if guided else (r.prompt,))]


def condition(
  b: Backbone,
  mesh: jax.sharding.Mesh,
  encoder: Texts,
  rows: Sequence[Request],
  guided: bool,
  late: bool,
  size: tuple[int, int],
) -> Conditioning:
  """The conditioning of a batch, a row per text; with `late`, a first stage of plain texts."""
  row_texts = texts(b, rows, guided)
  encodings, bounds = encoder.encode(row_texts), None
  if late:
    plain = [
      t if i % 2 and guided else r.plain if r.start > 0 else t
      for i, (t, r) in enumerate(zip(row_texts, (r for r in rows for _ in range(1 + guided))))
    ]
    first = jax.tree.map(lambda x: x[:, :1], encoder.encode(plain))
    encodings = jax.tree.map(lambda a, b: np.concatenate([a, b], axis=1), first, encodings)
    steps = b.nets.schedule.num_train_timesteps
    stage_starts = steps - steps * np.arange(encoder.stages) / encoder.stages  # where each stage begins
    person_starts = np.array([steps * (1 - r.start) for r in rows for _ in range(1 + guided)])
    bounds = np.minimum(stage_starts[None], person_starts[:, None]).astype(np.float32)
  on = lambda *axes: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
  by_stage = lambda x: jax.device_put(np.moveaxis(x, 1, 0), on(None, sharding.AXES))
  put = lambda x: jax.device_put(x, on(sharding.AXES))
  bounds = None if bounds is None else put(bounds)
  k, v = by_stage(encodings.k), by_stage(encodings.v)
  if encodings.pooled is None:
    return Conditioning(k, v, bounds=bounds)
  return Conditioning(k, v, by_stage(encodings.pooled), put(conditioning.time_ids(len(row_texts), size)), bounds=bounds)
