"""Morphable models from files, fitted to landmarks, and the Landmark Predictor that is made of them."""

import json

import numpy as np
import pytest
from scipy.linalg import expm

from idejax.errors import UserError
from idejax.faces import fitting, morphable, predictor
from idejax.faces.landmarks import FROM_68
from idejax.miniature.world import people, scene
from idejax.miniature.world.landmarks import geometry

SHAPES, EXPRESSIONS = 6, 4


def heads(marks):
  """Landmarks [72, 2] of a picture as a head in space: x right, y up, z of a bulging mask with a nose."""
  x, y = ((marks - marks.mean(0)) / np.ptp(marks, axis=0).max() * [1, -1]).T
  z = 0.8 * np.sqrt(np.maximum(0.36 - x**2 - 0.3 * y**2, 0))
  z[27:36] += np.r_[np.linspace(0.05, 0.2, 4), np.full(5, 0.1)]
  return np.stack([x, y, z], -1)


def toy(rng):
  """(vertices [216, 3], shape, expression, triangles, table): a triangle of its own for each landmark."""
  points, weights = heads(predictor.poses()["front"]), rng.dirichlet((2, 2, 2), 72)
  spread = 0.05 * rng.standard_normal((72, 3, 3))
  spread -= np.einsum("lkd,lk->ld", spread, weights)[:, None]
  vertices = (points[:, None] + spread).reshape(-1, 3)
  x, y, z = vertices.T
  smooth = np.stack([x, y, z, x * y, x**2, y**2, y * z, np.sin(7 * y), np.sin(9 * x), x**3])
  basis = 0.08 * np.einsum("kf,fv->kv", rng.standard_normal((3 * (SHAPES + EXPRESSIONS), 10)), smooth)
  basis = basis.reshape(SHAPES + EXPRESSIONS, 3, -1).transpose(0, 2, 1)
  table = dict(lmk_faces_idx=list(range(72)), lmk_bary_coords=weights.tolist())
  return vertices, basis[:SHAPES], basis[SHAPES:], np.arange(216).reshape(72, 3), table


@pytest.fixture(scope="module")
def mesh():
  return toy(np.random.default_rng(3))


def files(folder, table, **arrays):
  np.savez(folder / "model.npz", **arrays)
  (folder / "table.json").write_text(json.dumps(table))
  return folder / "model.npz", folder / "table.json"


@pytest.fixture
def paths(mesh, tmp_path):
  vertices, shape, expression, triangles, table = mesh
  return files(tmp_path, table, vertices=vertices, shape=shape, expression=expression, triangles=triangles)


@pytest.fixture
def model(paths):
  return morphable.load(*paths)


def test_landmarks_are_weighted_means_of_the_meshs_vertices(mesh, model, rng):
  """The mesh is moved, then its landmarks are read off: the same as the landmarks' own bases say."""
  vertices, shape, expression, triangles, table = mesh
  s, e = rng.standard_normal(SHAPES), rng.standard_normal(EXPRESSIONS)
  moved = vertices + np.tensordot(s, shape, 1) + np.tensordot(e, expression, 1)
  corners, weights = moved[triangles], np.array(table["lmk_bary_coords"])
  np.testing.assert_allclose(model.landmarks(s, e), np.einsum("lkd,lk->ld", corners, weights), atol=1e-12)
  np.testing.assert_allclose(model.landmarks(0 * s, 0 * e), heads(predictor.poses()["front"]), atol=1e-12)


def test_as_many_components_as_are_wanted(paths, model):
  few = morphable.load(*paths, shapes=2, expressions=1)
  np.testing.assert_array_equal(few.shape, model.shape[:2])
  np.testing.assert_array_equal(few.expression, model.expression[:1])


def test_flames_layout(mesh, tmp_path, model):
  """Shape in the first 300 of shapedirs, expression behind; without its joints no jaw."""
  vertices, shape, expression, triangles, table = mesh
  dirs = np.zeros((216, 3, 310))
  dirs[..., :SHAPES], dirs[..., 300 : 300 + EXPRESSIONS] = shape.transpose(1, 2, 0), expression.transpose(1, 2, 0)
  flame = morphable.load(*files(tmp_path, table, v_template=vertices, shapedirs=dirs, f=triangles))
  np.testing.assert_allclose(flame.mean, model.mean, atol=1e-12)
  np.testing.assert_allclose(flame.shape[:SHAPES], model.shape, atol=1e-12)
  np.testing.assert_allclose(flame.expression[:EXPRESSIONS], model.expression, atol=1e-12)


