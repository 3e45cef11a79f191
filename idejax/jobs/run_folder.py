"""The run folder of `idejax personalize`: how it is chosen, and whether this command has begun or ended in it."""

import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from idejax import config
from idejax.cli import method_options
from idejax.cli.method_options import Settings
from idejax.errors import UserError
from idejax.methods import IDENTITIES
from idejax.methods.contract import asked, todays_names
from idejax.personalizing.learn import FREE
from idejax.storage import hub

_WHOSE = (
  "photo",
  "drawn",
  "split",
  "model",
  "vit",
  "describe",
  "compare",
  "given",
  "addon",
  "vision",
  "shared",
)  # another value is another run


def choose(s: Settings) -> Path:
  """--out, or else the first of runs/NAME, runs/NAME-2, ... that is new or where the same run began."""
  c = s.run
  if c.out:
    return c.out
  name = Path(c.photo).stem if c.photo else "portrait"
  for n in itertools.count(1):
    out = Path("runs") / (name if n == 1 else f"{name}-{n}")
    if not out.exists() or out.is_dir() and not any(out.iterdir()):
      return out
    old = _read(out / "config.json")
    if old and not differing(s, old, [k for k in FREE if k not in _WHOSE]):
      return out
  raise AssertionError("there are more numbers")


def refuse_other(s: Settings, out: Path):
  """UserError, before anything is written, if `out` holds a run with other settings, or files that are not ours."""
  c = s.run
  old = _read(out / "config.json")
  if old is None:
    for name in ("sheet.png", "identity.safetensors", "loss.png", "report.json"):
      if (out / name).exists() and not (out / "checkpoints").is_dir():
        raise UserError(f"--out {out} holds a {name} that no run of this command wrote there; choose another --out")
    return
  keys = () if c.photo else ("photo", "drawn", "split")  # without a photo, the run itself writes what it learns from
  free = [k for k in FREE if k not in keys]
  if bool(old.get("compare")) != bool(c.compare):
    kind = "a comparison" if old.get("compare") else f"a run of {old.get('method')}"
    raise UserError(f"--out {out} holds {kind}; choose another --out")
  now = json.loads(json.dumps(method_options.to_json(s)))
  odd = [k for k in keys if old.get(k) != now.get(k)] if c.compare else differing(s, old, free)
  if odd:  # of a comparison each method's own folder is looked at too
    odd = ["method"] if "method" in odd else odd
    lines = [f"{k} was {json.dumps(old.get(k))[:80]} and is now {json.dumps(now.get(k))[:80]}" for k in odd[:3]]
    raise UserError(f"--out {out} holds a run of other settings: {'; '.join(lines)}; choose another --out")


def differing(s: Settings, old: dict[str, Any], free: list[str]) -> list[str]:
  """The settings in which a run's config.json and this command differ. One that config.json lacks counts as off."""
  now = json.loads(json.dumps(method_options.to_json(s)))
  if old.get("method") in IDENTITIES:
    old = todays_names(asked(IDENTITIES[old["method"]])[0], old)
  keys = [k for k in now.keys() | old.keys() if k not in free]
  return sorted(k for k in keys if old.get(k) != now.get(k) and (k in old or now.get(k)))


def earlier_report(s: Settings, out: Path) -> dict[str, Any] | None:
  """The content of report.json if the same command, on the same files, has ended there; else None."""
  report = _read(out / "report.json")
  if report is None or report.get("command") != command_digest(s, out) or not (out / "sheet.png").is_file():
    return None
  who = [out] if (out / "identity.safetensors").is_file() else [p.parent for p in out.glob("*/identity.safetensors")]
  return report if len(who) == report.get("people") else None


def command_digest(s: Settings, out: Path) -> str:
  """A digest of the command: its settings, and the size and time of every file that it reads."""
  c = s.run
  left_out = ("out", "minutes", "checkpoint_every", "tensorboard", "consent", "compare", "given")
  settings = {k: v for k, v in method_options.to_json(s).items() if k not in left_out}
  # A drawn portrait is written by the run itself: its name says all.
  sources = [] if c.photo is None else [c.photo]
  sources += [
    Path(p)
    for p in (c.vit, c.parsing, c.names, hub.BUILT_IN.get(c.model, c.model), c.pack, c.addon, c.vision, c.shared)
    if p
  ]
  stamps = [list(_stamps(p)) for p in sources]
  return hashlib.sha256(json.dumps([settings, stamps], sort_keys=True, default=str).encode()).hexdigest()


def _stamps(path: Path) -> Iterator[tuple[str, int, int]]:
  files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else []
  for f in files:
    about = f.stat()
    yield f.name, about.st_size, about.st_mtime_ns


def photos_too_real(c: config.Personalize) -> list[Path]:
  """Photographs among the photos: larger than any picture of the drawn world."""
  from idejax.faces import photo

  if c.photo is None or not c.photo.exists():
    return []
  files = (
    [c.photo] if c.photo.is_file() else sorted(p for p in c.photo.rglob("*") if p.suffix.lower() in photo.SUFFIXES)
  )
  return [f for f in files[:100] if max(photo.header_size(f)) > photo.DRAWN_SIDE]


def _read(path: Path) -> dict[str, Any] | None:
  try:
    value = json.loads(path.read_text("utf-8"))
  except (OSError, ValueError):
    return None
  return value if isinstance(value, dict) else None
