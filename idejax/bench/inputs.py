"""`idejax bench input`: pictures read and decoded a second, and whether a training waits for them.

The data set is the one that `idejax.data.face_folder` makes of a folder: JPEGs of --size pixels in ArrayRecord
files. The training is the miniature's own from pixels, its VAE's, in the loop that every training uses.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from PIL import Image

from idejax import config, sharding
from idejax.data import face_folder
from idejax.data.stream import Picture, Stream
from idejax.errors import tell
from idejax.miniature.training import autoencoder, recipe
from idejax.miniature.world import data, people
from idejax.nets import vae
from idejax.runtime import cores
from idejax.training import loop
from idejax.training import step as st
from idejax.training.checkpoint import Checkpoints

_PEOPLE, _SIDE, _SIZE = 128, 64, 512


def main(c: config.Bench) -> dict[str, Any]:
  side = c.size or _SIZE
  tell(f"{_PEOPLE} portraits of {side}x{side} pixels, JPEG, to {_SIDE}x{_SIDE}")
  with tempfile.TemporaryDirectory(prefix="idejax-") as folder:
    source = face_folder.source(prepare(Path(folder), side))
    out: dict[str, Any] = {f"workers_{n}": rate(c, source, n) for n in sorted({0, cores.cores()})}
    out["training"] = waits(c, source, Path(folder, "run"))
  return out


def prepare(folder: Path, side: int) -> Path:
  """A data set of drawn portraits below `folder`."""
  images = data.batch(people.split("heldout")[:_PEOPLE], 1, size=_SIDE).images
  (folder / "people").mkdir()
  for i, image in enumerate(images):
    Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC).save(
      folder / "people" / f"{i:04d}.jpg", quality=95
    )
  return face_folder.prepare(folder / "people", folder / "data")


def rate(c: config.Bench, source: Any, workers: int) -> dict[str, float]:
  """Pictures a second through the stream; of this process's threads also per second of a core."""
  stream, batches = Stream(source, Picture(_SIDE), batch=32, seed=0, workers=workers), 8
  stream(0)  # workers begin, files are opened
  rates, busy_rates = [], []
  for i in range(c.repeats):
    start, busy = time.perf_counter(), time.process_time()
    for j in range(batches):
      stream(1 + i * batches + j)
    rates.append(32 * batches / (time.perf_counter() - start))
    busy_rates.append(32 * batches / max(time.process_time() - busy, 1e-9))
  out = {"pictures_per_second": statistics.median(rates)}
  how = f"{workers} processes" if workers else "threads"
  line = f"{'input':12} {out['pictures_per_second']:7.0f} pictures/s with {how}"
  if not workers:  # the time of other processes is not this one's
    out["pictures_per_core_second"] = statistics.median(busy_rates)
    line += f", {out['pictures_per_core_second']:.0f} per second of a core"
  print(line, flush=True)
  return out


def waits(c: config.Bench, source: Any, folder: Path) -> dict[str, float]:
  """Steps of the miniature's VAE fed by the stream: the share of the time that a step waits for its batch."""
  r = recipe.TINY if c.small else recipe.FULL
  cfg = vae.VAEConfig.from_json(recipe.vae(r))
  stream = Stream(source, Picture(_SIDE), batch=r.vae_batch, seed=0)
  tx = optax.adam(1e-4)
  state = st.init(autoencoder.init(cfg, 0), tx)
  step, state, frozen = st.on_mesh(st.make_step(autoencoder.make_loss(cfg, r.kl), tx), sharding.make_mesh(), state, {})
  steps, moment, waited = 2 + c.repeats * c.steps, time.perf_counter(), []

  def timed(*args):
    waited.append(time.perf_counter() - moment)  # from the end of one step's bookkeeping to the next step's start
    return step(*args)

  with Checkpoints(folder / "checkpoints") as checkpoints:
    walk = loop.train(
      timed,
      state,
      frozen,
      stream,
      key=jax.random.key(0),
      run=loop.Run(folder, steps, name="training"),
      checkpoints=checkpoints,
      facts={},
    )
    for done, after in walk:
      if done == 2:
        start = time.perf_counter()  # the first compiles, the second still warms up
      if done == steps:
        jax.block_until_ready(after)
        spent = time.perf_counter() - start
      moment = time.perf_counter()
  share, speed = float(np.sum(waited[2:])) / spent, r.vae_batch * (steps - 2) / spent
  print(f"{'training':12} {speed:7.1f} pictures/s, of the time {100 * share:.2f} % in wait for input", flush=True)
  return {"pictures_per_second": speed, "waits": share}
