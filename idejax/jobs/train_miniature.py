"""`idejax train-miniature`: trains the pipelines in the package on the drawn world.

Stages: tokenizer, data, vae, words (the text encoders, on captions alone), diffusion (the UNet), export.
Each continues where it stopped. In the end --out/pipeline is a Stable Diffusion folder in diffusers'
layout; with --family sdxl, --out/pipeline_sdxl an SDXL one, on the same pictures and VAE.
"""

import dataclasses
from typing import Any

import jax

from idejax import config
from idejax.errors import tell
from idejax.miniature.training import (
  diffusion_training,
  face_training,
  recipe,
  shapes_training,
  tokenizer,
  training,
  vae_training,
  vision_training,
  words_training,
)
from idejax.storage import hub, tensorfiles
from idejax.storage.files import write_json

STAGES = ("tokenizer", "data", "vae", "words", "diffusion", "export")  # of the pipeline: "all"


def main(c: config.TrainMiniature):
  """Runs one stage, or all that are not yet done, in order."""
  r = recipe.RECIPES[c.family, c.tiny]
  if c.start:
    c = dataclasses.replace(c, start=hub.resolve(c.start))
  if c.unet and not (c.unet / "unet" / "config.json").is_file():  # no folder: a built-in model's name
    c = dataclasses.replace(c, unet=hub.resolve(c.unet))
  options = {"vae_lr": c.vae_lr, "words_lr": c.words_lr, "lr": c.lr, "batch": c.batch, "look": c.look}
  changes: dict[str, Any] = {k: v for k, v in options.items() if v is not None}
  r = dataclasses.replace(r, **changes)
  for name in STAGES if c.stage == "all" else (c.stage,):
    tell(f"== {name}")
    _RUN[name](c, r)


# The tokenizer and the pictures.


def make_tokenizer(c: config.TrainMiniature, r: recipe.Recipe):
  for name in ("tokenizer", "tokenizer_2")[: 1 + r.xl]:
    folder = training.home(c, "pipeline") / name
    size = tokenizer.write(folder, recipe.LENGTH)
    tell(f"tokenizer: {size} tokens, {recipe.LENGTH} a prompt, in {folder}")


def make_data(c: config.TrainMiniature, r: recipe.Recipe):
  data = training.data(c, r)
  tell(f"data: {len(data.images)} pictures, sha256 {data.digest[:16]}")


# The finished folder.


def finish(c: config.TrainMiniature, r: recipe.Recipe):
  """Writes training.json beside the weights: digests, and how they were trained."""
  folder = training.home(c, "pipeline")
  stages = {"vae": c.out / "vae"} | {n: training.home(c, n) for n in ("words", "diffusion")}
  results = {n: training.read_json(at / "result.json", n) for n, at in stages.items()}
  parts = ("vae", "unet", "scheduler", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
  digests = {p: tensorfiles.digest(folder / p) for p in parts[: 7 if r.xl else 5]}
  size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
  write_json(
    folder / "training.json",
    {
      "digests": digests,
      "bytes": size,
      "seed": c.seed,
      "device": jax.devices()[0].device_kind,
      "jax": jax.__version__,
      **results,
    },
  )
  tell(
    f"{folder}: {size / 1e6:.1f} MB; try: idejax sample --model {folder} --out pictures "
    f'--prompt "{diffusion_training.PROMPTS[0]}"'
  )


# Networks that look at faces, and judges.


def make_faces(c: config.TrainMiniature, r: recipe.Recipe):
  _face_stages(c, "detector", "recogniser", "report_faces")


def make_judges(c: config.TrainMiniature, r: recipe.Recipe):
  _face_stages(c, "attributes", "judge_recogniser", "clip", "report_judges")


def make_vision(c: config.TrainMiniature, r: recipe.Recipe):
  vision_training.train(c.out / "facesnap", c.steps, c.seed, c.tiny)


def make_shapes(c: config.TrainMiniature, r: recipe.Recipe):
  shapes_training.train(c.out / "facesnap", c.steps, c.seed, c.tiny)


def _face_stages(c: config.TrainMiniature, *names: str):
  for name in names:
    tell(f"== {name}")
    face_training.STAGES[name](c.out / "faces", c.steps, c.seed, c.tiny)


_RUN = {
  "tokenizer": make_tokenizer,
  "data": make_data,
  "vae": vae_training.train,
  "words": words_training.train,
  "diffusion": diffusion_training.train,
  "export": finish,
  "faces": make_faces,
  "judges": make_judges,
  "vision": make_vision,
  "shapes": make_shapes,
}
