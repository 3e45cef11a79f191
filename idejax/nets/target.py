"""Which platform a net is compiled for: this process's own, or, in a plan, that of devices that are not here."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp

# Within `compiling_for("tpu")` nets are traced for that platform; jax's caches are keyed by it.
compiling_for = jax.make_user_context(default_value=None)


def platform() -> str:
  """The platform that nets are traced for: `cpu`, `cuda`, `gpu` or `tpu`."""
  return compiling_for.value or jax.default_backend()


@functools.cache
def cpu_multiplies_bfloat16() -> bool:
  """Whether the CPU has units for products of bfloat16: AMX or AVX512-BF16, as Linux tells."""
  try:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
  except OSError:
    return False
  flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
  return not {"amx_bf16", "avx512_bf16"}.isdisjoint(flags)


def computed_in(dtype: jax.typing.DTypeLike):
  """The dtype that nets compute in whose weights have `dtype`: float32 for bfloat16 on a CPU without units for it.

  There XLA multiplies bfloat16 as float32 (matmuls and convolutions: 1.0 to 1.1 times as long) and rounds after
  every operation in between, which is what made bfloat16 slower. Weights stay bfloat16 where they lie; a loop over
  steps keeps float32 copies of those that it reads, because XLA converts them once, before it.
  """
  emulated = platform() == "cpu" and jnp.dtype(dtype) == jnp.bfloat16 and not cpu_multiplies_bfloat16()
  return jnp.dtype(jnp.float32) if emulated else jnp.dtype(dtype)
