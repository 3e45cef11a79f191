"""`idejax plan`: what a run of `idejax personalize` needs on chips that are not at hand."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from idejax import config
from idejax.cli import method_options, options
from idejax.errors import UserError, tell
from idejax.jobs import plan_pretraining
from idejax.methods import ADDONS
from idejax.nets import target
from idejax.planning import blocks, compiler, figures, topology, work
from idejax.planning.figures import gib
from idejax.planning.kept import sources, versions
from idejax.planning.topology import Topology
from idejax.runtime.timing import words
from idejax.storage import files
from idejax.storage.files import write_json

TABLE = ("v5e-8", "v5e-256", "v6e-8")


def parse(args: list[str], prog: str) -> config.Plan | None:
  """The config.Plan that flags give, None after --help; --config names the planned run's file."""
  alias = lambda a: "--run" + a.removeprefix("--config") if a == "--config" or a.startswith("--config=") else a
  return options.parse(config.Plan, [alias(a) for a in args], prog)


def main(c: config.Plan):
  # ---- What is asked ---------------------------------------------------------------------------
  topology.prepare()
  if pretraining := plan_pretraining.of(c):
    return plan_pretraining.main(c, pretraining)
  if c.price is not None or c.images is not None:
    raise UserError("--price and --images are of a run of idejax pretrain: give its --config")
  if c.check and not c.blocks:
    raise UserError("--check compares the sum of the blocks with the whole step: give --blocks too")
  s = settings(c)
  names = TABLE if c.table and c.topology == config.Plan.topology else c.topology
  places = [topology.read(n) for n in names]
  virtual = [t for t in places if t.platform == "cpu"]
  if virtual:
    topology.devices(max(virtual, key=lambda t: t.size))  # a process makes its CPU devices once
  method_options.check_parts(s)

  # ---- Figures, from the cache or the compiler ---------------------------------------------------
  answers = [answer(c, s, t) for t in places]

  # ---- Report ------------------------------------------------------------------------------------
  print(table(answers) if c.table or len(answers) > 1 else text(answers[0]), flush=True)
  if c.out:
    _write(c.out, answers)
    tell(f"figures in {c.out}")


def settings(c: config.Plan) -> method_options.Settings:
  """The planned run's settings, with the changes that flags make."""
  args = ["--config", str(c.run)] if c.run else []
  for name in ("model", "method", "batch", "dtype"):
    if (value := getattr(c, name)) is not None:
      args += [f"--{name}", str(value)]
  if c.remat:
    args += ["--remat"]
  if not c.run and c.model is None:
    raise UserError("nothing to plan: give --config FILE of a run, or --model")
  out = method_options.parse(args, "idejax plan")
  assert out is not None  # there is no --help among them
  if out.run.method in ADDONS:
    raise UserError(
      f"{out.run.method} trains nothing for a person, so there is nothing to plan; its training is idejax pretrain"
    )
  return out


def answer(c: config.Plan, s: method_options.Settings, t: Topology) -> dict[str, Any]:
  """The figures of one topology, from the cache if the program, its sources and versions are the same."""
  path = cache_path(c, s, t)
  if path and path.exists():
    try:
      return json.loads(path.read_text())
    except ValueError:
      tell(f"warning: {path} is damaged; it is made anew")
  full = not c.blocks
  if full and c.limit and t.platform != "cpu":
    result = _within(c, t, c.limit)
    if result is not None:
      return result  # kept by the child
    tell(f"the whole step was not compiled in {c.limit:g} s; compiling its blocks: the result is an estimate")
    full = False
  result = compute(c, s, t, full)
  if path:
    _write(path, result)
  return result


def compute(
  c: config.Plan, s: method_options.Settings, t: Topology, full: bool, notify: Callable[[str], None] = tell
) -> dict[str, Any]:
  """Compiles the step, and reads figures off the result."""
  with target.compiling_for(t.platform):
    return _compute(c, s, t, full, notify)


def _compute(
  c: config.Plan, s: method_options.Settings, t: Topology, full: bool, notify: Callable[[str], None]
) -> dict[str, Any]:
  begin = time.monotonic()
  devices = topology.devices(t)
  w = work.build(s, t, devices, c.people, c.fsdp if c.fsdp > 1 else None)
  total = work.count_flops(w.settings)
  whole = _full_step(w, t, total, notify) if full or c.check else None
  if full and whole and "needed" not in whole:
    f = whole
  else:
    f = blocks.estimate(w, t, devices[0], total, notify)
    f = (f | {"check": check(f, whole)}) if c.check and whole else figures.exceeded(f, w, t, whole)
  about = {
    "topology": t.name,
    "devices": t.size,
    "chip": t.kind,
    "method": s.run.method,
    "model": s.run.model,
    "batch": s.cfg.batch,
    "people": w.people,
    "fsdp": w.fsdp,
    "dtype": work.dtype_of(s, t).name,
    "remat": s.run.remat,
    "accumulate": s.run.accumulate,
    "versions": versions(t.platform),
    "assumptions": figures.assumptions(t),
  }
  return about | f | {"compile_seconds": round(time.monotonic() - begin, 1)}


