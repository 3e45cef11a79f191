"""Shows a record as one picture: the photo with box, points and masks; its crops; a caption."""

from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw

from idejax.storage import fonts

if TYPE_CHECKING:  # a record shows itself by this file
  from idejax.faces.record import FaceRecord

_TEXT = 12  # size of the words
_FACE, _HAIR = (40, 140, 255), (255, 150, 30)  # tints
_BOX, _POINTS, _MARKS, _OTHER = (60, 220, 60), (255, 60, 60), (255, 230, 80), (160, 160, 160)


def picture(record: "FaceRecord", side: int = 512) -> Image.Image:
  """An RGB picture, `side` high plus a caption: the photo on the left, its crops on the right."""
  left, scale = _photo(record, side)
  draw = ImageDraw.Draw(left)
  at = lambda p: ((float(p[0]) + 0.5) * scale - 0.5, (float(p[1]) + 0.5) * scale - 0.5)
  for n, box in enumerate(record.meta.get("boxes", ()), 1):
    ours = n == record.meta.get("face")
    (x0, y0), (x1, y1) = at(box[:2]), at(box[2:])
    colour = _BOX if ours else _OTHER
    draw.rectangle((x0, y0, x1, y1), outline=colour, width=1 + ours)
    draw.text((x0 + 4, y0 + 2), str(n), fill=colour)
  for p in () if record.landmarks is None else record.landmarks:
    _dot(draw, at(p), 1, _MARKS)
  for p in record.points:
    _dot(draw, at(p), 3, _POINTS)
  canvas = Image.new("RGB", (left.width + side // 2, side + 36), "white")
  canvas.paste(left, (0, (side - left.height) // 2))
  for n, image in enumerate((record.portrait, record.crop)):
    half = Image.fromarray(_resize(image, (side // 2, side // 2)))
    canvas.paste(half, (left.width, n * (side // 2)))
  fonts.write(ImageDraw.Draw(canvas), (6, side + 3), _caption(record, canvas.width - 12), _TEXT)
  return canvas


def _photo(record: "FaceRecord", side: int) -> tuple[Image.Image, float]:
  """The tinted photo, at most 2 side x side; miniature pictures grow by a whole factor."""
  height, width = record.photo.shape[:2]
  scale = min(side / height, 2 * side / width)
  size = max(1, round(width * scale)), max(1, round(height * scale))
  pixels = _resize(record.photo, size).astype(np.float32)
  for mask, tint in ((record.face, _FACE), (record.hair, _HAIR)):
    on = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    pixels[on] = 0.7 * pixels[on] + 0.3 * np.array(tint, np.float32)
  return Image.fromarray(pixels.astype(np.uint8)), scale


def _resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Shrinks by averaging, enlarges smoothly, and enlarges miniature pictures by a whole factor."""
  grow = size[1] / image.shape[0]
  how = cv2.INTER_AREA if grow < 1 else cv2.INTER_CUBIC if grow <= 2.5 else cv2.INTER_NEAREST
  return cv2.resize(image, size, interpolation=how)


def _dot(draw: ImageDraw.ImageDraw, at: tuple[float, float], radius: int, colour: tuple[int, int, int]):
  draw.ellipse((at[0] - radius, at[1] - radius, at[0] + radius, at[1] + radius), fill=colour)


def _caption(record: "FaceRecord", most: int) -> list[str]:
  """Two lines, each cut off if it is too long."""
  m, q = record.meta, record.quality
  first = (
    f"{m['photo'][:40]}: {m['pack'][:24]}, score {m['score']:.2f}, face {q['size']:.0f} px, "
    f"yaw {round(q['yaw'])}, blur {q['blur']:.0f}"
  )
  second = f"face mask: {m['face_source']}; hair: {m['hair_source']}; landmarks: {m['landmarks_source']}"
  return [fonts.wrap(line, most, _TEXT)[0] for line in (first, second)]
