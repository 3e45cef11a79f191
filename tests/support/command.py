"""The installed command in a process of its own, as users run it, and a small model for tests."""

import atexit
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from support import compiled

from idejax.model import families

IDEJAX = Path(sys.executable).with_name("idejax")
ROOT = Path(tempfile.mkdtemp(prefix="idejax-test-"))
atexit.register(shutil.rmtree, ROOT, ignore_errors=True)
# The conftest's eight devices are for tests in this process; LLVM's optimiser is for long runs. One
# device: numbers do not depend on the machine's cores (test_cores has the default).
FLAGS = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=1"


class Result(NamedTuple):
  code: int
  out: str
  err: str

  @property
  def last(self) -> str:
    """The last line of stderr, as a terminal shows it."""
    return self.err.rstrip("\n").split("\n")[-1].split("\r")[-1]


def environment(**changes: str | None) -> dict[str, str]:
  base = {**os.environ, "IDEJAX_CACHE": str(compiled.FOLDER), "XLA_FLAGS": FLAGS, "HF_HUB_OFFLINE": "1"}
  return {k: v for k, v in (base | changes).items() if v is not None}


def run(*args, cwd: Path = ROOT, timeout: float = 240, **env: str | None) -> Result:
  """Run `idejax ARGS` to its end."""
  process = subprocess.run([IDEJAX, *args], capture_output=True, cwd=cwd, env=environment(**env), timeout=timeout)
  return Result(process.returncode, process.stdout.decode(), process.stderr.decode())


def run_until(file: Path, number: signal.Signals, *args, timeout: float = 240) -> Result:
  """Run `idejax ARGS` until `file` exists, then send a signal and wait for the end."""
  process = subprocess.Popen(
    [IDEJAX, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=environment()
  )
  end = time.monotonic() + timeout
  while not file.exists() and process.poll() is None and time.monotonic() < end:
    time.sleep(0.005)
  process.send_signal(number)
  out, err = process.communicate(timeout=timeout)
  return Result(process.returncode, out.decode(), err.decode())


def run_for(seconds: float, *args) -> int:
  """Run `idejax ARGS` for at most so many seconds, then kill -9; the exit code, or the negative signal."""
  process = subprocess.Popen(
    [IDEJAX, *args], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT, env=environment()
  )
  try:
    return process.wait(seconds)
  except subprocess.TimeoutExpired:
    process.kill()
    return process.wait()


@functools.cache
def tiny_model() -> Path:
  """Stable Diffusion 2.1's architecture at 0.5 MB; 8 pixels a latent, as in the large ones."""
  c = families.small("sd21-base")
  c["unet"] |= dict(
    block_out_channels=[8, 16],
    attention_head_dim=[1, 2],
    down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
    up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
    sample_size=4,
  )
  c["vae"] |= dict(
    block_out_channels=[8] * 4,
    norm_num_groups=4,
    sample_size=32,
    down_block_types=["DownEncoderBlock2D"] * 4,
    up_block_types=["UpDecoderBlock2D"] * 4,
  )
  c["text_encoder"] |= dict(num_hidden_layers=1)
  families.write_random(ROOT / "tiny", "sd21-base", configs=c)
  return ROOT / "tiny"


def assert_one_sentence(result: Result, *words: str, code: int = 2):
  """The form of every mistake: the code, nothing on stdout, and one sentence that names it."""
  assert result.code == code, result
  assert result.out == ""
  assert "Traceback" not in result.err and '  File "' not in result.err, result.err
  assert result.last.startswith("idejax: "), result.err
  assert sum(line.startswith("idejax: ") for line in result.err.replace("\r", "\n").split("\n")) == 1, result.err
  for word in words:
    assert word in result.last, (word, result.err)
  assert "this is a mistake in idejax" not in result.last
