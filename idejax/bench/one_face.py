"""`idejax bench sample --addon`: what one face costs beside plain pictures of the same model, in operations and seconds.

Counted is what runs: at every step two rows of the UNet, with a face of the ControlNet too; once a picture text to keys
and values, the control picture's first layers and the VAE; once a photo image encoder and mixer.
"""

import dataclasses
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from idejax import config
from idejax.errors import tell
from idejax.faces import predictor
from idejax.model import addon, backbone
from idejax.model.backbone import Backbone, Conditioning
from idejax.model.vision import Tower
from idejax.nets import clip_vision, mixer
from idejax.nets.clip_vision import VisionConfig
from idejax.nets.mixer import MixerConfig
from idejax.runtime import flops
from idejax.runtime.timing import alternate, words
from idejax.sampling import pipeline
from idejax.sampling.pipeline import Request, Settings
from idejax.sampling.requests import Steer
from idejax.storage import hub

GOAL = 1.45  # times a plain picture's operations
LENGTH = 77  # of texts


def main(c: config.Bench) -> dict[str, Any]:
  """Figures, printed as two lines. UserError for no add-on, or one of another family."""
  assert c.addon is not None
  pipe = pipeline.load(hub.resolve(c.model), dtype=jnp.dtype(c.dtype), notify=tell)
  added = addon.load(pipe.backbone, c.addon)
  tower = Tower(c.addon / "vision") if (c.addon / "vision").is_dir() else None
  figures: dict[str, Any] = count(added.backbone, added.mixer, tower.cfg if tower else None, c.steps)
  once = ", ".join(f"{k} {v / 1e9:.3g}" for k, v in figures["once"].items())
  print(
    f"face     {figures['face'] / 1e9:.4g} GFLOP a picture of {c.steps} steps with guidance, {figures['plain'] / 1e9:.4g} "
    f"without a face: {figures['ratio']:.3f} times (goal: at most {GOAL}); of a face once: {once}",
    flush=True,
  )
  times = seconds(c, pipe, added)
  figures |= {"seconds": {k: statistics.median(v) for k, v in times.items()}, "times": times}
  ours, plain = (figures["seconds"][k] for k in ("face", "plain"))
  print(
    f"face     {words(ours)} for {c.batch} picture(s), {words(plain)} without: {ours / plain:.2f} times", flush=True
  )
  return figures


def count(b: Backbone, m: MixerConfig, tower: VisionConfig | None, steps: int) -> dict[str, Any]:
  """FLOPs of one picture of `steps` guided steps: "plain", "face", their "ratio", and what of the face is done "once".

  The backbone's parameters may be shapes. tower: the image encoder, None to leave it out.
  """
  n = b.nets.unet
  S: Callable[..., Any] = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  side, factor = n.sample_size, b.nets.factor
  added = (S(2, n.added_dims[1] - 6 * n.added_dims[0]), S(2, 6)) if n.added_dims else (None, None)
  plain = Conditioning(S(1, 2, LENGTH, n.context_dim), S(1, 2, LENGTH, n.context_dim), *added)
  projected = jax.eval_shape(backbone.project, b, plain)
  image = S(2, side * factor, side * factor, 3)
  embedded = jax.eval_shape(backbone.embed_control, b, image)
  steered = dataclasses.replace(
    plain, control_embedded=embedded, control_context=S(2, m.tokens, m.context_dim), control_scale=S(2)
  )
  x = S(2, side, side, n.channels[0])
  step = lambda cond: flops.count(
    lambda b, x, c, p: backbone.predict(b, x, jnp.float32(500), c, projected=p), b, x, cond, projected
  )
  rest = flops.count(backbone.project, b, plain) + flops.count(backbone.decode, b, S(1, side, side, n.channels[0]))
  grid = 1 if tower is None else tower.image_size // tower.patch_size
  once = {
    "control picture": flops.count(backbone.embed_control, b, image),
    "mixer": flops.count(
      lambda p, i, v: mixer.Mixer(m).apply({"params": p}, i, v),
      mixer.shapes(m),
      S(1, m.identity_dim),
      S(1, grid**2 + 1, m.clip_dim),
    ),
  }
  if tower is not None:
    net = clip_vision.VisionEncoder(tower)
    portrait = S(1, tower.image_size, tower.image_size, 3)
    see = lambda p, x: net.apply({"params": p}, x).penultimate  # type: ignore[union-attr]
    once["image encoder"] = flops.count(see, clip_vision.shapes(tower), portrait)
  without, face = steps * step(plain) + rest, steps * step(steered) + rest + sum(once.values())
  return {"plain": without, "face": face, "ratio": face / without, "once": once, "step": step(steered)}


def seconds(c: config.Bench, pipe: pipeline.Pipeline, added: addon.Addon) -> dict[str, list[float]]:
  """Seconds of `batch` pictures with a face and without, in turn, as `idejax sample` makes them."""
  snap = dataclasses.replace(pipe, backbone=added.backbone)
  settings, rng = Settings(c.steps, "ddim", batch=c.batch), np.random.default_rng(0)
  size = pipe.size(settings)
  tokens = rng.standard_normal((added.mixer.tokens, added.mixer.context_dim)).astype(np.float32)
  face = Steer(tokens, predictor.pose("front", *size))
  make = lambda p, steer: (
    lambda: list(pipeline.generate(p, [Request("a person", index=i, steer=steer) for i in range(c.batch)], settings))
  )
  both = {"face": make(snap, face), "plain": make(pipe, None)}
  for run in both.values():
    run()  # compiles
  return alternate(both, c.repeats)
