"""People as every method would have learned them, with random numbers: nothing is trained."""

import dataclasses

import jax
import numpy as np

from idejax import tree
from idejax.methods import dreambooth, id_ea, sefi_ide, textual_inversion
from idejax.sampling.learned import Learned

KV = [r"\.attn2\.to_[kv]\.kernel$"]


def words(pipe, rng, stages=1, wide=1, count=2):
  """Random rows as small as a text encoder's own, so that random nets stay tame."""
  return tuple(
    0.05 * rng.standard_normal((stages, wide, count, t.hidden_size)).astype(np.float32) for t in pipe.backbone.nets.text
  )


def inversion(pipe, word="<Anna>", seed=0):
  rows = words(pipe, np.random.default_rng(seed))
  return _made(pipe, word, "textual-inversion", textual_inversion.Config(vectors=2), {"rows": rows})


def id_ea_person(pipe, word="<bea>", kind="full", seed=1, **how):
  rng, cfg = np.random.default_rng(seed), id_ea.Config(kv=kind, rank=4, **how)
  width = pipe.backbone.nets.unet.context_dim
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  dense = lambda i, o: {"kernel": normal(i, o) * i**-0.5, "bias": 0.1 * normal(o)}
  adapter = {
    "project": dense(width, width),
    "in_proj": dense(width, 3 * width),
    "out_proj": dense(width, width),
    "gamma": np.float32(1.0),
  }
  kernels = tree.split(pipe.backbone.params["unet"], KV)[0]
  low = lambda w: {"A": 0.2 * normal(*w.shape[:-1], 4), "B": 0.2 * normal(*w.shape[:-2], 4, w.shape[-1])}
  kv = jax.tree.map(low if kind == "lora" else lambda w: 0.1 * normal(*w.shape), kernels)
  identity = {
    "rows": words(pipe, rng),
    "face": normal(2, width),
    "adapter": adapter,
    "kv": kv,
    "scale": np.float32(0.8),
  }
  return _made(pipe, word, "id-ea", cfg, identity)


def staged(pipe, word="<cy>"):
  cfg = sefi_ide.Config(stages=5)
  return _made(pipe, word, "sefi-ide", cfg, {"rows": words(pipe, np.random.default_rng(2), 5, 2, 1)})


def low_rank(pipe, word="<dan>", text=False):
  rng, cfg = np.random.default_rng(3), dreambooth.Config(trains="lora", rank=4, alpha=8.0)
  kernels = tree.split(pipe.backbone.params["unet"], dreambooth.LORA)[0]
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  low = lambda w: {"lora_A": 0.15 * normal(*w.shape[:-1], 4), "lora_B": 0.15 * normal(*w.shape[:-2], 4, w.shape[-1])}
  identity = {"rows": words(pipe, rng), "lora": jax.tree.map(low, kernels), "scale": np.float32(1.0)}
  if text:
    encoders = {n: p for n, p in pipe.backbone.params.items() if n.startswith("text_encoder")}
    of = lambda p: jax.tree.map(low, tree.split(p, dreambooth.TEXT_LORA)[0])
    identity, cfg = (
      identity | {"text_lora": {n: of(p) for n, p in encoders.items()}},
      dataclasses.replace(cfg, text_encoder=True),
    )
  return _made(pipe, word, "dreambooth", cfg, identity)


def whole_unet(pipe, word="<fay>", seed=6, text=False):
  """A DreamBooth person with a whole UNet."""
  rng = np.random.default_rng(seed)
  shake = lambda w: np.asarray(w * (1 + 0.2 * rng.standard_normal(w.shape)), np.float32)
  unet = jax.tree.map(shake, pipe.backbone.params["unet"])
  identity = {"rows": words(pipe, rng), "unet": unet, "scale": np.float32(1)}
  if text:
    encoders = {n: p for n, p in pipe.backbone.params.items() if n.startswith("text_encoder")}
    identity |= {"text": jax.tree.map(shake, encoders)}
  return _made(pipe, word, "dreambooth", dreambooth.Config(trains="unet"), identity)


def _made(pipe, word, method, cfg, identity):
  return Learned(word, method, cfg, identity, str(pipe.folder), pipe.digest, "non-commercial")
