"""A model, a pack, an image encoder and photos of two people, for tests of `idejax pretrain`; a FaceSnap that is tiny."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from PIL import Image
from support import addons, facepack, tiny_pipelines

from idejax import config
from idejax.jobs import prepare
from idejax.methods import facesnap


def world(root: Path, each: int = 2) -> Path:
  tiny_pipelines.write(root, "sd15")
  for name in ("anna", "bert"):
    (root / "people" / name).mkdir(parents=True)
    for n in range(each):
      picture = facepack.picture((1, 2), seed=n + 10 * (name == "bert"))
      Image.fromarray(picture).save(root / "people" / name / f"{n}.png")
  addons.tower(root / "tower")
  facepack.pack(root / "green", landmarks=True)
  return root


def prepared(root: Path, out: Path, photos: Path, size: int, stored: bool = True) -> Path:
  """Records of a folder of photos, with what the world's nets make of them if they shall be `stored`."""
  nets: dict[str, Any] = dict(model=str(root / "sd15"), vision=str(root / "tower")) if stored else {}
  given = dict(photos=(photos,), pack=str(root / "green"), face=8.0, size=size, shard=3)
  prepare.main(config.Prepare(out=out, **given, **nets))
  return out


@contextlib.contextmanager
def settings(steps: int = 4) -> Iterator[None]:
  """The preset `tiny`, made tinier."""
  tiny = facesnap.Config(
    dim=8, head_dim=4, identity_tokens=3, tokens=4, layers=1, identity_weight=0, steps=steps, lr=1e-2, cross=0.5
  )
  with mock.patch.dict(facesnap.PRESETS, {"tiny": tiny}):
    yield


def command(root: Path, out: Path, data: str = "faces", **more: Any) -> config.Pretrain:
  given = dict(preset="tiny", batch=2, model=str(root / "sd15"), pack=str(root / "green"), vision=str(root / "tower"))
  return config.Pretrain(out=out, data=str(root / data), **(given | more))
