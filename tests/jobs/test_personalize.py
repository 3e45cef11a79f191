"""`idejax personalize` from photo to pictures, on a random pipeline and a hand-made face pack."""

import json
import math
import random
import signal
import time
import types

import jax
import numpy as np
import pytest
from PIL import Image
from support import facepack, tiny_pipelines
from support.command import run, run_for, run_until
from support.fakes import relative_error

from idejax import faces
from idejax.cli import method_options
from idejax.data import people_folder
from idejax.errors import UserError
from idejax.evaluation import report
from idejax.jobs import personalize
from idejax.methods import dreambooth
from idejax.miniature.world import captions, portraits
from idejax.model import backbone
from idejax.person import augment
from idejax.person.subject import Frozen
from idejax.personalizing import learn
from idejax.sampling import class_pictures, learned
from idejax.storage import fonts, sheets, tensorfiles
from idejax.training import fit
from idejax.training import step as st

PROMPTS = ["a photo of {}", "{} at sea"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """A model, a face pack, names, a photo, and a folder of three people with rubbish in it."""
  root = tmp_path_factory.mktemp("personalize")
  facepack.pack(root / "pack")
  tiny_pipelines.write(root, "sd21-base")
  (root / "names.txt").write_text("ab cd\nef gh\n\nij kl\n")
  Image.fromarray(facepack.picture((1, 1))).save(root / "anna.png")
  people = root / "people"
  (people / "cleo").mkdir(parents=True)
  for i, name in enumerate(("ben.png", "cleo/1.png", "cleo/2.png", "dora.png")):
    Image.fromarray(facepack.picture((1, 1 + i % 2), seed=i)).save(people / name)
  Image.fromarray(facepack.picture()).save(people / "nobody.png")
  (people / "notes.txt").write_text("not a picture")
  (people / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
  return root


def options(root, out, photo="anna.png", **more):
  given = (
    dict(
      method="textual-inversion",
      preset="cross-init",
      model=root / "sd21-base",
      pack=root / "pack",
      names=root / "names.txt",
      steps=2,
      batch=2,
      num=1,
      sample_steps=2,
      out=out,
    )
    | more
  )
  flags = [f"--{k.replace('_', '-')}={v}" for k, v in given.items()]
  return [str(root / photo), *flags, "--prompts", *PROMPTS]


def personalise(root, out, photo="anna.png", **more):
  settings = method_options.parse(options(root, out, photo, **more), "idejax personalize")
  personalize.main(settings)
  return out


@pytest.fixture(scope="module")
def anna(root):
  return personalise(root, root / "runs" / "anna", name="<anna>")


def test_what_a_run_leaves(anna, root):
  files = {p.name for p in anna.iterdir()}
  assert files >= {
    "identity.safetensors",
    "config.json",
    "provenance.json",
    "loss.png",
    "sheet.png",
    "metrics.jsonl",
    "report.json",
    "checkpoints",
  }
  report = json.loads((anna / "report.json").read_text())
  assert report["scores"].startswith("not measured") and report["seconds"].keys() >= {"features", "train", "sample"}
  origin = json.loads((anna / "provenance.json").read_text())
  assert origin["consent"] == "not stated" and origin["pack_licence"] == "Apache-2.0"
  assert len(origin["photos"][0]["photo_sha256"]) == 64
  with Image.open(anna / "sheet.png") as sheet:
    width, height = sheet.size
  assert width > 3 * 128 and height > 128


def test_the_identity_comes_back_as_it_was(anna):
  who = learned.load(anna)
  assert (who.word, who.method, who.rows, who.cfg.steps) == ("<anna>", "textual-inversion", 2, 2)
  assert who.identity["rows"][0].shape == (1, 1, 2, 32)


def test_the_same_run_again_from_its_config_gives_the_same_bytes(anna, root):
  out = root / "runs" / "again"
  settings = method_options.parse(["--config", str(anna / "config.json"), f"--out={out}"], "idejax personalize")
  personalize.main(settings)
  for a, b in zip(*(tensorfiles.read(f, "identity").items() for f in (anna, out))):
    np.testing.assert_array_equal(a[1], b[1])


def test_a_finished_run_trains_no_more(anna, root, capfd):
  personalise(root, anna, name="<anna>")
  assert "2/2" not in capfd.readouterr().err


@pytest.mark.parametrize(
  "flags, said",
  [
    (["--batch=4", "--accumulate=3"], "--accumulate is 3; it must divide the batch of textual-inversion, 4"),
    (["--batch=4", "--accumulate=2", "--compare=id-ea/batch=3"], "the batch of id-ea, 3"),
    (["--accumulate=0"], "--accumulate is 0"),
    (["--num=0"], "--num is 0"),
    (["--lr=nan"], "--lr is nan"),
    (["--seed=-1"], "--seed is -1"),
    (["--name=two words"], "one word"),
    (["--plateau=-1"], "--plateau is -1"),
  ],
)
def test_settings_that_cannot_be_are_refused_before_a_model_is_read(flags, said):
  with pytest.raises(UserError, match=said):
    personalize.check(
      method_options.parse(["--method=textual-inversion", "--model=nowhere", *flags], "idejax personalize")
    )


def test_what_else_a_photo_shows_is_said_in_every_caption(root):
  parse = lambda *flags: method_options.parse([*options(root, root / "no"), *flags], "idejax personalize")
  plain, told = parse(), parse("--describe", "in a red hat ")
  assert personalize.with_description(plain) is plain
  got = personalize.with_description(told).cfg.templates
  assert got == tuple(f"{t} in a red hat" for t in plain.cfg.templates)
  with pytest.raises(UserError, match="braces"):
    parse("--describe", "{}")
  drawn = method_options.parse(["--method=dreambooth"], "idejax personalize")
  shown = personalize.with_description(drawn).cfg
  assert (
    shown.templates[0] == f"a photo of {{}} {portraits.SURROUNDINGS}" and shown.class_prompt == drawn.cfg.class_prompt
  )
  assert set(captions.words(portraits.SURROUNDINGS)) <= set(captions.VOCABULARY)


def test_the_unet_recomputes_its_blocks_when_asked(root):
  for flags in ([], ["--remat"]):
    settings = method_options.parse([*options(root, root / "no"), *flags], "idejax personalize")
    assert personalize.open_model(settings.run).backbone.nets.unet.remat == bool(flags)


def test_class_pictures_are_encoded_as_the_vae_reads_pictures(root, monkeypatch, rng):
  """In [-1, 1]; as many as the method asks for, of its class."""
  flags = options(root, root / "no", method="dreambooth", preset="lora", class_pictures=3)
  s = method_options.parse(flags, "idejax personalize")
  pipe, asked = personalize.open_model(s.run), []
  nets = pipe.backbone.nets
  pixels = rng.integers(0, 256, (3, *[nets.unet.sample_size * nets.factor] * 2, 3), np.uint8)
  monkeypatch.setattr(class_pictures, "make", lambda pipe, *how: asked.append(how) or pixels)
  monkeypatch.setattr(dreambooth, "constants", lambda *_: {})
  mean, logvar = personalize.share(s, pipe, ()).prior
  want = jax.jit(backbone.encode_image)(pipe.backbone, 2 * pixels.astype(np.float32) / 255 - 1)
  assert asked == [("a photo of a person", 3)]
  assert relative_error(mean, want[0]) < 1e-5 and relative_error(logvar, want[1]) < 1e-5


def test_everybody_of_a_crowd_keeps_what_is_theirs(root, tmp_path, monkeypatch):
  """Parameters, subject and word of one person go together, with padding for eight devices too."""
  s = method_options.parse(options(root, tmp_path, "people", method="id-ea", preset="paper"), "idejax personalize")
  pack = faces.open_pack(root / "pack")
  people = people_folder.read(root / "people", pack, "<x>")
  given = {}

  def crowd(module, cfg, b, constants, captions, subject, key, mesh, **_):
    given.update(count=len(key), key=jax.random.key_data(key))
    state = st.State(np.full(len(key), cfg.steps), {"face": subject.face}, {}, np.zeros(2))
    return None, state, Frozen(b, constants, captions, subject)

  monkeypatch.setattr(fit, "crowd", crowd)
  monkeypatch.setattr(fit, "rows", lambda *_: None)
  monkeypatch.setattr(fit, "train", lambda step, state, *_: iter([(s.cfg.steps, state)]))
  monkeypatch.setattr(fit, "represent", lambda module, cfg, frozen, params: (params["face"], frozen.subject.face))
  shared = learn.Shared({}, (), None, None)
  made = personalize.train(s, personalize.open_model(s.run), pack, shared, people, tmp_path, personalize.Watch())
  assert [m.word for m in made] == [p.word for p in people] == ["<ben>", "<cleo>", "<dora>"] and given["count"] == 8
  np.testing.assert_array_equal(given["key"][:3], jax.random.key_data(fit.keys(0, [p.digest for p in people])))
  for person, one in zip(people, made):
    mean = np.mean([p.embedding for p in person.photos], axis=0)
    for face in one.identity:
      np.testing.assert_allclose(face, mean / np.linalg.norm(mean), rtol=1e-5)


def test_a_runs_pictures_are_of_everybody_by_every_prompt_and_seed(root, tmp_path):
  """Whoever is asked for by their word is who is counted, and stands in their own row of the sheet."""
  pack = faces.open_pack(root / "pack")
  people = people_folder.read(root / "people", pack, "<x>")
  asked = []

  def sample(texts, *, seeds, **_):
    asked.extend(zip(texts, seeds))
    return np.stack([np.full((16, 16, 3), 10 * (i + 1), np.uint8) for i in range(len(texts))])

  nets = types.SimpleNamespace(sampler=None)
  pipe = types.SimpleNamespace(sample=sample, backbone=types.SimpleNamespace(nets=nets))
  pictures = report.sample(pipe, people, PROMPTS, tmp_path, num=2, steps=1, guidance=None, seed=5)
  words = ("<ben>", "<cleo>", "<dora>")
  rows = [(i, p, s) for i in range(3) for p in PROMPTS for s in (5, 6)]
  assert asked == [(p.replace("{}", words[i]), s) for i, p, s in rows]
  assert [(p.person, p.prompt, p.seed) for p in pictures] == rows
  with Image.open(tmp_path / "sheet.png") as opened:
    sheet = np.asarray(opened.convert("RGB")).astype(int)
  head, caption = fonts.height(sheets.HEAD) + 4, fonts.height(sheets.TEXT) + 3
  for row, person in enumerate(people):
    top = sheets.EDGE + (row + 1) * (head + caption) + row * (128 + sheets.GAP)
    strip = sheet[top : top + 128, sheets.EDGE :]
    assert np.abs(strip[:, :128] - augment.resize(report.reference(person), 128)).max() == 0
    left = 128 + sheets.GAP
    shown = [strip[64, left + k * (256 + sheets.GAP) + j * 128 + 64, 0] for k in range(2) for j in range(2)]
    assert shown == [10 * (4 * row + n + 1) for n in range(4)]


@pytest.mark.slow
def test_a_person_whose_loss_stops_falling_ends_the_run_early(root, capfd):
  args = dict(name="<anna>", steps=1000, plateau=1, lr=1e-9)
  out = personalise(root, root / "runs" / "plateau", **args)
  said, report = capfd.readouterr().err, json.loads((out / "report.json").read_text())
  assert "no loss fell any more" in said and 51 <= report["steps"]["anna"] < 200
  first = (out / "identity.safetensors").read_bytes()
  personalise(root, out, **args)  # ends again where it ended
  assert (out / "identity.safetensors").read_bytes() == first
  assert json.loads((out / "report.json").read_text())["steps"] == report["steps"]


@pytest.mark.slow
def test_stable_identity_reads_faces_with_a_vision_transformer(root, tmp_path):
  from transformers import ViTConfig, ViTModel

  cfg = ViTConfig(
    hidden_size=24, intermediate_size=40, num_hidden_layers=1, num_attention_heads=3, image_size=24, patch_size=8
  )
  ViTModel(cfg).save_pretrained(tmp_path / "vit")
  (tmp_path / "names.txt").write_text("a b\nc d\ne f\n")  # two tokens each
  args = dict(method="stable-identity", preset="paper", source="vit", names=tmp_path / "names.txt")
  out = personalise(root, tmp_path / "run", vit=tmp_path / "vit", **args)
  assert learned.load(out).identity["rows"][0].shape == (1, 1, 2, 32)
  with pytest.raises(UserError, match="--vit FOLDER"):
    personalise(root, tmp_path / "other", **args)
  ViTModel(cfg).save_pretrained(tmp_path / "vit")  # other weights at the same place
  with pytest.raises(UserError, match="vit_digest was"):
    personalise(root, out, vit=tmp_path / "vit", **args)


def test_other_settings_in_the_same_folder_are_refused(anna, root):
  with pytest.raises(UserError, match="lr was"):
    personalise(root, anna, name="<anna>", lr=0.5)


def test_a_folder_of_people_trains_them_all_and_lists_what_is_no_use(root, capfd):
  out = personalise(root, root / "runs" / "people", "people")
  said = capfd.readouterr().err
  assert "nobody.png" in said and "broken.png" in said and "2 photo(s) skipped, 3 people" in said
  words = {p.parent.name: learned.load(p).word for p in out.glob("*/identity.safetensors")}
  assert words == {"ben": "<ben>", "cleo": "<cleo>", "dora": "<dora>"}
  assert len(json.loads((out / "metrics.jsonl").read_text().splitlines()[0])["loss_each"]) >= 3


def test_a_person_of_a_folder_is_the_person_alone(root):
  alone = personalise(root, root / "runs" / "ben", "people/ben.png")
  a, b = (learned.load(p).identity["rows"][0] for p in (alone, root / "runs" / "people" / "ben"))
  np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_people_in_prompts_of_the_installed_command(anna, root):
  """One, another and both in one batch; strangers are told apart from plain prompts."""
  dora = root / "runs" / "people" / "dora"  # ben is another file of anna's photo
  args = ["sample", "--identity", str(anna), "--identity", str(dora), "--steps=2", "--guidance=2"]
  asked = ["<anna> and <dora> at sea", "<anna> at sea", "<dora> at sea", "person at sea"]
  rows = [json.dumps({"prompt": p, "seed": 1}) for p in asked]  # a row's own seed: all begin with one noise
  (root / "asked.jsonl").write_text("\n".join(rows))
  done = run(
    *args, f"--prompts={root / 'asked.jsonl'}", f"--save-latents={root / 'both.npy'}", f"--out={root / 'both'}"
  )
  assert done.code == 0, done.err
  alone = run(
    "sample",
    f"--identity={anna}",
    "--prompt",
    "<anna> at sea",
    "--num=1",
    "--steps=2",
    "--seed=1",
    "--guidance=2",
    f"--save-latents={root / 'one.npy'}",
    f"--out={root / 'one'}",
  )
  assert alone.code == 0, alone.err
  both, (anna_alone,) = np.load(root / "both.npy"), np.load(root / "one.npy")
  np.testing.assert_allclose(both[1], anna_alone, rtol=1e-4, atol=1e-4)
  apart = [np.abs(a - b).max() for i, a in enumerate(both) for b in both[:i]]
  assert min(apart) > 1e-3, apart


@pytest.mark.parametrize(
  "photo, more, said",
  [
    ("nowhere.png", {}, "nowhere.png does not exist"),
    ("people/nobody.png", {}, "no face"),
    ("people/notes.txt", {}, "notes.txt"),
    ("people/broken.png", {}, "broken.png"),
    ("anna.png", {"name": "two words"}, "one word"),
    ("anna.png", {"names": "nowhere.txt"}, "nowhere.txt cannot be read"),
    ("anna.png", {"steps": 0}, "--steps is 0"),
    ("anna.png", {"face": 7}, "face"),
    ("anna.png", {"compare": "id-ea,x"}, "'x'"),
    ("anna.png", {"name": "a"}, "knows"),
    ("anna.png", {"lr": math.inf}, "--lr is inf"),
  ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(root, tmp_path, photo, more, said):
  out = tmp_path / "out"
  with pytest.raises(UserError, match=said) as e:
    personalise(root, out, photo, **more)
  assert "\n" not in str(e.value)
  assert not (out / "identity.safetensors").exists()


def test_an_identity_of_another_model_is_refused_by_both_names(anna, root):
  other = root / "other"
  if not other.exists():
    tiny_pipelines.families.write_random(other, "sd21-base", seed=5, configs=tiny_pipelines.configs("sd21-base"))
  done = run("sample", f"--identity={anna}", f"--model={other}", "--prompt", "<anna>", f"--out={root / 'no'}")
  assert done.code == 2 and "sd21-base" in done.last and "other" in done.last
  half = run("sample", f"--identity={root / 'people'}", "--prompt", "<anna>", f"--out={root / 'no'}")
  assert half.code == 2 and "identity.safetensors" in half.last


@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_bytes(anna, root):
  """kill -9 in mid-training, then the same command."""
  out = root / "runs" / "killed"
  args = ["personalize", *options(root, out, name="<anna>", steps=6, checkpoint_every=1)]
  got = run_until(out / "checkpoints" / "2.sha256", signal.SIGKILL, *args)
  assert got.code == -signal.SIGKILL and not (out / "identity.safetensors").exists()
  done = run(*args)
  assert done.code == 0 and "continuing" in done.err, done.err
  whole = personalise(root, root / "runs" / "whole", name="<anna>", steps=6)
  a, b = (learned.load(p).identity["rows"][0] for p in (out, whole))
  np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)  # a process on one device, this one on eight


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_no_bit(root):
  """kill -9 again and again, wherever it hits: imports, compilation, a step, a save, the sheet."""
  args = lambda out: ["personalize", *options(root, out, name="<anna>", steps=40, checkpoint_every=4)]
  whole, length = root / "runs" / "unbroken", 0.0
  for out in (root / "runs" / "first", whole):  # the first keeps its compiled programs for all that follow
    begun = time.monotonic()
    assert run(*args(out)).code == 0
    length = time.monotonic() - begun
  rng, kills, broken = random.Random(0), 0, [root / "runs" / "broken-0"]
  while kills < 10:
    code = run_for(rng.uniform(0.2, 0.95) * length, *args(broken[-1]))
    assert code in (0, -signal.SIGKILL)
    kills += code != 0
    if code == 0:
      broken.append(root / "runs" / f"broken-{len(broken)}")
  for out in broken:
    done = run(*args(out))
    assert done.code == 0, done.err
    assert (out / "identity.safetensors").read_bytes() == (whole / "identity.safetensors").read_bytes(), out
