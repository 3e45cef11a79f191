"""Eight virtual CPU devices, no network, and no silent rank promotion in any test."""

import os

os.environ["JAX_PLATFORMS"] = os.environ.get("JAX_PLATFORMS", "cpu")
if os.environ["JAX_PLATFORMS"] == "cpu":
  # Tests compile a hundred programs and run each for milliseconds: LLVM's optimiser halves their
  # speed. The installed command, which other tests run as a process of its own, has the defaults.
  flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
# PyTorch's threads spin while they wait for one another: with two workers on two cores, twice the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import hypothesis
import jax
import numpy as np
import pytest
from support import compiled

hypothesis.settings.register_profile("idejax", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("idejax")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(compiled.FOLDER))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


@pytest.fixture
def rng() -> np.random.Generator:
  return np.random.default_rng(0)


@pytest.fixture(scope="session")
def random_folder(tmp_path_factory):
  """A function from a family's name to a small pipeline folder with random weights. Read only."""
  from idejax.model import families

  root = tmp_path_factory.mktemp("random")

  def get(family):
    if not (root / family).exists():
      families.write_random(root / family, family)
    return root / family

  return get
