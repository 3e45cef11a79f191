"""`idejax sample` end to end, as a process: what it writes, and that it can be stopped anywhere."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from support import learned_people
from support.command import IDEJAX, Result, assert_one_sentence, environment, run, run_until, tiny_model
from support.fakes import relative_error

from idejax import config
from idejax.cli import config_file
from idejax.jobs import sample as sample_command
from idejax.sampling import learned, pipeline
from idejax.storage import pictures

PROMPTS = ["a photo of a cat", "zwei Hunde, nachts", "猫"]


def command(out: Path, *args, model: Path | None = None) -> list[str]:
  small = ["--height", "16", "--width", "16", "--sampler", "euler_ancestral"]
  steps = [] if "--steps" in args else ["--steps", "2"]
  num = [] if "--num" in args else ["--num", "1"]
  return ["sample", "--model", str(model or tiny_model()), *small, *steps, *num, "--out", str(out), *map(str, args)]


def sample(out: Path, *args, **env: str | None) -> Path:
  result = run(*command(out, *args), **env)
  assert (result.code, result.out) == (0, ""), result.err
  return out


def contents(out: Path) -> dict[str, bytes]:
  return {p.name: p.read_bytes() for p in sorted(out.iterdir())}


def manifest(out: Path) -> list[dict]:
  return [json.loads(line) for line in (out / "manifest.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def once(tmp_path_factory):
  """One finished run that most tests compare with: three prompts, two pictures each, in batches of 4."""
  out = tmp_path_factory.mktemp("once") / "out"
  return sample(
    out, "--prompt", *PROMPTS, "--num", 2, "--seed", 5, "--batch", 4, "--save-latents", out.with_name("z.npy")
  )


def test_what_is_written(once):
  files = [f"{i:05d}.png" for i in range(6)]
  assert sorted(contents(once)) == [*files, "manifest.jsonl", "sheet.png"]
  rows = manifest(once)
  assert [r["file"] for r in rows] == files
  assert [r["prompt"] for r in rows] == [p for p in PROMPTS for _ in range(2)]
  assert [(r["seed"], r["index"]) for r in rows] == [(5, i) for i in range(6)]
  for name, row in zip(files, rows):
    with Image.open(once / name) as image:
      assert image.size == (16, 16) and image.mode == "RGB"
      text = image.text
    assert text["AI-generated"] == "true" and text["prompt"] == row["prompt"]
    assert text["sampler"] == "euler_ancestral" and text["seed"] == "5"
    assert len(text["model_digest"]) == 64 and json.loads(text["idejax"]) == row
  assert len({(once / f).read_bytes() for f in files}) == 6
  with Image.open(once / "sheet.png") as image:
    assert 6 * 192 <= image.size[0] <= 1300 and image.size[1] > 192  # three groups of two, side by side
  z = np.load(once.with_name("z.npy"))
  assert z.shape == (6, 4, 2, 2) and z.dtype == np.float32 and np.isfinite(z).all()
  assert not [p for p in once.parent.rglob(".*")]  # nothing temporary


def test_again_makes_nothing_again(once):
  before = {p.name: p.stat().st_mtime_ns for p in once.glob("0*.png")}
  result = run(
    *command(
      once, "--prompt", *PROMPTS, "--num", 2, "--seed", 5, "--batch", 1, "--save-latents", once.with_name("z.npy")
    )
  )
  assert result.code == 0 and "6 of 6 pictures are there already" in result.err
  assert {p.name: p.stat().st_mtime_ns for p in once.glob("0*.png")} == before
  other = run(*command(once, "--prompt", *PROMPTS, "--num", 2, "--seed", 6))
  assert_one_sentence(other, "00000.png", "another seed (5, now 6)", "--out")


def test_formats_latents_and_devices(once, tmp_path):
  """The same pictures from .txt, .jsonl, .csv and --prompt twice, from a file of noise, on four devices."""
  (tmp_path / "p.txt").write_text("\n".join(PROMPTS) + "\n\n")
  rows = [dict(prompt=p, seed=5) for p in PROMPTS]
  (tmp_path / "p.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
  (tmp_path / "p.csv").write_text("prompt,seed\n" + "".join(f'"{p}",5\n' for p in PROMPTS), "utf-8-sig")
  noise = np.stack([pipeline.noise(5, i, (2, 2, 4)).transpose(2, 0, 1) for i in range(6)])
  np.save(tmp_path / "noise.npy", noise)
  two = ("--num", 2, "--batch", 4)
  four = f"{environment()['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
  jobs = dict(
    txt=("--prompts", tmp_path / "p.txt", *two, "--seed", 5),
    jsonl=("--prompts", tmp_path / "p.jsonl", *two, "--save-latents", tmp_path / "new/folder/jsonl.npy"),
    csv=("--prompts", tmp_path / "p.csv", *two),
    noise=(
      "--prompt",
      PROMPTS[0],
      "--seed",
      5,
      "--prompt",
      *PROMPTS[1:],
      *two,
      "--init-latents",
      tmp_path / "noise.npy",
    ),
    one=("--prompt", *PROMPTS, "--num", 2, "--batch", 1, "--seed", 5, "--save-latents", tmp_path / "one.npy"),
    devices=("--prompt", *PROMPTS, *two, "--seed", 5, "--save-latents", tmp_path / "devices.npy"),
  )
  with ThreadPoolExecutor(2) as pool:
    env = lambda name: dict(XLA_FLAGS=four) if name == "devices" else {}
    runs = {n: pool.submit(sample, tmp_path / n, *args, **env(n)) for n, args in jobs.items()}
    runs = {n: m.result() for n, m in runs.items()}
  pixels = lambda out: [np.asarray(Image.open(out / f"{i:05d}.png")) for i in range(6)]
  for same in ("txt", "noise"):
    np.testing.assert_array_equal(pixels(runs[same]), pixels(once), same)
  # A row's own seed counts from index 0: other noise than the run's, alike in both formats.
  np.testing.assert_array_equal(pixels(runs["jsonl"]), pixels(runs["csv"]))
  assert [(r["seed"], r["index"]) for r in manifest(runs["csv"])] == [(5, 0), (5, 1)] * 3
  assert (tmp_path / "new/folder/jsonl.npy").exists()
  want = np.load(once.with_name("z.npy"))
  for name in ("one", "devices"):
    assert relative_error(np.load(tmp_path / f"{name}.npy"), want) < 1e-5, name  # of latents as large as 46


def test_people_and_a_plain_prompt_in_one_batch_on_two_devices_equal_each_by_itself_on_one(tmp_path):
  """Two people each with text rows, with keys and values, and with whole weights: one job makes each picture
  in a batch of its own, the other mixes them on two devices, in the opposite order. Latents within 1e-4 of
  the largest. (That a batch of one's own is the person alone, on one device, is test_prompting's.)"""
  pipe = pipeline.load(tiny_model(), devices=jax.devices()[:1])
  makes = dict(rows=learned_people.inversion, kv=learned_people.id_ea_person, unet=learned_people.whole_unet)
  people = [make(pipe, f"<{name}-{n}>", seed=n) for name, make in makes.items() for n in (1, 2)]
  for i, p in enumerate(people):
    learned.save(tmp_path / str(i), p)
  rows = [json.dumps(dict(prompt=f"{word} at sea", seed=7)) + "\n" for word in (*(p.word for p in people), "person")]
  two = f"{environment()['XLA_FLAGS']} --xla_force_host_platform_device_count=2"

  def job(name, order, batch, **env):
    (tmp_path / f"{name}.jsonl").write_text("".join(rows[::order]))
    who = [f"--identity={tmp_path / str(i)}" for i in range(len(people))]
    sample(
      tmp_path / name,
      *who[::order],
      "--prompts",
      tmp_path / f"{name}.jsonl",
      "--batch",
      batch,
      "--guidance",
      3,
      "--save-latents",
      tmp_path / f"{name}.npy",
      **env,
    )
    return np.load(tmp_path / f"{name}.npy")[::order]

  with ThreadPoolExecutor(2) as pool:
    mixed = pool.submit(job, "mixed", -1, 6, XLA_FLAGS=two)
    apart = job("apart", 1, 1)
  assert min(relative_error(x, y) for i, x in enumerate(apart) for y in apart[:i]) > 1e-3
  assert relative_error(mixed.result(), apart) < 1e-4


def test_the_strength_of_the_command_is_the_persons(tmp_path, monkeypatch):
  """--strength replaces the identity's own strength, and equals an identity that carries that strength."""
  monkeypatch.setattr(pipeline, "load", functools.partial(pipeline.load, devices=jax.devices()[:1]))
  bea = learned_people.id_ea_person(pipeline.load(tiny_model()))  # of strength 0.8
  for name, person in (("own", bea), ("weak", bea.with_strength(0.1))):
    learned.save(tmp_path / name, person)

  def latents(name, identity, strength=None):
    sample_command.main(
      config.Sample(
        out=tmp_path / name / "out",
        model=str(tiny_model()),
        prompt=("<bea>",),
        identity=(tmp_path / identity,),
        strength=strength,
        num=1,
        steps=1,
        height=16,
        width=16,
        save_latents=tmp_path / name / "z.npy",
      )
    )
    return np.load(tmp_path / name / "z.npy")

  default, override, carried = latents("a", "own"), latents("b", "own", 0.1), latents("c", "weak")
  np.testing.assert_array_equal(override, carried)
  assert np.abs(override - default).max() > 1e-3


