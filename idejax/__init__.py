"""idejax: identity-preserving portraits with Stable Diffusion in JAX."""

__version__ = "0.1.0"