def test_flames_jaw_is_the_derivative_of_its_skinning(mesh, tmp_path, rng):
  """Against linear blend skinning with corrective shapes, the jaw turned by a thousandth of a radian."""
  vertices, _, _, triangles, table = mesh
  weights, regressor = rng.dirichlet(np.ones(5), 216), rng.dirichlet(np.ones(216), 5)
  posedirs = 0.02 * rng.standard_normal((216, 3, 36))
  arrays = dict(v_template=vertices, shapedirs=np.zeros((216, 3, 300)), f=triangles,
                posedirs=posedirs, weights=weights, J_regressor=regressor)  # fmt: skip
  model = morphable.load(*files(tmp_path, table, **arrays))
  assert len(model.expression) == 3
  for axis, direction in zip(np.eye(3), model.expression):
    x, y, z = 1e-3 * axis
    turn = expm([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    others = np.tile(np.eye(3), (4, 1, 1))  # neck, jaw, eyes
    others[1] = turn
    posed = vertices + posedirs @ (others - np.eye(3)).reshape(36)
    joint = regressor[2] @ vertices
    posed = posed + weights[:, 2:3] * ((posed - joint) @ turn.T + joint - posed)
    moved = np.einsum("lkd,lk->ld", (posed - vertices)[triangles], np.array(table["lmk_bary_coords"]))
    np.testing.assert_allclose(0.2 * moved / 1e-3, direction, atol=2e-3 * np.abs(direction).max())


@pytest.mark.parametrize("jaw", [range(17), [0, 1, 6, 5, 4, 3, 2, *range(7, 17)], range(16, -1, -1)])
def test_gnms_layout_and_its_jaw(jaw, tmp_path, rng):
  """68 landmarks in a text file, the contour in any order; ours are 72."""
  points = np.linalg.lstsq(FROM_68, heads(predictor.poses()["front"]), rcond=None)[0]  # 68 that give about these 72
  vertices = np.concatenate([points, 9 + rng.standard_normal((5, 3))])
  order = [*jaw, *range(17, 68)]
  rows = [(i, 1, 0, 0, 3, 0) for i in order]
  (tmp_path / "head_sparse_68.txt").write_text("\n".join(" ".join(map(str, r)) for r in rows))
  bases = rng.standard_normal((2, 3, len(vertices), 3))
  np.savez(tmp_path / "gnm.npz", template_vertex_positions=vertices, vertex_identity_basis=bases[0],
           expression_basis=bases[1], version="3.0")  # fmt: skip
  model = morphable.load(tmp_path / "gnm.npz", tmp_path / "head_sparse_68.txt")
  np.testing.assert_allclose(model.mean, FROM_68 @ points, atol=1e-12)
  np.testing.assert_allclose(model.shape, FROM_68 @ bases[0][:, :68], atol=1e-9)
  np.testing.assert_allclose(model.expression, FROM_68 @ bases[1][:, :68], atol=1e-9)


def test_files_that_will_not_do(mesh, tmp_path):
  vertices, shape, expression, triangles, table = mesh
  good = dict(vertices=vertices, shape=shape, expression=expression, triangles=triangles)
  light = [[w / 2 for w in row] for row in table["lmk_bary_coords"]]
  for n, (arrays, other, words) in enumerate([
    ({k: v for k, v in good.items() if k != "shape"}, table, "it has no array 'shape'"),
    (dict(a=vertices, b=vertices), table, r"its arrays \(a, b\) are of no known model"),
    (good | dict(shape=shape[:, :-1]), table, "shape is float64"),
    (good | dict(vertices=np.full_like(vertices, np.nan)), table, "vertices is not finite"),
    (good | dict(vertices=vertices * [-1, 1, 1]), table, "x should point to the image's right"),
    (good | dict(vertices=vertices * [1, -1, 1]), table, "y should point up"),
    (good | dict(vertices=vertices * [1, 1, -1]), table, "z should point to the viewer"),
    (good | dict(triangles=triangles + 1), table, "names vertex 216, the model has 216"),
    (good | dict(triangles=triangles[:70]), table, "names triangle 71, the model has 70"),
    (good, dict(lmk_faces_idx=[0]), "no JSON with lmk_faces_idx and lmk_bary_coords"),
    (good, table | dict(lmk_faces_idx=[0, 1]), r"\[2\] triangles"),
    (good, table | dict(lmk_bary_coords=light), "sum to 1, not 0.5"),
  ]):  # fmt: skip
    folder = tmp_path / str(n)
    folder.mkdir()
    with pytest.raises(UserError, match=words) as e:
      morphable.load(*files(folder, other, **arrays))
    assert "\n" not in str(e.value) and "model.npz" in str(e.value)
  with pytest.raises(UserError, match="is no file; give the morphable model's .npz"):
    morphable.load(tmp_path / "none.npz", tmp_path / "0" / "table.json")
  pickled = tmp_path / "pickled.npz"
  np.savez(pickled, vertices=np.array([{}], object))
  with pytest.raises(UserError, match="no .npz of plain arrays"):
    morphable.load(pickled, tmp_path / "0" / "table.json")


# Fitting.


def known(rng, model, s=None, e=None):
  """A fit with coefficients, pose and camera of our choice."""
  s, e = (rng.standard_normal(len(b)) if c is None else c for c, b in ((s, model.shape), (e, model.expression)))
  rotation = fitting.rotate(rng.uniform(-0.3, 0.3, 3))
  return fitting.Fit(s, e, rotation, rng.uniform(80, 400), rng.uniform(-50, 300, 2), 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_known_coefficients_and_pose_come_back(model, seed):
  rng = np.random.default_rng(seed)
  true = known(rng, model)
  found = fitting.fit(model, fitting.project(model, true), shape_weight=1e-9, expression_weight=1e-9)
  np.testing.assert_allclose(found.shape, true.shape, atol=1e-3)
  np.testing.assert_allclose(found.expression, true.expression, atol=1e-3)
  np.testing.assert_allclose(found.rotation, true.rotation, atol=1e-4)
  np.testing.assert_allclose([found.scale, *found.shift], [true.scale, *true.shift], rtol=1e-3, atol=0.05)
  assert found.residual < 1e-5


def test_a_face_elsewhere_and_larger_has_the_same_coefficients(model, rng):
  marks = fitting.project(model, known(rng, model)) + rng.normal(0, 1, (72, 2))
  one, other = fitting.fit(model, marks), fitting.fit(model, 3 * marks + [40, -7])
  np.testing.assert_allclose(one.shape, other.shape, atol=1e-4)
  np.testing.assert_allclose(one.rotation, other.rotation, atol=1e-4)
  np.testing.assert_allclose([3 * one.scale, *(3 * one.shift + [40, -7])], [other.scale, *other.shift], rtol=1e-4)
  np.testing.assert_allclose(one.residual, other.residual, rtol=1e-4)


def test_the_prior_draws_towards_the_mean_face_shape_more_than_expression(model, rng):
  marks = fitting.project(model, known(rng, model))
  free = fitting.fit(model, marks, shape_weight=1e-9, expression_weight=1e-9)
  shy = fitting.fit(model, marks, shape_weight=1e9, expression_weight=1e-9)
  assert np.abs(shy.shape).max() < 1e-3 * np.abs(free.shape).max() < np.abs(shy.expression).max()
  assert shy.residual > free.residual


def test_y_is_turned_once(model):
  """A head that stands upright and looks at us is upright in the picture, where y points down."""
  still = fitting.Fit(np.zeros(SHAPES), np.zeros(EXPRESSIONS), np.eye(3), 100.0, np.array([50.0, 60.0]), 0.0)
  np.testing.assert_allclose(fitting.project(model, still), 100 * model.mean[:, :2] * [1, -1] + [50, 60])
  found = fitting.fit(model, fitting.project(model, still))
  np.testing.assert_allclose(found.rotation, np.eye(3), atol=1e-6)


def test_rotations():
  np.testing.assert_array_equal(fitting.rotate(np.zeros(3)), np.eye(3))
  for vector in (np.array([0.3, -0.2, 1.1]), np.array([0, 0, 1e-5])):
    x, y, z = vector
    np.testing.assert_allclose(fitting.rotate(vector), expm([[0, -z, y], [z, 0, -x], [-y, x, 0]]), atol=1e-12)


def test_what_cannot_be_fitted(model, rng):
  for wrong in (np.zeros((71, 2)), np.zeros((72, 2)), np.full((72, 2), np.nan)):
    with pytest.raises(ValueError, match="72 landmarks"):
      fitting.fit(model, wrong)
  scattered = rng.uniform(0, 100, (72, 2))
  assert fitting.fit(model, scattered).residual > fitting.LIMIT
  with pytest.raises(UserError, match="the driver: the morphable model misses the landmarks by .*% of the face"):
    predictor.by_model(model)(fitting.project(model, known(rng, model)), scattered)


# The predictor.


def test_shape_from_the_source_all_else_from_the_driver(model, rng):
  source, driver = known(rng, model), known(rng, model)
  other = known(rng, model, s=rng.standard_normal(SHAPES))._replace(
    **{k: getattr(driver, k) for k in ("expression", "rotation", "scale", "shift")}
  )
  at = lambda f: fitting.project(model, f)
  swapped = at(fitting.recombine(source, driver))
  np.testing.assert_array_equal(swapped, at(fitting.Fit(source.shape, *driver[1:])))
  np.testing.assert_allclose(at(fitting.recombine(driver, driver)), at(driver))  # its own
  np.testing.assert_allclose(at(fitting.recombine(source, other)), swapped)  # the driver's shape does not matter
  assert np.abs(at(fitting.recombine(other, driver)) - swapped).max() > 1  # the source's does
  found = predictor.by_model(model)(at(source), at(driver))
  assert found.landmarks.dtype == np.float32 and found.residuals.keys() == {"source", "driver"}
  # Priors and one view of each face leave a little of the driver's shape: most of the way.
  away = lambda marks: np.sqrt(np.square(marks - swapped).sum(-1).mean())
  assert away(found.landmarks) < 0.35 * away(at(driver))
  np.testing.assert_array_equal(predictor.drivers_own(at(source), at(driver)).landmarks, np.float32(at(driver)))


def in_space(person, **how):
  """A drawn face's landmarks in space: where a quarter turn puts them is how far they stand out."""
  ahead, aside = (geometry(np, person, scene.scene(yaw=yaw, **how), 256).landmarks - 127.5 for yaw in (0, np.pi / 2))
  return np.stack([ahead[:, 0], -ahead[:, 1], aside[:, 0]], -1) / 128


def test_in_the_drawn_world_it_is_nearer_to_the_truth_than_the_drivers_own_landmarks():
  """A model of 60 people's neutral faces and of the moods; then 12 other people in others' poses and moods."""
  crowd = [people.person(i) for i in range(300, 360)]
  faces = np.stack([in_space(p) for p in crowd])
  mean = faces.mean(0)
  _, stretch, axes = np.linalg.svd((faces - mean).reshape(60, -1), full_matrices=False)
  shape = (stretch[:8, None] / 60**0.5 * axes[:8]).reshape(8, 72, 3)
  moods = [np.mean([in_space(p, expression=m) - in_space(p) for p in crowd[:20]], 0) for m in scene.EXPRESSIONS[1:]]
  predict = predictor.by_model(morphable.Morphable(mean, shape, np.stack(moods)))
  ours, own = [], []
  for n in range(12):
    source, driver, pose = people.person(400 + n), people.person(500 + n), people.take(scene.scenes([n], 1, 7), 0)
    marks = [geometry(np, p, s, 256).landmarks for p, s in
             ((source, scene.scene()), (driver, pose), (source, pose))]  # fmt: skip
    wide = np.ptp(marks[2][:, 0])
    off = lambda found, true=marks[2], wide=wide: np.sqrt(np.square(found - true).sum(-1)).mean() / wide
    ours.append(off(predict(*marks[:2]).landmarks))
    own.append(off(predictor.drivers_own(*marks[:2]).landmarks))
  print(
    f"\nmean distance to the truth, shares of the face's width: {np.mean(ours):.4f}, driver's own {np.mean(own):.4f}"
  )
  assert np.mean(ours) < 0.75 * np.mean(own)


def test_records_without_landmarks():
  from idejax.faces.record import FaceRecord

  bare = FaceRecord(*[np.zeros(1)] * 8, None, {}, {"pack": "buffalo_s"})
  with pytest.raises(UserError, match="the source has no landmarks: buffalo_s has no landmark network"):
    predictor.of_records(predictor.drivers_own, bare, bare)
  with pytest.raises(UserError, match="no pose 'back'; there are front, left, right, half-left"):
    predictor.pose("back", 64, 64)
