"""Linear morphable models: a user's file -> 72 landmarks in space as a function of shape and expression.

    landmarks(s, e) = mean + sum_i s_i shape_i + sum_j e_j expression_j

Axes: x to the image's right, y up, z towards the viewer; any unit. A model's mesh is not kept: landmarks are
weighted means of its vertices, and fitting needs only the bases of landmarks. Files are .npz without pickles;
three layouts are recognised by the names of their arrays:

| layout     | vertices, shape, expression                                               | landmarks                   |
|------------|---------------------------------------------------------------------------|-----------------------------|
| idejax     | vertices [V, 3], shape [S, V, 3], expression [E, V, 3], triangles [F, 3]  | a table, see below          |
| FLAME      | v_template [V, 3], shapedirs [V, 3, 300 + E], f [F, 3]; for the jaw also  | a table, see below          |
|            | J_regressor [5, V], weights [V, 5], posedirs [V, 3, 36]                   |                             |
| GNM Head 3 | template_vertex_positions, vertex_identity_basis, expression_basis        | its head_sparse_68.txt      |

A table is JSON: lmk_faces_idx, 72 indices of triangles, and lmk_bary_coords, 72 x 3 weights; in FaceSnap's order.
FLAME is published as a pickle, which idejax does not open: docs/methods.md has the lines that turn it into an
.npz, for those who trust the file. Its jaw joint enters as three more directions of expression, to first order.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from idejax.errors import UserError, one_line
from idejax.faces import npz
from idejax.faces.landmarks import FROM_68

_FLAME_SHAPES = 300  # of shapedirs: the rest is expression
_JAW, _JAW_UNIT = 2, 0.2  # FLAME's joint, and the radians that one unit of its coefficients turns it


class Morphable(NamedTuple):
  """72 landmarks in space; coefficients of about unit variance."""

  mean: np.ndarray  # float64 [72, 3]
  shape: np.ndarray  # float64 [S, 72, 3]
  expression: np.ndarray  # float64 [E, 72, 3]

  def landmarks(self, shape: np.ndarray, expression: np.ndarray) -> np.ndarray:
    """Coefficients [S], [E] -> [72, 3]."""
    return self.mean + np.tensordot(shape, self.shape, 1) + np.tensordot(expression, self.expression, 1)


def load(path: Path, table: Path, *, shapes: int = 80, expressions: int = 60) -> Morphable:
  """A model from its .npz and its table of landmarks, with the first `shapes` and `expressions` of its bases.

  UserError, one sentence with the file's name, for arrays that are missing or have another shape or other axes.
  """
  for file, what in ((path, "the morphable model's .npz"), (table, "its table of landmarks")):
    if not Path(file).is_file():
      raise UserError(f"{file} is no file; give {what}")
  try:
    arrays = npz.read(Path(path))
  except (ValueError, OSError) as e:
    raise UserError(f"{path} is no .npz of plain arrays: {one_line(str(e))[:200]}") from e
  try:
    if "vertices" in arrays:
      model = _plain(arrays, Path(table))
    elif "v_template" in arrays:
      model = _flame(arrays, Path(table))
    elif "template_vertex_positions" in arrays:
      model = _gnm(arrays, Path(table))
    else:
      raise ValueError(f"its arrays ({', '.join(sorted(arrays)[:6])}) are of no known model")
    model = Morphable(model.mean, model.shape[:shapes], model.expression[:expressions])
    _check(model)
    return model
  except (ValueError, KeyError, IndexError, TypeError) as e:
    why = f"it has no array {e}" if isinstance(e, KeyError) else one_line(str(e))[:200]
    raise UserError(f"{path} with {Path(table).name}: {why}") from e


def _array(arrays, name: str, *shape: int | None) -> np.ndarray:
  x = arrays[name]
  if x.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, x.shape)) or x.dtype.kind not in "fiu":
    raise ValueError(f"{name} is {x.dtype} {list(x.shape)}, not numbers {[n or 'any' for n in shape]}")
  if not np.isfinite(x).all():
    raise ValueError(f"{name} is not finite")
  return x


def _plain(arrays, table: Path) -> Morphable:
  vertices = _array(arrays, "vertices", None, 3)
  bases = [_array(arrays, name, None, len(vertices), 3) for name in ("shape", "expression")]
  points = _table(table, _array(arrays, "triangles", None, 3), len(vertices))
  return Morphable(*(_gather(x, *points) for x in (vertices, *bases)))


def _flame(arrays, table: Path) -> Morphable:
  vertices = _array(arrays, "v_template", None, 3)
  count = len(vertices)
  points = _table(table, _array(arrays, "f", None, 3), count)
  basis = _gather(_array(arrays, "shapedirs", count, 3, None).transpose(2, 0, 1), *points)
  expression = basis[_FLAME_SHAPES:]
  if "posedirs" in arrays:
    expression = np.concatenate([_gather(_jaw(arrays, vertices), *points), expression])
  return Morphable(_gather(vertices, *points), basis[:_FLAME_SHAPES], expression)


def _jaw(arrays, vertices: np.ndarray) -> np.ndarray:
  """[3, V, 3]: how the vertices move as the jaw begins to turn about x, y and z: skinning and corrective shapes."""
  count = len(vertices)
  joint = _array(arrays, "J_regressor", None, count)[_JAW] @ vertices
  weight = _array(arrays, "weights", count, None)[:, _JAW]
  # The corrective shapes are linear in the joints' rotations less 1, of every joint but the first.
  corrective = _array(arrays, "posedirs", count, 3, 36)[..., 9 * (_JAW - 1) : 9 * _JAW]
  out = []
  for axis in np.eye(3):
    turn = np.cross(axis, np.eye(3)).T  # turn @ v = axis x v
    out.append(weight[:, None] * ((vertices - joint) @ turn.T) + corrective @ turn.reshape(9))
  return _JAW_UNIT * np.stack(out)


def _gnm(arrays, table: Path) -> Morphable:
  """GNM Head. Its 68 landmarks, rows of `vertex weight vertex weight vertex weight`, follow iBUG except for the jaw."""
  vertices = _array(arrays, "template_vertex_positions", None, 3)
  bases = [_array(arrays, n, None, len(vertices), 3) for n in ("vertex_identity_basis", "expression_basis")]
  try:
    rows = np.loadtxt(table, ndmin=2)
  except (ValueError, OSError) as e:
    raise ValueError(f"{table.name} is no table of numbers: {e}") from e
  if rows.shape != (68, 6):
    raise ValueError(f"{table.name} has {list(rows.shape)} numbers, not 68 rows of 3 vertices and their weights")
  points = _points(rows[:, ::2].astype(np.int64), rows[:, 1::2], len(vertices), table)
  order = np.arange(68)
  order[:17] = _along_the_jaw(_gather(vertices, *points))
  return Morphable(*(FROM_68 @ _gather(x, *points)[..., order, :] for x in (vertices, *bases)))


def _along_the_jaw(marks: np.ndarray) -> np.ndarray:
  """The order of the contour's 17 points from the image's left over the chin, by their direction from the middle."""
  x, y = (marks[:17, :2] - marks[17:, :2].mean(0)).T
  return np.argsort(np.arctan2(-x, y) % (2 * np.pi))


def _table(path: Path, triangles: np.ndarray, vertices: int) -> tuple[np.ndarray, np.ndarray]:
  """(vertices [72, 3], weights [72, 3]) of the landmarks."""
  try:
    table = json.loads(path.read_text("utf-8"))
    where = np.array(table["lmk_faces_idx"], np.int64)
    weights = np.array(table["lmk_bary_coords"], np.float64)
  except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as e:
    raise ValueError(f"{path.name} is no JSON with lmk_faces_idx and lmk_bary_coords: {e}") from e
  if where.shape != (72,) or weights.shape != (72, 3):
    raise ValueError(f"{path.name} has {list(where.shape)} triangles and {list(weights.shape)} weights, not 72")
  if where.min() < 0 or where.max() >= len(triangles):
    raise ValueError(f"{path.name} names triangle {where.max()}, the model has {len(triangles)}")
  return _points(triangles[where].astype(np.int64), weights, vertices, path)


def _points(corners: np.ndarray, weights: np.ndarray, vertices: int, path: Path) -> tuple[np.ndarray, np.ndarray]:
  if corners.min() < 0 or corners.max() >= vertices:
    raise ValueError(f"{path.name} names vertex {corners.max()}, the model has {vertices}")
  if not np.allclose(weights.sum(1), 1, atol=1e-3):
    raise ValueError(f"{path.name}: the three weights of a landmark sum to 1, not {weights.sum(1).min():.3f}")
  return corners, weights


def _gather(x: np.ndarray, corners: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """[..., V, 3] -> the landmarks [..., L, 3]."""
  return np.einsum("...lkd,lk->...ld", x[..., corners, :].astype(np.float64), weights)


def _check(model: Morphable):
  """ValueError unless the eyes, the chin and the nose's tip show the axes that are stated above."""
  right, up, out = model.mean.T
  if right[36:44].mean() >= right[44:52].mean():
    raise ValueError("its left eye is not on the image's left: x should point to the image's right")
  if up[8] >= up[36:52].mean():
    raise ValueError("its chin is not below its eyes: y should point up")
  if out[30] <= out[:17].mean():
    raise ValueError("its nose does not stand out before its contour: z should point to the viewer")
