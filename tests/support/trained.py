"""Run folders as `idejax personalize` leaves them, of people whom nobody trained."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from idejax.faces import photo
from idejax.methods import textual_inversion
from idejax.miniature.world import data, people, scene
from idejax.sampling import learned, pipeline
from idejax.sampling.learned import Learned
from idejax.storage import hub


def portraits(folder: Path, count: int) -> list[Path]:
  """Drawn people's photos, named as the world's own are."""
  folder.mkdir(parents=True, exist_ok=True)
  ids = people.split("heldout")[:count]
  images, _ = data.render_all(people.people(ids), data.stack([scene.scene(background="gray")] * count))
  for i, image in zip(ids, np.asarray(images)):
    Image.fromarray(image).save(folder / f"drawn_{i}.png")
  return [folder / f"drawn_{i}.png" for i in ids]


def run(folder: Path, file: Path, seed: int = 0, digest: str = "", **cfg) -> Path:
  """One person's run on the built-in model; `digest` is the model's."""
  folder.mkdir(parents=True)
  # Everybody looks much alike, so that pictures by one noise resemble each other.
  near, own = (np.random.default_rng(n).standard_normal((1, 1, 2, width())) for n in (99, seed))
  rows = ((0.05 * near + 0.005 * own).astype(np.float32),)
  who = Learned(
    "<id>",
    "textual-inversion",
    textual_inversion.Config(vectors=2, **cfg),
    {"rows": rows},
    "miniature",
    digest or model(),
  )
  learned.save(folder, who)
  meta = {"photo": file.name, "photo_sha256": photo.digest(file), "faces": 1, "face": 1, "boxes": [[10, 10, 50, 50]]}
  (folder / "provenance.json").write_text(json.dumps({"photos": [meta], "pack": "miniature"}))
  (folder / "config.json").write_text(json.dumps({"photo": str(file), "method": "textual-inversion"}))
  (folder / "report.json").write_text(
    json.dumps({"seconds": {"train": 12.0}, "people": 1, "peak_memory_mb": 900, "trained_parameters": 64})
  )
  return folder


def width() -> int:
  return json.loads((hub.BUILT_IN["miniature"] / "text_encoder" / "config.json").read_text())["hidden_size"]


def model() -> str:
  """The digest that a pipeline of the built-in folder has, without opening it."""
  pipe = object.__new__(pipeline.Pipeline)
  parts = dict.fromkeys(("text_encoder", "unet", "vae"))
  object.__setattr__(pipe, "folder", hub.BUILT_IN["miniature"])
  object.__setattr__(pipe, "backbone", type("Backbone", (), {"params": parts}))
  return pipeline.Pipeline.digest.func(pipe)
