"""Photo -> FaceRecord, on the host: numpy and ONNX Runtime, no jax."""

from idejax.faces.batch import many, read
from idejax.faces.mask import Truth
from idejax.faces.pack import Pack, open_pack
from idejax.faces.record import FaceRecord, load, load_all, save

__all__ = ["FaceRecord", "Pack", "Truth", "load", "load_all", "many", "open_pack", "read", "save"]
