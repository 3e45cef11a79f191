"""What `idejax pose` takes."""

import dataclasses
from pathlib import Path
from typing import Annotated

from idejax.ranges import at_least, not_empty


@dataclasses.dataclass(frozen=True)
class Pose:
  """Show where a person's 72 landmarks lie in a driver's pose and mood: source, driver, prediction in one picture.

    idejax pose anna.png bert.png --out pose.png
    idejax pose anna.png left --out pose.png
    idejax pose anna.jpg bert.jpg --pack buffalo_l --shape flame.npz --table landmarks.json --out pose.png

  Of drawn portraits the drawn world's own geometry is the model of faces. Of photographs it is a morphable model of
  yours, fitted to both; without one the driver's landmarks are taken as they are, the shape of that face included.
  """

  faces: Annotated[tuple[str, ...], not_empty] = dataclasses.field(default=(), metadata={"positional": True})
  """SOURCE, a photo, and DRIVER, another photo or a pose that ships: front, left, right, half-left, half-right,
  tilted-left, tilted-right, happy, surprised, far."""
  out: Path = Path("pose.png")
  """PNG file to write."""
  pack: Annotated[str, not_empty] = "miniature"
  """Face networks: miniature (drawn portraits), an insightface pack (buffalo_l), or a folder of ONNX files."""
  shape: Path | None = None
  """Morphable model (.npz, see docs/methods.md), with --table."""
  table: Path | None = None
  """Where the 72 landmarks lie on that model (.json), with --shape."""
  side: Annotated[int, at_least(64)] = 384
  """Height in pixels of each of the pictures side by side."""
