"""The built-in pack on drawn faces and on a real photograph: NASA's portrait of Eileen Collins in scikit-image."""

import numpy as np
import pytest
import skimage.data
from PIL import Image
from support import facepack

from idejax import faces
from idejax.errors import UserError
from idejax.faces import mask, overlay
from idejax.miniature.training import recogniser, to_onnx
from idejax.nets import smallface

quiet = lambda _: None


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
  monkeypatch.setenv("IDEJAX_CACHE", "off")


@pytest.fixture(scope="module")
def green(tmp_path_factory):
  return faces.open_pack(facepack.pack(tmp_path_factory.mktemp("packs") / "green", landmarks=True), notify=quiet)


def complete(one):
  assert one.embedding.shape == (512,) and np.isfinite(one.embedding).all() and one.face.any()
  assert one.crop.std() > 5 and one.portrait.std() > 5 and one.quality["size"] > 8
  assert overlay.picture(one).height == 548


def test_a_photograph_without_what_the_pack_knows(green, tmp_path):
  Image.fromarray(skimage.data.astronaut()).save(tmp_path / "collins.jpg")
  with pytest.raises(UserError) as e:
    faces.read(tmp_path / "collins.jpg", green, notify=quiet)
  assert "collins.jpg" in str(e.value) and "'green' found no face" in str(e.value) and "scores" in str(e.value)


def test_a_photograph_through_every_step(green):
  """A green square, which the stub pack takes for a face, is painted where hers is."""
  image = skimage.data.astronaut().copy()
  image[128:256, 128:256] = facepack.GREEN
  one = faces.read(image, green, notify=quiet)
  np.testing.assert_allclose(one.points, facepack.points_of(1, 1, 512), atol=0.1)
  complete(one)


def test_the_shipped_pack_meets_a_photograph():
  """Trained on drawn faces, it finds hers, and the record lists what is missing."""
  one = faces.read(skimage.data.astronaut(), notify=quiet)
  complete(one)
  assert 200 < one.points[:, 0].mean() < 250 and 80 < one.points[:, 1].mean() < 160
  assert any("72 landmarks" in m for m in one.meta["missing"]) and any("hair" in m for m in one.meta["missing"])


def test_masks_without_a_parser_cover_the_drawn_faces():
  """Against the world's own face masks: the ellipse from five points, the hull of the landmarks."""
  from idejax.miniature.world import people, scene, world

  ids = people.split("development")[:10]
  scenes = scene.scenes(ids, 1, 3)
  ellipse, hull = [], []
  for i in range(len(ids)):
    pair = people.take(people.people(ids), i), people.take(scenes, i)
    truth, (_, points, marks) = world.layers(np, *pair, 64), world.geometry(np, *pair, 64)
    ellipse.append(iou(mask.masks((64, 64), points).face, truth.face))
    hull.append(iou(mask.masks((64, 64), points, marks).face, truth.face))
    known = mask.masks((64, 64), points, marks, truth=faces.Truth(truth.face, truth.hair, marks))
    assert (known.face == truth.face).all() and (known.hair == truth.hair).all()
    assert (known.face_source, known.hair_source) == ("world", "world")
  assert np.mean(ellipse) > 0.6 and np.mean(hull) > 0.72


def iou(a, b):
  return (a & b).sum() / (a | b).sum()


@pytest.fixture(scope="module")
def shipped():
  return faces.open_pack(notify=quiet)


@pytest.fixture(scope="module")
def drawn():
  """Photos of held-out people as (images, boxes, points, ids), drawn by numpy because compiling takes longer."""
  from idejax.miniature.world import people, scene, world

  ids = people.split("heldout")[:8]
  scenes = scene.scenes(ids, 6, 3)._replace(style=np.full(48, scene.STYLES.index("photo")))
  who = np.repeat(ids, 6)
  pairs = [(people.take(people.people(who), n), people.take(scenes, n)) for n in range(48)]
  images = [(world.render(np, *p, 64) * 255 + 0.5).astype(np.uint8) for p in pairs]
  truth = [world.geometry(np, *p, 64) for p in pairs]
  return images, [t.box for t in truth], [t.points for t in truth], who


def test_its_pack_json(shipped):
  assert shipped.name == "miniature" and shipped.bundled and shipped.licence == "Apache-2.0"
  assert 0 < shipped.thresholds["far_1e-3"] < 1 and 0 < shipped.thresholds["equal_error"] < 1


def test_it_finds_drawn_faces(shipped, drawn):
  error, count = [], 0
  for image, box, points, _ in zip(*drawn):
    got = shipped.detect(image)
    if not len(got.scores):
      continue
    count += 1
    best = int(np.argmax(got.scores))
    error.append(np.linalg.norm(got.points[best] - points, axis=-1).mean() / (box[2] - box[0]))
  assert count >= 0.9 * len(drawn[0]) and np.median(error) < 0.06


def test_it_agrees_with_insightface(shipped, drawn):
  import warnings

  for image in drawn[0][::12]:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", FutureWarning)  # insightface calls scikit-image's old name
      theirs = shipped.app.get(np.ascontiguousarray(image[..., ::-1]))
    if not theirs:
      continue
    theirs = max(theirs, key=lambda f: (f.bbox[2] - f.bbox[0]) * (f.bbox[3] - f.bbox[1]))
    ours = faces.read(image, shipped, notify=quiet)
    np.testing.assert_allclose(ours.points, theirs.kps, atol=0.1)
    np.testing.assert_allclose(ours.embedding, theirs.normed_embedding, atol=1e-5)


def test_one_person_is_closer_than_two(shipped, drawn):
  who, vectors = [], []
  for image, person in zip(drawn[0], drawn[3]):
    if not len(shipped.detect(image).scores):
      continue
    who.append(person)
    vectors.append(faces.read(image, shipped, notify=quiet).embedding)
  alike = np.array(vectors) @ np.array(vectors).T
  same = np.equal.outer(who, who)
  assert alike[same & ~np.eye(len(who), dtype=bool)].mean() > alike[~same].mean() + 0.2


def test_rotation_and_scale_change_little(shipped, drawn):
  """The recogniser knows the person in a photo that was turned and enlarged."""
  import cv2

  alike = []
  for image in drawn[0][::6]:
    large = cv2.resize(image, (160, 160), interpolation=cv2.INTER_CUBIC)
    turn = cv2.getRotationMatrix2D((80, 80), 8, 0.9)
    turned = cv2.warpAffine(large, turn, (160, 160), borderMode=cv2.BORDER_REPLICATE)
    if not (len(shipped.detect(image).scores) and len(shipped.detect(turned).scores)):
      continue
    a, b = (faces.read(x, shipped, notify=quiet).embedding for x in (image, turned))
    alike.append(float(a @ b))
  assert len(alike) >= 5 and np.mean(alike) > shipped.thresholds["far_1e-3"]


def test_the_jax_twin_of_the_recogniser(shipped, drawn):
  """Our own net with the shipped file's weights embeds as onnxruntime does, so methods that differentiate through
  the recogniser use the one that scores."""
  crops = [faces.read(image, shipped, notify=quiet).crop for image in drawn[0][:18:6]]
  embed = recogniser.make_embed(smallface.recogniser, to_onnx.read(shipped.folder / "rec.onnx"))
  theirs = shipped.embed(crops)
  np.testing.assert_allclose(embed(np.stack(crops), batch=4), theirs, atol=1e-4)
  assert (theirs @ theirs.T)[np.triu_indices(3, 1)].max() < 0.9  # three people
