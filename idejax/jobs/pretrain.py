"""`idejax pretrain`: many people's faces in, FaceSnap's add-on folder out; resumable to the bit."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from idejax import config, faces, sharding, tree
from idejax.data import face_batches
from idejax.errors import UserError, tell
from idejax.evaluation import addons
from idejax.faces.face_set import FaceSet
from idejax.methods import contract, facesnap
from idejax.miniature.training import drawn_set
from idejax.model import addon, conditioning
from idejax.model.backbone import Backbone
from idejax.model.vision import Tower
from idejax.nets.controlnet import ControlNetConfig
from idejax.person import face_features, recogniser
from idejax.person.subject import Frozen
from idejax.personalizing import posers
from idejax.sampling import pipeline
from idejax.storage import hub
from idejax.storage.files import read_json, replacing, write_json
from idejax.storage.folders import claim
from idejax.training import fit, loop

VISION = hub.BUILT_IN["miniature"].parent / "vision"
_SMALL = 1 << 26  # bytes of a vision tower that is worth a copy in the add-on


def main(c: config.Pretrain):
  check(c)
  cfg = settings(c)
  with claim(c.out):
    run(c, cfg)


def check(c: config.Pretrain):
  """UserError for what can be seen to be wrong before anything is read."""
  if c.data != "drawn" and not Path(c.data).is_dir():
    raise UserError(f"--data {c.data} is no folder; give a folder with a sub-folder of photos per person, or drawn")
  if c.data != "drawn" and (c.people is not None or c.each != config.Pretrain.each):
    raise UserError("--people and --each are of drawn people: leave --data out, or say drawn")
  if c.measure and c.model not in hub.BUILT_IN:
    raise UserError("--measure looks at drawn people, whom only the built-in models draw: leave it out")
  if c.parsing and (Path(c.data) / "manifest.json").is_file():
    raise UserError("--parsing is not read: the masks of --data are in its records")
  if c.data == "drawn" and c.pack != config.Pretrain.pack:
    raise UserError(f"--pack {c.pack} knows no drawn people: leave it out, or give a folder of photos as --data")


def settings(c: config.Pretrain) -> facesnap.Config:
  """The preset with what the command changes."""
  name = (
    contract.default_preset(facesnap.PRESETS, c.model in hub.BUILT_IN, False) if c.preset == "default" else c.preset
  )
  names = ("steps", "batch", "lr", "cross", "identity_weight", "fuse")
  given: dict[str, Any] = {n: v for n in names if (v := getattr(c, n)) is not None}
  cfg = dataclasses.replace(facesnap.PRESETS[name], **given)
  if cfg.batch % c.accumulate:
    raise UserError(f"a batch of {cfg.batch} cannot be cut into {c.accumulate} equal parts")
  return cfg


def run(c: config.Pretrain, cfg: facesnap.Config):
  # ---- Models and data -----------------------------------------------------------------------------
  pipe = pipeline.load(c.model, notify=tell)
  b, pack, tower = pipe.backbone, faces.open_pack(c.pack), Tower(vision_folder(c.vision))
  facesnap.mixer_config(cfg, b.nets.unet.context_dim, tower.width)  # sizes that make no mixer are told now
  data = read(c, pipe, pack, tower)
  tell(f"encoding {len(data.images)} faces of {int(np.max(data.person)) + 1} people")
  encoded = face_features.encode(b, pipe.tokenizers, tower, data)

  # ---- The trainer -----------------------------------------------------------------------------------
  frozen = freeze(pipe, cfg, tower, pack)
  key = jax.random.key(c.seed)
  mesh = sharding.make_mesh()
  mesh = fit.person_mesh(facesnap, cfg, frozen, mesh)
  step, state, frozen = fit.one(facesnap, cfg, frozen, key, mesh, accumulate=c.accumulate)
  tell(f"facesnap: {tree.size(state.params) / 1e6:.2f} M parameters, {cfg.steps} steps of {cfg.batch}")
  facts = dataclasses.asdict(cfg) | dict(
    seed=c.seed, data=data.digest, model=pipe.digest, vision=tower.digest, pack=pack.digest, accumulate=c.accumulate
  )
  if not (cfg.warm or cfg.fall or cfg.identity_weight):  # then nothing depends on how many steps are to come
    facts.pop("steps")

  def load(i: int) -> dict[str, Any]:
    batch = face_batches.load(encoded, i, cfg.batch, c.seed, cfg.cross)
    few = np.full(cfg.batch, facesnap.identity_weight(cfg, i), np.float32)
    return face_batches.put(batch | {"few": few}, step.rows)

  # ---- Train, and write what was learned ---------------------------------------------------------------
  where = loop.Run(c.out, cfg.steps, c.minutes, save_seconds=c.save_seconds, name="facesnap")
  for _, after in fit.train(step, state, frozen, load, key, where, facts):
    state = after
  about = addon.About(
    model=Path(pipe.name).name,
    recogniser=pack.name,
    licence=pack.licence,
    vision=Path(c.vision).name,
    data=c.data if c.data == "drawn" else Path(c.data).name,
    steps=loop.steps_done(state),
  )
  folder = write(c.out / "addon", b, cfg, tower, jax.device_get(state.params), about)
  if c.measure:
    measure(c, pipe, folder, pack)
  tell(f'{folder}; try: idejax sample --model {c.model} --addon {folder} --face PHOTO --prompt "a photo of a person"')


def measure(c: config.Pretrain, pipe: pipeline.Pipeline, folder: Path, pack: faces.Pack):
  """measured.json and measured.png: rows of portrait, own face, another's face in its place, no add-on."""
  figures = addons.measure(posers.with_addon(pipe, folder, pack), c.measure or 0)
  for line in addons.show(figures):
    tell(line)
  pictures, portraits = figures.pop("pictures"), figures.pop("portraits")
  write_json(c.out / "measured.json", figures | {"steps_trained": read_json(folder / "addon.json")["steps"]})
  own, swapped, plain = (pictures[n][:: len(addons.PROMPTS)] for n in ("own", "swapped", "by_chance"))
  rows = [np.concatenate(list(x[:8]), axis=1) for x in (portraits, own, swapped, plain)]
  with replacing(c.out / "measured.png") as temporary:
    Image.fromarray(np.concatenate(rows).repeat(2, 0).repeat(2, 1)).save(temporary, "PNG")


