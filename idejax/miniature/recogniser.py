"""Training a recogniser: ArcFace's margin over the people of the training splits."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from idejax.nets import convnet
from idejax.step import Loss

SCALE, MARGIN = 32.0, 0.35


def pixels(images) -> jax.Array:
  """uint8 [..] -> float32 in [-1, 1]."""
  return jnp.asarray(images).astype(jnp.float32) / 127.5 - 1


def unit(x):
  """Rows of length one."""
  return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-12))


def init(body: convnet.Body, side: int, people: int, seed: int) -> dict[str, Any]:
  """{"net": weights, "people": {"kernel": one direction for each person [512, people]}}."""
  head = np.random.default_rng((seed, 1)).standard_normal((512, people), np.float32) * np.float32(512**-0.5)
  return jax.tree.map(jnp.asarray, {"net": convnet.init(body, side, seed), "people": {"kernel": head}})


def make_loss(body: convnet.Body) -> Loss:
  """batch: images uint8 [B, S, S, 3], person int32 [B], margin float32 [B] (radians)."""

  def loss(params, frozen, batch, keys):
    x = pixels(batch["images"])
    features = convnet.Net(body).apply({"params": params["net"]}, x, mutable="moments")[0]
    directions = unit(params["people"]["kernel"].T)
    cosine = jnp.clip(unit(features) @ directions.T, -1 + 1e-6, 1 - 1e-6)
    own = jnp.take_along_axis(cosine, batch["person"][:, None], axis=1)[:, 0]
    # cos(angle + margin), and beyond pi a line that keeps falling.
    margin = batch["margin"]
    moved = own * jnp.cos(margin) - jnp.sqrt(1 - own * own) * jnp.sin(margin)
    moved = jnp.where(own > -jnp.cos(margin), moved, own - margin * jnp.sin(margin))
    hit = jax.nn.one_hot(batch["person"], cosine.shape[1], dtype=cosine.dtype)
    logits = SCALE * (cosine + hit * (moved - own)[:, None])
    value = (jax.nn.logsumexp(logits, -1) - SCALE * moved).mean()
    return value, {"right": (cosine.argmax(-1) == batch["person"]).mean(), "cosine": own.mean()}

  return loss


def margin(step: int, steps: int) -> float:
  """From none to all of it over the first third: angles must mean something before they are strained."""
  return MARGIN * min(1.0, 3 * step / steps)


def make_embed(body: convnet.Body, params: Mapping[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
  """uint8 crops [N, S, S, 3] -> unit embeddings [N, 512], by the finished (folded) net."""
  net = jax.jit(lambda p, x: unit(convnet.Net(body, folded=True).apply({"params": p}, pixels(x))))

  def embed(images: np.ndarray, batch: int = 64) -> np.ndarray:
    rows = np.arange(-(-len(images) // batch) * batch) % len(images)  # one compiled shape
    parts = [np.asarray(net(params, images[rows[i : i + batch]])) for i in range(0, len(rows), batch)]
    return np.concatenate(parts)[: len(images)]

  return embed
