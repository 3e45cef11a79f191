"""`make mutants`: small mistakes put into the code one at a time, and whether a test notices.

Every part_*.py beside this file holds MUTANTS, a list of (name, source file, old text, new text, test): the
old text occurs once in the file, and the test, a file or a node of pytest, must fail on the new one. A feature
comes with about three.

    python tests/mutants/run.py [--jobs 2] [--only NAME] [--part comic]
"""

import argparse
import os
import queue
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
WANTED = 0.95  # share of mutants that a test must notice


class Mutant(NamedTuple):
  name: str
  path: str  # of the source, from the repository's root
  old: str
  new: str
  test: str


def read(folder: Path = Path(__file__).parent, part: str = "*") -> list[Mutant]:
  """All mutants of all parts, or of one, in order."""
  return [Mutant(*m) for path in sorted(folder.glob(f"part_{part}.py")) for m in runpy.run_path(str(path))["MUTANTS"]]


def main():
  parser = argparse.ArgumentParser(description="Put mistakes into a copy of the code and see which tests notice.")
  parser.add_argument("--only", metavar="NAME", help="one mutant")
  parser.add_argument("--part", default="*", metavar="NAME", help="those of one file, part_NAME.py")
  parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants at a time, each in a copy of its own")
  only, jobs = (args := parser.parse_args()).only, max(1, args.jobs)
  mutants = [m for m in read(part=args.part) if only in (None, m.name)]
  if not mutants:
    sys.exit(f"no mutant {only!r} in part {args.part!r}; known: {', '.join(m.name for m in read())}")
  with tempfile.TemporaryDirectory(prefix="idejax-mutants-") as folder:
    copies = queue.SimpleQueue[Path]()
    for n in range(jobs):
      copies.put(write_copy(Path(folder, f"tree{n}")))
    print("the tests on the code as it is", flush=True)
    baseline = pytest(Path(folder, "tree0"), "-n", str(jobs), *dict.fromkeys(m.test for m in mutants))
    if baseline.returncode:
      sys.exit(f"{baseline.stdout[-3000:]}\nthe tests fail without any mutant")

    def one(numbered: tuple[int, Mutant]) -> str:
      i, m = numbered
      copy, start = copies.get(), time.monotonic()
      verdict = judge(copy, m)
      copies.put(copy)
      print(f"{i}/{len(mutants)} {verdict:8} {time.monotonic() - start:4.0f} s  {m.name}", flush=True)
      return verdict

    with ThreadPoolExecutor(jobs) as pool:
      verdicts = list(zip(mutants, pool.map(one, enumerate(mutants, 1))))
  width = max(len(m.name) for m in mutants)
  print("\n" + "\n".join(f"{verdict:8}  {m.name:{width}}  {m.test}" for m, verdict in verdicts))
  killed = sum(verdict == "killed" for _, verdict in verdicts)
  print(f"{killed} of {len(verdicts)} killed; {WANTED:.0%} are wanted")
  sys.exit(killed < WANTED * len(verdicts))


def write_copy(copy: Path) -> Path:
  """What git tracks, as it is now."""
  tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
  for name in filter(None, tracked.split("\0")):
    if not (ROOT / name).exists():
      continue  # removed, but not yet in a commit
    (copy / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / name, copy / name)
  return copy


def judge(copy: Path, m: Mutant) -> str:
  """killed: its test fails. survived: it passes. stale: text or test are not there, or the code does not load."""
  path = copy / m.path
  text = path.read_text("utf-8") if path.is_file() else ""
  if text.count(m.old) != 1:
    return "stale"
  path.write_text(text.replace(m.old, m.new), "utf-8")
  try:
    return {0: "survived", 1: "killed"}.get(pytest(copy, m.test).returncode, "stale")
  finally:
    path.write_text(text, "utf-8")


def pytest(copy: Path, *tests: str) -> subprocess.CompletedProcess[str]:
  # No byte code: two versions of a file within a second and of one size would be taken for each other.
  env = {
    **os.environ,
    "PYTHONPATH": str(copy),
    "PYTHONDONTWRITEBYTECODE": "1",
    "IDEJAX_CACHE": str(copy.with_name(f"{copy.name}-cache")),
  }
  command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
  return subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True)


if __name__ == "__main__":
  main()
