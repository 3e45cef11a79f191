"""Which platform a net is compiled for: this process's own, or, in a plan, that of devices that are not here."""

import jax

# with compiling_for("tpu"): nets are traced as for `cpu`, `cuda` or `tpu`; what jax keeps goes by it.
compiling_for = jax.make_user_context(default_value=None)


def platform() -> str:
  return compiling_for.value or jax.default_backend()
