"""Training the detector: which predictions are responsible for a face, and the loss."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from idejax.miniature.training.frames import FACE, NONE, SIDE
from idejax.nets import convnet, scrfd
from idejax.training.step import Loss

# Face sizes in pixels (geometric mean of the sides) that each anchor of each stride is responsible for.
RANGES = {8: ((0, 34), (30, 70)), 16: ((58, 90), (80, 116)), 32: ((104, 150), (135, 1e4))}
_NEAR, _AROUND = 0.22, 0.5  # of the face's size: cells that must detect it, cells without a target
_GAMMA = 2.0


def pixels(images) -> jax.Array:
  """uint8 [..] -> float32, as SCRFD wants it."""
  return (jnp.asarray(images).astype(jnp.float32) - 127.5) / 128


def _ranges() -> np.ndarray:
  """[P, 2], in the order of `scrfd.centres`."""
  grid = scrfd.centres(SIDE, SIDE)
  anchor = np.arange(len(grid)) % scrfd.ANCHORS
  return np.array([RANGES[int(s)][a] for (_, _, s), a in zip(grid, anchor)], np.float32)


def assign(boxes, kind) -> tuple[jax.Array, jax.Array, jax.Array]:
  """boxes [B, F, 4], kind [B, F] -> (answers bool [B, P], ignore bool [B, P], face int [B, P])."""
  grid, ranges = scrfd.centres(SIDE, SIDE), _ranges()
  low, high = boxes[..., :2], boxes[..., 2:]
  size = jnp.sqrt(jnp.prod(jnp.maximum(high - low, 1.0), -1))[:, None]  # [B, 1, F]
  away = jnp.abs((low + high)[:, None] / 2 - grid[None, :, None, :2]).max(-1)  # [B, P, F]
  stride = grid[None, :, None, 2]
  fits = lambda slack: (size >= ranges[None, :, :1] / slack) & (size < ranges[None, :, 1:] * slack)
  near = away <= jnp.maximum(_NEAR * size, 0.75 * stride)
  around = away <= jnp.maximum(_AROUND * size, 1.5 * stride)
  is_face, there = (kind == FACE)[:, None], (kind != NONE)[:, None]
  answers = is_face & fits(1.0) & near
  ignore = (there & fits(1.3) & around) | (there & ~is_face & around)
  yes = answers.any(-1)
  face = jnp.where(answers, away, jnp.inf).argmin(-1)
  return yes, ignore.any(-1) & ~yes, face


def make_loss() -> Loss:
  """Focal loss on scores, L1 on boxes and points in units of the face's size.

  batch: images uint8 [B, S, S, 3], boxes [B, F, 4], points [B, F, 5, 2], kind [B, F].
  """
  grid = scrfd.centres(SIDE, SIDE)
  place, stride = jnp.asarray(grid[:, :2]), jnp.asarray(grid[:, 2:])

  def loss(params, frozen, batch, keys):
    nets = convnet.Net(scrfd.logits).apply({"params": params}, pixels(batch["images"]), mutable="moments")[0]
    score, box, points = (jnp.concatenate(nets[3 * k : 3 * k + 3], 1) for k in range(3))
    score, b = score[..., 0], score.shape[0]
    yes, ignore, face = assign(batch["boxes"], batch["kind"])
    pick = lambda x: jnp.take_along_axis(x, face[..., None], axis=1)
    want_box, want_points = pick(batch["boxes"]), pick(batch["points"].reshape(b, -1, 10))
    size = jnp.sqrt(jnp.prod(jnp.maximum(want_box[..., 2:] - want_box[..., :2], 1.0), -1, keepdims=True))
    count = jnp.maximum(yes.sum(), 1)

    p = jax.nn.sigmoid(score)
    say = jnp.where(
      yes, (1 - p) ** _GAMMA * jax.nn.softplus(-score), jnp.where(ignore, 0.0, p**_GAMMA * jax.nn.softplus(score))
    )
    mean = lambda error: (error.mean(-1) * yes).sum() / count
    s, c = stride[None], place[None]
    corners = jnp.concatenate([c - box[..., :2] * s, c + box[..., 2:] * s], -1)
    marks = jnp.tile(c, (1, 1, 5)) + points * s
    pairs = (corners, want_box), (marks, want_points)
    box_error, point_error = (mean(jnp.abs(x - y) / size) for x, y in pairs)
    recall = ((p > 0.5) & yes).sum() / count
    value = say.sum() / count + 3 * box_error + 14 * point_error
    return value, {"score": say.sum() / count, "box": box_error, "points": point_error, "found": recall}

  return loss


def shift_points(params: Any, scale: float = SIDE / 64) -> Any:
  """The trained net with boxes and points shifted by the fraction of a pixel that insightface loses.

  insightface divides coordinates by the scale of the resized picture and ignores that pixels have centres, so
  a point at x comes back as x + (1 - 1 / scale) / 2. The shift is exact for pictures of 64 px; in large
  photographs an error of one of the detector's pixels remains, 2 % of a face that fills half the frame.
  """
  shift = (scale - 1) / 2
  out = {n: dict(unit) for n, unit in params.items()}
  for s in scrfd.STRIDES:
    for name, signs in (("box", [1, 1, -1, -1]), ("points", [-1] * 10)):
      unit = out[f"stride{s}.{name}"]
      unit["bias"] = unit["bias"] + np.tile(np.array(signs, np.float32), scrfd.ANCHORS) * np.float32(shift / s)
  return out


def init(seed: int) -> Any:
  """float32 weights. Scores start low; otherwise a thousand empty cells would dominate the loss."""
  params = convnet.init(scrfd.body, SIDE, seed)
  for s in scrfd.STRIDES:
    params[f"stride{s}.score"]["bias"][:] = -4.0
  return jax.tree.map(jnp.asarray, params)
