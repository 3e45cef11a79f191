"""`idejax bench compile` and `idejax bench jobs`: whole commands, each in a process of its own.

What a user waits for: Python and jax start, programs are compiled or read from the cache, work is done,
files are written.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from idejax import config
from idejax.errors import UserError
from idejax.model import families
from idejax.runtime.progress import waiting
from idejax.runtime.timing import words


def start_up(c: config.Bench) -> dict[str, float]:
  """Seconds of `idejax sample` in a new process, with an empty and with a filled compilation cache."""
  with tempfile.TemporaryDirectory(prefix="idejax-") as folder:
    families.write_random(Path(folder) / "model", c.family)
    run = [
      _seconds(
        ["sample", "--model", f"{folder}/model", "--prompt", "a", "--steps", "2", "--out", f"{folder}/{i}"],
        Path(folder),
      )
      for i in range(4)
    ]
  cold, warm = run[0], statistics.median(run[1:])
  print(
    f"start    {words(cold)} with an empty compilation cache, {words(warm)} with a filled "
    f"one: ratio {warm / cold:.2f} (small {c.family}, whole command)",
    flush=True,
  )
  return dict(cold=cold, warm=warm, ratio=warm / cold)


def jobs(c: config.Bench) -> dict[str, Any]:
  """People an hour by `idejax personalize`, a job for each of them or one for all; a picture of everybody.

  One person's job is run twice and its second run counted, with all programs in the compilation cache, as in a
  row of such jobs; a crowd's is run once and compiles its own.
  """
  with tempfile.TemporaryDirectory(prefix="idejax-") as folder:
    out = {"first": _job(c, "first job", 1, Path(folder, "first")), "one": _job(c, "job", 1, Path(folder, "one"))}
    for n in c.people:
      out[f"crowd_{n}"] = _job(c, "job", n, Path(folder, f"crowd_{n}"), out["one"]["seconds"])
  return out


def _job(c: config.Bench, name: str, people: int, to: Path, alone: float | None = None) -> dict[str, Any]:
  """One job's figures, printed as one line; with the seconds of one person's, also how many times those it is."""
  with waiting(f"{name} of {people}"):
    seconds = _seconds(personalize(c, people, to), to.parent)
  phases = json.loads((to / "report.json").read_text())["seconds"]
  figures: dict[str, Any] = {"seconds": seconds, "people_an_hour": 3600 * people / seconds, "phases": phases}
  line = f"{name} of {people}: {words(seconds)}, {figures['people_an_hour']:.0f} people an hour"
  if alone:
    figures["gain"] = people * alone / seconds
    line += f", {figures['gain']:.2f} times those of one after another"
  print(f"{line} ({', '.join(f'{k} {v:.0f} s' for k, v in phases.items())})", flush=True)
  return figures


def personalize(c: config.Bench, people: int, out: Path) -> list[str]:
  """The command that trains so many drawn people."""
  line = [
    "personalize",
    "--method",
    c.method,
    "--model",
    c.model,
    "--drawn",
    str(people),
    "--num",
    "1",
    "--prompts",
    "a photo of {}",
    "--dtype",
    c.dtype,
    "--out",
    str(out),
  ]
  if c.preset:
    line += ["--preset", c.preset]
  if c.train_batch:
    line += ["--batch", str(c.train_batch)]
  return line


def _seconds(arguments: Sequence[str], folder: Path) -> float:
  """Of the command from start to end, with compiled programs kept in `folder`; UserError if it fails."""
  # Our own cache, which this process has told jax of, must not serve the new one.
  env = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
  start = time.perf_counter()
  done = subprocess.run(
    [sys.executable, "-m", "idejax.cli", *arguments],
    capture_output=True,
    env=env | {"IDEJAX_CACHE": str(folder / "cache")},
  )
  spent = time.perf_counter() - start
  if done.returncode:
    raise UserError(f"idejax {arguments[0]} failed: {done.stderr.decode(errors='replace').strip()[-300:]}")
  return spent
