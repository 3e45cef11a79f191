"""The judges in the package, which know the drawn world: a second recogniser, a small CLIP, a
classifier of attributes, and the pack's detector.

The classifier knows nothing of style; CLIP does: of 800 pictures of held-out people it tells photo,
sketch and pop art apart without a mistake.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from idejax import faces
from idejax.evaluation.judges import About, Judges
from idejax.evaluation.networks import OnnxRecogniser, PackDetector, TransformersClip
from idejax.miniature.judging import face_metrics
from idejax.miniature.judging import judges as world_judges
from idejax.miniature.judging.prompts import parse_prompt
from idejax.miniature.world import captions, scene
from idejax.storage import hub, tensorfiles
from idejax.storage.files import read_json

FOLDER = hub.BUILT_IN["miniature"].parent / "judges"
_SOURCE = "in the package"
_ABSENT = "no such network knows the drawn world"


class Classes:
  """Tells background, accessory, expression, hair and style of a picture, and which of them a prompt names."""

  side = 64

  def __init__(self, path: Path, about: About, clip: TransformersClip):
    self.path, self.about, self.clip = path, about, clip

  def attributes(self, images: Sequence[np.ndarray]) -> dict[str, list[str]]:
    x = np.stack([_small(i, self.side) for i in images])
    names = world_judges.smallface.ATTRIBUTES
    out = {
      n: [world_judges.CLASSES[n][k] for k in logits.argmax(-1)]
      for n, logits in zip(names, face_metrics.run(self.path, x))
    }
    near = self.clip.pictures(images) @ self._styles.T
    return out | {"style": [scene.STYLES[k] for k in near.argmax(-1)]}

  @functools.cached_property
  def _styles(self) -> np.ndarray:
    return self.clip.texts([f"{m[0]} a person" for m in captions.MEDIA])

  def parse_prompt(self, prompt: str) -> dict[str, str]:
    return parse_prompt(prompt)


def open_judges(folder: Path = FOLDER, pack: faces.Pack | None = None) -> Judges:
  """All judges that the package has."""
  pack = pack or faces.open_pack("miniature", notify=lambda _: None)
  card = read_json(folder / "card.json")
  about = lambda network, path: About(network, _SOURCE, card["licence"], tensorfiles.digest(path))
  how = card["recogniser"]
  recogniser = OnnxRecogniser(
    folder / how["file"], about(f"second recogniser of the drawn world, {how['side']} px, zoom {how['zoom']}", folder / how["file"]),
    how["thresholds"]["far_1e-3"], side=how["side"], zoom=how["zoom"])  # fmt: skip
  clip = TransformersClip(folder / "clip", about("small CLIP of the drawn world, 64 px", folder / "clip" / "model.safetensors"),
                          person="a person")  # fmt: skip
  classes = Classes(
    folder / card["attributes"]["file"],
    about("classifier of attributes, 64 px", folder / card["attributes"]["file"]),
    clip,
  )
  detector = PackDetector(
    pack,
    About(
      f"detector of the pack {pack.name}", _SOURCE if pack.bundled else str(pack.folder), pack.licence, pack.digest
    ),
  )
  absent = dict.fromkeys(("facenet", "adaface", "clip_large", "clip_rn50", "inception"), _ABSENT)
  return Judges(detector, {"arcface": recogniser}, {"clip": clip}, None, classes, absent)


def _small(image: np.ndarray, side: int) -> np.ndarray:
  if image.shape[0] == image.shape[1] == side:
    return image
  return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
