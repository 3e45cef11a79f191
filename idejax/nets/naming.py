"""Parameter shapes of a net, without tracing its arithmetic.

Every start needs them before any weight is read, and a UNet has hundreds of layers: tracing what it
would compute, and the random numbers of initial weights, took most of that time.
"""

import contextvars
from typing import Any

import flax.linen as nn
import jax

_naming = contextvars.ContextVar("naming", default=False)


def parameter_shapes(net: nn.Module, *args) -> Any:
  """The parameters as float32 ShapeDtypeStructs; nothing is computed or allocated.

  args: arrays or ShapeDtypeStructs that `net` could be called with.
  """
  token = _naming.set(True)
  try:
    return jax.eval_shape(lambda *x: net.init(jax.random.key(0), *x)["params"], *args)
  finally:
    _naming.reset(token)


def naming() -> bool:
  """Whether layers are only asked for their parameters: they then give zeros of the right shape."""
  return _naming.get()
