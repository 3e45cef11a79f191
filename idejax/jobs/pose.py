"""`idejax pose`: two photos in; one picture of source, driver and the source's landmarks in the driver's pose out."""

from pathlib import Path

import numpy as np
from PIL import Image

from idejax import config, faces
from idejax.errors import UserError, tell
from idejax.faces import control, predictor
from idejax.faces.predictor import Prediction
from idejax.faces.record import FaceRecord
from idejax.personalizing import posers
from idejax.storage import sheets
from idejax.storage.files import replacing


def main(c: config.Pose):
  check(c)
  source_name, driver_name = c.faces
  pack = faces.open_pack(c.pack)
  poser = posers.of_pack(pack, c.shape, c.table)
  source = faces.read(Path(source_name), pack)
  panels = [(panel(source.photo, poser.own(source), c.side), "source")]
  if driver_name in predictor.poses() and not Path(driver_name).exists():
    prediction = Prediction(poser.by_name(source, driver_name, c.side, c.side), {})
    panels += [(panel(None, predictor.pose(driver_name, c.side, c.side), c.side), f"pose {driver_name}")]
    shape = (c.side, c.side)
  else:
    driver = faces.read(Path(driver_name), pack)
    prediction, shape = poser.driven(source, driver), driver.photo.shape[:2]
    panels += [(panel(driver.photo, own(poser, driver), c.side), "driver")]
  wide = round(c.side * shape[1] / shape[0])
  marks = control.place(prediction.landmarks, shape, c.side, wide)
  panels += [(pixels_of(control.raster(marks, c.side, wide)), "predicted: the control picture")]
  c.out.parent.mkdir(parents=True, exist_ok=True)
  with replacing(c.out) as temporary:
    sheets.of([p for p, _ in panels], [text for _, text in panels], c.side, 100_000).save(temporary, "PNG")
  for whose, far in prediction.residuals.items():
    tell(f"the model of faces misses the {whose}'s landmarks by {far:.1%} of the face")
  tell(f"{c.out}: source, driver, and the source's landmarks as the driver's face lies")


def check(c: config.Pose):
  """UserError for what can be seen to be wrong without a network."""
  if len(c.faces) != 2:
    raise UserError(f"{len(c.faces)} faces are named; idejax pose SOURCE DRIVER takes two")
  if c.out.suffix.lower() != ".png":
    raise UserError(f"--out {c.out} must end in .png")
  if c.out.is_dir():
    raise UserError(f"--out {c.out} is a folder; give a file name that ends in .png")
  source, driver = c.faces
  if driver not in predictor.poses() and not Path(driver).exists():
    raise UserError(f"{driver} is neither a photo nor a pose; poses are {', '.join(predictor.poses())}")
  for name in (source, driver):
    if Path(name).is_file() and Path(name).resolve() == c.out.resolve():
      raise UserError(f"--out {c.out} is one of the photos; choose another name")


def own(poser, record: FaceRecord) -> np.ndarray:
  """A photo's landmarks. UserError if nothing finds any."""
  marks = poser.own(record)
  return predictor.landmarks(record, record.meta["photo"]) if marks is None else marks


def panel(pixels: np.ndarray | None, marks: np.ndarray | None, side: int) -> np.ndarray:
  """A photo `side` pixels high with its landmarks' lines over it; without a photo on black, landmarks in the panel's
  pixels."""
  if pixels is None:
    return pixels_of(control.raster(marks, side, side))
  height, width = pixels.shape[:2]
  wide = max(1, round(side * width / height))
  how = Image.Resampling.NEAREST if side > 2 * height else Image.Resampling.BICUBIC
  photo = np.asarray(Image.fromarray(pixels).resize((wide, side), how))
  if marks is None:
    return photo
  lines = control.raster(control.place(marks, (height, width), side, wide), side, wide)
  cover = lines.max(-1, keepdims=True)
  return pixels_of(np.asarray(photo) / 255 * (1 - cover) + lines)


def pixels_of(picture: np.ndarray) -> np.ndarray:
  """Floats, of which those from 0 to 1 can be shown -> uint8."""
  return (255 * picture.clip(0, 1)).astype(np.uint8)
