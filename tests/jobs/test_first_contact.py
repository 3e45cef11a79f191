"""What a newcomer runs into, through the installed command: nothing that is refused changes a file, nothing lies."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import facepack
from support.command import ROOT, assert_one_sentence, environment, run, tiny_model

from idejax.methods import METHODS
from idejax.sampling import learned, pipeline
from idejax.sampling.learned import Learned

HOME = ROOT / "first-contact"
SMALL = ("--height=16", "--width=16", "--steps=1", "--num=1")


@pytest.fixture(scope="module")
def home():
  """A face pack, a photo, names, and people of the tiny model: one alone, and a crowd of two."""
  HOME.mkdir()
  facepack.pack(HOME / "pack")
  Image.fromarray(facepack.picture((1, 1))).save(HOME / "anna.png")
  (HOME / "names.txt").write_text("ab cd\nef gh\nij kl\n")
  digest = pipeline.load(tiny_model()).digest
  rng = np.random.default_rng(0)

  def person(word: str) -> Learned:
    rows = (rng.standard_normal((1, 1, 2, 32), np.float32),)
    cfg = METHODS["textual-inversion"].Config(vectors=2)
    return Learned(word, "textual-inversion", cfg, {"rows": rows}, str(tiny_model()), digest)

  learned.save(HOME / "runs/one", person("<one>"))
  for name in ("ben", "dora"):
    learned.save(HOME / "runs/crowd" / name, person(f"<{name}>"))
  return HOME


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
  return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


def person_of(home: Path, *more: str) -> list[str]:
  flags = [f"--model={tiny_model()}", f"--pack={home / 'pack'}", f"--names={home / 'names.txt'}"]
  return ["personalize", str(home / "anna.png"), *flags, "--steps=2", "--batch=2", "--num=1", "--sample-steps=1", *more]


BEFORE_TRAINING = {
  "sheet's steps": (["--sample-steps=999"], "--sample-steps is 999"),
  "a prompt with the person twice": (["--prompts", "{} and {}"], "the person twice"),
  "a name without a letter": (["--name=."], "--name is '.'"),
  "heads": (["--heads=0"], "--heads is 0"),
  "face tokens": (["--face-tokens=0"], "--face-tokens is 0"),
  "saves": (["--checkpoint-every=0"], "--checkpoint-every is 0"),
  "no photo": (["/dev/null"], "/dev/null is no regular file"),
  "a file that is not there": (["--vit=JUNK"], "--vit JUNK does not exist"),
  "an option of another method": (["--compare=id-ea,textual-inversion", "--rank=2"], "does not suit textual-inversion"),
  "minutes": (["--minutes=-1"], "--minutes is -1.0"),
}


def test_what_can_be_known_before_a_model_is_read_is_told_before(home, tmp_path):
  """The model does not exist: whoever looks for it has come too far."""
  ask = lambda args: run("personalize", "--model=nowhere", f"--out={tmp_path / 'out'}", *args)
  with ThreadPoolExecutor(2) as pool:
    results = dict(zip(BEFORE_TRAINING, pool.map(ask, [args for args, _ in BEFORE_TRAINING.values()])))
  for case, result in results.items():
    assert_one_sentence(result, BEFORE_TRAINING[case][1])
  assert not (tmp_path / "out").exists()


def test_a_run_its_refusals_and_its_end(home, tmp_path):
  """One training: what other commands on its folder may not change, and what the same command does not do again."""
  out = tmp_path / "run"
  ti = ["--method=textual-inversion", "--preset=cross-init", f"--out={out}"]
  done = run(*person_of(home, *ti, "--name=<anna>"))
  assert done.code == 0, done.err
  # The time left does not count the compiler's; the hint works when pasted.
  first = next(line for line in done.err.splitlines() if line.startswith("textual-inversion 1/2"))
  assert "first step after" in first and "left" not in first
  hint = done.err.rstrip().split("try: ")[1]
  pasted = subprocess.run(["bash", "-c", f"set -- {hint}; printf '%s\\n' \"$@\""], capture_output=True, text=True)
  assert pasted.stdout.splitlines()[2:] == ["--identity", str(out), "--prompt", "a photo of <anna> on the beach"]

  before = contents(out)
  for other, words in (
    (["--method=id-ea", f"--out={out}", "--name=<anna>"], ("method was", "textual-inversion", "id-ea")),
    ([*ti, "--name=<anna>", "--lr=0.5"], ("lr was",)),
    ([*ti, "--name=<anna>", "--seed=3"], ("seed was",)),
    ([*ti, "--name=<anna>", "--compare=id-ea"], ("a run of textual-inversion",)),
  ):
    assert_one_sentence(run(*person_of(home, *other)), *words)
  drawn = [a for a in person_of(home, *ti, "--name=<anna>") if not a.endswith("anna.png")]
  assert_one_sentence(run(*drawn), "photo was")
  assert contents(out) == before

  again = run(*person_of(home, *ti, "--name=<anna>"))
  assert again.code == 0 and "finished already" in again.err and "reading the model" not in again.err
  assert contents(out) == before

  assert run("rename", str(out), "<carla>").code == 0 and learned.load(out).word == "<carla>"
  old, new = json.loads((out / "report.json").read_text()), learned.load(out)
  assert old["steps"] == 2 and new.method == "textual-inversion"
  assert_one_sentence(run("rename", str(out), "two words"), "one word")


def test_people_of_a_crowd_and_strangers_in_prompts(home, tmp_path):
  out = tmp_path / "out"
  flags = [*SMALL, f"--identity={home / 'runs/crowd'}", f"--identity={home / 'runs/one'}", f"--out={out}"]
  done = run("sample", *flags, "--prompt", "<ben> with <nobody>", "<one>")
  assert done.code == 0, done.err
  assert "nobody here is called <nobody>" in done.err and "no prompt names" not in done.err
  rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
  assert [w for w, _ in rows[0]["identities"]] == ["<ben>", "<one>"]  # of the crowd, those whom a prompt names
  assert rows[0]["sampler"] == "pndm"  # which it was, not how it was chosen
  shutil.copytree(home / "runs/one", tmp_path / "twin")
  twin = run("sample", *flags, f"--identity={tmp_path / 'twin'}", "--prompt", "<one>")
  assert_one_sentence(twin, "both called <one>", "idejax rename")


def test_folders_that_nobody_named_do_not_collide(home, tmp_path):
  """Other prompts go to a folder of their own; the same command finds its own again; foreign sheets stay."""
  ask = lambda *prompt: run("sample", f"--model={tiny_model()}", *SMALL, "--prompt", *prompt, cwd=tmp_path)
  for prompt, where in (("a cat", "pictures"), ("a dog", "pictures-2"), ("a cat", "pictures")):
    done = ask(prompt)
    assert done.code == 0 and f"in {where}," in done.err, done.err
  assert sorted(p.name for p in tmp_path.iterdir()) == ["pictures", "pictures-2"]


def test_a_photograph_is_told_to_the_drawn_worlds_networks(home, tmp_path):
  """Once, before anything is trained, with the two commands that do it right."""
  Image.fromarray(np.full((300, 300, 3), 90, np.uint8)).save(tmp_path / "me.png")
  Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(tmp_path / "drawn.png")
  met = run("personalize", str(tmp_path / "me.png"), f"--out={tmp_path / 'a'}")
  assert met.err.count("looks like a photograph") == 1 and met.code == 2  # there is no face
  assert "--pack buffalo_l --model stable-diffusion-v1-5/stable-diffusion-v1-5" in met.err
  assert "looks like" not in run("personalize", str(tmp_path / "drawn.png"), f"--out={tmp_path / 'b'}").err
  alone = run("identity", str(tmp_path / "me.png"), f"--out={tmp_path / 'me.npz'}")
  assert "--pack buffalo_l" in alone.err and "looks like a photograph" in alone.err


def test_a_full_disk_is_called_so_in_a_checkpoint_too(home, tmp_path):
  """Orbax wraps the system's error in words about resources, which are not the memory's."""
  disk = tmp_path / "disk"
  disk.mkdir()
  if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", disk], capture_output=True).returncode:
    pytest.skip("may not mount a small disk")
  try:
    args = ["--method=textual-inversion", "--preset=cross-init", f"--out={disk / 'run'}", "--checkpoint-every=1"]
    full = run(*person_of(home, *args))
    assert_one_sentence(full, "no space left")
    assert "Traceback" not in full.err and "memory" not in full.last
  finally:
    subprocess.run(["umount", disk], check=True)


_LITTLE_DISK = (
  "import shutil, sys, collections\nU = collections.namedtuple('U', 'total used free')\n"
  "shutil.disk_usage = lambda p: U(2**40, 2**40, 2**20)\n"
  "from idejax import cli\nsys.exit(cli.main(sys.argv[1:]))"
)


@pytest.mark.parametrize(
  "args, what",
  [
    ("sample --prompt a --num 2000 --height 4096 --width 4096 --out OUT --model TINY", "the pictures need"),
    ("convert miniature OUT", "the weights need"),
    ("convert miniature OUT --dtype float32", "the weights need"),
  ],
)
def test_what_a_disk_has_no_room_for_is_told_before_a_model_is_read(args, what, tmp_path):
  words = [{"OUT": str(tmp_path / "out"), "TINY": str(tiny_model())}.get(w, w) for w in args.split()]
  process = subprocess.run([sys.executable, "-c", _LITTLE_DISK, *words], capture_output=True, env=environment())
  error = process.stderr.decode()
  assert process.returncode == 2 and what in error and "the disk has 1 MiB free" in error, error
  assert "opening" not in error and not (tmp_path / "out").exists()


def test_models_that_are_built_in_can_be_converted_by_name(tmp_path):
  done = run("convert", "miniature", str(tmp_path / "new"), "--dtype", "float16")
  assert done.code == 0 and (tmp_path / "new/model_index.json").exists(), done.err
  assert_one_sentence(
    run("convert", "minature", str(tmp_path / "no")), "built-in models are miniature and miniature-sdxl"
  )


def test_a_figure_that_was_not_measured_is_null(tmp_path):
  from idejax.evaluation.intervals import interval
  from idejax.storage.files import write_json

  scores = {"asked": interval([None], [0]), "prompt": interval([0.5], [0])}
  write_json(tmp_path / "report.json", scores | {"sharpness": float("nan")})
  refuse = lambda name: pytest.fail(f"{name} is no JSON")
  found = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
  assert found["asked"]["mean"] is None and found["asked"]["n"] == 0 and found["sharpness"] is None
  assert found["prompt"]["mean"] == 0.5