LONG = ("--prompt", *PROMPTS, "--num", 4, "--batch", 2, "--steps", 20)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
  out = tmp_path_factory.mktemp("long") / "out"
  return sample(out, *LONG, "--save-latents", out.with_name("z.npy"))


@pytest.mark.parametrize(
  "number, code",
  [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)],
  ids=lambda x: str(int(x)),
)
def test_stopped_and_continued(uninterrupted, tmp_path, number, code):
  """Finished pictures stay, and the same command gives the bytes of a run that was not stopped."""
  out, args = tmp_path / "out", command(tmp_path / "out", *LONG, "--save-latents", tmp_path / "z.npy")
  process = run_until(out / "00002.png", number, *args)
  assert process.code == code, process.err
  times = {p.name: p.stat().st_mtime_ns for p in out.glob("*.png")}
  assert 3 <= len(times) < 12 and all(pictures.read_record(out / f)[1] for f in times)
  assert not (tmp_path / "z.npy").exists()
  if number != signal.SIGKILL:
    assert_one_sentence(process, "what was finished stays", code=130)
    assert {r["file"] for r in manifest(out)} == set(times) and not list(out.glob(".*"))
  (out / ".00004.png.1.tmp").write_bytes(b"half a picture")  # what a kill may leave
  again = run(*args)
  assert again.code == 0 and f"{len(times)} of 12 pictures are there already" in again.err
  assert all((out / f).stat().st_mtime_ns == t for f, t in times.items())
  assert contents(out) == contents(uninterrupted)
  assert (tmp_path / "z.npy").read_bytes() == uninterrupted.with_name("z.npy").read_bytes()


