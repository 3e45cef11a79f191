"""Jobs of several processes: `launch` starts them, and as a script this file is one of them.

python several.py JOB FOLDER [more]   in each process, with IDEJAX_COORDINATOR and so on set
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

FLAGS = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count="


class Ended(NamedTuple):
  code: int
  out: str
  err: str


def environment(shape: tuple[int, int], i: int, port: int) -> dict[str, str]:
  """The environment variables of process i among `shape` processes x devices."""
  return os.environ | {
    "IDEJAX_COORDINATOR": f"localhost:{port}",
    "IDEJAX_PROCESSES": str(shape[0]),
    "IDEJAX_PROCESS": str(i),
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": f"{FLAGS}{shape[1]}",
    "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")])),
  }


def start(shape: tuple[int, int], *args: Any) -> list[subprocess.Popen]:
  with socket.socket() as s:
    s.bind(("", 0))
    port = s.getsockname()[1]
  return [
    subprocess.Popen(
      [sys.executable, __file__, *map(str, args)],
      env=environment(shape, i, port),
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
    )
    for i in range(shape[0])
  ]


def ended(processes: list[subprocess.Popen], timeout: float = 900) -> list[Ended]:
  try:
    return [Ended(p.returncode, *text) for p in processes if (text := p.communicate(timeout=timeout))]
  finally:
    for p in processes:
      p.kill()


def launch(shape: tuple[int, int], *args: Any) -> list[Ended]:
  return ended(start(shape, *args))


def wait_for(file: Path, processes: list[subprocess.Popen], timeout: float = 300):
  end = time.monotonic() + timeout
  while not file.exists() and time.monotonic() < end and all(p.poll() is None for p in processes):
    time.sleep(0.01)


# What they left behind.


def good(results: list[Ended]) -> list[Ended]:
  for r in results:
    assert r.code == 0, r.err
  return results


def arrays(file: Path) -> list[Any]:
  import numpy as np

  with np.load(file) as f:
    return [f[k] for k in f.files]


def close(a: list[Any], b: list[Any], tolerance: float):
  import numpy as np

  assert len(a) == len(b) > 4
  for x, y in zip(a, b):
    np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def records(folder: Path) -> list[dict[str, Any]]:
  return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# The jobs. They run in processes of their own, and in that of the tests for comparison.


def toy(
  folder: Path, steps: int, fsdp: int = 1, save_steps: int | None = 2, pause: float = 0.0, stop: int | None = None
):
  """tests/tiny_run.py's training to `steps`; process 0 writes its state to FOLDER.npz."""
  import jax
  import numpy as np
  from support import tiny_run

  from idejax import sharding
  from idejax.runtime import distributed
  from idejax.training import loop
  from idejax.training.checkpoint import Checkpoints

  step, state, frozen = tiny_run.fresh(fsdp=fsdp)
  rows = sharding.batch(jax.tree.leaves(state)[0].sharding.mesh)
  with Checkpoints(folder / "checkpoints") as checkpoints:
    state = loop.resume(checkpoints, state, tiny_run.facts)
    for count, last in loop.train(
      step,
      state,
      frozen,
      lambda i: sharding.put(tiny_run.batch(i), rows),
      key=jax.random.key(0),
      checkpoints=checkpoints,
      facts=tiny_run.facts,
      run=loop.Run(folder, steps, log_steps=3, save_steps=save_steps),
    ):
      state = last
      time.sleep(pause)
      if count == stop and jax.process_index() == jax.process_count() - 1:
        os.kill(os.getpid(), signal.SIGTERM)
  last_state = sharding.gather(state)
  if distributed.first():
    np.savez(folder.with_suffix(".npz"), *jax.tree.leaves(last_state))