def check(blocks_: dict[str, Any], whole: dict[str, Any]) -> dict[str, tuple[float, float]]:
  """{figure: (the sum of the blocks, the whole step)} of one device; of a step that does not fit its peak alone."""
  if "needed" in whole:
    return {"peak": (blocks_["peak"], whole["needed"])}
  out = {name: (blocks_[name], whole[name]) for name in ("peak", "temporaries", "bytes")}
  return out | {"flops": (blocks_["flops_of_blocks"], whole["flops"])}


def _full_step(w: work.Work, t: Topology, total: int, notify: Callable[[str], None]) -> dict[str, Any]:
  """The figures of the whole step, or {"needed": bytes} if the compiler says that memory is too small."""
  notify(f"compiling the step for {t.name} ({t.size} devices)")
  try:
    program = compiler.compiled(
      t.name, "the step", t.platform, lambda: w.step.lower(*w.args), "; --blocks goes without it"
    )
  except compiler.TooLarge as e:
    return {"needed": e.needed}
  return figures.of(program, w, t, total)


def _within(c: config.Plan, t: Topology, seconds: float) -> dict[str, Any] | None:
  """Runs the same command for one topology in a process with a time limit; None if it took too long."""
  flags = ["--limit", "0", "--topology", t.name, "--people", str(c.people), "--fsdp", str(c.fsdp)]
  if c.remat:
    flags += ["--remat"]
  for name in ("run", "model", "method", "batch", "dtype"):
    if (value := getattr(c, name)) is not None:
      flags += [f"--{name}", str(value)]
  code = "import sys; from idejax.jobs import plan; plan.child(sys.argv[1:])"
  # The TPU compiler's notices are for its developers.
  errors = None if os.environ.get("IDEJAX_TRACEBACK") else subprocess.DEVNULL
  tell(f"compiling the step for {t.name} ({t.size} devices), {seconds:g} s at most")
  with subprocess.Popen([sys.executable, "-c", code, *flags], stdout=subprocess.PIPE, stderr=errors, text=True) as p:
    try:
      out, _ = p.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
      return None
    finally:
      p.kill()  # also when this process is interrupted; nothing if it has ended
  result = (
    json.loads(out.splitlines()[-1])
    if out.strip()
    else {
      "error": f"compiling for {t.name} ended with code {p.returncode}: too little memory here? --blocks needs less, "
      "IDEJAX_TRACEBACK=1 shows what was said"
    }
  )
  if "error" in result:
    raise UserError(result["error"])
  return result


def child(args: list[str]):
  """The main function of that process: prints one topology's figures, or {"error"}, as the last line of stdout."""
  topology.prepare()
  c = parse(args, "idejax plan")
  assert c is not None
  try:
    result = answer(c, settings(c), topology.read(c.topology[0]))
  except UserError as e:
    result = {"error": str(e)}
  print(json.dumps(result), flush=True)


# The cache.


def cache_path(c: config.Plan, s: method_options.Settings, t: Topology) -> Path | None:
  """The cache file of an answer, named by a digest of settings, the model's configs, our sources and the compiler."""
  folder = files.cache("plan")
  if folder is None:
    return None
  from idejax.planning import model

  run_settings = {k: v for k, v in method_options.to_json(s).items() if k not in ("out", "photo", "consent", "name")}
  question = [
    run_settings,
    model.configs(s.run.model)[0],
    t,
    c.people,
    c.fsdp,
    c.blocks,
    c.check,
    sources(),
    versions(t.platform),
  ]
  digest = hashlib.sha256(json.dumps(question, sort_keys=True, default=str).encode()).hexdigest()
  return folder / f"{digest[:32]}.json"


def _write(path: Path, value: Any):
  path.parent.mkdir(parents=True, exist_ok=True)
  write_json(path, value)


# Text.


