"""`idejax personalize` from photo to pictures, on a random pipeline and a hand-made face pack."""

import json
import math
import random
import signal
import time

import facepack
import numpy as np
import pytest
import tiny_pipelines
from command import run, run_for, run_until
from PIL import Image

from idejax import learned, method_options, people_folder, personalize, tensorfiles
from idejax.errors import UserError
from idejax.miniature import captions

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
  given = dict(method="textual-inversion", preset="cross-init", model=root / "sd21-base", pack=root / "pack",
               names=root / "names.txt", steps=2, batch=2, num=1, sample_steps=2, out=out) | more  # fmt: skip
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
  assert files >= {"identity.safetensors", "config.json", "provenance.json", "loss.png", "sheet.png", "metrics.jsonl",
                   "report.json", "checkpoints"}  # fmt: skip
  report = json.loads((anna / "report.json").read_text())
  assert report["scores"].startswith("not measured") and report["seconds"].keys() >= {"features", "train", "sample"}
  origin = json.loads((anna / "provenance.json").read_text())
  assert origin["consent"] == "not stated" and origin["pack_licence"] == "Apache-2.0"
  assert len(origin["photos"][0]["photo_sha256"]) == 64
  with Image.open(anna / "sheet.png") as sheet: width, height = sheet.size
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


@pytest.mark.parametrize("flags, said", [
  (["--batch=4", "--accumulate=3"], "--accumulate is 3; it must divide the batch of textual-inversion, 4"),
  (["--batch=4", "--accumulate=2", "--compare=id-ea/batch=3"], "the batch of id-ea, 3"),
  (["--accumulate=0"], "--accumulate is 0"), (["--num=0"], "--num is 0"), (["--lr=nan"], "--lr is nan"),
  (["--seed=-1"], "--seed is -1"), (["--name=two words"], "one word"), (["--plateau=-1"], "--plateau is -1"),
])  # fmt: skip
def test_settings_that_cannot_be_are_refused_before_a_model_is_read(flags, said):
  s = method_options.parse(["--method=textual-inversion", "--model=nowhere", *flags], "idejax personalize")
  with pytest.raises(UserError, match=said): personalize.check(s)


def test_what_else_a_photo_shows_is_said_in_every_caption(root):
  parse = lambda *flags: method_options.parse([*options(root, root / "no"), *flags], "idejax personalize")
  plain, told = parse(), parse("--describe", "in a red hat ")
  assert personalize.described(plain) is plain
  got = personalize.described(told).cfg.templates
  assert got == tuple(f"{t} in a red hat" for t in plain.cfg.templates)
  with pytest.raises(UserError, match="braces"): personalize.check(parse("--describe", "{}"))
  drawn = method_options.parse(["--method=dreambooth"], "idejax personalize")
  shown = personalize.described(drawn).cfg
  assert shown.templates[0] == f"a photo of {{}} {people_folder.SHOWN}" and shown.class_prompt == drawn.cfg.class_prompt
  assert set(captions.words(people_folder.SHOWN)) <= set(captions.VOCABULARY)


def test_the_unet_recomputes_its_blocks_when_asked(root):
  for flags in ([], ["--remat"]):
    settings = method_options.parse([*options(root, root / "no"), *flags], "idejax personalize")
    assert personalize.open_model(settings.run).backbone.nets.unet.remat == bool(flags)


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

  cfg = ViTConfig(hidden_size=24, intermediate_size=40, num_hidden_layers=1, num_attention_heads=3, image_size=24, patch_size=8)
  ViTModel(cfg).save_pretrained(tmp_path / "vit")
  (tmp_path / "names.txt").write_text("a b\nc d\ne f\n")  # two tokens each
  args = dict(method="stable-identity", preset="paper", source="vit", names=tmp_path / "names.txt")
  out = personalise(root, tmp_path / "run", vit=tmp_path / "vit", **args)
  assert learned.load(out).identity["rows"][0].shape == (1, 1, 2, 32)
  with pytest.raises(UserError, match="--vit FOLDER"): personalise(root, tmp_path / "other", **args)
  ViTModel(cfg).save_pretrained(tmp_path / "vit")  # other weights at the same place
  with pytest.raises(UserError, match="vit_digest was"): personalise(root, out, vit=tmp_path / "vit", **args)


