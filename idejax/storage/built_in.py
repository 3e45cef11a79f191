"""The folders of the pipelines in the package. This file is light to import, for help and early checks."""

from pathlib import Path

_HERE = Path(__file__).parents[1] / "miniature" / "weights"
BUILT_IN = {"miniature": _HERE / "pipeline", "miniature-sdxl": _HERE / "pipeline_sdxl"}
