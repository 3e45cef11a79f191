"""What `idejax prepare` may compute ahead of a training: a model's VAE, an image encoder, a model of faces."""

import functools
import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from idejax.data.preparing.stages import Encoder, Reader
from idejax.errors import UserError
from idejax.faces import fitting, morphable
from idejax.miniature.judging import shapes
from idejax.model.backbone import load_part
from idejax.model.vision import Tower
from idejax.nets import clip_vision, vae
from idejax.person import face_features, subjects
from idejax.storage import hub, tensorfiles
from idejax.storage.files import read_json

VISION = hub.BUILT_IN["miniature"].parent / "vision"


def of_vae(model: str, size: int) -> Encoder:
  """The VAE of a model, in float32, for squares of `size` pixels. UserError for a size that makes no latents."""
  folder = hub.resolve(model)
  config = folder / "vae" / "config.json"
  if not config.is_file():
    raise UserError(f"--model {model} has no VAE: {config} is not there")
  factor = vae.VAEConfig.from_json(read_json(config)).factor
  if size % factor:
    raise UserError(f"--size {size} is no multiple of {factor}, the pixels per latent of --model {model}")

  @functools.cache
  def load():
    cfg, params = load_part(folder, "vae", jnp.float32)
    run = jax.jit(lambda p, x: vae.Encoder(cfg, jnp.float32).apply({"params": p}, x))
    params = jax.tree.map(jnp.asarray, params)
    return lambda x: run(params, x)

  def run(images: np.ndarray) -> dict[str, np.ndarray]:
    mean, logvar = face_features.moments(images, lambda x: subjects.in_chunks(load(), x))
    return {"mean": mean, "logvar": logvar}

  return Encoder(Path(model).name, vae_digest(folder), size, run)


def of_tower(name: str) -> Encoder:
  """The image encoder of --vision."""
  folder = vision_folder(name)
  config = folder / "config.json"
  if not config.is_file():
    raise UserError(f"{folder} holds no CLIP image encoder: it has no config.json")
  load = functools.cache(lambda: Tower(folder))
  side = clip_vision.VisionConfig.from_json(read_json(config)).image_size
  return Encoder(folder.name, tensorfiles.digest(folder), side, lambda x: {"clip": load().tokens(x).astype(np.float16)})


def of_shape(shape: str, table: Path | None) -> Reader:
  """What reads shape, expression and pose of faces: a morphable model's file with its table, fitted to the landmarks, or
  the drawn world's own regressor.

  Of a morphable model "pose" is the head's turn (its axis by radians), pixels of the model's unit, and the shift in
  pixels, so that `fitting.project` gives the landmarks; "residual" is what the fit misses them by, as a share of the
  face. Where that is above `fitting.LIMIT` nothing else is told.
  """
  if shape == "miniature":
    if table is not None:
      raise UserError("--table is of a morphable model's file; --shape miniature has none")
    regressor = shapes.load()
    read = lambda photo, points, _: shapes.coefficients(shapes.read(regressor, photo, points))
    return Reader("miniature", _digest(shapes.FILE), shapes.COEFFICIENTS, read)
  if table is None:
    raise UserError("a morphable model is two files: give --shape MODEL and --table LANDMARKS")
  model = morphable.load(Path(shape), table)

  def run(photo: np.ndarray, points: np.ndarray, marks: np.ndarray | None) -> dict[str, np.ndarray] | None:
    if marks is None:
      return None
    try:
      fit = fitting.fit(model, marks)
    except ValueError:  # points that coincide
      return None
    if fit.residual > fitting.LIMIT:
      return {"residual": np.array([fit.residual])}
    pose = np.array([*fitting.vector(fit.rotation), fit.scale, *fit.shift])
    return {"shape": fit.shape, "expression": fit.expression, "pose": pose, "residual": np.array([fit.residual])}

  sizes = {"shape": len(model.shape), "expression": len(model.expression), "pose": 6, "residual": 1}
  return Reader(Path(shape).name, _digest(Path(shape), table), sizes, run)


def _digest(*files: Path) -> str:
  return hashlib.sha256(b"".join(hashlib.sha256(f.read_bytes()).digest() for f in files)).hexdigest()


def vae_digest(folder: Path) -> str:
  """sha256 of a pipeline's VAE, by which its latents are known."""
  return tensorfiles.digest(folder / "vae")


def vision_folder(name: str) -> Path:
  """The folder of an image encoder, as --vision names it."""
  if name != "miniature":
    return Path(name)
  if not (VISION / "config.json").is_file():
    raise UserError(f"the built-in image encoder is not here: {VISION}; give --vision FOLDER")
  return VISION
