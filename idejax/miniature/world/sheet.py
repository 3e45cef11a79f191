"""One picture of the whole world, for the README."""

import numpy as np
from PIL import Image, ImageDraw

from idejax.faces.landmarks import POLYLINES
from idejax.miniature.world import people as pp
from idejax.miniature.world import scene as sc
from idejax.miniature.world.data import render_all, stack
from idejax.miniature.world.world import LAYERS, layers

_COLUMNS = 11


def sheet(path, size: int = 128, world: int = 0):
  """Writes a grid, 11 wide: moods and accessories, places, styles, people, ground truth."""
  pairs = []
  for clothes, who in enumerate(pp.person(i, world) for i in (26, 25, 31)):
    pairs += [(who, sc.scene(expression=e, background="blue", clothes=clothes)) for e in range(6)]
    pairs += [(who, sc.scene(expression="happy", accessory=a, background="yellow", clothes=clothes,
                             yaw=0.08 * (a - 2))) for a in range(5)]  # fmt: skip
  crowd = [pp.person(i, world) for i in range(3 * _COLUMNS)]
  some = sc.scenes(range(3 * _COLUMNS), 1, world)
  for n, who in enumerate(crowd):
    row, column = divmod(n, _COLUMNS)
    scene = pp.take(some, n)
    if row == 0:
      scene = scene._replace(background=np.int32(column), style=np.int32(0))
    if row == 1:
      scene = scene._replace(style=np.int32(1 + column % 2))
    if row == 2:
      scene = scene._replace(accessory=np.int32(0), style=np.int32(0))
    pairs.append((who, scene))
  people, scenes = (stack(list(column)) for column in zip(*pairs))
  images, truth = render_all(people, scenes, size)
  tiles = [Image.fromarray(image) for image in images]
  examples = range(3 * _COLUMNS, 3 * _COLUMNS + 4)
  for n in examples:
    points = truth.landmarks[n]
    tiles += [_draw_box(tiles[n], truth.box[n], points), _tint_layers(*pairs[n], images[n], size)]
    if n < examples[-1]:
      tiles.append(_draw_marks(points, size))
  _grid(tiles, size).save(path)


def _grid(tiles, size):
  rows = -(-len(tiles) // _COLUMNS)
  out = Image.new("RGB", (_COLUMNS * size, rows * size), "white")
  for n, tile in enumerate(tiles):
    out.paste(tile, (n % _COLUMNS * size, n // _COLUMNS * size))
  return out


def _lines(image, points, width):
  pen = ImageDraw.Draw(image)
  for run, colour in POLYLINES:
    pen.line([tuple(map(float, points[i])) for i in run], fill=colour, width=width)
  return image


def _draw_box(image, box, points):
  image = _lines(image.copy(), points, 1)
  ImageDraw.Draw(image).rectangle([float(v) for v in box], outline=(255, 255, 255))
  return image


def _draw_marks(points, size):
  return _lines(Image.new("RGB", (size, size)), points, max(1, size // 64))


def _tint_layers(person, scene, image, size):
  """The picture in grey under its label map."""
  labels = layers(np, person, scene, size).labels
  hues = np.array([[40, 40, 48], [92, 60, 150], [200, 150, 120], [60, 120, 200], [230, 150, 110],
                   [250, 190, 150], [140, 90, 60], [220, 60, 80], [250, 160, 120], [80, 200, 230],
                   [150, 90, 220], [90, 50, 40], [250, 220, 60]])  # fmt: skip
  assert len(hues) == len(LAYERS)
  grey = image.mean(-1, keepdims=True)
  return Image.fromarray((0.7 * hues[labels] + 0.3 * grey).astype(np.uint8))
