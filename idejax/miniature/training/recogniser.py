"""Training a recogniser: ArcFace's margin over the people of the training splits.

Beside it, linear heads predict each person's features (the world's own parameters) from the embedding.
Real photographs have no such labels; here they replace the days of training that real ArcFace takes.
The heads are dropped after training.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from idejax.miniature.judging.judges import unit
from idejax.miniature.world import people as pp
from idejax.miniature.world.data import pixels
from idejax.nets import convnet
from idejax.training.step import Loss

SCALE, MARGIN = 32.0, 0.35
FEATURES = 512
CODES = {
  "gender": 2,
  "hair_style": 8,
  "hair_colour": 7,
  "fringe": 3,
  "eye_colour": 5,
  "beard": 5,
  "mark": 4,
  "age": 3,
  "lip_colour": 3,
}
_TRAITS = len(pp.CONTINUOUS) + sum(CODES.values())


def init(body: convnet.Body, side: int, people: int, seed: int) -> dict[str, Any]:
  """{"net": weights, "people": {"kernel": a direction for each person [512, people]}, "traits": ..}."""
  rng = np.random.default_rng((seed, 1))
  head = rng.standard_normal((FEATURES, people), np.float32) * np.float32(FEATURES**-0.5)
  traits = {"kernel": np.zeros((FEATURES, _TRAITS), np.float32), "bias": np.zeros(_TRAITS, np.float32)}
  params = {"net": convnet.init(body, side, seed), "people": {"kernel": head}, "traits": traits}
  return jax.tree.map(jnp.asarray, params)


def traits(ids) -> dict[str, np.ndarray]:
  """The targets of the heads: sizes float32 [N, 20] in [-1, 1], codes int32 [N, 9]."""
  who = pp.people(ids)
  column = lambda names: np.stack([getattr(who, n) for n in names], 1)
  return {"sizes": column(pp.CONTINUOUS), "codes": column(CODES).astype(np.int32)}


def traits_loss(head, embedding, sizes, codes) -> jax.Array:
  """Squared errors of sizes plus cross-entropies of codes, from unit embeddings [B, 512]."""
  out = 8 * embedding @ head["kernel"] + head["bias"][None]
  n = sizes.shape[1]
  value = 10 * jnp.square(out[:, :n] - sizes).mean()
  for k, count in enumerate(CODES.values()):
    logits, n = out[:, n : n + count], n + count
    own = jnp.take_along_axis(logits, codes[:, k, None], axis=1)[:, 0]
    value += 0.3 * (jax.nn.logsumexp(logits, -1) - own).mean()
  return value


def make_loss(body: convnet.Body) -> Loss:
  """batch: images uint8 [B, S, S, 3], person int32 [B], margin float32 [B] (radians), `traits`."""

  def loss(params, frozen, batch, keys):
    x = pixels(batch["images"])
    features = convnet.Net(body).apply({"params": params["net"]}, x, mutable="moments")[0]
    directions = unit(params["people"]["kernel"].T)
    embedding = unit(features)
    cosine = jnp.clip(embedding @ directions.T, -1 + 1e-6, 1 - 1e-6)
    own = jnp.take_along_axis(cosine, batch["person"][:, None], axis=1)[:, 0]
    # cos(angle + margin), and beyond pi a line that keeps falling.
    margin = batch["margin"]
    target = own * jnp.cos(margin) - jnp.sqrt(1 - own * own) * jnp.sin(margin)
    target = jnp.where(own > -jnp.cos(margin), target, own - margin * jnp.sin(margin))
    hit = jax.nn.one_hot(batch["person"], cosine.shape[1], dtype=cosine.dtype)
    logits = SCALE * (cosine + hit * (target - own)[:, None])
    value = (jax.nn.logsumexp(logits, -1) - SCALE * target).mean()
    traits_value = traits_loss(params["traits"], embedding, batch["sizes"], batch["codes"])
    right = (cosine.argmax(-1) == batch["person"]).mean()
    return value + traits_value, {"arcface": value, "traits": traits_value, "right": right, "cosine": own.mean()}

  return loss


def margin(step: int, steps: int) -> float:
  """The margin of a step: it grows from 0 over the first third, until angles are meaningful."""
  return MARGIN * min(1.0, 3 * step / steps)


def make_embed(body: convnet.Body, params: Mapping[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
  """uint8 crops [N, S, S, 3] -> unit embeddings [N, 512], by the finished (folded) net."""
  net = jax.jit(lambda p, x: unit(convnet.Net(body, folded=True).apply({"params": p}, pixels(x))))

  def embed(images: np.ndarray, batch: int = 64) -> np.ndarray:
    rows = np.arange(-(-len(images) // batch) * batch) % len(images)  # one compiled shape
    parts = [np.asarray(net(params, images[rows[i : i + batch]])) for i in range(0, len(rows), batch)]
    return np.concatenate(parts)[: len(images)]

  return embed
