"""A device per core, for small models on a CPU only, and never against the user's word."""

import os
import subprocess
import sys

import pytest
from support.command import tiny_model

from idejax.runtime import cores

_CODE = """
from idejax.runtime import cores
cores.cores = lambda: {cores}
cores.use({model!r})
import jax
print(jax.device_count())
"""


def devices(model, count=3, **env):
  base = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
  code = _CODE.format(cores=count, model=str(model))
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, env=base | {"JAX_PLATFORMS": "cpu"} | env
  )
  assert done.returncode == 0, done.stderr
  return int(done.stdout)


def test_a_small_model_has_a_device_per_core():
  assert devices(tiny_model()) == 3
  assert devices("miniature", 64) == cores.MOST


@pytest.mark.parametrize(
  "env, count", [({"JAX_NUM_CPU_DEVICES": "2"}, 2), ({"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}, 5)]
)
def test_what_the_user_says_counts(env, count):
  assert devices("miniature", **env) == count


def test_what_is_small(tmp_path, monkeypatch):
  assert cores.small("miniature") and cores.small(str(tiny_model()))
  assert not cores.small("org/name") and not cores.small(str(tmp_path))
  monkeypatch.setattr(cores, "SMALL", 1000)
  assert not cores.small(str(tiny_model()))
