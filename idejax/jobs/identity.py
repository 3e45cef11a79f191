"""`idejax identity`: reads photos; writes face records, pictures of them and, for a folder, a table."""

import csv
import io
import os
import shlex
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from idejax import config, faces
from idejax.errors import UserError, tell
from idejax.faces import npz, overlay, photo
from idejax.faces import record as records
from idejax.faces.mask import Parser
from idejax.runtime.progress import counting, waiting

TABLE = "identities.csv"
COLUMNS = (
  "photo",
  "identity",
  "error",
  "faces",
  "face",
  "score",
  "x0",
  "y0",
  "x1",
  "y1",
  "size",
  "blur",
  "yaw",
  "face_source",
  "hair_source",
  "landmarks_source",
  "photo_sha256",
  "pack",
  "pack_sha256",
)


def main(c: config.Identity):
  check(c)
  if len(c.photo) == 1 and Path(c.photo[0]).is_dir():
    read_folder(c, Path(c.photo[0]))
  else:
    read_photos(c)


def check(c: config.Identity):
  """UserError for mistakes that can be found without running a network."""
  if not c.photo:
    raise UserError("which photo? idejax identity PHOTO... --out FILE.npz, or a folder of photos")
  if c.parsing and not c.parsing.exists():
    raise UserError(f"--parsing {c.parsing} does not exist")
  folders = [p for p in c.photo if Path(p).is_dir()]
  if folders and len(c.photo) > 1:
    raise UserError(f"{folders[0]} is a folder; give one folder, or photos of one person")
  if folders:
    if (c.out.exists() and not c.out.is_dir()) or c.out.suffix == ".npz":
      raise UserError(f"--out {c.out} is a file; of a folder of photos, --out is a folder")
    if c.out.resolve() == Path(folders[0]).resolve():
      raise UserError(f"--out {c.out} is the folder of the photos; choose another")
    return
  if c.out.is_dir():
    raise UserError(f"--out {c.out} is a folder; give a file name that ends in .npz")
  if c.out.suffix != ".npz":
    raise UserError(f"--out {c.out} must end in .npz")


# ---- Photos of one person ------------------------------------------------------------------------


def read_photos(c: config.Identity):
  warn_of_photographs(c, list(c.photo))
  pack = faces.open_pack(c.pack)
  parser = Parser(c.parsing) if c.parsing else None
  with waiting("reading the faces"):
    face_records = faces.read(list(c.photo), pack, c.face, parser)
  c.out.parent.mkdir(parents=True, exist_ok=True)
  faces.save(c.out, face_records)
  picture = write_picture(c.out, face_records)
  for one in face_records:
    m, q = one.meta, one.quality
    tell(
      f"{m['photo']}: face of {q['size']:.0f} px, score {m['score']:.2f}, yaw {round(q['yaw'])} "
      f"degrees; face mask from {m['face_source']}, hair from {m['hair_source']}"
    )
    if outside(one):
      tell(f"warning: {m['photo']}: the face is cut off by the edge of the photo")
  if face_records[0].meta["missing"]:
    tell(f"not found: {'; '.join(face_records[0].meta['missing'])}")
  least = pack.thresholds.get("far_1e-3")
  for one in face_records[1:]:
    alike = float(one.embedding @ face_records[0].embedding)
    if least is not None and alike < least:
      tell(
        f"warning: {one.meta['photo']} may show another person than {face_records[0].meta['photo']}: "
        f"similarity {alike:.2f}, below the pack's {least:.2f}"
      )
  tell(f"{c.out}, and {picture} to look at")


def warn_of_photographs(c: config.Identity, files: list[str]):
  """Warns once, before a photograph is read, that the drawn world's networks know drawn faces only."""
  real = [f for f in files[:100] if max(photo.header_size(Path(f))) > photo.DRAWN_SIDE]
  if c.pack == config.Identity.pack and real:
    tell(
      f"warning: {real[0]} looks like a photograph, and the pack miniature knows drawn faces only. For photographs: "
      f"idejax identity {shlex.quote(c.photo[0])} --out {shlex.quote(str(c.out))} --pack buffalo_l; "
      "for a drawn face to try: idejax personalize, which leaves runs/portrait/portrait.png"
    )


def outside(one: faces.FaceRecord) -> bool:
  """Whether a tenth of the box or a key point lies beyond the photo."""
  height, width = one.photo.shape[:2]
  slack = 0.1 * (one.box[2:] - one.box[:2])
  within = lambda p, s: (p >= -s).all() and (p <= np.array([width, height]) - 1 + s).all()
  return not (within(one.box[:2], slack) and within(one.box[2:], slack) and within(one.points, 0))


def write_picture(out: Path, face_records: list[faces.FaceRecord], side: int = 512) -> Path:
  """Writes pictures of the records, one below the other, as NAME.drawn.png; NAME.png may be the photo itself."""
  path = out.with_name(f"{out.name.removesuffix('.npz')}.drawn.png")
  pictures = [overlay.picture(one, side) for one in face_records]
  canvas = Image.new("RGB", (max(d.width for d in pictures), sum(d.height for d in pictures)), "white")
  top = 0
  for d in pictures:
    canvas.paste(d, (0, top))
    top += d.height
  buffer = io.BytesIO()
  canvas.save(buffer, format="PNG", compress_level=1)
  npz.write_bytes(path, buffer.getbuffer())
  return path


# ---- A folder of photos of many ------------------------------------------------------------------