def vision_folder(name: str) -> Path:
  """The folder of an image encoder, as --vision names it."""
  if name != "miniature":
    return Path(name)
  if not (VISION / "config.json").is_file():
    raise UserError(f"the built-in image encoder is not here: {VISION}; give --vision FOLDER")
  return VISION


def read(c: config.Pretrain, pipe: pipeline.Pipeline, pack: faces.Pack, tower: Tower) -> FaceSet:
  """The faces of --data, at the model's size."""
  side = pipe.size(pipeline.Settings())[0]
  if c.data == "drawn":
    folder = c.out / "faces"
    return drawn_set.render(folder, {"train": c.each}, seed=c.seed, size=side, closer=c.closer, limit=c.people)
  if (Path(c.data) / "manifest.json").is_file():
    return face_batches.shards(Path(c.data), pack, side, tower.side)
  return face_batches.photos(Path(c.data), pack, side, tower.side, c.parsing)


def freeze(pipe: pipeline.Pipeline, cfg: facesnap.Config, tower: Tower, pack: faces.Pack) -> Frozen:
  """What FaceSnap's loss reads and does not change."""
  twin = None
  if cfg.identity_weight:
    twin = recogniser.load(Path(pack.app.models["recognition"].model_file))
  constants = {"clip": np.zeros(tower.width, np.float32), "recogniser": twin}
  nothing = conditioning.tokenise(pipe.tokenizers, [""], {})
  return Frozen(pipe.backbone, constants, nothing, None)  # type: ignore[arg-type]


def write(
  folder: Path,
  b: Backbone,
  cfg: facesnap.Config,
  tower: Tower,
  params: Any,
  about: addon.About,
  dtype: Any = np.float16,
) -> Path:
  """The add-on folder, with a copy of the vision tower if that is small."""
  mixed = facesnap.mixer_config(cfg, b.nets.unet.context_dim, tower.width), params["mixer"]
  steering = ControlNetConfig.of(b.nets.unet, b.nets.factor), params["controlnet"]
  files = [p for p in tower.folder.iterdir() if p.is_file()]
  if sum(p.stat().st_size for p in files) <= _SMALL:
    (folder / "vision").mkdir(parents=True, exist_ok=True)
    for p in files:
      shutil.copyfile(p, folder / "vision" / p.name)
  addon.write(folder, mixed, steering, about, dtype)
  return folder
