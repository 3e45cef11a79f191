"""An add-on as a pipeline folder: base model, ControlNet, mixer and image encoder, with a PyTorch pipeline that takes faces.

A person by the add-on is the same folder with their tokens and landmarks in face.npz.
"""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from idejax.exporting import folders, pipelines
from idejax.faces import control, npz, predictor
from idejax.model import addon
from idejax.model.addon import About, Addon
from idejax.model.vision import Tower
from idejax.sampling.learned import Learned
from idejax.sampling.pipeline import Pipeline, Settings
from idejax.sampling.requests import Steer
from idejax.storage.files import read_json, write_json

FACE = "face.npz"
_LENGTH = 5  # of CLIP's tokens that stand for an image encoder's which the add-on does not bring


class Exported(NamedTuple):
  """What is exported: an add-on, and perhaps a person by it."""

  pipe: Pipeline  # the base in float32, with the add-on's ControlNet
  folder: Path  # of the add-on
  added: Addon
  tower: Tower | None
  person: Learned | None


def open_addon(pipe: Pipeline, folder: Path, person: Learned | None = None) -> Exported:
  """UserError for no add-on, and for one of another family."""
  added = addon.load(pipe.backbone, folder)
  tower = Tower(folder / "vision") if (folder / "vision").is_dir() else None
  return Exported(pipe.with_controlnet(folder / "controlnet"), folder, added, tower, person)


def write(target: Path, e: Exported):
  """Writes the pipeline folder; components are copied as they are."""
  base, index = e.pipe.folder, folders.index_of(e.pipe.folder)
  for name in folders.components(index):
    if (base / name).is_dir():
      pipelines.copy(base / name, target / name)
    else:
      index[name] = [None, None]
  for name in ("mixer", "controlnet"):
    shutil.copytree(e.folder / name, target / name)
  # diffusers' models answer with a config's field before a submodule of the same name, and `layers` is both.
  about = read_json(e.folder / "mixer" / "config.json")
  write_json(target / "mixer" / "config.json", {"depth" if k == "layers" else k: v for k, v in about.items()})
  (target / "mixer" / "modeling_mixer.py").write_text(pipelines.template("mixer.py"), "utf-8")
  index |= {"controlnet": ["diffusers", "ControlNetModel"], "mixer": ["modeling_mixer", "FacialAttributeMixer"]}
  index |= {"face_encoder": [None, None], "_class_name": ["pipeline", "FacePipeline"]}
  if e.tower is not None:
    shutil.copytree(e.tower.folder, target / "face_encoder")
    index |= {"face_encoder": ["transformers", "CLIPVisionModel"]}
    index |= {"face_mean": e.tower.mean.tolist(), "face_std": e.tower.std.tolist()}
  code = pipelines.for_family(pipelines.template("facesnap.py"), "text_encoder_2" in index)
  (target / "pipeline.py").write_text(code, "utf-8")
  if e.person is not None:
    npz.write(target / FACE, face_of(e.person))
  folders.finish(index, base, target)


def face_of(person: Learned) -> dict[str, np.ndarray]:
  """A person's identity as the exported pipeline reads it."""
  i = {k: np.asarray(x, np.float32) for k, x in person.identity.items() if k != "face"}
  out = {"tokens": i["tokens"], "photo_size": i["photo"].astype(np.int32)}
  return out | ({"landmarks": i["marks"]} if "marks" in i else {})


def example(e: Exported, seed: int = 0) -> tuple[dict[str, np.ndarray], Steer]:
  """(a face, what steers a picture of it here) for a certificate: the person's, or else one of random numbers."""
  size = e.pipe.size(Settings())
  if e.person is not None:
    face = face_of(e.person)
    tokens, photo = face["tokens"], (int(face["photo_size"][0]), int(face["photo_size"][1]))
  else:
    rng, photo = np.random.default_rng(seed), (300, 200)
    face = {"embedding": rng.standard_normal(e.added.mixer.identity_dim).astype(np.float32)}
    face |= {"photo_size": np.array(photo, np.int32), "landmarks": predictor.pose("left", *photo)}
    if e.tower is None:
      face["clip"] = rng.standard_normal((_LENGTH, e.added.mixer.clip_dim)).astype(np.float32)
    else:
      face["portrait"] = rng.integers(0, 256, (512, 512, 3), np.uint8)
    clip = face["clip"][None] if e.tower is None else e.tower.tokens([face["portrait"]])
    mixed = addon.tokens(e.added, jnp.asarray(face["embedding"][None]), jnp.asarray(clip))
    tokens = np.asarray(mixed, np.float32)[0]
  marks = control.place(face["landmarks"], photo, *size) if "landmarks" in face else None
  return face, Steer(tokens, marks)


def card(name: str, model: str, about: About, e: Exported, checked: str) -> str:
  """README.md of the folder."""
  face = f'"{name}/{FACE}"' if e.person is not None else '"anna.npz"'
  who = f"{e.person.word} by facesnap" if e.person is not None else "a FaceSnap add-on"
  record = "" if e.person is not None else "`idejax identity anna.png --out anna.npz` makes the face record.\n"
  encoder = "`face_encoder/`" if e.tower is not None else f"not here: give face_encoder= ({about.vision})"
  facts: list[Any] = [f"base model: {model}", f"face recogniser: {about.recogniser}; licence: {about.licence}"]
  facts += [f"image encoder: {encoder}", f"trained on: {about.data}; {about.steps} steps"]
  facts += ["pictures made with this are synthetic; say so where you show them"]
  return f"""---
library_name: diffusers
pipeline_tag: text-to-image
tags: [idejax, facesnap, controlnet]
---

# {name}: {who}

`controlnet/` is a stock ControlNetModel whose context is the {e.added.mixer.tokens} tokens that `mixer/` makes of a face.

```python
from diffusers import DiffusionPipeline
# pipeline.py and mixer/modeling_mixer.py in this folder are run: read them first, they are short
pipe = DiffusionPipeline.from_pretrained("{name}", trust_remote_code=True)
pipe("a photo of a person on the beach", face={face}).images[0]
pipe("a photo of a person on the beach", face={face}, pose="bert.npz").images[0]   # bert's landmarks
```

{record}
{chr(10).join(f"- {x}" for x in facts)}

{checked}
"""