def read_folder(c: config.Identity, folder: Path):
  names, strange = list_photos(folder, c.out)
  if not names:
    others = f" ({len(strange)} others, such as {strange[0]})" if strange else ""
    raise UserError(f"{folder} holds no picture file{others}")
  warn_of_photographs(c, [str(folder / n) for n in names])
  pack = faces.open_pack(c.pack, threads=1)
  parser = Parser(c.parsing, threads=1) if c.parsing else None
  outs = {name: c.out / file for name, file in npz_names(names).items()}
  c.out.mkdir(parents=True, exist_ok=True)
  with waiting("looking at what is there already"):
    there = {n: earlier_row(folder, n, outs[n], c, pack, parser) for n in names}
  rows = {n: row for n, row in there.items() if row is not None}
  todo = [n for n in names if n not in rows]
  if rows:
    tell(f"{len(rows)} of {len(names)} photos are done already")
  back = {folder / n: n for n in names}

  def then(path: Path, one: faces.FaceRecord) -> dict[str, Any]:
    file = outs[back[path]]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_picture(file, [one], 256)
    faces.save(file, one)  # last: a record that exists is complete
    return line(back[path], file.relative_to(c.out), one.meta, one.quality, one.box)

  bar = counting(len(todo), "photo")
  try:
    for path, result in faces.many((folder / n for n in todo), pack, parser, c.face, then, c.threads):
      bad = isinstance(result, UserError)
      rows[back[path]] = {"photo": back[path], "error": str(result)} if bad else result
      bar.update()
  finally:  # the table of what is finished, also when the run is interrupted
    bar.close()
    write_table(c.out / TABLE, [rows[n] for n in names if n in rows])
  report(c, names, rows, strange)


def list_photos(folder: Path, out: Path) -> tuple[list[str], list[str]]:
  """(picture files, other files), relative and sorted, without hidden files and files in `out`."""
  pictures: list[str] = []
  others: list[str] = []
  for at, folders, files in os.walk(folder):
    here = Path(at)
    folders[:] = sorted(f for f in folders if f[0] != "." and (here / f).resolve() != out.resolve())
    for file in sorted(files):
      if file.startswith("."):
        continue
      name = (here / file).relative_to(folder).as_posix()
      (pictures if (here / file).suffix.lower() in photo.SUFFIXES else others).append(name)
  return sorted(pictures), sorted(others)


def npz_names(names: Iterable[str]) -> dict[str, str]:
  """a/b.jpg -> a/b.npz, or a/b.jpg.npz where a/b.png is there too."""
  names = list(names)
  stem = lambda n: os.path.splitext(n)[0]
  count = Counter(stem(n).lower() for n in names)  # some disks know no capitals
  return {n: f"{n if count[stem(n).lower()] > 1 else stem(n)}.npz" for n in names}


def earlier_row(folder: Path, name: str, file: Path, c: config.Identity, pack, parser) -> dict[str, Any] | None:
  """The row of a photo that an earlier run of this command finished, None if it has to be read."""
  record = records.peek(file) if file.exists() else None
  if record is None:
    return None
  meta = record["meta"]
  want = dict(pack_sha256=pack.digest, parsing_sha256=parser.digest if parser else None, face_asked=c.face)
  if any(meta.get(k) != v for k, v in want.items()):
    return None
  try:
    if meta.get("photo_sha256") != photo.digest(folder / name):
      return None
    return line(name, file.relative_to(c.out), meta, record["quality"], meta["boxes"][meta["face"] - 1])
  except (UserError, KeyError, IndexError, TypeError):
    return None


def line(name: str, file: Path, meta: dict[str, Any], quality: dict[str, float], box: Any):
  """A row of the table."""
  facts = {k: meta[k] for k in COLUMNS if k in meta} | {k: round(v, 2) for k, v in quality.items()}
  sides = dict(zip(("x0", "y0", "x1", "y1"), (round(float(x), 2) for x in box)))
  head = {"photo": name, "identity": file.as_posix(), "error": "", "score": round(meta["score"], 4)}
  return facts | sides | head


def write_table(path: Path, rows: list[dict[str, Any]]):
  text = io.StringIO(newline="")
  table = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
  table.writeheader()
  table.writerows(rows)
  npz.write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))


def report(c: config.Identity, names: list[str], rows: dict[str, dict[str, Any]], strange: list[str]):
  """Reports the result in a few lines. UserError if not one photo gave an identity."""
  bad = [n for n in names if rows[n]["error"]]
  if strange:
    more = ", ..." * (len(strange) > 5)
    tell(f"{len(strange)} file(s) without a picture's ending: {', '.join(strange[:5])}{more}")
  for n in bad[:10]:
    tell(f"skipped: {rows[n]['error']}")
  if len(bad) > 10:
    tell(f"... and {len(bad) - 10} more, all in the column error of {c.out / TABLE}")
  if len(bad) == len(names):
    raise UserError(f"not one of {len(names)} photos gave an identity; {c.out / TABLE} says why")
  several = sum(rows[n].get("faces", 0) > 1 for n in names if not rows[n]["error"])
  if several and c.face is None:
    tell(f"{several} photo(s) have several faces; the largest was taken (column face)")
  skipped = f"; {len(bad)} skipped" if bad else ""
  tell(f"{len(names) - len(bad)} of {len(names)} photos in {c.out}{skipped}; table: {c.out / TABLE}")