def test_other_settings_in_the_same_folder_are_refused(anna, root):
  with pytest.raises(UserError, match="lr was"): personalise(root, anna, name="<anna>", lr=0.5)


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
  ben = root / "runs" / "people" / "ben"
  args = ["sample", "--identity", str(anna), "--identity", str(ben), "--steps=2", "--seed=1", "--guidance=2"]
  prompts = ["<anna> and <ben> at sea", "<anna> at sea", "person at sea"]
  done = run(*args, *(x for p in prompts for x in ("--prompt", p)), f"--out={root / 'both'}")
  assert done.code == 0, done.err
  pictures = [np.asarray(Image.open(root / "both" / f"{i:05d}.png")) for i in range(3)]
  alone = run("sample", f"--identity={anna}", "--prompt", "<anna> at sea", "--num=1", "--steps=2", "--seed=1", "--guidance=2",
              f"--out={root / 'one'}")  # fmt: skip
  assert alone.code == 0, alone.err
  assert not np.array_equal(pictures[0], pictures[1]) and not np.array_equal(pictures[1], pictures[2])


@pytest.mark.parametrize("photo, more, said", [
  ("nowhere.png", {}, "nowhere.png does not exist"), ("people/nobody.png", {}, "no face"),
  ("people/notes.txt", {}, "notes.txt"), ("people/broken.png", {}, "broken.png"),
  ("anna.png", {"name": "two words"}, "one word"), ("anna.png", {"names": "nowhere.txt"}, "nowhere.txt cannot be read"),
  ("anna.png", {"steps": 0}, "--steps is 0"), ("anna.png", {"face": 7}, "face"), ("anna.png", {"compare": "id-ea,x"}, "'x'"),
  ("anna.png", {"name": "a"}, "knows"), ("anna.png", {"lr": math.inf}, "--lr is inf"),
])  # fmt: skip
def test_bad_input_is_one_sentence_and_leaves_nothing(root, tmp_path, photo, more, said):
  out = tmp_path / "out"
  with pytest.raises(UserError, match=said) as e: personalise(root, out, photo, **more)
  assert "\n" not in str(e.value)
  assert not (out / "identity.safetensors").exists()


def test_an_identity_of_another_model_is_refused_by_both_names(anna, root):
  other = root / "other"
  if not other.exists(): tiny_pipelines.families.write_random(other, "sd21-base", seed=5, configs=tiny_pipelines.configs("sd21-base"))
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
def test_twenty_kills_at_random_moments_change_no_bit(root):
  """kill -9 again and again, wherever it hits: imports, compilation, a step, a save, the sheet."""
  args = lambda out: ["personalize", *options(root, out, name="<anna>", steps=40, checkpoint_every=4)]
  whole, length = root / "runs" / "unbroken", 0.0
  for out in (root / "runs" / "first", whole):  # the first keeps its compiled programs for all that follow
    begun = time.monotonic()
    assert run(*args(out)).code == 0
    length = time.monotonic() - begun
  rng, kills, broken = random.Random(0), 0, [root / "runs" / "broken-0"]
  while kills < 20:
    code = run_for(rng.uniform(0.2, 0.95) * length, *args(broken[-1]))
    assert code in (0, -signal.SIGKILL)
    kills += code != 0
    if code == 0: broken.append(root / "runs" / f"broken-{len(broken)}")
  for out in broken:
    done = run(*args(out))
    assert done.code == 0, done.err
    assert (out / "identity.safetensors").read_bytes() == (whole / "identity.safetensors").read_bytes(), out
