"""What `idejax identity` takes."""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Identity:
  """Read the face in a photo: box, key points, embedding, masks, landmarks, aligned crops.

    idejax identity me.jpg --out me.npz
    idejax identity me1.jpg me2.jpg --out me.npz --pack buffalo_l
    idejax identity people --out identities

  Of photos, all of one person, --out is an .npz file; a picture of what was found lies beside it as
  NAME.drawn.png. Of a folder, --out receives both for every photo and identities.csv, a row a
  photo; bad photos are skipped, counted and listed, and the same command again continues.
  """

  out: Path
  """FILE.npz, or a folder if a folder is given; made if need be."""
  photo: tuple[str, ...] = dataclasses.field(default=(), metadata={"positional": True})
  """One or several photos of one person, or one folder of photos of many (with its sub-folders)."""
  pack: str = "miniature"
  """Detector and recogniser: miniature (drawn portraits), an insightface pack (buffalo_l), or a folder of ONNX files."""
  face: int | None = None
  """Which face of a photo with several, counted from the left, from 1. Default: the largest."""
  parsing: Path | None = None
  """Face-parsing network (ONNX, CelebAMask-HQ's 19 classes), for masks. Default: from landmarks or key points, no hair."""
  threads: int | None = None
  """Of a folder: photos read at a time. Default: as many as there are cores."""
