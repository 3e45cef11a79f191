"""What `idejax identity` takes."""

import dataclasses
from pathlib import Path
from typing import Annotated

from idejax.ranges import at_least, not_empty


@dataclasses.dataclass(frozen=True)
class Identity:
  """Read the face in a photo: box, key points, embedding, masks, landmarks, aligned crops.

    idejax identity me.jpg --out me.npz
    idejax identity me1.jpg me2.jpg --out me.npz --pack buffalo_l
    idejax identity people --out identities

  For photos, all of one person, --out is an .npz file; a picture of what was found lies beside it as
  NAME.drawn.png. For a folder, --out receives both for every photo and identities.csv, a row for each
  photo; bad photos are skipped, counted and listed, and the same command again continues.
  """

  out: Path
  """FILE.npz, or a folder if a folder of photos is given."""
  photo: Annotated[tuple[str, ...], not_empty] = dataclasses.field(default=(), metadata={"positional": True})
  """One or several photos of one person, or one folder of photos of many (with its sub-folders)."""
  pack: Annotated[str, not_empty] = "miniature"
  """Detector and recogniser: miniature (drawn portraits), an insightface pack (buffalo_l), or a folder of ONNX files."""
  face: Annotated[int | None, at_least(1)] = None
  """Which face of a photo with several to take, counted from the left, from 1. Default: the largest."""
  parsing: Path | None = None
  """Face-parsing network (ONNX, CelebAMask-HQ's 19 classes) that finds the masks. Default: they come from
  landmarks or key points, without hair."""
  threads: Annotated[int | None, at_least(1)] = None
  """How many photos of a folder are read at a time. Default: as many as there are cores."""
