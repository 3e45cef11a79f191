"""The likeness of a decoded picture to a person, with a gradient to its pixels: FaceSnap's identity loss, eq. 4.

    L_id = 1 - cos(phi(photo), phi(crop(picture)))

phi is a face recogniser. No detector is needed: the landmarks that steered the picture say where the face is.
"""

import jax
import jax.numpy as jnp
import numpy as np

from idejax.faces import align
from idejax.faces.landmarks import five

_TEMPLATE = align.ARCFACE.astype(np.float32)


def similarity(src: jax.Array, dst: jax.Array) -> jax.Array:
  """The least-squares rotation, scale and shift without reflection that takes src [B, N, 2] to dst: [B, 2, 3].

  A similarity of the plane is z -> a z + b with complex a and b, in which the problem is linear.
  """
  middle, centre = src.mean(1, keepdims=True), dst.mean(1, keepdims=True)
  p, q = src - middle, dst - centre
  power = jnp.square(p).sum((1, 2))
  c = (p * q).sum((1, 2)) / power
  s = (p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]).sum(1) / power
  turn = jnp.stack([jnp.stack([c, -s], -1), jnp.stack([s, c], -1)], 1)
  return jnp.concatenate([turn, jnp.swapaxes(centre, 1, 2) - turn @ jnp.swapaxes(middle, 1, 2)], -1)


def crop(images: jax.Array, marks: jax.Array, size: int = align.CROP) -> jax.Array:
  """The aligned faces as recognisers want them: images [B, H, W, C] and landmarks [B, 72, 2] in their pixels ->
  [B, size, size, C], bilinear, 0 outside the image. Differentiable in the pixels; the landmarks are constants.
  """
  template = jnp.asarray(_TEMPLATE * (size / align.CROP))
  points = five(marks.astype(jnp.float32))
  # From the crop to the image: where each pixel of the crop is read.
  back = similarity(points, jnp.broadcast_to(template[None], points.shape))
  turn, shift = back[..., :2], back[..., 2]
  inverse = jnp.swapaxes(turn, 1, 2) / (turn[:, :1, 0] ** 2 + turn[:, 1:, 0] ** 2)[..., None]
  y, x = (axis.astype(jnp.float32) for axis in jnp.mgrid[:size, :size])
  grid = jnp.stack([x, y], -1).reshape(1, -1, 2) - shift[:, None]
  where = jax.lax.stop_gradient(grid @ jnp.swapaxes(inverse, 1, 2))
  return _read(images, where).reshape(len(images), size, size, -1)


def _read(images: jax.Array, where: jax.Array) -> jax.Array:
  """Bilinear samples at (x, y) [B, N, 2] -> [B, N, C]; pixels outside count as 0, as in cv2.warpAffine."""
  b, h, w, c = images.shape
  flat, low = images.reshape(b, h * w, c), jnp.floor(where)
  out = jnp.zeros((b, where.shape[1], c), images.dtype)
  for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
    at = low + jnp.array([dx, dy], jnp.float32)[None, None]
    weight = jnp.prod(1 - jnp.abs(where - at), -1)
    x, y = at[..., 0].astype(jnp.int32), at[..., 1].astype(jnp.int32)
    weight = jnp.where((x >= 0) & (x < w) & (y >= 0) & (y < h), weight, 0.0)
    index = jnp.clip(y, 0, h - 1) * w + jnp.clip(x, 0, w - 1)
    out += weight[..., None] * jnp.take_along_axis(flat, index[..., None], axis=1)
  return out


def identity_loss(embedding: jax.Array, reference: jax.Array) -> jax.Array:
  """1 - cos of two embeddings [B, D]: float32 [B], 0 for the same direction, 2 for the opposite."""
  a, b = (x.astype(jnp.float32) for x in (embedding, reference))
  norms = jnp.sqrt(jnp.square(a).sum(-1) * jnp.square(b).sum(-1) + 1e-12)
  return 1 - (a * b).sum(-1) / norms


def contrast(embedding: jax.Array, reference: jax.Array, person: jax.Array, temperature: float) -> jax.Array:
  """InfoNCE [B]: how much less alike a face is to its own reference than to those of the batch's other people.

    -log exp(cos(a_i, r_i) / T) / sum_j exp(cos(a_i, r_j) / T),   j: i itself and everybody but i's person

  embedding, reference: [B, 512]; person: int32 [B]. 0 where a batch shows one person alone.
  """
  unit = lambda x: x / jnp.maximum(jnp.linalg.norm(x.astype(jnp.float32), axis=-1, keepdims=True), 1e-6)
  logits = unit(embedding) @ unit(reference).T / temperature
  own = jnp.eye(len(person), dtype=bool)
  others = person[:, None] != person[None]
  return jax.nn.logsumexp(jnp.where(own | others, logits, -jnp.inf), axis=1) - jnp.diagonal(logits)
