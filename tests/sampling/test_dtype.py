"""What a pipeline says of the number format that it was asked for."""

import jax.numpy as jnp
import pytest

from idejax.nets import target
from idejax.sampling import pipeline


@pytest.mark.parametrize("units", [True, False])
def test_a_cpu_without_units_for_bfloat16_says_what_it_computes(random_folder, monkeypatch, units):
  monkeypatch.setattr(target, "cpu_multiplies_bfloat16", lambda: units)
  told: list[str] = []
  pipe = pipeline.load(random_folder("sd15"), dtype="bfloat16", notify=told.append)
  assert pipe.backbone.nets.dtype == (jnp.bfloat16 if units else jnp.float32)
  said = ["this CPU has no units for bfloat16: weights are held in it, float32 is computed"]
  assert told == ([] if units else said)
  pipeline.load(random_folder("sd15"), notify=told.append)
  assert len(told) == (not units)
