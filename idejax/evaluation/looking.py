"""Shows many pictures to the judges, in chunks, and caches the findings, so that a killed run goes on where it was."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from idejax.errors import one_line, tell
from idejax.evaluation.judges import Findings, Judges, look
from idejax.faces import photo
from idejax.runtime.progress import counting
from idejax.storage.files import replacing

CHUNK = 64  # pictures that are in memory at a time


def see(judges: Judges, files: Sequence[Path], cache: Path | None = None) -> dict[Path, Findings]:
  """What the judges find in every file; a file that is named twice is looked at once. Pictures may have any
  size, be grey, have alpha (put on white) or 16 bits. UserError names a picture that cannot be read.

  cache: a folder for the findings, by the digests of pictures and judges.
  """
  files = list(dict.fromkeys(files))
  out: dict[Path, Findings] = {}
  bar = counting(len(files), "picture")
  try:
    for at in range(0, len(files), CHUNK):
      part = files[at : at + CHUNK]
      out.update(zip(part, _chunk(judges, part, cache)))
      bar.update(len(part))
  finally:
    bar.close()
  return out


def _chunk(judges: Judges, files: Sequence[Path], cache: Path | None) -> list[Findings]:
  photos = [photo.read(f) for f in files]
  if cache is None:
    return look(judges, [p.pixels for p in photos])
  name = hashlib.sha256("\n".join([judges.digest(), *(p.digest for p in photos)]).encode()).hexdigest()
  path = cache / f"{name[:32]}.npz"
  if path.exists() and (findings := _read(path, len(files))) is not None:
    return findings
  findings = look(judges, [p.pixels for p in photos])
  cache.mkdir(parents=True, exist_ok=True)
  with replacing(path) as temporary, open(temporary, "wb") as file:
    np.savez(file, **dict(_arrays(findings)))  # type: ignore[arg-type]
  return findings


def _arrays(findings: Sequence[Findings]) -> Iterator[tuple[str, np.ndarray]]:
  """The findings as flat arrays: the rows of all faces one after the other, and how many each picture has."""
  yield "faces", np.array([len(s.areas) for s in findings])
  yield "points", np.concatenate([s.points for s in findings])
  yield "areas", np.concatenate([s.areas for s in findings])
  for name in findings[0].faces:
    if rows := [s.faces[name] for s in findings if len(s.areas)]:
      yield f"face/{name}", np.concatenate(rows)
    else:
      yield f"face/{name}", np.zeros((0, 1), np.float32)
  for name in findings[0].picture:
    yield f"picture/{name}", np.stack([s.picture[name] for s in findings])
  for name in {n for s in findings for n in s.crop}:
    yield f"crop/{name}", np.stack([s.crop[name] for s in findings if s.crop])
  if any(s.marks is not None for s in findings):
    yield "marks", np.concatenate([s.marks for s in findings if s.marks is not None])
  if findings[0].features is not None:
    yield "features", np.stack([s.features for s in findings])  # type: ignore[misc]
  for name in findings[0].attributes:
    yield f"attribute/{name}", np.array([s.attributes[name] for s in findings])


def _read(path: Path, count: int) -> list[Findings] | None:
  """The findings that `_arrays` wrote; None, with a warning, for a damaged file."""
  try:
    with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as f:
      a = {k: f[k] for k in f.files}
    if len(a["faces"]) != count:
      raise ValueError("another number of pictures")
    return _pictures(a)
  except Exception as e:  # numpy and zipfile raise nearly anything over damaged files
    tell(f"warning: {path} is damaged ({one_line(str(e))[:80]}); the pictures are looked at again")
    return None


def _pictures(a: dict[str, np.ndarray]) -> list[Findings]:
  ends = np.cumsum(a["faces"])
  with_face = np.cumsum(a["faces"] > 0) - 1
  group = lambda kind: {k.partition("/")[2]: v for k, v in a.items() if k.startswith(f"{kind}/")}
  out = []
  for i, (n, end) in enumerate(zip(a["faces"], ends)):
    rows = slice(end - n, end)
    out.append(Findings(
      a["points"][rows], a["areas"][rows], {k: v[rows] for k, v in group("face").items()},
      {k: v[i] for k, v in group("picture").items()},
      {k: v[with_face[i]] for k, v in group("crop").items()} if n else {},
      a["marks"][rows] if "marks" in a and n else None, a["features"][i] if "features" in a else None,
      {k: str(v[i]) for k, v in group("attribute").items()}))  # fmt: skip
  return out
