"""Options, config files, help, versions and exit codes."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.command import IDEJAX, assert_one_sentence, environment, run

from idejax import __version__
from idejax.cli import command as cli
from idejax.cli import config_file, help, options
from idejax.config import Sample
from idejax.errors import UserError
from idejax.methods import METHODS
from idejax.sampling import sampler


def parse(*args: str) -> Sample:
  return options.parse(Sample, ["--out", "o", *args], "idejax sample")


def test_every_option_of_sample():
  c = parse(
    "--model",
    "m",
    "--identity",
    "a",
    "--identity=b",
    "--strength",
    "0.5",
    "--start",
    "0.1",
    "--other-model",
    "--addon",
    "d",
    "--face",
    "a.png",
    "b.png",
    "--pose",
    "left",
    "--face-strength=0.7",
    "--face-until=0.6",
    "--pack",
    "buffalo_l",
    "--vision=v",
    "--shape=f.npz",
    "--table=t.json",
    "--controlnet=e",
    "--control",
    "c.png",
    "--control-strength=0.8",
    "--control-from=0.2",
    "--control-until=0.9",
    "--prompt",
    "a cat",
    "a dog",
    "--negative",
    "",
    "--num",
    "3",
    "--seed",
    "7",
    "--steps",
    "9",
    "--guidance",
    "3",
    "--sampler",
    "euler",
    "--spacing",
    "trailing",
    "--karras",
    "--eta",
    "0.5",
    "--height",
    "64",
    "--width",
    "32",
    "--dtype",
    "bfloat16",
    "--batch",
    "2",
    "--tiled",
    "--attention",
    "chunk",
    "--variant",
    "fp16",
    "--init-latents",
    "i.npy",
    "--save-latents",
    "z.npy",
    "--allow-pickle",
  )
  assert c == Sample(
    Path("o"),
    "m",
    (Path("a"), Path("b")),
    0.5,
    0.1,
    True,
    "d",
    (Path("a.png"), Path("b.png")),
    "left",
    0.7,
    0.6,
    "buffalo_l",
    Path("v"),
    Path("f.npz"),
    Path("t.json"),
    Path("e"),
    Path("c.png"),
    0.8,
    0.2,
    0.9,
    ("a cat", "a dog"),
    None,
    "",
    3,
    7,
    9,
    3.0,
    "euler",
    "trailing",
    True,
    0.5,
    64,
    32,
    "bfloat16",
    2,
    True,
    "chunk",
    "fp16",
    Path("i.npy"),
    Path("z.npy"),
    True,
  )
  assert type(c) is Sample and parse() == Sample(Path("o"))


@pytest.mark.parametrize(
  "args, prompt",
  [
    (["--prompt", "a", "--prompt", "b"], ("a", "b")),
    (["--prompt", "a", "b", "--seed", "1", "--prompt", "c", "d", "--num", "2", "--prompt", "e"], tuple("abcde")),
    (["--prompt=--no hat"], ("--no hat",)),
    (["--prompt", "ein Kätzchen", "猫"], ("ein Kätzchen", "猫")),
    (["--prompt=a", "--prompt", "b"], ("a", "b")),
    ([], ()),
  ],
)
def test_prompts_may_be_repeated(args, prompt):
  assert parse(*args).prompt == prompt


def test_spellings():
  assert parse("--init_latents", "a_b.npy").init_latents == Path("a_b.npy")
  assert parse("--seed=3").seed == 3
  assert parse("--no-karras").karras is False and parse("--no-tiled").tiled is False
  assert parse("--start", "0.5", "--strength=.5").strength == 0.5
  assert parse("--seed", "1", "--seed", "2").seed == 2  # the last counts, so aliases can be overridden


@pytest.mark.parametrize(
  "args, words",
  [
    (["--promt", "x"], r"unknown option --promt \(did you mean --prompt\?\)"),
    (["--no-seed"], "unknown option --no-seed"),
    (["--num", "1.5"], "--num is '1.5'; it must be a whole number"),
    (["--guidance", "x"], "--guidance is 'x'; it must be a number"),
    (["--dtype", "float64"], "--dtype is 'float64'; it must be one of float32, bfloat16"),
    (["--dtype"], "--dtype is without its value; it must be one of float32, bfloat16"),
    (["-5"], "-5.*--option=-value"),
    (["--tiled=yes"], "--tiled takes no value"),
    (["--sampler", "eular"], "--sampler is 'eular'; it must be one of folder, ddim"),
    (["--out", ""], "--out is empty; give a path"),
    (["--seed", "1", "cat"], "'cat' belongs to no option"),
  ],
)
def test_mistakes_are_one_sentence(args, words, capsys):
  with pytest.raises(UserError, match=words) as e:
    parse(*args)
  assert "\n" not in str(e.value) and "idejax sample --help" in str(e.value)
  assert capsys.readouterr() == ("", "")


def test_config_file_sets_defaults_and_options_override(tmp_path):
  file = tmp_path / "c.py"
  file.write_text(
    "from idejax.config import Sample\n"
    "config = Sample(out='runs/x', model='m', prompt=['a'], guidance=2, karras=True, steps=7)\n"
  )
  read = lambda *args: options.parse(Sample, list(args), "idejax sample")
  want = Sample(Path("runs/x"), "m", prompt=("a",), guidance=2, karras=True, steps=7)
  assert read("--config", str(file)) == read(f"--config={file}") == want
  changed = read("--steps", "3", "--config", str(file), "--no-karras", "--prompt", "b")
  assert changed == dataclasses.replace(want, steps=3, karras=False, prompt=("b",))


@pytest.mark.parametrize(
  "value, words",
  [
    ("steps=True", "steps is True; it must be a whole number"),
    ("steps=2.5", "steps is 2.5"),
    ("guidance='7'", "guidance is '7'; it must be a number"),
    ("prompt='a cat'", "prompt is 'a cat'; it must be a text"),
    ("prompt=(1,)", "prompt is"),
    ("dtype='half'", "dtype is 'half'; it must be one of float32, bfloat16"),
    ("tiled=1", "tiled is 1; it must be True or False"),
    ("out=3", "out is 3; it must be a path"),
    ("steps=0", "steps is 0; it must be at least 1"),
    ("guidance=float('nan')", "guidance is nan; it must be a finite number"),
    ("prompt=('a', ' ')", "prompt is ' '; it must not be empty"),
  ],
)
def test_config_files_are_typed(tmp_path, value, words):
  file = tmp_path / "c.py"
  out = "" if value.startswith("out") else "out='o', "
  file.write_text(f"from idejax.config import Sample\nconfig = Sample({out}{value})\n")
  with pytest.raises(UserError, match=words):
    config_file.load(file, Sample)


def test_samplers_are_those_that_exist():
  names = dict(Sample.__annotations__)["sampler"].__args__
  assert set(names) == set(sampler.names())


def test_help_begins_with_a_dozen_options_in_groups():
  """Positional arguments stand in the usage line; the rest is one option away."""
  texts = {n: run(n, "--help").out for n in ("sample", "personalize", "bench", "rename")}
  listed = lambda text: [line.split()[0] for line in text.split("\n") if line.startswith("  --")]
  assert 10 <= len(listed(texts["sample"])) <= 16 and "\npeople:\n" in texts["sample"]
  assert 10 <= len(listed(texts["personalize"])) <= 16 and "--help-all" in texts["personalize"]
  assert texts["personalize"].startswith("usage: idejax personalize [PHOTO] [options]\n")
  assert texts["bench"].startswith("usage: idejax bench [WHAT ...] [options]\n")
  assert texts["rename"].startswith("usage: idejax rename RUN NAME [options]\n")
  assert "--no-no" not in run("personalize", "--help-all").out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_many_options_stand_in_groups_that_name_each_once(name):
  kind = cli.COMMANDS[name][0]
  fields = [f.name for f in dataclasses.fields(kind)]
  groups = [f for fields in getattr(kind, "GROUPS", {}).values() for f in fields]
  assert len(groups) == len(set(groups)), name
  if len(fields) > 14:
    assert set(fields) <= set(groups), (name, set(fields) - set(groups))


def test_defaults_in_help_are_those_of_the_model_at_hand(capsys):
  """The built-in model's guidance, pixels and multiples, and a larger one's."""
  for model, words in (
    ("miniature", ("Default: 2.", "a multiple of 4. Default: 64.")),
    ("some/xl", ("Default: 5.", "of 8")),
  ):
    options.parse(Sample, ["--help", "--model", model], "idejax sample")
    said = " ".join(capsys.readouterr().out.split())
    assert all(w in said for w in words), model


def test_every_option_of_every_command_has_a_sentence():
  """It begins with a capital, or with a value that it explains, and ends with a stop."""
  kinds = [kind for kind, _, _ in cli.COMMANDS.values()] + [m.Config for m in METHODS.values()]
  for kind in kinds:
    said = help.texts(kind)
    for f in dataclasses.fields(kind):
      text = said.get(f.name, "")
      assert text.endswith((".", "?", ")", '"')) and not text.startswith("Of "), (kind, f.name, text)


def test_help_teaches():
  """Every option with what it means; the defaults that are not in the words are shown."""
  result = run("sample", "--help-all", COLUMNS="80")
  assert (result.code, result.err) == (0, "")
  for f in dataclasses.fields(Sample):
    assert f"--{f.name.replace('_', '-')}" in result.out
  for words in (
    "(default: 50)",
    "(default: folder)",
    "Default: 2.",
    "--config FILE",
    "idejax sample --model FOLDER",
    "--prompt TEXT [TEXT ...]",
    "continues where a killed",
  ):
    assert words in " ".join(result.out.split()), words
  assert "None" not in result.out and "│" not in result.out


def test_help_of_every_command():
  result = run("--help")
  assert result.code == 0 and result.out.startswith("usage: idejax COMMAND") and not result.err
  for name, (kind, _, what) in cli.COMMANDS.items():
    assert f"  {name}" in result.out and what in result.out
    assert options.parse(kind, ["--help"], f"idejax {name}") is None


def test_exit_codes():
  version = run("--version")
  assert (version.code, version.out) == (0, f"idejax {__version__}\n")
  assert_one_sentence(run(), "which command?", "sample")
  assert_one_sentence(run("smaple"), "'smaple'", "did you mean sample?")
  assert_one_sentence(run("sample"), "no prompt")
  assert_one_sentence(run("random-model"), "--out is missing")


def test_start_is_quick():
  """Help and mistakes come before jax, numpy and everything else that takes a second to import."""
  code = (
    "import sys; from idejax import cli; code = cli.main({args}); "
    "print(code, sorted({{'jax', 'numpy', 'flax', 'transformers'}} & set(sys.modules)), file=sys.stderr)"
  )

  def end(*args):
    process = subprocess.run(
      [sys.executable, "-c", code.format(args=list(args))], capture_output=True, env=environment()
    )
    return process.stderr.decode().splitlines()[-1]

  assert end("--help") == "0 []"
  assert end("sample", "--help") == "0 []"
  assert end("sample", "--out", "o", "--prompt", "x", "--num", "0") == "2 []"


def test_random_model(tmp_path):
  out = tmp_path / "new/model"
  process = run("random-model", "--out", out, "--family", "sd15")
  assert process.code == 0 and "random weights" in process.err
  assert (out / "model_index.json").exists() and list(out.parent.iterdir()) == [out]
  assert_one_sentence(run("random-model", "--out", out), str(out), "not empty")
  assert_one_sentence(run("random-model", "--out", out, "--family", "sd3"), "--family is 'sd3'", "sdxl")


def test_a_closed_pager_is_no_error():
  for args in ("--help", "sample --help"):
    process = subprocess.Popen(
      [IDEJAX, *args.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 141
    process.stderr.close()


# What an entry point may raise, in a process whose `sample` is replaced by it.
RAISES = {
  "MemoryError()": (2, "out of memory"),
  "ValueError('RESOURCE_EXHAUSTED: No space left on device')": (2, "no space left on the disk"),
  "RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes')": (2, "--batch"),
  "OSError(28, 'No space left on device')": (2, "no space left on the disk"),
  "OSError(122, 'Disk quota exceeded', '/data/x.png')": (2, "/data/x.png: disk quota"),
  "OSError(5, 'Input/output error', '/data/x.png')": (2, "/data/x.png: Input/output error"),
  "ZeroDivisionError('division\\nby zero')": (1, "unexpected ZeroDivisionError: division by zero; this is a mistake"),
  "KeyboardInterrupt()": (130, "interrupted; what was finished stays"),
}


@pytest.mark.parametrize("error", RAISES)
def test_never_a_traceback(error):
  code, words = RAISES[error]
  script = (
    f"import sys, types\ndef main(c): raise {error}\n"
    "sys.modules['idejax.jobs.sample'] = types.SimpleNamespace(main=main)\n"
    "from idejax import cli\nsys.exit(cli.main(['sample', '--out', 'o']))"
  )
  process = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment())
  (line,) = process.stderr.decode().splitlines()
  assert process.returncode == code and line.startswith("idejax: ") and words in line
  if code == 1:
    with_traceback = subprocess.run(
      [sys.executable, "-c", script], capture_output=True, env=environment(IDEJAX_TRACEBACK="1")
    )
    assert b"Traceback" in with_traceback.stderr


def test_second_interrupt_leaves_at_once():
  """Also while Python itself cannot run, as in a long compilation; a nohup stays one."""
  script = (
    "import sys, types, hashlib, signal\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's & would have the tests ignore it
    "def main(c):\n  print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, flush=True)\n"
    "  hashlib.pbkdf2_hmac('sha256', b'x', b'y', 10**9)\n"
    "sys.modules['idejax.jobs.sample'] = types.SimpleNamespace(main=main)\n"
    "from idejax import cli\nsys.exit(cli.main(['sample', '--out', 'o']))"
  )
  process = subprocess.Popen(
    ["nohup", sys.executable, "-c", script],
    env=environment(),
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )
  assert process.stdout.readline() == b"True\n"
  time.sleep(0.5)  # it prints just before Python can do nothing more
  os.kill(process.pid, signal.SIGINT)
  assert b"Ctrl-C again" in process.stderr.readline()
  os.kill(process.pid, signal.SIGINT)
  _, err = process.communicate(timeout=20)
  assert process.returncode == 130 and b"what was finished stays" in err