def fsdp(folder: Path, root: Path, steps: int = 3, batch: int = 8):
  """DreamBooth of all weights of a UNet in eight parts; losses and weights go to FOLDER.npz."""
  import jax
  import numpy as np
  from support.subjects import NAMES, opened, person

  from idejax import sharding
  from idejax.methods import dreambooth as method
  from idejax.methods.contract import encode_captions
  from idejax.person.subject import Frozen
  from idejax.runtime import distributed
  from idejax.training import fit

  large, sharding.LARGE = sharding.LARGE, 64
  cfg = method.Config(trains="unet", batch=batch, lr=1e-4, word="a b")
  b, words = opened(root, "sd15")
  needs = method.needs(cfg, b.nets)
  frozen = Frozen(b, needs.constants(b, words, NAMES, cfg), encode_captions(needs, words, "<id>"), person(b))
  key = fit.keys(0, ["0123456789abcdef"])[0]
  step, state, frozen = fit.one(method, cfg, frozen, key, sharding.make_mesh(fsdp=8))
  sharding.LARGE = large
  size = sum(x.addressable_shards[0].data.size for x in jax.tree.leaves(state.params))
  share = size / sum(x.size for x in jax.tree.leaves(state.params))
  index, key = sharding.put({"index": np.arange(cfg.batch, dtype=np.int32)}, step.rows), sharding.put(key, step.keys)
  losses = []
  for _ in range(steps):
    state, metrics = step(state, frozen, index, key)
    losses.append(float(metrics["loss"]))
  leaves = jax.tree.leaves(sharding.gather(state.params))
  if distributed.first():
    np.savez(folder.with_suffix(".npz"), np.array(losses), share, *leaves)


def real(folder: Path, root: Path):
  """A crowd of five through `idejax personalize`, pictures of two of them through `idejax sample`."""
  from idejax import config
  from idejax.cli import method_options
  from idejax.jobs import personalize, sample

  fast = ["--model", root / "sd21-base", "--pack", root / "pack", "--names", root / "names.txt"]
  more = "--method=textual-inversion --preset=cross-init --steps=6 --batch=2 --num=1 --sample-steps=2".split()
  args = [root / "people", *fast, *more, "--prompts", "{} at sea", "--out", folder / "run"]
  settings = method_options.parse(list(map(str, args)), "idejax personalize")
  assert settings
  personalize.main(settings)
  sample.main(
    config.Sample(
      folder / "pictures",
      str(root / "sd21-base"),
      (folder / "run" / "p0", folder / "run" / "p4"),
      steps=2,
      num=3,
      seed=5,
      prompt=("<p0> at sea", "<p4> smiling", "a hat"),
      save_latents=folder / "z.npy",
    )
  )


def pretrain(folder: Path, root: Path, steps: int = 4, memory: float = 0.0, lost: int | None = None, **more: Any):
  """`idejax pretrain` on the records of ROOT/faces by tests/support/pretraining.py's settings; weights to FOLDER.npz.

  lost: the process from which the second shard vanishes once the training has opened it.
  """
  import jax
  import numpy as np
  from support import pretraining

  from idejax import sharding
  from idejax.jobs import pretrain as job
  from idejax.runtime import distributed

  kept: list[Any] = []
  gather = sharding.gather
  sharding.gather = lambda tree: kept.append(gather(tree)) or kept[-1]
  if lost is not None and lost == jax.process_index():
    lose()
  with pretraining.settings(steps):
    job.main(pretraining.command(root, folder, batch=8, memory=memory, **more))
  sharding.gather = gather
  if distributed.first():
    np.savez(folder.with_suffix(".npz"), *jax.tree.leaves(kept[-1]))


def lose():
  """This process reads a copy of the records, whose second shard is removed after it was checked."""
  import shutil
  import tempfile

  from idejax.data import face_rows

  real = face_rows.open_shards

  def opened(folder: Path, *args: Any, **how: Any):
    copy = Path(tempfile.mkdtemp()) / folder.name
    shutil.copytree(folder, copy)
    out = real(copy, *args, **how)
    next(copy.glob("*.array_record-00001-*")).unlink()
    return out

  face_rows.open_shards = opened


def command(*args: str):
  from idejax.cli import command as cli

  sys.exit(cli.main(args))


if __name__ == "__main__":
  from idejax.cli import command as cli
  from idejax.runtime import cluster, distributed

  name, *rest = sys.argv[1:]
  if name == "command":
    command(*rest)
  given = json.loads(rest[1]) if len(rest) > 1 else {}
  folder = Path(rest[0])

  def job(_):
    """Stands in for a command, to test everything that the command line does about failures."""
    distributed.hush(cluster.detect())
    distributed.start()
    if name == "fsdp":
      fsdp(folder, Path(given.pop("root")), **given)
    elif name == "pretrain":
      pretrain(folder, Path(given.pop("root")), **given)
    elif name == "real":
      real(folder, Path(given["root"]))
    else:
      toy(folder, **given)

  cli._dispatch = job
  sys.exit(cli.main([]))