def test_damaged_and_missing_pictures_are_made_again(uninterrupted, tmp_path):
  """Also in the middle of a batch, and with the latents on file already."""
  out = shutil.copytree(uninterrupted, tmp_path / "out")
  shutil.copy(uninterrupted.with_name("z.npy"), tmp_path / "z.npy")
  os.truncate(out / "00003.png", (out / "00003.png").stat().st_size - 60)
  (out / "00008.png").unlink()
  result = run(*command(out, *LONG, "--save-latents", tmp_path / "z.npy"))
  assert result.code == 0 and "10 of 12 pictures" in result.err, result.err
  assert contents(out) == contents(uninterrupted)
  assert (tmp_path / "z.npy").read_bytes() == uninterrupted.with_name("z.npy").read_bytes()
  # Killed between the last picture and the end: all that is missing is a name.
  (tmp_path / "z.npy").rename(tmp_path / ".z.npy.partial")
  assert "12 of 12" in run(*command(out, *LONG, "--save-latents", tmp_path / "z.npy")).err
  assert (tmp_path / "z.npy").read_bytes() == uninterrupted.with_name("z.npy").read_bytes()


def test_two_runs_do_not_share_a_folder(uninterrupted):
  import fcntl

  handle = os.open(uninterrupted, os.O_RDONLY)
  fcntl.flock(handle, fcntl.LOCK_EX)
  try:
    assert_one_sentence(run(*command(uninterrupted, *LONG)), "another idejax", str(uninterrupted))
  finally:
    os.close(handle)


