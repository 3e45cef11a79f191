"""idejax: identity-preserving portraits with Stable Diffusion in JAX."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from idejax.sampling.pipeline import Pipeline

__version__ = "0.1.0"


def load(name, **options: Any) -> "Pipeline":
  """Open a pipeline folder in diffusers layout, or a hub id: see `idejax.sampling.pipeline.load`."""
  from idejax.sampling import (
    pipeline,  # jax is imported when it is needed, so `idejax --help` is quick
  )

  return pipeline.load(name, **options)
