"""`idejax pretrain`: many people's faces in, FaceSnap's add-on folder out; resumable to the bit."""

import contextlib
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from idejax import config, faces, sharding, tree
from idejax.data import face_batches, face_rows
from idejax.errors import UserError, tell
from idejax.evaluation import addons, validation
from idejax.jobs import encoders, pretrain_faces
from idejax.methods import contract, facesnap
from idejax.miniature.judging import scoring
from idejax.model import addon, conditioning
from idejax.model.backbone import Backbone
from idejax.model.vision import Tower
from idejax.nets.controlnet import ControlNetConfig
from idejax.person import moves, recogniser
from idejax.person.subject import Frozen
from idejax.personalizing import posers
from idejax.personalizing.learn import open_model
from idejax.planning import topology
from idejax.runtime import distributed, flops
from idejax.sampling import pipeline
from idejax.storage import hub
from idejax.storage.files import read_json, replacing, write_json
from idejax.storage.folders import claim
from idejax.training import fit, loop
from idejax.training.board import Board

_LOSS_BATCHES = 4  # of held-out faces, on which a validation takes the loss
_SMALL = 1 << 26  # bytes of a vision tower that is worth a copy in the add-on


def main(c: config.Pretrain):
  check(c)
  cfg = settings(c)
  with distributed.by_first(lambda: claim(c.out)):
    run(c, cfg)


def check(c: config.Pretrain):
  """UserError for what can be seen to be wrong before anything is read."""
  if c.data != "drawn" and not Path(c.data).is_dir():
    raise UserError(f"--data {c.data} is no folder; give a folder with a sub-folder of photos per person, or drawn")
  if c.data != "drawn" and (c.people is not None or c.each != config.Pretrain.each):
    raise UserError("--people and --each are of drawn people: leave --data out, or say drawn")
  if c.judge and not c.validate_every:
    raise UserError("--judge is asked at validations: give --validate-every")
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
  names = (f.name for f in dataclasses.fields(facesnap.Config))
  given: dict[str, Any] = {n: v for n in names if (v := getattr(c, n, None)) is not None}
  cfg = dataclasses.replace(facesnap.PRESETS[name], **given)
  if cfg.batch % c.accumulate:
    raise UserError(f"a batch of {cfg.batch} cannot be cut into {c.accumulate} equal parts")
  if cfg.contrast and not cfg.identity_weight:
    raise UserError(f"--contrast {cfg.contrast:g} is a part of the identity loss, whose weight is 0: --identity-weight")
  return cfg


def run(c: config.Pretrain, cfg: facesnap.Config):
  # ---- Models and data -----------------------------------------------------------------------------
  pipe = open_model(c)
  b, pack, tower = pipe.backbone, faces.open_pack(c.pack), Tower(encoders.vision_folder(c.vision))
  facesnap.mixer_config(cfg, b.nets.unet.context_dim, tower.width)  # sizes that make no mixer are told now
  how = moves.Moves(cfg.augment, cfg.zoom, cfg.turn) if cfg.augment else None
  data, picture = pretrain_faces.read(c, pipe, pack, tower, how is not None)
  among, held = pretrain_faces.hold_out(c, pipe, pack, tower, data, picture)

  # ---- The trainer -----------------------------------------------------------------------------------
  frozen = freeze(pipe, cfg, tower, pack)
  key = jax.random.key(c.seed)
  mesh = sharding.make_mesh()
  mesh = fit.person_mesh(facesnap, cfg, frozen, mesh, cfg.ema)
  step, state, frozen = fit.one(
    facesnap, cfg, frozen, key, mesh, accumulate=c.accumulate, ema=cfg.ema, whole=c.frozen == "whole"
  )
  tell(f"facesnap: {tree.size(state.params) / 1e6:.2f} M parameters, {cfg.steps} steps of {cfg.batch}")
  facts = dataclasses.asdict(cfg) | dict(
    seed=c.seed, data=data.digest, model=pipe.digest, vision=tower.digest, pack=pack.digest, accumulate=c.accumulate,
    dtype=c.dtype, held_out=c.validate_people if among is not None else None,
  )  # fmt: skip
  if not (cfg.warm or cfg.fall or cfg.identity_weight):  # then nothing depends on how many steps are to come
    facts.pop("steps")
  if not how:  # then nothing depends on how far pictures move
    facts = {k: v for k, v in facts.items() if k not in ("zoom", "turn")}
  kept = lambda s: s.ema if cfg.ema else s.params
  mine = face_batches.places(step.rows, cfg.batch)  # the rows of a batch that this process reads

  def rows(i: int) -> dict[str, Any]:
    few = np.full(len(mine), facesnap.identity_weight(cfg, i), np.float32)
    return face_batches.load(data, i, cfg.batch, c.seed, cfg.cross, mine, among, cfg.photos, how) | {"few": few}

  # ---- Train, and write what was learned ---------------------------------------------------------------
  with contextlib.closing(face_rows.Ahead(rows, cfg.steps)) as ahead:
    load = lambda i: face_batches.put(ahead(i), step.rows, cfg.batch)
    watch = validation_of(c, cfg, pipe, pack, tower, held, step, frozen) if held else None
    where = loop.Run(
      c.out,
      cfg.steps,
      c.minutes,
      save_seconds=c.save_seconds,
      name="facesnap",
      tensorboard=c.tensorboard,
      pictures=cfg.batch,
      flops=work(cfg, step, state, frozen, face_batches.put(rows(0), step.rows, cfg.batch), key),
      peak=peak(b, step.mesh),
    )
    for count, after in fit.train(step, state, frozen, load, key, where, facts):
      state = after
      if watch and (count % (c.validate_every or 1) == 0 or count == cfg.steps):
        line = watch(count, kept(state))
        if c.tensorboard and distributed.first():
          with contextlib.closing(Board(c.out / "validation", count)) as board:
            board.add([line])
  about = addon.About(
    model=Path(pipe.name).name,
    recogniser=pack.name,
    licence=pack.licence,
    vision=Path(c.vision).name,
    data=c.data if c.data == "drawn" else Path(c.data).name,
    steps=loop.steps_done(state),
  )
  params, folder = sharding.gather(kept(state)), c.out / "addon"
  if distributed.first():
    write(folder, b, cfg, tower, params, about)
  distributed.meet("written")
  if c.measure:
    measure(c, pipe, folder, pack)
  tell(f'{folder}; try: idejax sample --model {c.model} --addon {folder} --face PHOTO --prompt "a photo of a person"')


