"""Photo -> Identity, on the host: numpy and ONNX Runtime, no jax."""

from idejax.faces.batch import many, read
from idejax.faces.identity import Identity, load, load_all, save
from idejax.faces.mask import Known
from idejax.faces.pack import Pack, open_pack

__all__ = ["Identity", "Known", "Pack", "load", "load_all", "many", "open_pack", "read", "save"]
