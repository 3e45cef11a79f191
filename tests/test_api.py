"""The Python interface: numpy wherever numbers go, the commands' sentences as exceptions, and the commands' results."""

import base64
import io
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from support import facepack, tiny_pipelines

import idejax
from idejax import faces
from idejax.cli import method_options
from idejax.errors import UserError
from idejax.jobs import personalize as command
from idejax.personalizing import interface, learn
from idejax.sampling import learned, requests
from idejax.storage import tensorfiles
from idejax.training import loop

LEARN = dict(method="textual-inversion", preset="cross-init", steps=2, batch=2)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp("api")
  facepack.pack(root / "pack")
  tiny_pipelines.write(root, "sd21-base")
  (root / "names.txt").write_text("ab cd\nef gh\nij kl\n")
  Image.fromarray(facepack.picture((1, 1))).save(root / "anna.png")
  return root


@pytest.fixture(scope="module")
def pipe(root):
  return idejax.load(root / "sd21-base", devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def pack(root):
  return faces.open_pack(str(root / "pack"), notify=lambda _: None)


@pytest.fixture(scope="module")
def learnt(root):
  """Anna by the interface; what was told of the steps; her run folder."""
  told, out = [], root / "runs" / "anna"
  anna = idejax.personalize(
    root / "anna.png",
    model=root / "sd21-base",
    name="<anna>",
    pack=str(root / "pack"),
    names=root / "names.txt",
    out=out,
    progress=lambda *a: told.append(a),
    **LEARN,
  )
  return anna, told, out


SMALL = dict(steps=1, guidance=1.0)


# Sampling.


def test_numpys_numbers_and_arrays_are_numbers(pipe):
  plain = pipe.sample(["a cat", "a dog"], seeds=[3, 4], guidance=[2.0, 3.0], steps=2)
  other = pipe.sample(
    np.array(["a cat", "a dog"]), seeds=np.array([3, 4]), guidance=np.array([2.0, 3.0], np.float32), steps=np.int64(2)
  )
  np.testing.assert_array_equal(plain, other)
  one = pipe.sample(["a cat", "a dog"], seeds=3, guidance=2.0, steps=2)
  np.testing.assert_array_equal(
    pipe.sample(("a cat", "a dog"), seeds=np.int64(3), guidance=np.float64(2), steps=2), one
  )
  np.testing.assert_array_equal(
    pipe.sample(["a cat", "a dog"], seeds=np.array(3), guidance=np.array(2.0), steps=2), one
  )


def test_seeds_of_an_array_name_their_pictures_alone():
  """Of several seeds each picture has (seed, 0), of one the pictures count from 0."""
  of = lambda seeds: [(r.seed, r.index) for r in requests.build(["a"] * 3, None, seeds, None, 7.5)]
  assert of(np.arange(3)) == of(range(3)) == [(0, 0), (1, 0), (2, 0)]
  assert of(np.uint8(7)) == of(np.array(7)) == of(7) == [(7, 0), (7, 1), (7, 2)]


@pytest.mark.parametrize(
  "given, said",
  [
    (dict(prompts=[None]), "a prompt is None; it must be a text"),
    (dict(prompts=["a", 3]), "a prompt is 3"),
    (dict(prompts=3), "prompts is 3; give one value, or a list"),
    (dict(prompts=b"a"), "prompts is b'a'"),
    (dict(prompts=["\ud800"]), "is not valid UTF-8"),
    (dict(prompts=[]), "no prompt to sample"),
    (dict(prompts=["a", "b"], seeds=[1]), "2 prompts, but a list of 1 beside them"),
    (dict(seeds=-1), "a seed is -1; it must be from 0 to 2^64 - 1"),
    (dict(seeds=2**64), "a seed is 18446744073709551616"),
    (dict(seeds=1.5), "a seed is 1.5; it must be a whole number"),
    (dict(seeds=True), "a seed is True"),
    (dict(seeds=np.zeros((2, 2), int)), "seeds has shape (2, 2)"),
    (dict(guidance="high"), "guidance is 'high'; it must be a finite number"),
    (dict(guidance=np.nan), "guidance is nan"),
    (dict(guidance=[None]), "guidance is None"),
    (dict(negative=[1]), "a negative prompt is 1"),
    (dict(stepps=3), "sample has no setting 'stepps' (did you mean steps?)"),
    (dict(steps=0), "steps is 0; it must be at least 1"),
    (dict(steps=2.0), "steps is 2.0; it must be a whole number"),
    (dict(batch=0), "batch is 0"),
    (dict(tiled=1), "tiled is 1; it must be True or False"),
    (dict(sampler="nosuch"), "unknown sampler 'nosuch'"),
    (dict(height=13), "height 13 is not a positive multiple of"),
    (dict(init_latents=3.0), "init_latents has shape ()"),
    (dict(init_latents="noise"), "init_latents holds"),
    (dict(init_latents=np.zeros((1, 4, 8, 8), np.int32)), "init_latents holds int32"),
    (dict(init_latents=[[1.0], [2.0, 3.0]]), "init_latents is no array"),
  ],
  ids=lambda x: x if isinstance(x, str) else None,
)
def test_what_cannot_be_sampled_is_one_sentence(pipe, given, said):
  given = {"prompts": "a cat", "steps": 1} | given
  with pytest.raises(idejax.Error) as caught:
    pipe.sample(given.pop("prompts"), **given)
  assert said in str(caught.value) and "\n" not in str(caught.value)


def test_given_noise_is_checked_by_shape_and_values(pipe):
  h, w, c = pipe.latent_shape(interface.learn.pl.Settings())
  z = np.random.default_rng(0).standard_normal((1, h, w, c)).astype(np.float32)
  np.testing.assert_array_equal(
    pipe.sample("a cat", init_latents=z, **SMALL), pipe.sample("a cat", init_latents=z.astype(np.float64), **SMALL)
  )
  with pytest.raises(idejax.Error, match=re.escape(f"of this size need {(1, h, w, c)}; PyTorch's order is another")):
    pipe.sample("a cat", init_latents=np.zeros((1, c, h, w + (h == c == w)), np.float32), **SMALL)
  z[0, 0, 0, 0] = np.inf
  with pytest.raises(idejax.Error, match="not finite"):
    pipe.sample("a cat", init_latents=z, **SMALL)


def test_progress_of_sampling_is_told_to_a_function(pipe):
  told = []
  pipe.sample(["a cat"] * 2, steps=3, guidance=1.0, sampler="ddim", progress=lambda *a: told.append(a))
  assert told[-1] == (6, 6, {}) and [a[0] for a in told] == sorted({a[0] for a in told})


def test_a_pipeline_is_a_short_line(pipe, root, learnt):
  assert repr(pipe) == (
    f"<Pipeline {root / 'sd21-base'}: Stable Diffusion (epsilon), 32 x 32 pixels, float32, on 1 cpu device>"
  )
  assert repr(pipe.with_people(learnt[0])).endswith("people <anna>>")


# Photos to face records.


def test_a_face_record_shows_itself(root, pack):
  one = idejax.identity(root / "anna.png", pack)
  assert len(repr(one)) < 200 and "anna.png" in repr(one) and "by green" in repr(one)
  with Image.open(io.BytesIO(one._repr_png_())) as shown:
    assert shown.height == 548
  both = idejax.identity([root / "anna.png", facepack.picture((1, 1))], pack)
  np.testing.assert_allclose(both[0].embedding, one.embedding, atol=1e-6)
  with pytest.raises(idejax.Error, match="does not exist"):
    idejax.identity(root / "nobody.png", pack)


# Learning a person.


def test_the_interface_learns_what_the_command_learns(root, learnt):
  """The same photo, settings and seed: the same identity to the bit, in memory and on disk."""
  anna, _, out = learnt
  given = LEARN | dict(model=root / "sd21-base", pack=root / "pack", names=root / "names.txt", num=1, sample_steps=1)
  flags = [f"--{k.replace('_', '-')}={v}" for k, v in given.items()]
  twin = root / "runs" / "twin"
  command.main(
    method_options.parse(
      [str(root / "anna.png"), *flags, "--name=<anna>", f"--out={twin}", "--prompts", "{}"], "idejax personalize"
    )
  )
  same = learned.load(twin)
  assert (anna.word, anna.method, anna.cfg, anna.digest) == (same.word, same.method, same.cfg, same.digest)
  for a, b in zip(jax.tree.leaves(dict(anna.identity)), jax.tree.leaves(dict(same.identity)), strict=True):
    np.testing.assert_array_equal(a, b)
  for a, b in zip(*(tensorfiles.read(f, "identity").values() for f in (out, twin)), strict=True):
    np.testing.assert_array_equal(a, b)
  assert (out / "loss.png").exists() and (out / "provenance.json").exists()


def test_every_step_is_told_in_order(learnt):
  told = learnt[1]
  assert [(step, of) for step, of, _ in told] == [(1, 2), (2, 2)]
  assert all(np.isfinite(metrics["loss"]) for *_, metrics in told)


def test_every_step_of_a_window_is_told(tmp_path):
  """Metrics leave the device in windows; the function hears of each step all the same."""
  told = []
  rows = [{"step": i, "loss": 1.0 - i / 8, "in_a_row": 0, "skipped": 0} for i in range(7)]
  log = loop._Log(loop.Run(tmp_path, 7, log_steps=3, progress=lambda *a: told.append(a)), 0)
  for r in rows:
    log.add(r["step"], {k: jax.numpy.asarray(v) for k, v in r.items() if k != "step"})
  log.flush()
  log.close()
  assert [(step, of, m["loss"]) for step, of, m in told] == [(i + 1, 7, 1.0 - i / 8) for i in range(7)]


def test_a_person_shows_method_model_and_portrait(learnt, root):
  anna, _, out = learnt
  assert repr(anna) == f"<Learned <anna> by textual-inversion on {root / 'sd21-base'}>"
  shown = anna._repr_html_()
  assert "&lt;anna&gt;" in shown and "textual-inversion" in shown and "strength" not in shown
  data = base64.b64decode(re.search(r"base64,([^\"]+)", shown)[1])
  with Image.open(io.BytesIO(data)) as portrait:
    assert portrait.size == (128, 128)
  again = idejax.open_person(str(out))  # a string, as the command line gives it
  assert again.portrait is None and "<img" not in again._repr_html_() and again.word == "<anna>"


def test_strength_is_shown_where_there_is_one():
  class Config:
    pass

  strong = learned.Learned("<a>", "id-ea", Config(), {"scale": np.float32(0.8)}, "miniature", "0" * 64)
  assert strong.strength == pytest.approx(0.8) and "strength 0.8" in repr(strong)
  assert "strength" in strong.with_strength(2.0)._repr_html_()


def test_a_learned_person_is_sampled_saved_and_opened_again(learnt, pipe, root):
  anna = learnt[0]
  first = pipe.with_people(anna).sample("a photo of <anna>", steps=2)
  anna.save(root / "kept" / "anna")
  again = idejax.load(root / "sd21-base", people=[root / "kept" / "anna"], devices=jax.devices()[:1])
  np.testing.assert_array_equal(again.sample("a photo of <anna>", steps=2), first)
  assert (first != pipe.sample("a photo of person", steps=2)).any()


@pytest.mark.parametrize(
  "given, said",
  [
    (dict(method="id-eaa"), "method is 'id-eaa' (did you mean id-ea?); it must be one of id-ea,"),
    (dict(preset="papper"), "id-ea has no preset 'papper'"),
    (dict(stepps=3), "id-ea has no setting 'stepps' (did you mean steps?); it has"),
    (dict(steps=0), "steps is 0; it must be at least 1"),
    (dict(steps=1.5), "steps is 1.5; it must be a whole number"),
    (dict(lr=-1.0), "lr is -1.0; it must"),
    (dict(lr=np.nan), "lr is nan; it must be a finite number"),
    (dict(seed=-1), "seed is -1; it must be from 0 to 2^64 - 1"),
    (dict(plateau=-1), "plateau is -1; it must be at least 0"),
    (dict(name="two words"), "name is 'two words'; it must be one word"),
    (dict(describe="{}"), "describe is '{}'"),
    (dict(vit="/nowhere"), "vit: /nowhere does not exist"),
    (dict(accumulate=3, batch=4), "it must divide the batch of id-ea, 4"),
    (dict(compare="id-ea"), "compare is an option of the command"),
    (dict(minutes=1), "minutes is an option of the command"),
  ],
  ids=lambda x: x if isinstance(x, str) else None,
)
def test_settings_that_cannot_be_are_refused_before_a_photo_is_read(given, said):
  with pytest.raises(idejax.Error) as caught:
    idejax.personalize("/nowhere/photo.png", **given)
  assert said in str(caught.value)


def test_settings_may_be_numpys_and_lists(root):
  s = interface.settings(
    dict(method="textual-inversion", model="miniature", preset=None, name="<a>", pack="miniature"),
    dict(
      steps=np.int64(7), lr=np.float32(0.5), seed=np.array(3), templates=["a {}", "b {}"], names=str(root / "names.txt")
    ),
  )
  assert (s.cfg.steps, s.cfg.lr, s.run.seed, s.cfg.templates) == (7, 0.5, 3, ("a {}", "b {}"))
  assert s.run.names == root / "names.txt" and type(s.cfg.steps) is int


ABOUT = dict(method="textual-inversion", model="miniature", preset=None, name="<anna>", pack="miniature")


def test_photos_of_every_kind(root, pack):
  """A path, a string, an array, a picture, a record, several of one person; a mapping is many people."""
  s = interface.settings(ABOUT, {})
  array = facepack.picture((1, 1))
  one = faces.read(array, pack)
  kinds = [root / "anna.png", str(root / "anna.png"), array, Image.fromarray(array), one]
  for photos in kinds:
    ((key, person),) = interface.read(photos, pack, s).items()
    assert (key, person.word, person.alone, len(person.photos)) == ("<anna>", "<anna>", True, 1)
    np.testing.assert_array_equal(person.photos[0].photo, array)
  (several,) = interface.read(kinds, pack, s).values()
  assert len(several.photos) == 5
  people = interface.read({"Anna": array, "<ben>": [array, one]}, pack, s)
  assert {k: (p.stem, p.word, len(p.photos), p.alone) for k, p in people.items()} == {
    "Anna": ("anna", "<anna>", 1, False),
    "<ben>": ("ben", "<ben>", 2, False),
  }


@pytest.mark.parametrize(
  "photos, said",
  [
    ({}, "photos names nobody"),
    ([], "photos: no photo in the list"),
    ({"a": []}, "a: no photo in the list"),
    ({3: "x"}, "a name in photos is 3"),
    ({"a": np.zeros((32, 32, 3)), "A": 1}, "no face"),
    (np.zeros((4, 4, 3), np.uint8), "at least 16 a side"),
    (np.zeros((32, 32, 3, 1)), "a picture is [height, width]"),
  ],
  ids=str,
)
def test_photos_that_cannot_be(photos, said, pack):
  with pytest.raises(idejax.Error) as caught:
    interface.read(photos, pack, interface.settings(ABOUT, {}))
  assert said in str(caught.value)


def test_two_people_of_one_name_are_refused(pack):
  photo = facepack.picture((1, 1))
  with pytest.raises(UserError, match="two people are called ann; rename one of them"):
    interface.read({"<ann>": photo, "Ann": photo}, pack, interface.settings(ABOUT, {}))


def test_several_people_are_a_dict_of_results_in_their_order(root, pipe, monkeypatch):
  """Each with their own portrait; people beyond `at_a_time` train in groups."""
  groups = []

  def train(s, pipe, pack, shared, people, folder, watch, progress=None):
    groups.append(([p.word for p in people], folder.name))
    return [learned.Learned(p.word, s.run.method, s.cfg, {}, s.run.model, "") for p in people]

  monkeypatch.setattr(learn, "share", lambda *_: None)
  monkeypatch.setattr(learn, "train", train)
  photos = {n: facepack.picture((1, i), seed=i) for i, n in enumerate(("cleo", "anna", "ben"))}
  found = idejax.personalize(
    photos, model=pipe, pack=str(root / "pack"), names=root / "names.txt", at_a_time=2, **LEARN
  )
  assert {k: p.word for k, p in found.items()} == {"cleo": "<cleo>", "anna": "<anna>", "ben": "<ben>"}
  assert groups == [(["<cleo>", "<anna>"], "group-000"), (["<ben>"], "group-001")]
  portraits = [p.portrait for p in found.values()]
  assert (portraits[0] != portraits[1]).any() and (portraits[1] != portraits[2]).any()
  with pytest.raises(idejax.Error, match="names one person"):
    idejax.personalize(photos, model=pipe, name="<anna>", **LEARN)


def test_an_open_pipeline_keeps_its_dtype(pipe):
  with pytest.raises(idejax.Error, match="dtype belongs to idejax.load"):
    idejax.personalize("x.png", model=pipe, dtype="bfloat16")


def test_a_photograph_for_the_drawn_worlds_networks_is_told(pack, capfd, pipe):
  s = interface.settings(ABOUT | dict(pack="buffalo_l"), {})
  large = interface.read(facepack.picture((1, 1), size=256), pack, s)
  small = interface.read(facepack.picture((1, 1)), pack, s)
  interface.warn_of_photographs(s, small)
  assert not capfd.readouterr().err
  interface.warn_of_photographs(s, large)
  said = capfd.readouterr().err
  assert "looks like a photograph, and model miniature know" in said and said.count("warning") == 1


# Files.


def test_convert_is_the_command(root, tmp_path):
  made = idejax.convert(root / "sd21-base", tmp_path / "half", dtype="float16")
  assert made == tmp_path / "half" and (made / "model_index.json").exists()
  with pytest.raises(idejax.Error, match="is not empty"):
    idejax.convert(str(root / "sd21-base"), str(made))
  with pytest.raises(idejax.Error, match=re.escape("idejax.convert has no option 'dtyp' (did you mean dtype?)")):
    idejax.convert(root / "sd21-base", tmp_path / "new", dtyp="float16")
  with pytest.raises(idejax.Error, match="dtype is 'int8'; it must be one of"):
    idejax.convert(root / "sd21-base", tmp_path / "new", dtype="int8")


def test_a_person_in_memory_is_exported(learnt, tmp_path, monkeypatch):
  made = idejax.export(learnt[0], tmp_path / "anna", verify=False)
  assert isinstance(made, Path) and {p.name for p in made.iterdir()} >= {"README.md", "certificate.json"}
  from_folder = idejax.export(str(learnt[2]), tmp_path / "again", verify=False)
  weights = {p.name: p.read_bytes() for p in made.glob("*.safetensors")}
  assert weights and weights == {p.name: p.read_bytes() for p in from_folder.glob("*.safetensors")}
  with pytest.raises(idejax.Error, match="exists and is not empty"):
    idejax.export(learnt[0], made, verify=False)
  with pytest.raises(idejax.Error, match="format is 'nosuch'"):
    idejax.export(learnt[0], tmp_path / "x", format="nosuch")


# Pictures.


def test_a_sheet_of_pictures(root):
  images = np.zeros((5, 16, 16, 3), np.uint8)
  sheet = idejax.sheet(images, [f"number {i}" for i in range(5)], side=64, width=200)
  assert isinstance(sheet, Image.Image) and sheet.width <= 200
  assert (np.asarray(sheet) == 0).all(-1).sum() >= 5 * 64 * 64
  assert idejax.sheet(images[0]).size == idejax.sheet([root / "anna.png"]).size
  for wrong, said in [
    ((images, ["one"]), "5 pictures, but 1 captions"),
    (([],), "without pictures"),
    ((images.astype(float),), "is uint8 [height, width, 3], not float64 [16, 16, 3]"),
    (["/nowhere.png"], "does not exist"),
  ]:
    with pytest.raises(idejax.Error, match=re.escape(said)):
      idejax.sheet(*wrong)


def test_portraits_are_of_different_people_and_the_first_is_the_commands():
  first, second = idejax.portrait(), idejax.portrait(1)
  assert first.shape == (64, 64, 3) and first.dtype == np.uint8 and (first != second).any()
  with pytest.raises(idejax.Error, match="there is no person -1"):
    idejax.portrait(-1)


def test_every_public_name_is_documented():
  for name in idejax.__all__:
    assert getattr(idejax, name).__doc__
  text = (Path(__file__).parents[1] / "docs" / "python.md").read_text("utf-8")
  assert [n for n in idejax.__all__ if f"idejax.{n}" not in text] == []
