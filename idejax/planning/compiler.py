"""A program compiled for devices that are not there, and one sentence where that fails."""

import re
from collections.abc import Callable
from typing import Any

from idejax.errors import UserError, one_line

OPTIONS = {
  # Kernels are not tried against one another, for want of a GPU; untried, some of Triton's do not compile, so matmuls
  # are cuBLAS's.
  "cuda": {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
}


class TooLarge(Exception):
  """The compiler ends because a device's memory is too small."""

  def __init__(self, needed: float):
    super().__init__(needed)
    self.needed = needed  # bytes


def compiled(where: str, what: str, platform: str, lower: Callable[[], Any], hint: str = "") -> Any:
  """The executable of what `lower` lowers. UserError names the step that fails and says what XLA said; or TooLarge.

  where, what: such as `h200:8` and `the step`, for that sentence, as is `hint`, its end where compiling fails.
  """
  try:
    lowered = lower()
  except RuntimeError as e:  # XLA's errors are, and NotImplementedError: a kernel that XLA cannot divide among devices
    raise UserError(f"{where}: lowering {what} fails: {one_line(str(e))[:200]}") from e
  try:
    return lowered.compile(compiler_options=OPTIONS.get(platform))
  except RuntimeError as e:
    if bytes_ := needed(str(e)):
      raise TooLarge(bytes_) from e
    raise UserError(f"{where}: compiling {what} fails: {one_line(str(e))[:200]}{hint}") from e


def needed(error: str) -> float | None:
  """Bytes, from the TPU compiler's error that memory is too small: "Used 23.41G of 15.75G hbm"."""
  m = re.search(r"RESOURCE_EXHAUSTED.*Used ([\d.]+)([KMGT]) of", error, re.DOTALL)
  return float(m[1]) * 2.0 ** (10 * ("KMGT".index(m[2]) + 1)) if m else None