def test_latents_that_are_not_finite(tmp_path):
  """The picture before stays; the sentence names the picture that failed."""
  rows = [dict(prompt="fine"), dict(prompt="far too much", guidance=3.4e38)]
  (tmp_path / "p.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
  result = run(*command(tmp_path / "out", "--prompts", tmp_path / "p.jsonl", "--batch", 2))
  assert_one_sentence(result, "'far too much'", "index 1", "not finite")
  assert (tmp_path / "out/00000.png").exists() and not (tmp_path / "out/00001.png").exists()
  assert [r["prompt"] for r in manifest(tmp_path / "out")] == ["fine"]


def test_weights_with_nan(tmp_path):
  from safetensors.numpy import load_file, save_file

  model = shutil.copytree(tiny_model(), tmp_path / "model")
  file = model / "unet/diffusion_pytorch_model.safetensors"
  weights = {k: v + np.float32(np.nan) if k == "conv_in.bias" else v for k, v in load_file(file).items()}
  save_file(weights, file, {"format": "pt"})
  result = run(*command(tmp_path / "out", "--prompt", "x", "y", "--batch", 2, model=model))
  assert_one_sentence(result, "not finite", "the model's weights")


def test_disk_full(tmp_path):
  """A real full disk: a file system of 128 KB in memory."""
  disk = tmp_path / "disk"
  disk.mkdir()
  mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", disk], capture_output=True)
  if mount.returncode:
    pytest.skip(f"may not mount a small disk: {mount.stderr.decode().strip()}")
  try:
    (disk / "filler").write_bytes(bytes(100 << 10))
    args = command(disk / "out", "--prompt", *PROMPTS, "--num", 4, "--batch", 2, "--steps", 20)
    full = run(*args)
    assert_one_sentence(full, str(disk / "out"), "no space left", "what was finished stays")
    names = sorted(p.name for p in (disk / "out").glob("*.png"))
    assert 0 < len(names) < 12 and all(pictures.read_record(disk / "out" / f)[1] for f in names)
    (disk / "filler").unlink()
    many = run(*command(disk / "many", "--prompt", "x", "--num", 10_000, "--save-latents", disk / "z.npy"))
    assert_one_sentence(many, "z.npy", "no space left")  # told before the first step
    assert not (disk / "many/00000.png").exists()
    assert run(*args).code == 0 and len(list((disk / "out").glob("*.png"))) == 13
  finally:
    subprocess.run(["umount", disk], check=True)


def test_a_file_that_may_not_grow(tmp_path):
  """As on a full disk, without one: the kernel refuses what is beyond 1 kB, and a picture is larger."""
  limited = ["bash", "-c", 'ulimit -f 1; exec "$@"', "bash", IDEJAX, *command(tmp_path / "out", "--prompt", "x")]
  process = subprocess.run(
    limited, cwd=tmp_path, env=environment(IDEJAX_CACHE="off"), capture_output=True, text=True, timeout=240
  )
  assert_one_sentence(
    Result(process.returncode, process.stdout, process.stderr),
    str(tmp_path / "out"),
    "larger than this account may write",
  )
  assert not list((tmp_path / "out").rglob("*"))  # no half picture


def test_without_torch_and_without_a_home(once, tmp_path):
  """A JAX user sees our words only, whatever is not installed, in a C locale, with a long prompt."""
  (tmp_path / "sitecustomize.py").write_text(
    "from importlib.machinery import PathFinder\n"
    "find = PathFinder.find_spec\n"
    "hidden = {'torch', 'diffusers', 'tensorflow', 'torchvision'}\n"
    "PathFinder.find_spec = lambda name, *a: None if name.split('.')[0] in hidden else find(name, *a)\n"
  )
  check = [sys.executable, "-c", "import torch"]
  assert subprocess.run(check, env=environment(PYTHONPATH=str(tmp_path)), capture_output=True).returncode
  args = command(
    tmp_path / "out", "--prompt", *PROMPTS, "ä" * 30 + " the end of the sentence", "--num", 2, "--batch", 4, "--seed", 5
  )
  result = run(
    *args, PYTHONPATH=str(tmp_path), HOME=None, LC_ALL="C", LANG=None, XDG_CACHE_HOME="/proc/none", IDEJAX_CACHE=None
  )
  assert result.code == 0, result.err
  lines = [
    line
    for line in result.err.replace("\r", "\n").split("\n")
    if line.strip() and "%|" not in line and not line.endswith("...")
  ]
  # Whether a font has every letter of the prompts depends on the machine.
  lines = [line for line in lines if "elapsed" not in line and not line.startswith("warning: no font here has")]
  assert len(lines) == 4, "\n".join(lines)
  assert lines[0].startswith("warning: compiled programs are not kept: /proc/none")
  assert lines[1].startswith("opening ")
  assert lines[2].startswith("warning: the prompt is longer than 75 tokens") and "of the sentence" in lines[2]
  assert lines[3].startswith("8 pictures in")
  for i in range(6):
    with Image.open(tmp_path / f"out/{i:05d}.png") as a, Image.open(once / f"{i:05d}.png") as b:
      np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_compiled_programs_are_kept(tmp_path):
  cache = tmp_path / "cache"
  again = lambda out: sample(
    tmp_path / out, "--prompt", "x", "y", "--num", 3, "--steps", 4, "--batch", 4, IDEJAX_CACHE=str(cache)
  )
  again("a")
  before = {p.name for p in cache.iterdir()}
  assert any(n.startswith("jit__run") for n in before) and any(n.startswith("jit_decode") for n in before)
  again("b")
  large = ("jit__run", "jit_decode", "jit_encode")  # on a busy machine smaller ones too take long enough to be kept
  assert {p.name for p in cache.iterdir() if p.name.endswith("-cache") and p.name.startswith(large)} <= before
  sample(tmp_path / "c", "--prompt", "x", "--guidance", 1, HOME=str(tmp_path), IDEJAX_CACHE="off")
  assert not (tmp_path / ".cache/idejax/xla").exists()


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sdxl_turbo", "sdxl_lightning"])
def test_example_configs(name, tmp_path):
  """Each loads, says how to use it, and its few-step ones run on the tiny model."""
  file = Path(__file__).parents[2] / f"configs/sample_{name}.py"
  c = config_file.load(file, config.Sample)
  assert f"idejax sample --config configs/sample_{name}.py" in file.read_text() and c.out.parts[0] == "runs"
  if not name.startswith("sdxl_"):
    return
  assert (c.spacing, c.guidance) == ("trailing", 0.0) and c.steps <= 4
  args = [
    "--model",
    tiny_model(),
    "--height",
    "16",
    "--width",
    "16",
    "--prompt",
    "x",
    "--num",
    "1",
    "--out",
    tmp_path / "out",
  ]
  result = run("sample", "--config", file, *args)
  assert result.code == 0, result.err
  (row,) = manifest(tmp_path / "out")
  assert (row["sampler"], row["steps"], row["guidance"]) == (c.sampler, c.steps, 0.0)
