"""Where the pipelines lie that ship in the package; light to import, for help and for checks before anything is read."""

from pathlib import Path

_HERE = Path(__file__).parents[1] / "miniature" / "weights"
BUILT_IN = {"miniature": _HERE / "pipeline", "miniature-sdxl": _HERE / "pipeline_sdxl"}
