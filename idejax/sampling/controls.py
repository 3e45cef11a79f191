"""Stock ControlNets in sampling: a control picture, how strongly it acts, and in which share of the steps."""

import dataclasses
from typing import Any

import numpy as np
from PIL import Image

from idejax.errors import UserError
from idejax.faces import photo
from idejax.sampling import requests
from idejax.sampling.requests import Request, Steer


def steer(source: Any, size: tuple[int, int], strength: float = 1.0, start: float = 0.0, until: float = 1.0) -> Steer:
  """One picture's steering by a stock ControlNet, which reads the prompt beside the control picture.

  source: a picture as `faces.photo.read` takes it, such as edges, depth or a drawn pose; stretched to `size` (height,
  width) where it has another, as diffusers does. start, until: shares of the steps between which it acts.
  """
  picture = photo.read(source)
  pixels = picture.pixels
  if pixels.shape[:2] != size:
    pixels = np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.LANCZOS))
  about = {"control": picture.digest, "control_strength": strength, "control_from": start, "control_until": until}
  return Steer(None, None, strength, until, about, start, pixels.astype(np.float32) / 255)


def with_pictures(
  stock: bool, plain: list[Request], source: Any, strength: Any, start: Any, until: Any, size: tuple[int, int]
) -> list[Request]:
  """The requests with the control pictures of the Python interface, see `Pipeline.sample`."""
  if source is None:
    return plain
  if not stock:
    raise UserError(
      "this pipeline has no ControlNet that reads control pictures: idejax.load(model, controlnet=FOLDER)"
    )
  (each,) = requests.spread({"control": source}, len(plain))
  given = {"control_strength": (strength, 0.0, 10.0), "control_from": (start, 0.0, 1.0)}
  knobs = requests.numbers(given | {"control_until": (until, 0.0, 1.0)}, len(plain))
  return [
    r if x is None else dataclasses.replace(r, steer=steer(x, size, s, a, u))
    for r, x, s, a, u in zip(plain, each, *knobs)
  ]


def check_alone(have: str, new: str, called: str):
  """UserError if a pipeline already holds another ControlNet; digests, "" for none."""
  if have and have != new:
    raise UserError(f"{called}: the pipeline holds another ControlNet already; one job has one of them")
