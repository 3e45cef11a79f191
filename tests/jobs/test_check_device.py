"""launch/check_device.sh: in parts that stay, within its time, with a table; and the parts themselves at tiny sizes."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from idejax.bench import device

SCRIPT = Path(__file__).parents[2] / "launch" / "check_device.sh"
ROWS = [["a kernel", "1 ms", True], ["memory", "2 GiB", None]]


@pytest.fixture
def check(tmp_path):
  """The script with a stand-in for Python, which notes its parts and leaves a result, or does what it is told of one."""
  (tmp_path / "python").write_text(
    f"""#!/bin/bash
case "$1 $2" in
  "-m idejax.bench.device") ;;
  *) exec {sys.executable} "$@" ;;
esac
echo "$3 $PYTHONPATH" >>{tmp_path}/parts
if [[ -x {tmp_path}/$3 ]]; then {tmp_path}/$3 || exit 1; fi
cp {tmp_path}/result.json "$5/$3.json"
"""
  )
  (tmp_path / "python").chmod(0o755)
  result = dict(rows=ROWS, device="8 cpu (cpu)", versions={"jax": "0"})
  (tmp_path / "result.json").write_text(json.dumps(result))

  def run(*args):
    env = os.environ | {"IDEJAX_PYTHON": str(tmp_path / "python")}
    return subprocess.run(
      [SCRIPT, "--out", tmp_path / "out", *args], capture_output=True, text=True, cwd=tmp_path, env=env, timeout=200
    )

  return run


def does(tmp_path, part, what):
  (tmp_path / part).write_text(f"#!/bin/bash\n{what}\n")
  (tmp_path / part).chmod(0o755)


def parts(tmp_path):
  return [line.split()[0] for line in (tmp_path / "parts").read_text().splitlines()]


def test_every_part_once_then_a_table(check, tmp_path):
  done = check()
  assert done.returncode == 0, done.stderr
  assert parts(tmp_path) == list(device.PARTS)
  assert done.stdout.count("| a kernel | 1 ms | yes |") == len(device.PARTS)
  assert (tmp_path / "out" / "table.md").read_text() == done.stdout and done.stdout.startswith("8 cpu (cpu); jax 0")
  again = check()
  assert again.stdout == done.stdout and parts(tmp_path) == list(device.PARTS)


def test_a_part_that_fails_stops_no_other_and_is_tried_again(check, tmp_path):
  does(tmp_path, "crowd", "echo 'no memory left'; exit 1")
  done = check()
  assert done.returncode == 1 and "crowd failed" in done.stderr
  assert "| crowd | not finished: no memory left | |" in done.stdout and (tmp_path / "out" / "people.json").exists()
  (tmp_path / "crowd").unlink()
  assert check().returncode == 0 and parts(tmp_path) == [*device.PARTS, "crowd"]


def test_a_figure_that_is_wrong_is_an_exit_code(check, tmp_path):
  result = json.loads((tmp_path / "result.json").read_text())
  (tmp_path / "result.json").write_text(json.dumps(result | {"rows": [["a kernel", "differs by 3", False]]}))
  done = check()
  assert done.returncode == 1 and "| a kernel | differs by 3 | NO |" in done.stdout


@pytest.mark.slow
def test_the_time_is_kept_and_the_same_command_continues(check, tmp_path):
  does(tmp_path, "precision", "sleep 600")
  done = check("--seconds", "15")
  assert done.returncode == 3 and "the same command again continues" in done.stderr
  assert "| precision | not finished: the time was over | |" in done.stdout and "a kernel" in done.stdout
  (tmp_path / "precision").unlink()
  assert check().returncode == 0
  assert parts(tmp_path) == ["attention", "precision", *[p for p in device.PARTS if p != "attention"]]


def test_wheels_come_from_a_folder_and_behind_the_checkout(check, tmp_path):
  (tmp_path / "wheels").mkdir()
  with zipfile.ZipFile(tmp_path / "wheels" / "extra-1-py3-none-any.whl", "w") as wheel:
    wheel.writestr("extra.py", "x = 1\n")
    wheel.writestr("extra-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: extra\nVersion: 1\n")
    wheel.writestr("extra-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr("extra-1.dist-info/RECORD", "")
  assert check("--parts", "attention", "--wheels", tmp_path / "wheels").returncode == 0
  assert (tmp_path / "out" / "wheels" / "extra.py").exists()
  path = (tmp_path / "parts").read_text().split()[1].split(":")
  assert path[0] == str(SCRIPT.parents[1]) and path[-1] == str(tmp_path / "out" / "wheels")


@pytest.mark.parametrize(
  "args, says",
  [
    (["--seconds", "0"], "--seconds is '0'"),
    (["--parts", "attention,nope"], "--parts has 'nope'"),
    (["--wheels", "nowhere"], "--wheels nowhere is no folder"),
    (["--wheels", "."], "holds no wheels"),
    (["--out"], "--out is without its value"),
    (["--nope"], "unknown option --nope"),
  ],
)
def test_a_mistake_is_one_sentence(check, args, says):
  done = check(*args)
  assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1


def test_too_large_wheels_are_refused(check, tmp_path):
  (tmp_path / "wheels").mkdir()
  (tmp_path / "wheels" / "a.whl").write_bytes(bytes(20_000_001))
  assert "holds 20 MB; at most 20" in check("--wheels", tmp_path / "wheels").stderr


def test_a_dry_run_runs_nothing(check, tmp_path):
  out = check("--dry-run", "--small", "--train", "--parts", "fsdp").stdout.splitlines()
  assert out[0].endswith(f"-m idejax.bench.device fsdp --out {tmp_path / 'out'} --small")
  assert out[1].count("train-miniature") == 5 and "--stage diffusion --start miniature" in out[1]
  assert not (tmp_path / "parts").exists() and not (tmp_path / "out").exists()


def test_kernels_are_compared_with_plain_attention(tmp_path, monkeypatch):
  assert device.main(["attention", "--out", str(tmp_path), "--small"]) == 0
  report = json.loads((tmp_path / "attention.json").read_text())
  assert {"jax", "python"} <= set(report["versions"]) and report["small"] and report["device"].startswith("8 cpu")
  assert len(report["rows"]) == 2 and all(right for _, _, right in report["rows"])
  monkeypatch.setitem(device.attend._IMPLEMENTATIONS, "chunk", lambda q, k, v: 1.1 * device.attend._plain(q, k, v))
  assert [right for _, _, right in device.attention(True)] == [False, True]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["precision", "crowd", "facesnap"])
def test_parts_at_tiny_sizes(tmp_path, part):
  assert device.main([part, "--out", str(tmp_path), "--small"]) == 0
  rows = json.loads((tmp_path / f"{part}.json").read_text())["rows"]
  assert rows and all(right is not False for _, _, right in rows)
