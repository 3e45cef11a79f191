"""Which platform a net is compiled for: this process's own, or, in a plan, that of devices that are not here."""

import jax

# Within `compiling_for("tpu")` nets are traced for that platform; jax's caches are keyed by it.
compiling_for = jax.make_user_context(default_value=None)


def platform() -> str:
  """The platform that nets are traced for: `cpu`, `cuda`, `gpu` or `tpu`."""
  return compiling_for.value or jax.default_backend()
