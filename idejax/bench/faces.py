"""`idejax bench faces`: photos a second through each stage of `idejax prepare`, records a second out of its shards.

The photos are drawn portraits, enlarged to --size and stored as JPEG; face pack, VAE and image encoder are the
built-in ones, so that figures of the stages with networks are theirs alone: a larger network has its own. Records
hold latents and CLIP's tokens of the sizes that SD and CLIP ViT-H give at --size, so that reading them costs what it
costs a training of those. The share of the time in wait is that of a loop whose steps sleep, as an accelerator's do
to the CPU, and ask for half of what one core reads.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from idejax import config, faces
from idejax.data import face_rows
from idejax.data.preparing import shards, sources, stages
from idejax.errors import tell
from idejax.jobs import encoders, prepare
from idejax.miniature.world import data, people
from idejax.storage.files import write_json

_PEOPLE, _EACH, _SIZE, _SIDE = 16, 3, 512, 64
_TOKENS, _WIDTH = 257, 1280  # of CLIP ViT-H/14
_BATCH, _STEPS = 8, 40


def main(c: config.Bench) -> dict[str, Any]:
  size = c.size or _SIZE
  tell(f"{_PEOPLE * _EACH} drawn portraits of {size}x{size} pixels, JPEG; one thread")
  with tempfile.TemporaryDirectory(prefix="idejax-") as folder:
    root = Path(folder)
    photos(root / "photos", size)
    out: dict[str, Any] = {"stages": by_stage(root, size)}
    out["records"] = reading(root, size, c.repeats)
    out["waits"] = waits(root, size, out["records"]["rows_per_core_second"])
  return out


def photos(folder: Path, size: int):
  """A folder tree of drawn people."""
  images = data.batch(people.split("heldout")[:_PEOPLE], _EACH, size=_SIDE).images
  for i, image in enumerate(images):
    file = folder / f"{i // _EACH:03d}" / f"{i % _EACH}.jpg"
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC).save(file, quality=95)


def by_stage(root: Path, size: int) -> dict[str, dict[str, float]]:
  """Photos a second, and a second of a core, of each stage and of writing; the records come to `root`."""
  source, pack = sources.of((root / "photos",)), faces.open_pack("miniature", threads=1, notify=lambda _: None)
  nets = encoders.of_vae("miniature", size), encoders.of_tower("miniature")
  work, items = stages.Work(source, pack, None, 1, size, 4.0, *nets), source.items()
  columns: dict[str, Any] = {}
  out = {}
  for name, stage in stages.asked(work).items():
    few = {n: {k: x[:4] for k, x in columns[n].items()} for n in stage.after}
    stage.run(work, items[:4], few)  # networks are loaded and compiled
    spent = measure(lambda: columns.update({name: stage.run(work, items, columns)}))  # noqa: B023
    out[name] = show(name, "photos", len(items), *spent)
  # Latents and tokens of the sizes that a training of SD reads, not the built-in nets'.
  side, rng = size // 8, np.random.default_rng(0)
  f16 = lambda *shape: rng.standard_normal((len(items), *shape)).astype(np.float16)
  columns["latents"] = {"mean": f16(side, side, 4), "logvar": f16(side, side, 4)}
  columns["clip"] = {"clip": f16(_TOKENS, _WIDTH)}
  encoded = {k: x.shape[1:] for name in ("latents", "clip") for k, x in columns[name].items()}
  layout = shards.Layout(size, bool(columns["landmarks"]["has_landmarks"].all()), encoded)
  keep = np.flatnonzero(columns["detect"]["error"] == "").tolist()
  file = root / shards.file_name(0, 1)
  spent = measure(lambda: shards.write(file, layout, source, items, columns, keep, 4.0, ""))
  out["shards"] = show("shards", "records", len(keep), *spent)
  bytes_ = file.stat().st_size
  shards.finish(root, layout, [len(keep)], bytes_)
  entry = dict(file=file.name, records=len(keep), bytes=bytes_, sha256=shards.digest(file))
  about = dict(
    version=prepare.VERSION, fields=sorted(layout.features), size=size, shards=[entry],
    pack=dict(name=pack.name, sha256=pack.digest), latents=dict(name="sd", sha256="vae", size=size),
    clip=dict(name="vit-h", sha256="tower"),
  )  # fmt: skip
  prepare.write_people(root, [items[i] for i in keep], about)
  write_json(root / "manifest.json", about)
  return out


def reading(folder: Path, size: int, repeats: int) -> dict[str, float]:
  """Records a second by one thread: as they are stored, pictures not decoded; and as rows of a training."""
  rows = open_rows(folder, size)
  order = np.random.default_rng(0).permutation(len(rows))
  out: dict[str, float] = {}
  for name, read in (("records", lambda: [rows.records[int(i)] for i in order]), ("rows", lambda: rows.read(order))):
    read()
    spent = [measure(read) for _ in range(repeats)]
    wall, busy = (float(np.median(x)) for x in zip(*spent))
    figures = show(name, "records", len(rows), wall, busy)
    out |= {f"{name}_per_second": figures["per_second"], f"{name}_per_core_second": figures["per_core_second"]}
  return out


def waits(folder: Path, size: int, rate: float) -> dict[str, float]:
  """Sleeping steps of eight records that ask for half of `rate`, read ahead: the share of the time in wait."""
  rows, seconds = open_rows(folder, size), 2 * _BATCH / rate
  at = lambda i: np.random.default_rng(i).integers(0, len(rows), _BATCH)
  waited, moment = 0.0, time.perf_counter()
  with contextlib.closing(face_rows.Ahead(lambda i: rows.read(at(i)), _STEPS)) as ahead:
    for i in range(_STEPS):
      start = time.perf_counter()
      ahead(i)
      if i:  # nothing was read before the first
        waited += time.perf_counter() - start
      time.sleep(seconds)
  share = waited / (time.perf_counter() - moment)
  line = f"steps of {1000 * seconds:.0f} ms, {_BATCH} records each: {100 * share:.2f} % of the time in wait"
  print(f"{'waits':12} {line}", flush=True)
  return {"step_seconds": seconds, "records_per_second": _BATCH / seconds, "share": share}


def open_rows(folder: Path, size: int) -> face_rows.Rows:
  return face_rows.Rows(folder, faces.open_pack("miniature", notify=lambda _: None), size, 224, "vae", "tower")


def measure(work: Callable[[], Any]) -> tuple[float, float]:
  """Seconds of the clock and of this process's cores."""
  start, busy = time.perf_counter(), time.process_time()
  work()
  return time.perf_counter() - start, time.process_time() - busy


def show(name: str, what: str, count: int, wall: float, busy: float) -> dict[str, float]:
  out = {"per_second": count / max(wall, 1e-9), "per_core_second": count / max(busy, 1e-9)}
  line = f"{out['per_second']:8.1f} {what}/s, {out['per_core_second']:.1f} per second of a core"
  print(f"{name:12} {line}", flush=True)
  return out
