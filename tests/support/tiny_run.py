"""A whole training run in milliseconds, for tests; `python tiny_run.py FOLDER STEPS` as a process."""

import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from idejax import draws, sharding
from idejax.training import loop
from idejax.training import step as st
from idejax.training.checkpoint import Checkpoints

facts = {"seed": 0, "name": "tiny"}


def loss(params, frozen, batch, keys):
  x = batch["x"] + 0.1 * draws.normal(keys, (8,))
  y = (jnp.tanh(x @ params["a"]["kernel"]) @ params["b"]["kernel"])[:, 0]
  return jnp.square(y - batch["y"]).mean(), {}


def fresh(width: int = 64, fsdp: int = 1, mesh=None):
  """(compiled step, state, frozen) on a mesh, always from the same weights."""
  rng = np.random.default_rng(0)
  f = lambda *shape: jnp.asarray(rng.standard_normal(shape) / 8, jnp.float32)
  params = {"a": {"kernel": f(8, width)}, "b": {"kernel": f(width, 1)}}
  tx = optax.adam(1e-2)
  step = st.make_step(loss, tx, clip=1.0, ema=0.9)
  mesh = sharding.make_mesh(fsdp=fsdp) if mesh is None else mesh
  return st.on_mesh(step, mesh, st.init(params, tx, ema=True), {}, threshold=256)


def batch(i: int, nan_from: int = 1 << 30):
  x = np.random.default_rng(i).standard_normal((16, 8)).astype(np.float32)
  y = np.full(16, np.nan, np.float32) if i >= nan_from else x.sum(1)
  return {"x": x, "y": y, "index": np.arange(16, dtype=np.int32)}


def go(
  folder: Path,
  steps: int,
  *,
  save_steps: int | None = 2,
  facts=facts,
  width: int = 64,
  nan_from: int = 1 << 30,
  pause: float = 0.0,
):
  """Train to `steps`, continuing what is there; the final state on the host."""
  compiled, state, frozen = fresh(width)
  with Checkpoints(folder / "checkpoints") as checkpoints:
    state = loop.resume(checkpoints, state, facts)
    walk = loop.train(
      compiled,
      state,
      frozen,
      lambda i: batch(i, nan_from),
      key=jax.random.key(0),
      facts=facts,
      run=loop.Run(folder, steps, log_steps=3, save_steps=save_steps),
      checkpoints=checkpoints,
    )
    for _, last in walk:
      state = last
      time.sleep(pause)
  return jax.device_get(state)


if __name__ == "__main__":
  try:
    go(Path(sys.argv[1]), int(sys.argv[2]), save_steps=10, pause=0.03)
  except KeyboardInterrupt as e:
    print(e, file=sys.stderr)
    sys.exit(130)
