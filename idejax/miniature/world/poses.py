"""The ten poses that ship as idejax/faces/poses.json: the world's mean face, turned, tilted and moved.

python -m idejax.miniature.world.poses > idejax/faces/poses.json
"""

import json
from typing import Any

import numpy as np

from idejax.miniature.world.landmarks import geometry
from idejax.miniature.world.people import CONTINUOUS, DISCRETE, Person
from idejax.miniature.world.scene import scene

POSES: dict[str, dict[str, Any]] = {
  "front": dict(),
  "left": dict(yaw=-0.28),
  "right": dict(yaw=0.28),
  "half-left": dict(yaw=-0.14),
  "half-right": dict(yaw=0.14),
  "tilted-left": dict(tilt=-0.15),
  "tilted-right": dict(tilt=0.15),
  "happy": dict(expression="happy"),
  "surprised": dict(expression="surprised"),
  "far": dict(scale=0.88, shift_y=0.03),
}
_SIDE = 1000  # pixels; the file holds shares of it


def draw() -> dict[str, list[float]]:
  """{name: 144 numbers, x and y by turns}, shares of a picture's side."""
  person = Person(**dict.fromkeys(CONTINUOUS, np.float32(0)), **dict.fromkeys(DISCRETE, np.int32(0)))
  marks = {name: geometry(np, person, scene(**how), _SIDE).landmarks for name, how in POSES.items()}
  return {name: [round(float(v + 0.5) / _SIDE, 4) for v in m.reshape(-1)] for name, m in marks.items()}


if __name__ == "__main__":
  print(json.dumps(draw()).replace('], "', '],\n"'))
