"""`idejax personalize --method facesnap`: an identity without training, used wherever identities are; what is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image
from support import addons, facepack, learned_people, tiny_pipelines

import idejax
from idejax import config, faces
from idejax.app import learn as app_learn
from idejax.app.store import Consent, Store
from idejax.cli import method_options
from idejax.errors import UserError
from idejax.faces.posing import ByLandmarks
from idejax.jobs import personalize, sample
from idejax.methods import ADDONS, IDENTITIES, METHODS, facesnap
from idejax.model import backbone
from idejax.sampling import learned, pipeline, steering
from idejax.sampling.pipeline import Request, Settings

quiet = lambda _: None


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tiny_pipelines.write(tmp_path_factory.mktemp("snaps"), "sd15")
  facepack.pack(root / "green", landmarks=True)
  addons.write(root / "addon", backbone.load(root / "sd15"))
  for n, name in enumerate(("anna", "bert")):
    Image.fromarray(facepack.picture((1, 1), seed=n, size=128)).save(root / f"{name}.png")
  return root


def flags(root, out, photo="anna.png", **more):
  given = dict(
    method="facesnap", addon=root / "addon", model=root / "sd15", pack=root / "green", num=1, sample_steps=2, out=root / out
  )  # fmt: skip
  given = {k: v for k, v in (given | more).items() if v is not None}
  return [str(root / photo), *(f"--{k.replace('_', '-')}={v}" for k, v in given.items()), "--prompts", "{} at sea"]


def run(root, out, photo="anna.png", **more):
  personalize.main(method_options.parse(flags(root, out, photo, **more), "idejax personalize"))
  return root / out


@pytest.fixture(scope="module")
def anna(root):
  return run(root, "runs/anna", name="<anna>")


def pictures(root, out, **how):
  usual = dict(model=str(root / "sd15"), pack=str(root / "green"), steps=2, guidance=3.0, num=1, seed=4)
  sample.main(config.Sample(**usual | dict(out=root / out) | how))
  return np.asarray(Image.open(root / out / "00000.png"))


def test_a_run_leaves_an_identity_and_trains_nothing(anna):
  who = learned.load(anna)
  assert (who.word, who.method, who.rows, who.strength, who.is_face) == ("<anna>", "facesnap", 0, 1.0, True)
  assert who.cfg == facesnap.Person() and who.addon_digest == steering.addon_digest(anna.parents[1] / "addon")
  assert who.identity["tokens"].shape == (4, 32) and who.identity["marks"].shape == (72, 2)
  report = json.loads((anna / "report.json").read_text())
  assert (report["steps"], report["batch"], report["trained_parameters"]) == (0, 0, 0)
  assert json.loads((anna / "provenance.json").read_text())["addon"].endswith("addon")
  assert (anna / "sheet.png").is_file() and not (anna / "checkpoints").exists()


def test_its_pictures_are_those_of_the_photo(root, anna):
  """By the command, in the photo's own pose, in another, and at strength 0, where they are the model's own."""
  by_face = dict(addon=str(root / "addon"), face=(root / "anna.png",), prompt=("a person at sea",))
  by_name = dict(identity=(anna,), prompt=("<anna> at sea",), model=None)
  own = pictures(root, "name", **by_name)
  np.testing.assert_array_equal(own, pictures(root, "face", **by_face))
  left = pictures(root, "name-left", pose="left", **by_name)
  np.testing.assert_array_equal(left, pictures(root, "face-left", pose="left", **by_face))
  assert (left != own).any()
  row = json.loads((root / "name-left" / "manifest.jsonl").read_text())
  assert row["pose"] == "left" and row["identities"][0][0] == "<anna>" and row["prompt"] == "<anna> at sea"
  off = pictures(root, "name-off", strength=0.0, **by_name)
  np.testing.assert_array_equal(off, pictures(root, "plain", prompt=("a person at sea",)))
  assert (off != own).any()


def opened(root, *people):
  pipe = idejax.load(root / "sd15", devices=jax.devices()[:1], notify=quiet)
  return pipe, pipe.with_people(*people)


def latents(pipe, requests):
  out = {}
  for batch in pipeline.generate(pipe, requests, Settings(2, "ddim", batch=4)):
    out |= dict(zip(batch.positions, batch.latents))
  return np.stack([out[i] for i in range(len(requests))])


def test_beside_people_of_other_methods_each_is_as_alone(root, anna):
  """One batch: a face, a person of words, a plain prompt, the face again, entering late."""
  snap, plain = learned.load(anna), idejax.load(root / "sd15", devices=jax.devices()[:1], notify=quiet)
  words = learned_people.inversion(plain, "<Ben>")
  pipe = plain.with_people(words, snap)
  ask = lambda text, **how: Request(text, seed=3, **how)
  requests = [ask("<anna> at sea"), ask("<Ben> at sea"), ask("a person at sea"), ask("<anna> at sea", start=0.6)]
  together = latents(pipe, requests)
  assert len({x.tobytes() for x in together}) == 4
  for want, have in zip(latents(plain.with_people(words), requests[1:3]), together[1:3]):
    np.testing.assert_allclose(have, want, atol=2e-5)
  np.testing.assert_allclose(together[0], latents(pipe, requests[:1])[0], atol=2e-5)


def test_what_a_prompt_cannot_say(root, anna):
  snap = learned.load(anna)
  bert = dataclasses.replace(snap, word="<bert>")
  _, pipe = opened(root, snap, bert)
  with pytest.raises(UserError, match="names <anna> and <bert>: <anna>, by facesnap, is a face that steers the whole"):
    pipe.sample("<anna> and <bert> at sea", steps=2)
  with pytest.raises(UserError, match="a pose of <anna> needs the add-on's face networks"):
    pipe.sample("<anna> at sea", steps=2, pose="left")
  with pytest.raises(UserError, match="names <anna>, whose face steers the picture: leave --face out"):
    photo = dict(addon=str(root / "addon"), face=(root / "bert.png",))
    pictures(root, "twice", identity=(anna,), prompt=("<anna> at sea",), **photo)


def test_an_add_on_that_is_another_or_gone(root, anna, tmp_path):
  snap, b = learned.load(anna), backbone.load(root / "sd15")
  plain = idejax.load(root / "sd15", devices=jax.devices()[:1], notify=quiet)
  with pytest.raises(UserError, match="<anna> needs an add-on that was in .*, and is not there: --addon says where"):
    plain.with_people(dataclasses.replace(snap, addon=str(tmp_path / "gone")))
  other = addons.write(tmp_path / "other", b, seed=5)
  with pytest.raises(UserError, match="is not the add-on that <anna> was made with, or was trained since"):
    plain.with_people(dataclasses.replace(snap, addon=str(other)))
  pack = faces.open_pack(root / "green", notify=quiet)
  held = plain.with_faces(steering.load(b, other, pack, ByLandmarks(), quiet))
  with pytest.raises(UserError, match="holds another ControlNet already"):
    held.with_people(snap)
  here = plain.with_faces(steering.load(b, root / "addon", pack, ByLandmarks(), quiet))
  here.with_people(dataclasses.replace(snap, addon=str(tmp_path / "gone")))  # --addon says where it is now


def test_several_photos_are_their_mean_and_say_so(root, capsys):
  (root / "people" / "carl").mkdir(parents=True)
  for n in range(2):
    Image.fromarray(facepack.picture((1, 1), seed=n + 7)).save(root / "people" / "carl" / f"{n}.png")
  out = run(root, "runs/crowd", "people")
  assert "<carl>: the mean of 2 photos' tokens, which nobody trained" in capsys.readouterr().err
  pipe = idejax.load(
    root / "sd15", addon=root / "addon", pack=str(root / "green"), devices=jax.devices()[:1], notify=quiet
  )
  each = [pipe.faces.steer(root / "people" / "carl" / f"{n}.png", "none", (32, 32)).tokens for n in range(2)]
  both = learned.load(out / "carl").identity["tokens"]
  np.testing.assert_allclose(both, np.mean(each, 0), atol=1e-6)


@pytest.mark.parametrize(
  "given, words",
  [
    (dict(addon=None), "facesnap reads faces by an add-on: give --addon FOLDER"),
    (dict(method="textual-inversion"), "--addon .*addon is read by facesnap only"),
    (dict(addon="green"), "no add-on folder"),
    (dict(steps=3), "unknown option --steps"),
  ],
)
def test_bad_input(root, given, words):
  given = dict(given, addon=root / given["addon"]) if given.get("addon") else given
  with pytest.raises(UserError, match=words):
    run(root, "bad", **given)


def test_in_the_comics_store(root, tmp_path):
  """Learned there by an add-on, without a training; it loads for the model's pictures."""
  pipe = idejax.load(root / "sd15", devices=jax.devices()[:1], notify=quiet)
  pack, store = faces.open_pack(root / "green", notify=quiet), Store(tmp_path / "store")
  applicants = [
    app_learn.Applicant("Anna Field", root / "anna.png"),
    app_learn.Applicant("Ben Stone", root / "bert.png"),
  ]
  learn = lambda **how: app_learn.learn(pipe, pack, applicants, Consent("both"), store, model=str(root / "sd15"), method="facesnap", **how)  # fmt: skip
  with pytest.raises(UserError, match="give --addon FOLDER"):
    learn()
  records = learn(addon=str(root / "addon"))
  assert [r.method for r in records] == ["facesnap"] * 2
  people = [store.load(n, "tiny", pipe.digest) for n in ("Anna Field", "Ben Stone")]
  assert pipe.with_people(*people).controls == people[0].addon_digest
  assert (np.asarray(people[0].identity["tokens"]) != np.asarray(people[1].identity["tokens"])).any()


@pytest.mark.slow  # the other method trains
def test_beside_a_tuned_method_in_a_comparison(root):
  (root / "names.txt").write_text("ab cd\nef gh\n\nij kl\n")
  names = "textual-inversion/cross-init/batch=2,facesnap"
  out = run(root, "runs/both", compare=names, method="textual-inversion", names=root / "names.txt", steps=2)
  rows = {r["name"]: r for r in json.loads((out / "compare.json").read_text()).values()}
  assert rows["facesnap"]["steps"] == 0 and rows["textual-inversion/cross-init/batch=2"]["steps"] == 2
  assert "| facesnap |" in (out / "compare.md").read_text()


def test_the_tables():
  assert set(IDENTITIES) == set(METHODS) | set(ADDONS) and not set(METHODS) & set(ADDONS)