def work(cfg: facesnap.Config, step: fit.MeshStep, *args: Any) -> float:
  """FLOPs of a step, a mean over the training: the identity loss is computed in some steps only."""
  with jax.set_mesh(step.mesh):
    least, most = (flops.count(step.run, *args, branch=b) for b in (min, max))
  due = sum(facesnap.identity_weight(cfg, i) > 0 for i in range(cfg.steps)) / cfg.steps
  return least + due * (most - least)


def peak(b: Backbone, mesh: jax.sharding.Mesh) -> float:
  """FLOP/s of the mesh at most, in bfloat16; 0 where they are not known, or where the training is in another format."""
  one = topology.peak(mesh.devices.flat[0].device_kind)
  return one * mesh.size if one and jnp.dtype(b.nets.dtype) == jnp.bfloat16 else 0.0


def measure(c: config.Pretrain, pipe: pipeline.Pipeline, folder: Path, pack: faces.Pack):
  """measured.json and measured.png: rows of portrait, own face, another's face in its place, no add-on."""
  figures = addons.measure(posers.with_addon(pipe, folder, pack), c.measure or 0)
  for line in addons.show(figures):
    tell(line)
  if not distributed.first():
    return
  pictures, portraits = figures.pop("pictures"), figures.pop("portraits")
  write_json(c.out / "measured.json", figures | {"steps_trained": read_json(folder / "addon.json")["steps"]})
  own, swapped, plain = (pictures[n][:: len(addons.PROMPTS)] for n in ("own", "swapped", "by_chance"))
  rows = [np.concatenate(list(x[:8]), axis=1) for x in (portraits, own, swapped, plain)]
  with replacing(c.out / "measured.png") as temporary:
    Image.fromarray(np.concatenate(rows).repeat(2, 0).repeat(2, 1)).save(temporary, "PNG")


def validation_of(
  c: config.Pretrain,
  cfg: facesnap.Config,
  pipe: pipeline.Pipeline,
  pack: faces.Pack,
  tower: Tower,
  held: validation.Held,
  step: fit.MeshStep,
  frozen: Frozen,
) -> validation.Watch:
  """What validates: the paper's masked error by draws that depend on nothing but the step's shape, and the pictures."""
  mine = face_batches.places(step.rows, cfg.batch)
  count = min(_LOSS_BATCHES, -(-len(held.at) // cfg.batch))
  batches = []
  for at in np.resize(held.at, (count, cfg.batch)):
    rows = held.data.take(at[mine], at[mine]) | {"index": mine.astype(np.int32), "few": np.zeros(len(mine), np.float32)}
    batches.append(face_batches.put(rows, step.rows, cfg.batch))
  plain = dataclasses.replace(cfg, identity_weight=0.0, outside=0.0, empty=0.0, blank=0.0)
  loss = fit.scorer(facesnap, plain, step, frozen, batches, jax.random.key(0))
  mixed = facesnap.mixer_config(cfg, pipe.backbone.nets.unet.context_dim, tower.width)
  return validation.Watch(c.out, pipe, mixed, held, loss, pack, posers.of_pack(pack), judge(c, pack))


def judge(c: config.Pretrain, pack: faces.Pack) -> validation.Judge | None:
  """The second recogniser. UserError for the training's own."""
  if c.judge:
    second = faces.open_pack(c.judge)
    if second.digest == pack.digest:
      raise UserError(f"--judge {c.judge} is the recogniser of this training: a second one shall judge")
    return validation.by_pack(second)
  if pack.bundled:
    return scoring.Judges(pack=pack).embed
  tell("validation measures no identity: give --judge, a second face pack")
  return None


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
