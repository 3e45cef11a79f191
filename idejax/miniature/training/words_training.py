"""The stage `words`: trains the miniature's text encoders, on captions and how the people in them look."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from idejax import sharding
from idejax.config import TrainMiniature
from idejax.errors import tell
from idejax.miniature.training import export, recipe, training, words
from idejax.miniature.world import people, pictures
from idejax.model import tokens
from idejax.nets import clip
from idejax.storage import tensorfiles
from idejax.storage.files import write_json
from idejax.training import loop
from idejax.training import step as st


def train(c: TrainMiniature, r: recipe.Recipe):
  """Trains one encoder in its stage's folder, or SDXL's two in subfolders of their names."""
  folder = training.home(c, "words")
  if c.start and c.steps == 0:
    return _take(c, r, c.start, folder)
  if not r.xl:
    return _train(c, r, "text_encoder", folder)
  results = {name: _train(c, r, name, folder / name) for name in recipe.TEXTS}
  write_json(folder / "result.json", results)


def _take(c: TrainMiniature, r: recipe.Recipe, start: Path, folder: Path):
  """Takes the text encoders of a finished pipeline unchanged."""
  results = {}
  for name in recipe.TEXTS[: 1 + r.xl]:
    at = folder / name if r.xl else folder
    digest = training.save_weights(at / "weights.safetensors", jax.device_get(export.read_net(start, name)[1]))
    results[name] = {"step": 0, "text": tensorfiles.digest(start / name), "sha256": digest}
    tell(f"words: {name} of {start}; sha256 {digest[:16]}")
  write_json(folder / "result.json", results if r.xl else results[recipe.TEXTS[0]])


def load(c: TrainMiniature, r: recipe.Recipe, texts: dict[str, clip.TextConfig]) -> tuple[dict[str, Any], Any]:
  """(the trained encoders' parameters by component, their digests)."""
  folder = training.home(c, "words")
  result = training.read_json(folder / "result.json", "words")
  at = {name: folder / name if r.xl else folder for name in texts}
  params = {name: training.load_weights(at[name], clip.shapes(cfg)) for name, cfg in texts.items()}
  return params, {n: x["sha256"] for n, x in result.items()} if r.xl else result["sha256"]


def _train(c: TrainMiniature, r: recipe.Recipe, name: str, folder: Path) -> dict[str, Any]:
  data, at = training.data(c, r), training.home(c, "pipeline") / "tokenizer"
  training.read_json(at / "vocab.json", "tokenizer")
  tokenizer = tokens.load(at)
  ids = tokenizer.encode(data.captions).ids
  cfg = clip.TextConfig.from_json(recipe.texts(r, len(tokenizer.bpe))[name])
  steps, batch = c.steps or (r.words2_steps if name == recipe.TEXTS[1] else r.words_steps), r.words_batch
  tx = optax.adam(training.flat(r.words_lr, steps, r.decay), b2=0.99)
  loss = words.make_loss(cfg, (tokenizer.bos, tokenizer.eos, tokenizer.pad), with_pooled=r.xl)
  step = st.make_step(loss, tx, clip=r.clip)
  params = words.init(cfg, c.seed, with_pooled=r.xl)
  if c.start:
    params["text"] = export.read_net(c.start, name)[1]
  state = st.init(params, tx)
  step, state, frozen = st.on_mesh(step, sharding.make_mesh(), state, {})

  looks = words.looks(np.arange(people.PEOPLE))

  def load(i: int):
    at = pictures.rows(i, batch, len(ids), c.seed)
    who = data.ids[at]
    return {
      "ids": ids[at],
      "looks": looks[who],
      "famous": who < people.CELEBRITIES,
      "index": np.arange(batch, dtype=np.int32),
    }

  facts = training.facts(
    c,
    r,
    "text_width text_layers words_batch words_lr clip",
    data=data.digest,
    looks=words.LOOKS,
    text=c.start and tensorfiles.digest(c.start / name),
  )
  if r.xl:
    facts |= training.facts(c, r, "text2_width text2_layers projection") | {"encoder": name}
  run = training.run(c, folder, f"words {name}" if r.xl else "words", steps)
  state = training.fit(step, state, frozen, load, run=run, seed=c.seed, facts=facts)
  last = loop.records(folder / "metrics.jsonl")[-1]
  recall = {k: x for k, x in last.items() if k.startswith("known")}
  params = jax.device_get(state.params["text"])
  if r.xl:
    params = jax.device_get(words.unit(cfg, params, ids[:: len(ids) // 200]))
  digest = training.save_weights(folder / "weights.safetensors", params)
  result = {"step": int(state.step), **recall, "sha256": digest} | facts
  write_json(folder / "result.json", result)
  tell(
    f"{run.name}: {100 * recall['known']:.1f} % of what was said can be read off each position, "
    f"{100 * recall['known_looks']:.0f} % of how a celebrity looks off the last; sha256 {digest[:16]}"
  )
  return result
