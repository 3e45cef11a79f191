"""The scripts in launch/: what they would run, what they run here, and how they end."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from idejax.cli import command, options
from idejax.jobs import pretrain

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
JOB = ["idejax", "personalize", "my people", "--name", "<id>"]


def run(script, *args, code=0, **env):
  env = {"PATH": os.environ["PATH"], "HOME": "/nowhere"} | env
  process = subprocess.run([LAUNCH / f"{script}.sh", *args], env=env, capture_output=True, text=True, timeout=60)
  assert process.returncode == code, process
  return process


def plan(script, *args, **env):
  """The commands of a dry run, as lists of words."""
  return [shlex.split(line) for line in run(script, *args, **env).stdout.splitlines()]


def test_there_are_scripts():
  assert [s.stem for s in SCRIPTS] == ["check_device", "gke", "local", "slurm", "tpu_vm"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.stem)
def test_shellcheck_finds_nothing(script):
  tool = shutil.which("shellcheck") or Path(sys.executable).with_name("shellcheck")
  if not Path(tool).exists():
    pytest.skip("shellcheck is not installed")
  process = subprocess.run([tool, script], capture_output=True, text=True)
  assert process.returncode == 0, process.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.stem)
def test_help_is_the_head_of_the_file_and_the_readme_names_it(script):
  text = run(script.stem, "--help").stdout
  assert "--dry-run" in text and "#!" not in text and "set -euo" not in text
  assert f"launch/{script.name}" in (LAUNCH / "README.md").read_text()


@pytest.mark.parametrize(
  "script, args, says",
  [
    ("local", ["0", "true"], "number of processes"),
    ("local", ["2"], "no command"),
    ("local", ["--devices", "x", "2", "true"], "--devices is 'x'"),
    ("local", ["--nope", "2", "true"], "--nope"),
    ("slurm", [], "no command"),
    ("slurm", ["true"], "sbatch"),
    ("slurm", ["--nodes", "2"], "before the script"),
    ("tpu_vm", ["fly"], "the action is 'fly'"),
    ("tpu_vm", ["run", "--name", "a"], "--zone is missing"),
    ("tpu_vm", ["run", "--name", "a", "--zone", "z"], "no command"),
    ("tpu_vm", ["run", "--name"], "without its value"),
    ("gke", ["run", "--cluster", "c", "--workload", "Big"], "--workload is 'Big'"),
    ("gke", ["run", "--cluster", "c", "--workload", "w", "--type", "t"], "--image is missing"),
  ],
)
def test_a_mistake_is_one_sentence(script, args, says):
  err = run(script, *args, code=2).stderr
  assert says in err and len(err.splitlines()) == 1


# What would run.


def test_local_dry_run():
  lines = plan("local", "--dry-run", "--devices", "4", "--port", "1234", "2", *JOB, XLA_FLAGS="--a")
  assert len(lines) == 2
  for i, words in enumerate(lines):
    assert words[0] == "env" and words[-len(JOB) - 1 :] == [*JOB, "&"]
    assert f"IDEJAX_PROCESS={i}" in words and "IDEJAX_PROCESSES=2" in words
    assert "IDEJAX_COORDINATOR=localhost:1234" in words
    assert "XLA_FLAGS=--a --xla_force_host_platform_device_count=4" in words
  assert "CUDA_VISIBLE_DEVICES=1" in plan("local", "--dry-run", "--gpus", "2", "true")[1]


def test_slurm_dry_run():
  out = run("slurm", "--dry-run", *JOB, IDEJAX_VENV="/venv").stdout.splitlines()
  assert "#SBATCH --signal=TERM@180" in out and "#SBATCH --requeue" in out
  words = shlex.split(out[-1])
  assert words[0] == "env" and words[1].startswith("PATH=/venv/bin:")
  assert words[2] == "srun" and "--kill-on-bad-exit=1" in words and words[-len(JOB) :] == JOB


def test_tpu_vm_dry_runs():
  where = ["--name", "pod", "--zone", "z", "--dry-run"]
  ssh = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod", "--zone=z"]
  (go,) = plan("tpu_vm", "run", *where, "--project", "p", "--", *JOB)
  assert go[:7] == ssh and go[7:9] == ["--project=p", "--worker=all"]
  assert shlex.join(JOB[:3]) in go[9].replace("my\\ people", "'my people'")
  (make,) = plan("tpu_vm", "create", *where, "--type", "v5litepod-16", "--spot")
  assert make[4:6] == ["create", "pod"] and {"--accelerator-type=v5litepod-16", "--spot"} < set(make)
  (watch,) = plan("tpu_vm", "watch", *where, "--worker", "3")
  assert watch[7] == "--worker=3" and "tail" in watch[8]
  for action in ("install", "status", "stop"):
    (line,) = plan("tpu_vm", action, *where)
    assert line[:7] == ssh and line[7] == "--worker=all"


def readme_lines():
  """The commands of launch/README.md that prepare faces and train on them: (script, its words, the job's words)."""
  lines = [shlex.split(x) for x in (LAUNCH / "README.md").read_text().splitlines() if x.startswith("    ")]
  for words in lines:
    job = next((i for i, w in enumerate(words) if w == "idejax" and words[i + 1] in ("prepare", "pretrain")), None)
    if job is not None:
      at = next(i for i, w in enumerate(words) if w.startswith("launch/"))
      yield Path(words[at]).stem, [w for w in words[at + 1 : job] if w != "--"], words[job:]


def test_each_kind_of_machine_has_a_line_for_both_commands():
  lines = list(readme_lines())
  assert {(s, job[1]) for s, _, job in lines} == {
    (s, c) for s in ("local", "slurm", "tpu_vm", "gke") for c in ("prepare", "pretrain")
  }


@pytest.mark.parametrize("script, given, job", list(readme_lines()), ids=lambda x: x if isinstance(x, str) else "")
def test_lines_for_faces_run_what_they_say(script, given, job, monkeypatch):
  """The script would start the very words, and idejax takes them."""
  dry = [*given[:1], "--dry-run", *given[1:]] if script in ("tpu_vm", "gke") else ["--dry-run", *given]
  lines = plan(script, *dry, *(["--"] if script in ("tpu_vm", "gke") else []), *job)
  if script == "tpu_vm":
    assert all(f"{w} {v}" in lines[0][-1] for w, v in zip(job, job[1:]))
  elif script == "gke":
    assert lines[0][-1] == f"--command=exec {shlex.join(job)} "
  elif script == "slurm":
    assert lines[-1][-len(job) :] == job
  else:
    assert len(lines) == int(given[-1]) and all(x[-len(job) - 1 :] == [*job, "&"] for x in lines)
  monkeypatch.chdir(LAUNCH.parent)
  kind, _, _ = command.COMMANDS[job[1]]
  c = options.parse(kind, job[2:], f"idejax {job[1]}")
  if job[1] == "pretrain":
    assert pretrain.settings(c).batch == c.batch and c.validate_every


def test_tpu_vm_really_starts_shows_and_stops_on_a_worker(tmp_path):
  """Against a `gcloud` that runs the remote command here, as a worker's shell would."""
  fake(tmp_path / "bin" / "gcloud", 'exec bash -c "${!#}" # the last argument\n', strip="--command=")
  env = {"HOME": str(tmp_path), "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
  where = ["--name", "pod", "--zone", "z"]
  run(
    "tpu_vm",
    "run",
    *where,
    "--",
    "bash",
    "-c",
    "trap 'echo saved; exit' TERM; echo \"it's on\"; while :; do sleep 0.05; done",
    **env,
  )
  until(lambda: "it's on" in (tmp_path / "idejax.log").read_text())
  assert "running" in run("tpu_vm", "status", *where, **env).stdout
  assert "already running" in run("tpu_vm", "run", *where, "--", "true", code=1, **env).stderr
  run("tpu_vm", "stop", *where, **env)
  until(lambda: "saved" in (tmp_path / "idejax.log").read_text())
  until(lambda: "not running" in run("tpu_vm", "status", *where, **env).stdout)


def test_gke_dry_runs():
  where = ["--cluster", "c", "--workload", "w-1", "--zone", "z", "--dry-run"]
  (go,) = plan("gke", "run", *where, "--type", "v5litepod-256", "--slices", "2", "--image", "i", "--", *JOB)
  assert go[:3] == ["xpk", "workload", "create"]
  assert {
    "--cluster=c",
    "--zone=z",
    "--workload=w-1",
    "--tpu-type=v5litepod-256",
    "--num-slices=2",
    "--docker-image=i",
  } < set(go)
  assert shlex.split(go[-1].removeprefix("--command=")) == ["exec", *JOB]
  (watch,) = plan("gke", "watch", *where)
  assert watch[:2] == ["kubectl", "logs"] and "jobset-name=w-1" in watch[-1]
  assert plan("gke", "stop", *where)[0][:3] == ["xpk", "workload", "delete"]
  assert plan("gke", "status", *where)[0] == ["xpk", "workload", "list", "--cluster=c", "--zone=z"]


# What runs.


def fake(path, body, strip=""):
  path.parent.mkdir(exist_ok=True)
  shift = f'set -- "${{@:1:$#-1}}" "${{!#}}"\nlast=${{!#}}\nset -- "${{last#{strip}}}"\n' if strip else ""
  path.write_text(f"#!/usr/bin/env bash\n{shift}{body}")
  path.chmod(0o755)


def until(true, seconds=20.0):
  end = time.monotonic() + seconds
  while not true():
    assert time.monotonic() < end
    time.sleep(0.05)


def test_local_runs_every_process_with_its_number(tmp_path):
  code = 'echo "$IDEJAX_PROCESS of $IDEJAX_PROCESSES at $IDEJAX_COORDINATOR"'
  process = run("local", "--port", "77", "--logs", str(tmp_path / "logs"), "3", "bash", "-c", code)
  logs = [(tmp_path / "logs" / f"{i}.log").read_text().strip() for i in range(3)]
  assert logs == [f"{i} of 3 at localhost:77" for i in range(3)]
  assert process.stdout.strip() == logs[0]


def test_local_stops_the_others_when_one_fails_and_tells_its_code(tmp_path):
  code = f"trap 'touch {tmp_path}/stopped-$IDEJAX_PROCESS; exit' TERM; ((IDEJAX_PROCESS == 1)) && sleep 0.3 && exit 7; while :; do sleep 0.05; done"
  began = time.monotonic()
  process = run("local", "3", "bash", "-c", code, code=7)
  assert "a process ended with code 7; stopping the other 2" in process.stderr
  assert sorted(p.name for p in tmp_path.glob("stopped-*")) == ["stopped-0", "stopped-2"]
  assert time.monotonic() - began < 30


def test_local_passes_a_signal_on_and_waits_for_all_to_save(tmp_path):
  code = f"trap 'sleep 0.3; touch {tmp_path}/saved-$IDEJAX_PROCESS; exit 130' TERM; touch {tmp_path}/up-$IDEJAX_PROCESS; while :; do sleep 0.05; done"
  p = subprocess.Popen([LAUNCH / "local.sh", "2", "bash", "-c", code], stderr=subprocess.PIPE, text=True)
  until(lambda: len(list(tmp_path.glob("up-*"))) == 2)
  p.send_signal(signal.SIGTERM)
  assert p.wait(timeout=30) == 130
  p.communicate()
  assert len(list(tmp_path.glob("saved-*"))) == 2


SRUN = """
while [[ $1 == --* ]]; do shift; done
for ((i = 0; i < SLURM_NTASKS; i++)); do
  SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_NODEID=0 SLURM_STEP_NODELIST=localhost SLURM_STEP_NUM_TASKS=$SLURM_NTASKS \\
    SLURM_STEP_TASKS_PER_NODE=$SLURM_NTASKS "$@" &
done
code=0
for ((i = 0; i < SLURM_NTASKS; i++)); do wait -n || code=$?; done
exit $code
"""
MEET = """
from idejax.runtime import distributed
found = distributed.start(timeout=120)
import jax
from jax.experimental import multihost_utils
total = multihost_utils.process_allgather(jax.numpy.array(jax.process_index())).sum()
open(f"{jax.process_index()}.txt", "w").write(f"{found.how} {jax.process_count()} {total}")
"""


def test_slurm_script_makes_processes_that_meet(tmp_path):
  fake(tmp_path / "bin" / "srun", SRUN)
  env = os.environ | {
    "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
    "SLURM_JOB_ID": str(os.getpid()),
    "SLURM_NTASKS": "2",
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "",
  }
  process = subprocess.run(
    [LAUNCH / "slurm.sh", sys.executable, "-c", MEET],
    env=env,
    cwd=tmp_path,
    capture_output=True,
    text=True,
    timeout=180,
  )
  assert process.returncode == 0, process.stderr
  assert [(tmp_path / f"{i}.txt").read_text() for i in range(2)] == ["Slurm 2 1"] * 2


def test_a_failed_process_is_the_jobs_failure(tmp_path):
  fake(tmp_path / "bin" / "srun", SRUN)
  path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
  run("slurm", "bash", "-c", "exit $((SLURM_PROCID * 3))", code=3, PATH=path, SLURM_JOB_ID="1", SLURM_NTASKS="2")
