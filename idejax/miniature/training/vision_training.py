"""The built-in CLIP image encoder, whose tokens FaceSnap's mixer reads.

Trained as the judges' CLIP is, with another seed and in another order, and on aligned portraits; its text
tower is thrown away. No judge sees with it, and it sees with no judge's eyes.
"""

from pathlib import Path

import jax
import numpy as np

from idejax.errors import tell
from idejax.faces.face_set import FaceSet
from idejax.miniature.judging import crops, judges
from idejax.miniature.training import drawn_set, face_training, judges_training, tokenizer
from idejax.miniature.world import captions, people, scene
from idejax.miniature.world.pictures import rows
from idejax.model import tokens
from idejax.storage import tensorfiles, weights
from idejax.storage.files import write_json

SEED = 4000  # apart from the recognisers' and judges'
COUNTS = {"train": 6}  # faces per person
PLAN = face_training.Plan(steps=300, batch=32, lr=1.5e-3, clip=1.0, ema=0.99, decay=0.02)


def train(out: Path, steps: int | None = None, seed: int = 0, tiny: bool = False):
  """Writes out/vision, a CLIPVisionModelWithProjection's folder, continuing what is there."""
  plan = face_training.Plan(steps or (20 if tiny else PLAN.steps), 16 if tiny else PLAN.batch, PLAN.lr, 1.0, 0.99, 0.02)
  data = faces_of(out, seed, tiny)
  texts, codes = described(data, seed, tiny)
  folder, size = out / "vision", tokenizer.write(out / "words", judges.LENGTH)
  words = tokens.load(out / "words")
  config = judges_training.clip_config(size, tiny)
  ids = words.encode(texts).ids

  def load(i: int):
    at = rows(i, plan.batch, len(ids), seed + SEED)
    rng = np.random.Generator(np.random.Philox(key=[seed + SEED, i], counter=[0, 0, 0, 6]))
    images = crops.spoil(rng, np.asarray(data.portraits[np.sort(at)]))
    contrasts = words.encode(judges_training.contrasts(rng)).ids
    return {
      "images": images,
      "ids": np.concatenate([ids[np.sort(at)], contrasts]),
      "index": np.arange(plan.batch, dtype=np.int32),
    } | {n: c[np.sort(at)] for n, c in codes.items()}

  encoder = face_training.run(
    "vision_training",
    out,
    plan,
    judges_training.clip_init(config, seed + SEED),
    judges_training.make_clip_loss(config),
    load,
    seed=seed + SEED,
    digest=data.digest,
    look=lambda done, params: write(folder, config, params),
    every=100,
  )
  write(folder, config, encoder.params)
  write_json(out / "vision_training" / "result.json", encoder.facts)


def faces_of(out: Path, seed: int, tiny: bool) -> FaceSet:
  """The drawn people's faces that FaceSnap's add-on is trained on, too."""
  if tiny:
    return drawn_set.render(out / "faces", {"train": 4}, seed=seed + SEED, limit=24)
  return drawn_set.render(out / "faces", COUNTS, seed=seed + SEED)


def described(data: FaceSet, seed: int, tiny: bool) -> tuple[list[str], dict[str, np.ndarray]]:
  """Captions that tell of the person too, and codes of attributes, of the faces of `faces_of`."""
  ids = people.split("train")[: 24 if tiny else None]
  count = len(data.images) // len(ids)
  everyone, scenes = people.people(ids), scene.scenes(ids, count, seed + SEED)
  texts = []
  for n in range(len(data.images)):
    rng = np.random.Generator(np.random.Philox(key=[seed + SEED, n], counter=[0, 0, 7, 0]))
    texts.append(captions.caption(people.take(everyone, n // count), people.take(scenes, n), rng))
  each = lambda name: np.repeat(getattr(everyone, name), count)
  factors = {n: getattr(scenes, n) for n in ("expression", "accessory", "background")}
  return texts, judges.labels(factors | {n: each(n) for n in ("hair_style", "hair_colour")})


def write(folder: Path, config: dict, params: dict):
  """The vision tower alone, float16."""
  vision = config["vision_config"] | dict(
    architectures=["CLIPVisionModelWithProjection"],
    model_type="clip_vision_model",
    projection_dim=config["projection_dim"],
    torch_dtype="float16",
  )
  tensors = {k: np.asarray(x, np.float16) for k, x in weights.to_torch(jax.device_get(params["vision"])).items()}
  tensorfiles.write(folder / "model.safetensors", tensors)
  write_json(
    folder / "preprocessor_config.json",
    dict(image_processor_type="CLIPImageProcessor", do_resize=True, size={"shortest_edge": vision["image_size"]},
         resample=3, do_center_crop=True, crop_size=dict.fromkeys(("height", "width"), vision["image_size"]),
         do_rescale=True, rescale_factor=1 / 255, do_normalize=True, image_mean=[0.5] * 3, image_std=[0.5] * 3,
         do_convert_rgb=True),
  )  # fmt: skip
  write_json(folder / "config.json", vision)
  tell(f"vision: {folder}")
