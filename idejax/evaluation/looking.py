"""Many pictures past the judges, in chunks; what was seen is kept, so that a killed run goes on."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from idejax.errors import one_line, tell
from idejax.evaluation.judges import Judges, Seen, look
from idejax.faces import photo
from idejax.runtime.progress import counting
from idejax.storage.files import replacing

CHUNK = 64  # pictures that are in memory at a time


def see(judges: Judges, files: Sequence[Path], kept: Path | None = None) -> dict[Path, Seen]:
  """What the judges see in every file, once however often it is named. Pictures of any size, grey,
  with alpha (put on white) or of 16 bits. UserError names a picture that cannot be read.

  kept: a folder for what was seen, by the pictures' and the judges' digests.
  """
  files = list(dict.fromkeys(files))
  out: dict[Path, Seen] = {}
  bar = counting(len(files), "picture")
  try:
    for at in range(0, len(files), CHUNK):
      part = files[at : at + CHUNK]
      out.update(zip(part, _chunk(judges, part, kept)))
      bar.update(len(part))
  finally:
    bar.close()
  return out


def _chunk(judges: Judges, files: Sequence[Path], kept: Path | None) -> list[Seen]:
  photos = [photo.read(f) for f in files]
  if kept is None:
    return look(judges, [p.pixels for p in photos])
  name = hashlib.sha256("\n".join([judges.digest(), *(p.digest for p in photos)]).encode()).hexdigest()
  path = kept / f"{name[:32]}.npz"
  if path.exists() and (found := _read(path, len(files))) is not None:
    return found
  seen = look(judges, [p.pixels for p in photos])
  kept.mkdir(parents=True, exist_ok=True)
  with replacing(path) as temporary, open(temporary, "wb") as file:
    np.savez(file, **dict(_arrays(seen)))  # type: ignore[arg-type]
  return seen


def _arrays(seen: Sequence[Seen]) -> Iterator[tuple[str, np.ndarray]]:
  """Flat arrays: rows of all faces one after the other, and how many each picture has."""
  yield "faces", np.array([len(s.areas) for s in seen])
  yield "points", np.concatenate([s.points for s in seen])
  yield "areas", np.concatenate([s.areas for s in seen])
  for name in seen[0].faces:
    if rows := [s.faces[name] for s in seen if len(s.areas)]:
      yield f"face/{name}", np.concatenate(rows)
    else:
      yield f"face/{name}", np.zeros((0, 1), np.float32)
  for name in seen[0].picture:
    yield f"picture/{name}", np.stack([s.picture[name] for s in seen])
  for name in {n for s in seen for n in s.crop}:
    yield f"crop/{name}", np.stack([s.crop[name] for s in seen if s.crop])
  if any(s.marks is not None for s in seen):
    yield "marks", np.concatenate([s.marks for s in seen if s.marks is not None])
  if seen[0].features is not None:
    yield "features", np.stack([s.features for s in seen])  # type: ignore[misc]
  for name in seen[0].attributes:
    yield f"attribute/{name}", np.array([s.attributes[name] for s in seen])


def _read(path: Path, count: int) -> list[Seen] | None:
  """What `_arrays` wrote; None, and a word about it, for a damaged file."""
  try:
    with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as f:
      a = {k: f[k] for k in f.files}
    if len(a["faces"]) != count:
      raise ValueError("another number of pictures")
    return _pictures(a)
  except Exception as e:  # numpy and zipfile raise nearly anything over damaged files
    tell(f"warning: {path} is damaged ({one_line(str(e))[:80]}); the pictures are looked at again")
    return None


def _pictures(a: dict[str, np.ndarray]) -> list[Seen]:
  ends = np.cumsum(a["faces"])
  with_face = np.cumsum(a["faces"] > 0) - 1
  group = lambda kind: {k.partition("/")[2]: v for k, v in a.items() if k.startswith(f"{kind}/")}
  out = []
  for i, (n, end) in enumerate(zip(a["faces"], ends)):
    rows = slice(end - n, end)
    out.append(Seen(
      a["points"][rows], a["areas"][rows], {k: v[rows] for k, v in group("face").items()},
      {k: v[i] for k, v in group("picture").items()},
      {k: v[with_face[i]] for k, v in group("crop").items()} if n else {},
      a["marks"][rows] if "marks" in a and n else None, a["features"][i] if "features" in a else None,
      {k: str(v[i]) for k, v in group("attribute").items()}))  # fmt: skip
  return out
