"""`idejax train-shared` and `idejax personalize --shared`, on a random pipeline and a hand-made face pack."""

import functools
import json
import shutil

import jax
import numpy as np
import onnx
import pytest
from PIL import Image
from support import facepack, tiny_pipelines
from support.command import assert_one_sentence, run

import idejax
from idejax import config, faces
from idejax.cli import method_options
from idejax.errors import UserError
from idejax.jobs import personalize, train_shared
from idejax.methods import id_ea
from idejax.miniature.training import drawn_set
from idejax.miniature.world import captions
from idejax.model import anchors, backbone, conditioning, shared
from idejax.model import tokens as words
from idejax.sampling import learned, pipeline
from idejax.storage import tensorfiles

PLAIN = dict(method="id-ea", num=1, sample_steps=1, batch=2, prompts="a photo of {}")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """A model, another one, a face pack, names, and a folder of three people."""
  root = tmp_path_factory.mktemp("shared")
  facepack.pack(root / "pack")
  other = facepack.pack(root / "other-pack", name="blue") / "rec.onnx"
  recogniser = onnx.load(other)
  recogniser.doc_string = "another file"
  onnx.save(recogniser, other)
  tiny_pipelines.write(root, "sd21-base")
  tiny_pipelines.families.write_random(root / "other", "sd21-base", seed=5, configs=tiny_pipelines.configs("sd21-base"))
  (root / "names.txt").write_text("ab cd\nef gh\nij kl\n")
  (root / "people").mkdir()
  for i, name in enumerate(("ben", "cleo", "dora")):
    Image.fromarray(facepack.picture((1, 1 + i % 2), seed=i)).save(root / "people" / f"{name}.png")
  return root


def flags(root, out, **more):
  given = dict(model=root / "sd21-base", pack=root / "pack", names=root / "names.txt", out=out) | more
  return [f"--{k.replace('_', '-')}={v}" for k, v in given.items()]


def train(root, out, **more):
  given = dict(data=root / "people", steps=3, batch=2, lr_gate=0.1, lr_modules=0.01, describe="on a beach") | more
  train_shared.main(train_shared.parse(flags(root, out, **given), "idejax train-shared"))
  return out


def personalise(root, out, photo, **more):
  args = [str(root / photo), *flags(root, out, **(PLAIN | more))]
  personalize.main(method_options.parse(args, "idejax personalize"))
  return out


@pytest.fixture(scope="module")
def modules(root):
  return train(root, root / "shared")


def test_what_a_training_leaves(root, modules):
  about = shared.read(modules)
  assert (about.method, about.model, about.people, about.steps, about.data) == ("id-ea", "sd21-base", 3, 3, "people")
  assert (
    about.recogniser_digest == tensorfiles.digest(root / "pack" / "rec.onnx")
    and about.licence == "Apache-2.0"
    and len(about.history) == 3
  )
  assert about.structure["kv"] == "none" and about.settings["plain"] == 0.5 and about.structure["heads"] == 8
  tensors = tensorfiles.read(modules, "modules")
  assert {k.split("/")[0] for k in tensors} == {"face", "enhancer", "adapter"}
  assert float(np.asarray(tensors["adapter/gamma"])) != 0
  assert (modules / "loss.png").is_file()


def test_a_run_in_parts_ends_in_the_same_modules_to_the_bit(root, modules):
  out = train(root, root / "parts", minutes=0.0)  # stops after a step, as after a kill
  assert shared.read(out).steps == 1 and shared.digest(out) != shared.digest(modules)
  assert shared.digest(train(root, out)) == shared.digest(modules)
  with pytest.raises(UserError, match="plain was 0.5 and is now 0.25"):
    train(root, out, plain=0.25)


def test_untrained_people_are_what_the_modules_make_of_their_faces(root, modules):
  """No step, one forward pass: two people of a folder and one of them alone, with where they are from."""
  out = personalise(root, root / "untrained", "people", shared=modules, steps=0)
  who = {p.parent.name: learned.load(p.parent) for p in out.glob("*/identity.safetensors")}
  assert set(who) == {"ben", "cleo", "dora"}
  tensors = {k: np.asarray(v) for k, v in tensorfiles.read(modules, "modules").items()}
  for name, x in who.items():
    assert x.cfg.steps == 0 and x.cfg.kv == "none" and x.shared == shared.digest(modules)
    np.testing.assert_array_equal(x.identity["adapter"]["in_proj"]["kernel"], tensors["adapter/in_proj/kernel"])
    origin = json.loads((out / name / "provenance.json").read_text())
    assert origin["shared_digest"] == x.shared
  face = faces.read([root / "people" / "ben.png"], faces.open_pack(root / "pack"))[0].embedding
  tokens = id_ea.face_rows({k: tensors[f"face/{k}"] for k in ("kernel", "bias")}, face, who["ben"].cfg)
  enhancer = {
    n: {k: tensors[f"enhancer/{n}/{k}"] for k in ("kernel", "bias")} for n in ("to_q", "to_k", "to_v", "to_out")
  }
  b = backbone.load(root / "sd21-base")
  anchor = anchors.read(b, (words.load(root / "sd21-base" / "tokenizer"),), ["ab cd", "ef gh", "ij kl"], by="tokens")[0]
  want = id_ea.enhance(enhancer, tokens, anchor, who["ben"].cfg)
  np.testing.assert_allclose(who["ben"].identity["face"], want, rtol=1e-3, atol=1e-4)
  assert np.abs(who["ben"].identity["face"] - who["dora"].identity["face"]).max() > 1e-5
  alone = learned.load(personalise(root, root / "ben", "people/ben.png", shared=modules, steps=0))
  same = lambda a, b: jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), a, b)
  same(alone.identity, who["ben"].identity)
  given = dict(pack=str(root / "pack"), names=root / "names.txt", shared=modules, steps=0)
  by_python = idejax.personalize(root / "people" / "ben.png", "id-ea", model=root / "sd21-base", **given)
  same(by_python.identity, who["ben"].identity)


