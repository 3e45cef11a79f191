"""Which Python `make` and CI take, and which releases are the oldest."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OLDEST = subprocess.run([sys.executable, ROOT / ".ci" / "oldest.py"], capture_output=True, text=True).stdout


@pytest.fixture
def take(tmp_path):
  """A function of {name or pyenv version: the version that this stand-in for Python says it is} and of what is asked."""

  def run(pythons, *asked):
    (tmp_path / "bin").mkdir(exist_ok=True)
    for name, version in pythons.items():
      path = tmp_path / "bin" / name if name.startswith("python") else tmp_path / "versions" / name / "bin" / "python"
      path.parent.mkdir(parents=True, exist_ok=True)
      fails = "exit 1" if version is None else f"""[[ $2 == *"== '{version}'"* ]] && echo "$0" """
      path.write_text(f"#!/bin/bash\n{fails}\n")
      path.chmod(0o755)
    for tool in ("bash", "env"):
      if not (tmp_path / "bin" / tool).exists():
        (tmp_path / "bin" / tool).symlink_to(f"/usr/bin/{tool}")
    env = {"PATH": str(tmp_path / "bin"), "PYENV_ROOT": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run([ROOT / ".ci" / "python", *asked], capture_output=True, text=True, env=env)
    return done.returncode, done.stdout.replace(str(tmp_path) + "/", "").strip(), done.stderr

  return run


def test_the_newest_that_works_is_taken(take):
  assert take({"python3.11": "3.11", "3.12.1": "3.12"})[1] == "versions/3.12.1/bin/python"
  assert take({"python3.13": "3.13"})[1] == "bin/python3.13"
  assert take({"python3.13": None})[1] == "versions/3.12.1/bin/python"  # such as Debian's without venv, or a shim
  assert take({}, "3.11")[1] == "bin/python3.11"


def test_a_python_of_another_name_counts_by_its_version(take):
  assert take({"python3": "3.12", "3.13.0": "3.10"})[1] == "bin/python3"


def test_none_is_one_sentence(take):
  code, out, err = take({"python3": "3.10"})
  assert (code, out) == (1, "") and err.startswith("no Python 3.13 3.12 3.11") and err.count("\n") == 1


def test_the_oldest_releases_are_those_of_setup_py():
  floors = dict(re.findall(r'"([\w-]+)>=(\d+\.\d+\.\d+)', (ROOT / "setup.py").read_text().partition("EXTRAS")[0]))
  assert dict(line.split("==") for line in OLDEST.split()) == floors and {"jax", "flax", "optax"} <= set(floors)


def test_the_tests_of_versions_are_there_and_need_no_pytorch():
  files = re.search(r"^VERSIONS := ((?:.*\\\n)*.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
  files = [f for f in files if f != "\\"]
  code = "import sys; sys.modules['torch'] = None; import pytest; sys.exit(pytest.main(sys.argv[1:]))"
  done = subprocess.run(
    [sys.executable, "-c", code, "--collect-only", "-q", *files],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env=os.environ | {"PYTEST_ADDOPTS": "-p no:cacheprovider"},
  )
  assert done.returncode == 0, done.stdout
  assert all(f in done.stdout for f in files)


@pytest.mark.parametrize("script", ["run", "python"])
def test_shellcheck_finds_nothing(script):
  tool = Path(sys.executable).with_name("shellcheck")
  if not tool.exists():
    pytest.skip("shellcheck is not installed")
  process = subprocess.run([tool, ROOT / ".ci" / script], capture_output=True, text=True)
  assert process.returncode == 0, process.stdout