def text(f: dict[str, Any]) -> str:
  """One topology's figures, one line each."""
  kind = "an ESTIMATE from its repeating blocks" if f["estimate"] else "compiled whole"
  who = (
    f"{f['people']} people, {f['people'] // f['devices']} a device, batch {f['batch']} each"
    if f["people"]
    else (f"one person, batch {f['batch']}")
  )
  collectives = ", ".join(f"{v['count']} {k} ({gib(v['bytes'])})" for k, v in f["collectives"].items())
  if misses_collectives(f):
    collectives = "not counted in an estimate"
  fits = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in f["largest"].items())
  if f["estimate"]:
    checked = [f"  in blocks    {100 * f['flops_of_blocks'] / f['flops']:.0f} % of the step's FLOPs"]
    checked += [check_line(name, *both) for name, both in f.get("check", {}).items()]
  else:
    checked = []
  lines = [
    f"{f['method']} on {f['model']}, {who}, {f['dtype']}, fsdp {f['fsdp']}{', remat' * f['remat']}{in_parts(f)}",
    f"{f['topology']}: {f['devices']} devices; {kind}; not run",
    "per device",
    f"  arguments    {gib(f['arguments'])}  (state {gib(f['state'])}; and {gib(f['unread'])} that a step does not read)",
    f"  temporaries  {gib(f['temporaries'])}",
    f"  donated      {gib(f['donated'])}",
    f"  peak         {gib(f['peak'])} of {gib(f['memory'])}: {'fits' if f['fits'] else 'DOES NOT FIT'}",
    f"  FLOPs        {f['flops'] / 1e12:.4g} TFLOP a step",
    f"  bytes        {'at least ' * (f['chip'] in topology.GPUS)}{f['bytes'] / 1e9:.4g} GB a step",
    f"  collectives  {collectives or 'none'}",
    f"  step         {words(f['seconds'])} at the roofline ({f['bound']}-bound: compute "
    f"{words(f['seconds_compute'])}, memory {words(f['seconds_memory'])}, links {words(f['seconds_links'])})",
    f"  largest      {fits} (temporaries taken as proportional)",
    *checked,
    *(f"warning: {w}" for w in f["warnings"]),
    f"assumed: {f['assumptions']}",
  ]
  return "\n".join(lines)


def check_line(name: str, blocks_: float, whole: float) -> str:
  """One figure of the sum of the blocks beside the whole step's."""
  show = {"flops": lambda n: f"{n / 1e12:.4g} TFLOP", "bytes": lambda n: f"{n / 1e9:.4g} GB"}.get(name, gib)
  share = f", {100 * blocks_ / whole:.0f} %" if whole else ""
  return f"  check        {name}: {show(blocks_)} by blocks, {show(whole)} whole{share}"


def in_parts(f: dict[str, Any]) -> str:
  return f", batch in {f['accumulate']} parts" if f["accumulate"] > 1 else ""


def table(answers: list[dict[str, Any]]) -> str:
  """One line per topology; estimates are marked."""
  head = ("topology", "peak", "of", "TFLOP", "GB", "collectives", "step", "steps/s", "fits")
  body = [
    (
      f["topology"] + ("*" if f["estimate"] else ""),
      gib(f["peak"]),
      gib(f["memory"]),
      f"{f['flops'] / 1e12:.4g}",
      f"{f['bytes'] / 1e9:.4g}",
      traffic(f),
      words(f["seconds"]),
      f"{1 / f['seconds']:.3g}" if f["seconds"] else "-",
      ", ".join(str(v) for v in f["largest"].values()),
    )
    for f in answers
  ]
  wide = [max(len(r[i]) for r in [head, *body]) for i in range(len(head))]
  lines = ["  ".join(x.ljust(n) for x, n in zip(r, wide)).rstrip() for r in [head, *body]]
  people = "people per device" if answers[0]["people"] else "batch"
  notes = [f"per device, compiled, not run; fits: the largest {people}; step: roofline"]
  if any(f["estimate"] for f in answers):
    notes.append("* estimate from the repeating blocks")
  notes += [f"{f['topology']}: {w}" for f in answers for w in f["warnings"]]
  return "\n".join([*lines, *notes])


def misses_collectives(f: dict[str, Any]) -> bool:
  """Whether a step may have collectives that its estimate does not count."""
  return f["estimate"] and not f["people"] and f["devices"] > 1


def traffic(f: dict[str, Any]) -> str:
  """The number and bytes of a step's collectives, in words."""
  if misses_collectives(f):
    return "?"
  operations = f["collectives"].values()
  return f"{sum(v['count'] for v in operations)} ({gib(sum(v['bytes'] for v in operations))})" if operations else "none"
