"""The stage `diffusion`: trains the miniature's UNet on the VAE's latents and the text encoders' contexts."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from idejax import sharding, tree
from idejax.config import TrainMiniature
from idejax.errors import UserError, tell
from idejax.miniature.judging import looks
from idejax.miniature.training import (
  denoiser,
  export,
  growth,
  optimiser,
  recipe,
  training,
  vae_training,
  words_training,
)
from idejax.miniature.world import captions, people, pictures, scene
from idejax.miniature.world import data as world
from idejax.model import backbone, tokens
from idejax.model.backbone import Backbone, Nets
from idejax.nets import clip
from idejax.sampling import pipeline
from idejax.storage import tensorfiles
from idejax.storage.files import write_json
from idejax.training import step as st

_CAPTIONS = 2000  # of which `growth.context_map` is made
PROMPTS = (
  "a photo of a woman with long red hair on the beach",
  "a photo of a man with a beard in the snow",
  "a photo of a smiling woman wearing glasses in the city",
  "a photo of an old man wearing a hat at night",
  "a sketch of a surprised woman in the forest",
  "a photo of a sad man wearing headphones on a pink background",
  "pop art of a woman with curly blond hair",
  "a photo of an angry man wearing sunglasses at home",
)


def train(c: TrainMiniature, r: recipe.Recipe):
  data, development = training.data(c, r), training.held_out(c, r)
  folder = training.home(c, "pipeline")
  training.read_json(folder / "tokenizer" / "vocab.json", "tokenizer")
  ready = vae_training.ready(c, r, folder, data, development)
  tokenizer = tokens.load(folder / "tokenizer")
  ids, development_ids = (tokenizer.encode(p.captions).ids for p in (data, development))
  texts = recipe.texts(r, tokenizer.bpe.size())
  configs = {name: clip.TextConfig.from_json(config) for name, config in texts.items()}
  nets = Nets.from_json(
    {"unet": recipe.unet(r), "scheduler": recipe.scheduler(r), "vae": recipe.vae(r), **texts}, zero_empty_negative=r.xl
  )
  nets = dataclasses.replace(nets, vae=ready.config)  # which holds the scale of its latents
  steps, batch = c.steps or r.steps, r.batch
  tx = optimiser.make(r, steps)
  empty = tokenizer.encode([""]).ids[0]
  where = denoiser.where_faces_are(ready.moments.mean.shape[1], r.face)
  loss = denoiser.make_loss(nets, empty, r, where)
  step = st.make_step(loss, tx, clip=r.clip, ema=r.ema)
  frozen, words_digest = words_training.load(c, r, configs)
  start = _start(c, nets, frozen, data.captions, ids)
  state = st.init(denoiser.init(nets, c.seed, start), tx, ema=True)
  tell(
    f"diffusion: {tree.size(state.params) / 1e6:.2f} M parameters, {steps} steps of {batch}, "
    f"{tokenizer.bpe.size()} tokens, latent scale {ready.scale:.3f}"
  )
  step, state, frozen = st.on_mesh(step, sharding.make_mesh(), state, frozen)

  def load(i: int):
    at = pictures.rows(i, batch, len(ids), c.seed)
    return {
      "mean": ready.moments.mean[at],
      "logvar": ready.moments.logvar[at],
      "ids": ids[at],
      "index": np.arange(batch, dtype=np.int32),
    }

  begin = c.unet or c.start
  facts = training.facts(
    c,
    r,
    "widths heads groups layers fine text_width text_layers batch lr muon snr least empty ema clip face",
    words=words_digest,
    captions=captions.VERSION,
    unet=begin and tensorfiles.digest(begin / "unet"),
    **ready.facts,
  )
  if r.xl:
    facts |= training.facts(c, r, "depths text2_width text2_layers projection time_width")
  run = training.run(c, training.home(c, "diffusion"), "diffusion", steps)
  validate = denoiser.make_validate(denoiser.make_loss(nets, empty, r), 40)  # unweighted: comparable

  def look(done, state):
    v = validate(state.ema, frozen, ready.development.mean, ready.development.logvar, development_ids)
    _write_pipeline(folder, r, texts, state.ema | frozen)
    _draw(run.folder / f"pictures-{done:06d}.png", folder, c.tiny)
    scores = _scores(run.folder / f"scored-{done:06d}.png", folder, r)
    training.append(run.folder / "validation.jsonl", {"step": done, "v": v} | scores)
    tell(f"diffusion {done}: held-out v-loss {v:.4f}" + "".join(f", {n} {x:g}" for n, x in scores.items()))
    return v

  state = training.fit(step, state, frozen, load, run=run, seed=c.seed, facts=facts, every=r.look, look=look)
  v = look(int(state.step), state)
  write_json(run.folder / "result.json", {"step": int(state.step), "v": v} | facts)


def _start(c: TrainMiniature, nets: Nets, texts: Any, captions: Sequence[str], ids: np.ndarray) -> Any:
  """The UNet of --unet or --start, grown if this recipe's is larger; None without both."""
  if not (folder := c.unet or c.start):
    return None
  old_cfg, old = export.read_net(folder, "unet")
  if old_cfg == nets.unet:
    return old
  context = None
  if (old_cfg.added_dims is None) != (
    nets.unet.added_dims is None
  ):  # which text encoders there are, and what is read of them
    some = slice(None, None, max(1, len(ids) // _CAPTIONS))
    theirs = tokens.load(folder / "tokenizer").encode(captions[some]).ids
    context, explained = growth.context_map(backbone.load(folder), Backbone(nets, texts), theirs, ids[some])
    tell(f"diffusion: {100 * explained:.0f} % of the old text encoder's context can be read off the new ones'")
  try:
    return growth.grow(old_cfg, old, nets.unet, c.seed, context)
  except ValueError as e:
    raise UserError(f"{folder / 'unet'}: {e}; leave out --start and --unet to begin anew") from None


def _write_pipeline(folder: Path, r: recipe.Recipe, texts: dict[str, recipe.Config], params: Any):
  for name, config in {"unet": recipe.unet(r), **texts}.items():
    export.write_net(folder, name, config, params[name])
  export.write_index(folder, recipe.scheduler(r), xl=r.xl)


def _scores(path: Path, folder: Path, r: recipe.Recipe) -> dict[str, float]:
  """The judges' scores of a few pictures; writes a sheet of them, twelve in a row."""
  if not (count := r.look_pictures):
    return {}
  judge = _looks(count)
  images = judge.pictures(folder)
  training.grid(path, [images[i : i + 12] for i in range(0, count - count % 12, 12)])
  return judge.score(images)


_looks = functools.cache(looks.Looks)


def _draw(path: Path, folder: Path, tiny: bool):
  """Three rows: prompts, celebrities by name, and the real celebrities to compare the names with."""
  famous = np.arange(8) * 25
  names = people.celebrity_names()
  who = [f"a photo of {names[i]}" for i in famous]
  pipe = pipeline.load(folder)
  images = pipe.sample(list(PROMPTS) + who, steps=5 if tiny else 25, batch=16)
  plain = scene.scene(background="gray")
  real, _ = world.render_all(people.people(famous), world.stack([plain] * len(famous)))
  training.grid(path, [images[:8], images[8:], real])