@pytest.mark.parametrize(
  "more, said",
  [
    (dict(steps=0), "--steps is 0; it must be at least 1"),
    (dict(shared="{root}/people", steps=1), "people holds no shared modules"),
    (
      dict(shared="{root}/shared", heads=4),
      "--heads 4 does not suit --shared .*, whose modules have 8; leave --heads out",
    ),
    (dict(shared="{root}/shared", compare="id-ea,dreambooth"), "--shared is of one method"),
    (dict(shared="{root}/shared", method="dreambooth"), "has modules of id-ea; dreambooth cannot start from them"),
    (
      dict(shared="{root}/shared", names="{root}/other.txt"),
      "trained with another list of celebrities: give its --names",
    ),
  ],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(root, modules, more, said):
  (root / "other.txt").write_text("mn op\nqr st\n")
  more = {k: v.format(root=root) if isinstance(v, str) else v for k, v in more.items()}
  with pytest.raises(UserError, match=said):
    personalise(root, root / "no", "people/ben.png", **more)
  assert not (root / "no" / "checkpoints").exists()


def test_another_models_and_another_recognisers_modules_are_refused_by_both_names(root, modules):
  args = lambda **more: ["personalize", str(root / "people/ben.png"), *flags(root, root / "no", **more)]
  done = run(*args(shared=modules, model=root / "other"))
  assert_one_sentence(done, "was trained on sd21-base", f"not on {root / 'other'}")
  done = run(*args(shared=modules, pack=root / "other-pack"))
  assert_one_sentence(done, "was trained with the recogniser of", "green", "not of", "blue")


def test_modules_that_are_damaged_are_refused(root, modules, tmp_path):
  broken = tmp_path / "broken"
  shutil.copytree(modules, broken, ignore=shutil.ignore_patterns("checkpoints"))
  tensors = {k: np.asarray(v) for k, v in tensorfiles.read(broken, "modules").items()}
  tensorfiles.write(broken / "modules.safetensors", tensors | {"face/bias": np.zeros(3, np.float32)})
  with pytest.raises(UserError, match=r"face/bias has shape \[3\]"):
    personalise(root, tmp_path / "out", "people/ben.png", shared=broken, steps=0)


@pytest.mark.parametrize(
  "more, said",
  [
    (dict(data="nowhere"), "--data nowhere is no folder"),
    (dict(people=3), "--people and --each are of drawn people"),
    (dict(data="drawn"), "does not draw the drawn world's people"),
    (dict(steps=0), "--steps is 0"),
    (dict(accumulate=3), "--accumulate is 3; it must divide the batch, 2"),
  ],
)
def test_a_training_that_cannot_be_is_refused_before_anything_is_read(root, tmp_path, more, said):
  with pytest.raises(UserError, match=said):
    train(root, tmp_path / "out", **more)
  assert not (tmp_path / "out").exists()


def test_drawn_peoples_captions_name_them_and_nothing_of_them():
  for text, want in (
    ("a photo of a smiling person at home", "a photo of <id> smiling at home"),
    ("a photo of an angry person", "a photo of <id> looking angry"),
    ("a sketch of a person looking sad", "a sketch of <id> looking sad"),
    ("pop art of a person wearing a hat", "pop art of <id> wearing a hat"),
  ):
    assert captions.with_name(text, "<id>") == want


def test_drawn_people_have_pictures_faces_and_captions_of_their_own(root, tmp_path):
  """A picture's caption is its own and names the person; whoever wears a hat is seen as in a clear picture of theirs."""
  pipe = pipeline.load(root / "sd21-base", devices=jax.devices()[:1])
  run_ = config.TrainShared(out=tmp_path, people=3, each=4)
  people, texts, digest = train_shared.drawn(train_shared.Settings(run_, id_ea.Config()), pipe)
  side = pipe.backbone.nets.unet.sample_size
  assert people.mean.shape == (3, 4, side, side, 4) and people.faces.shape == (3, 4, 512) and len(digest) == 64
  np.testing.assert_allclose(np.linalg.norm(people.face, axis=-1), 1, rtol=1e-5)
  own = np.einsum("nvd,nd->nv", people.faces, people.face)
  others = np.einsum("nvd,md->nvm", people.faces, people.face)
  assert (own > 0.5).all() and (own >= others.max(-1) - 1e-6).all()
  assert texts.ids[0].shape[:2] == (3, 4) and (texts.where[0] >= 0).all() and texts.where[0].shape == (3, 4, 2)
  data = drawn_set.render(tmp_path / "faces", {"train": 4}, size=pipe.size(pipeline.Settings())[0], limit=3)
  order = np.argsort(data.person, kind="stable").reshape(3, 4)
  for n in range(3):
    for v, i in enumerate(order[n]):
      if data.clear[i]:
        np.testing.assert_array_equal(people.faces[n, v], data.embedding[i])
      elif data.clear[order[n]].any():
        assert any((people.faces[n, v] == data.embedding[j]).all() for j in order[n] if data.clear[j])
  first = conditioning.tokenise(pipe.tokenizers, [captions.with_name(data.captions[order[1, 2]], "<id>")], {"<id>": 2})
  np.testing.assert_array_equal(texts.ids[0][1, 2], first.ids[0][0])
