"""`idejax train-miniature`: trains the pipeline that ships in the package, on a drawn world.

Stages: tokenizer, data, vae, words (the text encoder, on captions alone), diffusion (the UNet), export.
Each continues where it stopped. In the end --out/pipeline is a Stable Diffusion folder in diffusers' layout.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from PIL import Image

from idejax import config, loop, pipeline, sharding, tensorfiles, tokens, tree, weights
from idejax import step as st
from idejax.backbone import Nets
from idejax.checkpoint import Checkpoints
from idejax.diffusion import NoiseSchedule
from idejax.errors import UserError, tell
from idejax.files import write_json
from idejax.miniature import (
  autoencoder,
  captions,
  denoiser,
  export,
  face_training,
  latents,
  people,
  pictures,
  recipe,
  scene,
  tokenizer,
)
from idejax.miniature import data as world
from idejax.miniature import words as text_encoder
from idejax.nets import clip, unet
from idejax.nets import vae as vae_net

STAGES = ("tokenizer", "data", "vae", "words", "diffusion", "export")  # of the pipeline: "all"


def main(c: config.TrainMiniature):
  """Run one stage, or all that are not yet done, in order."""
  r = recipe.TINY if c.tiny else recipe.FULL
  given: dict[str, Any] = {k: v for k, v in (("vae_lr", c.vae_lr), ("lr", c.lr), ("look", c.look)) if v is not None}
  r = dataclasses.replace(r, **given)
  for name in STAGES if c.stage == "all" else (c.stage,):
    tell(f"== {name}")
    _RUN[name](c, r)


# The tokenizer and the pictures.


def make_tokenizer(c: config.TrainMiniature, r: recipe.Recipe):
  size = tokenizer.write(c.out / "pipeline" / "tokenizer", recipe.LENGTH)
  tell(f"tokenizer: {size} tokens, {recipe.LENGTH} a prompt, in {c.out / 'pipeline' / 'tokenizer'}")


def make_data(c: config.TrainMiniature, r: recipe.Recipe) -> pictures.Pictures:
  data = pictures.render(c.out / "data", dict(r.counts), seed=c.seed)
  tell(f"data: {len(data.images)} pictures, sha256 {data.digest[:16]}")
  return data


def held_out(c: config.TrainMiniature, r: recipe.Recipe) -> pictures.Pictures:
  """Pictures of people whom no training sees and no test reports on: the development split."""
  return pictures.render(c.out / "development", {"development": r.held}, seed=c.seed + 1)


# The autoencoder.


def train_vae(c: config.TrainMiniature, r: recipe.Recipe):
  data, held = make_data(c, r), held_out(c, r).images[: r.people * r.held]
  cfg = vae_net.VAEConfig.from_json(recipe.vae(r))
  steps, batch = c.steps or r.vae_steps, r.vae_batch
  schedule = optax.warmup_cosine_decay_schedule(0.0, r.vae_lr, min(200, steps // 5), steps, 0.01 * r.vae_lr)
  tx = optax.adam(schedule, b2=0.99)
  step = st.make_step(autoencoder.make_loss(cfg, r.kl), tx, clip=r.clip, ema=r.ema)
  state = st.init(autoencoder.init(cfg, c.seed), tx, ema=True)
  step, state, frozen = st.on_mesh(step, sharding.make_mesh(), state, {})
  tell(f"vae: {tree.size(state.params) / 1e6:.2f} M parameters, {steps} steps of {batch}")

  def load(i: int):
    at = pictures.rows(i, batch, len(data.images), c.seed)
    return {"image": data.images[at], "index": np.arange(batch, dtype=np.int32)}

  reconstruct = autoencoder.make_reconstruct(cfg)
  facts = _facts(c, r, "vae_widths latent_channels vae_batch vae_lr kl ema clip", data=data.digest)
  run = loop.Run(c.out / "vae", steps, c.minutes, save_seconds=c.save_seconds, name="vae")

  def look(done, state):
    db, made = autoencoder.psnr(reconstruct, state.ema, held)
    _append(run.folder / "validation.jsonl", {"step": done, "psnr": db})
    tell(f"vae {done}: held-out PSNR {db:.2f} dB (people never seen in training)")
    _grid(run.folder / f"pictures-{done:06d}.png", [held[: 16 * r.held : r.held], made[: 16 * r.held : r.held]])
    return db

  with Checkpoints(run.folder / "checkpoints") as checkpoints:
    state = loop.resume(checkpoints, state, facts)
    steps_done = loop.train(step, state, frozen, load, key=jax.random.key(c.seed), run=run,
                            checkpoints=checkpoints, facts=facts)  # fmt: skip
    for done, state in steps_done:
      if done % r.look == 0 and done < steps: look(done, state)
    params = jax.device_get(state.ema)
    db = look(int(state.step), state)
  digest = _save_weights(run.folder / "weights.safetensors", params)
  write_json(run.folder / "result.json", {"step": int(state.step), "psnr": db, "sha256": digest} | facts)
  tell(f"vae: {db:.2f} dB after {int(state.step)} steps; sha256 {digest[:16]}")


# The text encoder, on captions alone.


def train_words(c: config.TrainMiniature, r: recipe.Recipe):
  data = make_data(c, r)
  _read_json(c.out / "pipeline" / "tokenizer" / "vocab.json", "tokenizer")
  words = tokens.load(c.out / "pipeline" / "tokenizer")
  ids = words.encode(data.captions).ids
  cfg = clip.TextConfig.from_json(recipe.text(r, len(words.bpe)))
  steps, batch = c.steps or r.words_steps, r.words_batch
  tx = optax.adam(_flat(r.words_lr, steps, r.decay), b2=0.99)
  step = st.make_step(text_encoder.make_loss(cfg, (words.bos, words.eos, words.pad)), tx, clip=r.clip)
  step, state, frozen = st.on_mesh(step, sharding.make_mesh(), st.init(text_encoder.init(cfg, c.seed), tx), {})

  def load(i: int):
    return {"ids": ids[pictures.rows(i, batch, len(ids), c.seed)], "index": np.arange(batch, dtype=np.int32)}

  facts = _facts(c, r, "text_width text_layers words_batch words_lr clip", data=data.digest)
  run = loop.Run(c.out / "words", steps, c.minutes, save_seconds=c.save_seconds, name="words")
  with Checkpoints(run.folder / "checkpoints") as checkpoints:
    state = loop.resume(checkpoints, state, facts)
    walk = loop.train(step, state, frozen, load, key=jax.random.key(c.seed), run=run,
                      checkpoints=checkpoints, facts=facts)  # fmt: skip
    for _, after in walk: state = after
    params = jax.device_get(state.params["text"])
  known = loop.records(run.folder / "metrics.jsonl")[-1]["known"]
  digest = _save_weights(run.folder / "weights.safetensors", params)
  write_json(run.folder / "result.json", {"step": int(state.step), "known": known, "sha256": digest} | facts)
  tell(f"words: {100 * known:.1f} % of what was said can be read off each position; sha256 {digest[:16]}")


# The UNet.


def train_diffusion(c: config.TrainMiniature, r: recipe.Recipe):
  data, held = make_data(c, r), held_out(c, r)
  result = _read_json(c.out / "vae" / "result.json", "vae")
  folder, vae_digest = c.out / "pipeline", result["sha256"]
  _read_json(folder / "tokenizer" / "vocab.json", "tokenizer")
  fixed = {"vae": vae_digest, "data": data.digest}

  # The VAE as users will have it: float16 on disk, latent channels made alike.
  cfg, params = vae_net.VAEConfig.from_json(recipe.vae(r)), _load_weights(c.out / "vae", r)
  mean, std = latents.statistics(cfg, params, data.images)
  scale = float(np.sqrt(np.square(std).mean()))
  params = autoencoder.normalise(params, mean, std / scale)
  export.write_net(folder, "vae", recipe.vae(r) | {"scaling_factor": round(1 / scale, 5)}, params)
  cfg, params = export.read_net(folder, "vae")
  moments = latents.moments(c.out / "latents", cfg, params, data.images, fixed)
  held_moments = latents.moments(c.out / "latents_development", cfg, params, held.images, fixed)

  words = tokens.load(folder / "tokenizer")
  ids, held_ids = (words.encode(p.captions).ids for p in (data, held))
  nets = Nets(
    unet.UNetConfig.from_json(recipe.unet(r)), cfg,
    (clip.TextConfig.from_json(recipe.text(r, len(words.bpe))),),
    NoiseSchedule.from_json(recipe.SCHEDULER))  # fmt: skip
  steps, batch = c.steps or r.steps, r.batch
  tx = optax.adam(_flat(r.lr, steps, r.decay), b2=0.99)
  loss = denoiser.make_loss(nets, words.encode([""]).ids[0], r)
  step = st.make_step(loss, tx, clip=r.clip, ema=r.ema)
  known = _read_json(c.out / "words" / "result.json", "words")["sha256"]
  text = _load_tensors(c.out / "words", clip.shapes(nets.text[0]))
  start = export.read_net(c.unet, "unet")[1] if c.unet else None
  state = st.init(denoiser.init(nets, c.seed, start), tx, ema=True)
  tell(f"diffusion: {tree.size(state.params) / 1e6:.2f} M parameters, {steps} steps of {batch}, "
       f"{len(words.bpe)} tokens, latent scale {scale:.3f}")  # fmt: skip
  step, state, frozen = st.on_mesh(step, sharding.make_mesh(), state, {"text_encoder": text})

  def load(i: int):
    at = pictures.rows(i, batch, len(ids), c.seed)
    return {"mean": moments.mean[at], "logvar": moments.logvar[at], "ids": ids[at],
            "index": np.arange(batch, dtype=np.int32)}  # fmt: skip

  facts = _facts(c, r, "widths heads groups text_width text_layers batch lr empty "
                 "ema clip", words=known, captions=captions.VERSION,
                 unet=c.unet and tensorfiles.digest(c.unet / "unet"), **fixed)  # fmt: skip
  run = loop.Run(c.out / "diffusion", steps, c.minutes, save_seconds=c.save_seconds, name="diffusion")
  validate = denoiser.make_validate(loss, 40)

  def look(done, state):
    v = validate(state.ema, frozen, held_moments.mean, held_moments.logvar, held_ids)
    _append(run.folder / "validation.jsonl", {"step": done, "v": v})
    tell(f"diffusion {done}: held-out v-loss {v:.4f}")
    _write_pipeline(folder, r, len(words.bpe), state.ema | frozen)
    _draw(run.folder / f"pictures-{done:06d}.png", folder, c.tiny)
    return v

  with Checkpoints(run.folder / "checkpoints") as checkpoints:
    state = loop.resume(checkpoints, state, facts)
    walk = loop.train(step, state, frozen, load, key=jax.random.key(c.seed), run=run,
                      checkpoints=checkpoints, facts=facts)  # fmt: skip
    for done, state in walk:
      if done % r.look == 0 and done < steps: look(done, state)
    v = look(int(state.step), state)
  write_json(run.folder / "result.json", {"step": int(state.step), "v": v} | facts)


def _write_pipeline(folder: Path, r: recipe.Recipe, vocabulary: int, params: Any):
  export.write_net(folder, "unet", recipe.unet(r), params["unet"])
  export.write_net(folder, "text_encoder", recipe.text(r, vocabulary), params["text_encoder"])
  export.write_index(folder, recipe.SCHEDULER)


def _draw(path: Path, folder: Path, tiny: bool):
  """Three rows: prompts, celebrities by name, and the real celebrities to compare the names with."""
  famous = np.arange(8) * 25
  names = people.celebrity_names()
  who = [f"a photo of {names[i]}" for i in famous]
  pipe = pipeline.load(folder)
  made = pipe.sample(list(_PROMPTS) + who, guidance=3.0, steps=5 if tiny else 25, batch=16)
  plain = scene.scene(background="gray")
  real, _ = world.draw(people.people(famous), world.stack([plain] * len(famous)))
  _grid(path, [made[:8], made[8:], real])


_PROMPTS = (
  "a photo of a woman with long red hair on the beach", "a photo of a man with a beard in the snow",
  "a photo of a smiling woman wearing glasses in the city", "a photo of an old man wearing a hat at night",
  "a sketch of a surprised woman in the forest", "a photo of a sad man wearing headphones on a pink background",
  "pop art of a woman with curly blond hair", "a photo of an angry man wearing sunglasses at home",
)  # fmt: skip


# The finished folder.


def finish(c: config.TrainMiniature, r: recipe.Recipe):
  """Card and digests beside the weights: what they are, and what they were trained on."""
  folder = c.out / "pipeline"
  results = {n: _read_json(c.out / n / "result.json", n) for n in ("vae", "words", "diffusion")}
  parts = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")
  size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
  write_json(folder / "training.json", {
    "digests": {p: tensorfiles.digest(folder / p) for p in parts}, "bytes": size, "seed": c.seed,
    "device": jax.devices()[0].device_kind, "jax": jax.__version__, **results})  # fmt: skip
  tell(f"{folder}: {size / 1e6:.1f} MB; try: idejax sample --model {folder} --out pictures "
       f'--prompt "{_PROMPTS[0]}"')  # fmt: skip


# Networks that look at faces, and judges.


def make_faces(c: config.TrainMiniature, r: recipe.Recipe):
  _face_stages(c, "detector", "recogniser", "report_faces")


def make_judges(c: config.TrainMiniature, r: recipe.Recipe):
  _face_stages(c, "attributes", "judge_recogniser", "clip", "report_judges")


def _face_stages(c: config.TrainMiniature, *names: str):
  for name in names:
    tell(f"== {name}")
    face_training.STAGES[name](c.out / "faces", c.steps, c.seed, c.tiny)


# Small helpers of the stages.


def _flat(peak: float, steps: int, decay: float) -> optax.Schedule:
  """Warm-up, constant, then a fall over the last share `decay`: only that share is trained at
  another rate when a finished run is continued with more steps, unlike with a cosine."""
  warm, fall = min(300, steps // 5), max(1, round(steps * decay))
  parts = (optax.linear_schedule(0.0, peak, warm), optax.constant_schedule(peak),
           optax.linear_schedule(peak, 0.01 * peak, fall))  # fmt: skip
  return optax.join_schedules(parts, [warm, steps - fall])


def _facts(c: config.TrainMiniature, r: recipe.Recipe, names: str, **more) -> dict[str, Any]:
  """What must be the same when a run is continued. Step counts may grow; looking changes nothing."""
  return {"seed": c.seed} | {n: getattr(r, n) for n in names.split()} | more


def _save_weights(path: Path, params) -> str:
  tensorfiles.write(path, weights.to_torch(params))
  return tensorfiles.digest(path)


def _load_weights(folder: Path, r: recipe.Recipe):
  return _load_tensors(folder, vae_net.shapes(vae_net.VAEConfig.from_json(recipe.vae(r))))


def _load_tensors(folder: Path, shapes: Any):
  params = weights.from_torch(shapes, tensorfiles.read(folder, "weights"), name=str(folder))
  return jax.tree.map(jax.numpy.asarray, params)


def _grid(path: Path, rows: list[np.ndarray], scale: int = 2):
  """uint8 pictures [N, S, S, 3], one row each, enlarged by whole pixels."""
  sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
  Image.fromarray(sheet.repeat(scale, 0).repeat(scale, 1)).save(path)


def _append(path: Path, record: dict[str, Any]):
  with path.open("a") as file: file.write(json.dumps(record) + "\n")


def _read_json(path: Path, stage: str) -> dict[str, Any]:
  if not path.exists(): raise UserError(f"{path} is missing: run --stage {stage} first")
  return json.loads(path.read_text())


_RUN = {"tokenizer": make_tokenizer, "data": make_data, "vae": train_vae,
        "words": train_words, "diffusion": train_diffusion, "export": finish, "faces": make_faces, "judges": make_judges}  # fmt: skip
