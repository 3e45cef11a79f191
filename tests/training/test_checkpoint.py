"""Runs that are interrupted, killed, damaged or moved continue as if they had not been."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.tiny_run import batch, facts, fresh, go

from idejax import sharding
from idejax.errors import UserError
from idejax.training import loop
from idejax.training import step as st
from idejax.training.checkpoint import Checkpoints


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def interrupted(folder: Path, at: int, steps: int = 12, **kwargs):
  """A run that its caller ended after `at` steps, with its state saved."""
  compiled, state, frozen = fresh(**kwargs)
  with Checkpoints(folder / "checkpoints") as checkpoints:
    walk = loop.train(
      compiled,
      state,
      frozen,
      batch,
      key=jax.random.key(0),
      checkpoints=checkpoints,
      run=loop.Run(folder, steps, log_steps=3, save_steps=2),
      facts=facts,
    )
    for count, _ in walk:
      if count == at:
        break
    walk.close()


def test_resumed_equals_uninterrupted_to_the_bit(tmp_path):
  unbroken = go(tmp_path / "whole", 12)
  interrupted(tmp_path / "parts", 5)
  parts = go(tmp_path / "parts", 12)
  same(parts, unbroken)
  rows = loop.records(tmp_path / "parts" / "metrics.jsonl")
  assert rows == loop.records(tmp_path / "whole" / "metrics.jsonl")
  assert [r["step"] for r in rows] == list(range(12))
  assert (tmp_path / "parts" / "loss.png").stat().st_size > 1000


def test_a_finished_run_is_not_run_again(tmp_path):
  first = go(tmp_path, 4)
  same(go(tmp_path, 4), first)


def test_the_last_two_are_kept(tmp_path):
  go(tmp_path, 9, save_steps=2)
  with Checkpoints(tmp_path / "checkpoints") as c:
    assert c.steps() == [8, 9]
  assert {p.name for p in (tmp_path / "checkpoints").glob("*.sha256")} == {"8.sha256", "9.sha256"}


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(tmp_path, capsys, damage):
  unbroken = go(tmp_path / "whole", 12)
  go(tmp_path / "run", 8, save_steps=4)
  files = [p for p in (tmp_path / "run" / "checkpoints" / "8").rglob("*") if p.is_file()]
  victim = max(files, key=lambda p: p.stat().st_size)
  raw = bytearray(victim.read_bytes())
  raw[len(raw) // 2] ^= 0x10
  if damage == "flip":
    victim.write_bytes(raw)
  elif damage == "truncate":
    victim.write_bytes(raw[: len(raw) // 2])
  else:
    victim.unlink()
  capsys.readouterr()
  same(go(tmp_path / "run", 12), unbroken)
  notices = capsys.readouterr().err
  assert "checkpoints/8 is damaged" in notices and "at step 4" in notices
  assert (tmp_path / "run" / "checkpoints" / "damaged" / "8").is_dir()


def test_all_damaged_is_an_error_and_never_a_fresh_start(tmp_path):
  go(tmp_path, 4, save_steps=2)
  for p in (tmp_path / "checkpoints").rglob("*"):
    if p.is_file() and p.suffix != ".sha256":
      p.write_bytes(b"")
  with pytest.raises(UserError, match="every checkpoint is damaged"):
    go(tmp_path, 4)


def test_a_run_in_use_is_refused(tmp_path):
  with Checkpoints(tmp_path / "checkpoints"), pytest.raises(UserError, match="in use by another"):
    go(tmp_path, 2)


def test_other_settings_are_refused_by_name(tmp_path):
  go(tmp_path, 2)
  with pytest.raises(UserError, match="seed was 0 and is now 1"):
    go(tmp_path, 4, facts={"seed": 1})


def test_an_option_that_was_not_there_yet_was_off(tmp_path):
  facts = {"seed": 0, "name": "tiny"}
  go(tmp_path, 2, facts=facts)
  go(tmp_path, 4, facts={**facts, "remat": False, "plateau": 0})
  with pytest.raises(UserError, match="remat was False and is now True"):
    go(tmp_path, 6, facts={**facts, "remat": True, "plateau": 0})
  with pytest.raises(UserError, match="newer was None and is now 3"):
    go(tmp_path, 6, facts={**facts, "newer": 3})


def test_another_model_is_refused_by_leaf(tmp_path):
  go(tmp_path, 2)
  with pytest.raises(UserError, match=r"another model.*ema.a.kernel: \(8, 64\) there, \(8, 32\) here"):
    go(tmp_path, 4, width=32)


def test_a_checkpoint_moves_to_other_devices(tmp_path):
  interrupted(tmp_path, 4, fsdp=4)
  mesh = sharding.make_mesh(jax.devices()[:2], fsdp=2)
  compiled, state, frozen = fresh(mesh=mesh)
  with Checkpoints(tmp_path / "checkpoints") as c:
    got = c.restore(state)
  kernel = got.state.params["a"]["kernel"]
  assert got.step == 4 and len(kernel.sharding.device_set) == 2
  assert kernel.addressable_shards[0].data.size == kernel.size // 2
  compiled(got.state, frozen, batch(4), jax.random.key(0))


def test_every_leaf_is_saved_and_comes_back(tmp_path):
  """Among them bfloat16, integers, scalars and the empty nodes of optax."""
  tx = st.by_path(("^b", optax.sgd(1e-2, momentum=0.9)), (".*", optax.adam(1e-2)))
  params = {"a": jnp.arange(6.0).reshape(2, 3).astype(jnp.bfloat16), "b": {"c.d": jnp.ones(())}}
  state = st.init(params, tx, ema=True)._replace(step=jnp.int32(7))
  with Checkpoints(tmp_path) as c:
    c.save(7, state, {"note": "x"})
    got = c.restore(jax.eval_shape(lambda: state))
  assert got.step == 7 and got.facts == {"note": "x"}
  same(got.state, state)
  dtypes = lambda t: [x.dtype for x in jax.tree.leaves(t)]
  assert dtypes(got.state) == dtypes(state)


def test_a_save_is_not_disturbed_by_the_next_steps(tmp_path):
  """The step donates its state while the writer still works."""
  compiled, state, frozen = fresh(width=1024)
  want = jax.device_get(state)
  with Checkpoints(tmp_path) as c:
    c.save(0, state, {})
    for i in range(5):
      state, _ = compiled(state, frozen, batch(i), jax.random.key(0))
    got = c.restore(state)
  same(got.state, want)


def test_a_lost_run_stops_with_the_last_good_state(tmp_path):
  with pytest.raises(UserError, match="not finite 10 times in a row"):
    go(tmp_path, 60, nan_from=6)
  compiled, state, frozen = fresh()
  with Checkpoints(tmp_path / "checkpoints") as c:
    got = c.restore(state)
  same(got.state.params, go(tmp_path / "good", 6).params)
  assert got.state.skipped[1] >= 10
  rows = loop.records(tmp_path / "metrics.jsonl")
  assert rows[5]["loss"] is not None and rows[6]["loss"] is None


def start(folder: Path, steps: int) -> subprocess.Popen:
  script = Path(__file__).parents[1] / "support" / "tiny_run.py"
  return subprocess.Popen([sys.executable, str(script), str(folder), str(steps)], stderr=subprocess.PIPE, text=True)


def until(condition, process, seconds: float = 90):
  end = time.monotonic() + seconds
  while not condition():
    assert process.poll() is None and time.monotonic() < end, process.stderr.read()
    time.sleep(0.02)


def test_sigterm_saves_and_kill_loses_nothing_but_time(tmp_path):
  """Real processes: one asked to stop, its successor killed, the third finishes; bits are equal."""
  folder, steps = tmp_path / "run", 120
  rows = lambda: len(loop.records(folder / "metrics.jsonl"))
  process = start(folder, steps)
  until(lambda: rows() > 20, process)
  process.send_signal(signal.SIGTERM)
  _, err = process.communicate(timeout=60)
  assert process.returncode == 130, err
  with Checkpoints(folder / "checkpoints") as c:
    last = c.steps()[-1]
  assert 20 <= last < steps and f"saved at step {last}" in err
  assert rows() == last

  process = start(folder, steps)
  until(lambda: rows() > last + 20, process)
  process.kill()
  process.communicate()
  process = start(folder, steps)
  _, err = process.communicate(timeout=90)
  assert process.returncode == 0, err
  compiled, state, frozen = fresh()
  with Checkpoints(folder / "checkpoints") as c:
    got = c.restore(state)
  assert got.step == steps
  same(got.state, go(tmp_path / "whole", steps))
  assert [r["step"] for r in loop.records(folder / "metrics.jsonl")] == list(range(steps))


def test_records_leaves_out_a_line_that_a_kill_cut_off(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text(json.dumps({"step": 0}) + '\n{"st')
  assert loop.records(path) == [{"step": 0}]
