"""The loss on fixed draws, by which a validation compares steps; and what the progress line says of waiting."""

import re
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny_run

from idejax import draws, sharding
from idejax.training import fit, loop
from idejax.training.checkpoint import Checkpoints


def loss(params, frozen, batch, keys, cfg):
  noisy = batch["x"] + frozen + draws.normal(keys, batch["x"].shape[1:])
  return cfg * jnp.square(noisy @ params).mean(), {}


@pytest.mark.parametrize("fsdp", [1, 4])
def test_a_score_is_the_mean_loss_by_draws_that_are_always_the_same(fsdp):
  """Over two batches on eight devices: what the loss alone gives for each with its own keys; twice the same number."""
  rng = np.random.default_rng(0)
  mesh = sharding.make_mesh(fsdp=fsdp)
  where, everywhere = sharding.batch(mesh), sharding.replicated(mesh)
  step = fit.MeshStep(None, mesh, where, everywhere)
  params, frozen = (rng.standard_normal(s).astype(np.float32) for s in ((8, 4), (1, 8)))
  rows = [{"x": rng.standard_normal((16, 8)).astype(np.float32), "index": np.arange(16, dtype=np.int32)} for _ in "ab"]
  key, put = jax.random.key(3), lambda x: jax.tree.map(lambda y: jax.device_put(y, where), x)
  score = fit.scorer(SimpleNamespace(loss=loss), 2.0, step, jnp.asarray(frozen), list(map(put, rows)), key)
  placed = jax.device_put(params, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp")))
  want = np.mean([loss(params, frozen, b, draws.keys(key, n, b["index"]), 2.0)[0] for n, b in enumerate(rows)])
  assert score(placed) == pytest.approx(float(want), rel=1e-5) and score(placed) == score(placed)
  assert score(placed * 2) == pytest.approx(4 * float(want), rel=1e-5)


@pytest.mark.parametrize("seconds, waits", [(0.05, True), (0.0, False)])
def test_the_progress_line_says_when_steps_wait_for_their_batch(tmp_path, capsys, seconds, waits):
  step, state, frozen = tiny_run.fresh()

  def batch(i):
    time.sleep(seconds)
    return tiny_run.batch(i)

  with Checkpoints(tmp_path / "checkpoints") as checkpoints:
    run = loop.Run(tmp_path, 12, log_steps=3, pictures=4, flops=2e12, peak=4e12 if waits else 0.0)
    walk = loop.train(
      step, state, frozen, batch, key=jax.random.key(0), run=run, checkpoints=checkpoints, facts=tiny_run.facts
    )
    for _ in walk:
      time.sleep(0.0 if waits else 0.02)
  last = [line for line in capsys.readouterr().err.splitlines() if "12/12" in line]
  assert last and ("in wait for input" in last[0]) == waits
  rate, pictures, work, share = re.search(
    r" ([\d.]+) steps/s, ([\d.e+]+) pictures/s, ([\d.e+]+) TFLOP/s(?: \(([\d.e+]+) % of peak\))?, 0m00s left", last[0]
  ).groups()
  assert (share is not None) == waits  # where the peak is known
  assert share is None or float(share) == pytest.approx(50 * float(rate), rel=0.02)
  assert float(pictures) == pytest.approx(4 * float(rate), rel=0.02)
  assert float(work) == pytest.approx(2 * float(rate), rel=0.02)
