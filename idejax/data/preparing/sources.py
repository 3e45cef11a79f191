"""Where photos come from: folders, JSONL lists, WebDataset tars, TFDS data sets, the drawn world.

Names and captions from outside are data, never paths to follow: whatever leads out of its folder is refused.
"""

import functools
import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

from idejax.errors import UserError, one_line
from idejax.faces import photo
from idejax.faces.mask import Truth
from idejax.storage.files import read_text

_LONGEST = 2**20  # bytes of a caption, a line or a tar's header
_KEPT = 5000  # drawn pictures in memory, of some kB each
_IMAGE, _CAPTION = ("image", "file", "path"), ("caption", "text", "prompt")
_PERSON, _LICENCE = ("person", "identity", "id", "label"), ("licence", "license")


class Item(NamedTuple):
  """A photo that may become a record. `mark` changes whenever the photo does."""

  name: str
  mark: str
  caption: str = ""
  person: str = ""
  licence: str = ""


class Picture(NamedTuple):
  """An encoded photo, or why there is none; what a drawn world knows about it."""

  data: bytes | UserError
  truth: Truth | None = None


class Source(Protocol):
  """A place that lists its photos quickly and reads some of them."""

  def items(self) -> list[Item]: ...
  def read(self, items: Sequence[Item]) -> Iterator[Picture]: ...


def of(paths: Sequence[Path]) -> Source:
  """The source of a folder of photos, a .jsonl list, .tar files (or a folder of them) or a data set of TFDS. UserError."""
  if len(paths) > 1 and not all(p.suffix == ".tar" for p in paths):
    raise UserError("give one folder, list or data set; several paths are for .tar files alone")
  for p in paths:
    if not p.exists():
      raise UserError(f"{p} does not exist")
  path = paths[0]
  if path.suffix == ".tar":
    return Tars(list(paths))
  if path.suffix == ".jsonl":
    return Lines(path)
  if path.is_file():
    raise UserError(f"{path}: photos come in a folder, a .jsonl list, .tar files or a data set of TFDS")
  if (path / "dataset_info.json").is_file():
    return DataSet(path)
  if tars := sorted(path.glob("*.tar")):
    return Tars(tars)
  return Folder(path)


class Folder:
  """A folder tree: the first sub-folder is the person, NAME.txt beside a photo its caption."""

  def __init__(self, root: Path):
    self.root = root

  def items(self) -> list[Item]:
    out = []
    for at, folders, files in os.walk(self.root):
      folders[:] = sorted(f for f in folders if f[0] != ".")
      for file in sorted(files):
        path = Path(at, file)
        if file[0] == "." or path.suffix.lower() not in photo.SUFFIXES:
          continue
        inside = path.relative_to(self.root)
        person = inside.parts[0] if len(inside.parts) > 1 else ""
        out.append(Item(inside.as_posix(), _mark(path), _sidecar(path.with_suffix(".txt")), person))
    return out

  def read(self, items: Sequence[Item]) -> Iterator[Picture]:
    return (Picture(_bytes(self.root / i.name)) for i in items)


class Lines:
  """A JSONL list: {"image": path beside the list, "caption", "person", "licence"} a line."""

  def __init__(self, path: Path):
    self.path = path

  def items(self) -> list[Item]:
    out = []
    for n, line in enumerate(read_text(self.path).splitlines(), 1):
      if not line.strip():
        continue
      where = f"{self.path}, line {n}"
      if len(line) > _LONGEST:
        raise UserError(f"{where} has {len(line):,} characters")
      try:
        row = json.loads(line)
      except (ValueError, RecursionError) as e:
        raise UserError(f"{where} is no JSON: {one_line(str(e))[:120]}") from e
      if not isinstance(row, dict) or not (name := _field(row, _IMAGE)):
        raise UserError(f'{where} has no "image", the path of a photo')
      inside(name, where)
      if not (self.path.parent / name).resolve().is_relative_to(self.path.parent.resolve()):
        raise UserError(f"{where}: {name} is a link that leads out of {self.path.parent}")
      out.append(Item(name, _mark(self.path.parent / name), *(_field(row, k) for k in (_CAPTION, _PERSON, _LICENCE))))
    return out

  def read(self, items: Sequence[Item]) -> Iterator[Picture]:
    return (Picture(_bytes(self.path.parent / i.name)) for i in items)


class Tars:
  """Tars in WebDataset's form: KEY.jpg, beside it KEY.txt (the caption) or KEY.json (caption, person, licence)."""

  def __init__(self, paths: list[Path]):
    self.paths = paths
    self._places: dict[str, tuple[Path, int, int]] = {}  # by name: the tar, offset and bytes

  def items(self) -> list[Item]:
    out = []
    for path in self.paths:
      rows: dict[str, dict[str, Any]] = {}
      for member in _members(path):
        folder, file = os.path.split(member.name)
        stem, _, ending = file.partition(".")
        row = rows.setdefault(f"{folder}/{stem}".lstrip("/"), {})
        if f".{ending.lower()}" in photo.SUFFIXES:
          name = f"{path.name}/{member.name}"
          row["item"] = Item(name, f"{member.offset_data}+{member.size}@{path.stat().st_mtime_ns}")
          self._places[name] = path, member.offset_data, member.size
        elif ending in ("txt", "json"):
          row[ending] = self._text(path, member, json_too=ending == "json")
      for row in rows.values():
        if "item" in row:
          about = row.get("json", {})
          caption = one_line(row.get("txt", "")) or _field(about, _CAPTION)
          item: Item = row["item"]
          out.append(Item(item.name, item.mark, caption, _field(about, _PERSON), _field(about, _LICENCE)))
    return out

  def read(self, items: Sequence[Item]) -> Iterator[Picture]:
    for item in items:
      path, at, size = self._places[item.name]
      if size > photo.MOST_BYTES:
        yield Picture(UserError(f"{item.name} claims {size:,} bytes"))
        continue
      data = _slice(path, at, size)
      cut = UserError(f"{item.name} ends after {len(data):,} bytes of {size:,}")
      yield Picture(cut if len(data) < size else data)

  def _text(self, path: Path, member: tarfile.TarInfo, json_too: bool) -> Any:
    if member.size > _LONGEST:
      raise UserError(f"{path}: {member.name} has {member.size:,} bytes; it should be a caption")
    try:
      text = _slice(path, member.offset_data, member.size).decode("utf-8-sig")
      value = json.loads(text) if json_too else text
    except (ValueError, RecursionError) as e:
      raise UserError(f"{path}: {member.name} cannot be read: {one_line(str(e))[:120]}") from e
    if json_too and not isinstance(value, dict):
      raise UserError(f"{path}: {member.name} holds no JSON object")
    return value


class _Header(tarfile.TarInfo):
  """A member whose extended headers are small: tarfile would read them whole, whatever they claim."""

  @classmethod
  def frombuf(cls, buf, encoding, errors):
    member = super().frombuf(buf, encoding, errors)
    if member.type in (b"x", b"g", b"X", b"L", b"K") and member.size > _LONGEST:
      raise UserError(f"a header in it claims {member.size:,} bytes")
    return member


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
  """The files of a tar. UserError for a damaged one, and for links, devices and names that lead out of it."""
  try:
    with tarfile.open(path, "r:", tarinfo=_Header) as tar:
      for member in tar:
        if member.isdir():
          continue
        if not member.isreg():
          raise UserError(f"{member.name[:200]} in it is a link or a device")
        inside(member.name, str(path))
        yield member
  except UserError as e:
    text = str(e)
    raise UserError(text if text.startswith(str(path)) else f"{path}: {text}") from e
  except (tarfile.TarError, OSError, EOFError, ValueError) as e:
    raise UserError(f"{path} is no tar that can be read: {one_line(str(e))[:160]}") from e


class DataSet:
  """A prepared data set of TFDS in ArrayRecord files, with "image" and maybe "person", "caption"."""

  def __init__(self, path: Path):
    from idejax.data import face_folder  # TFDS takes a while to import

    self.path, self.rows = path, face_folder.source(path)

  def items(self) -> list[Item]:
    mark, out = _mark(self.path / "dataset_info.json"), []
    for i in range(len(self.rows)):
      row = {
        k: v.decode(errors="replace") if isinstance(v, bytes) else v for k, v in self.rows[i].items() if k != "image"
      }
      out.append(Item(f"{i:08d}", mark, *(_field(row, k) for k in (_CAPTION, _PERSON, _LICENCE))))
    return out

  def read(self, items: Sequence[Item]) -> Iterator[Picture]:
    for item in items:
      data = self.rows[int(item.name)].get("image")
      yield Picture(data if isinstance(data, bytes) else UserError(f"row {item.name} of {self.path} has no image"))


class Drawn:
  """`count` pictures of the drawn world's training people, four or more of each, with all that the world knows."""

  licence = "Apache-2.0, drawn by idejax"

  def __init__(self, count: int, seed: int = 0, side: int = 64):
    from idejax.miniature.world import people

    self.ids = [int(i) for split in ("celebrity", "train") for i in people.split(split)]
    self.each = max(4, -(-count // len(self.ids)))
    self.count, self.seed, self.side = count, seed, side
    self._rendered: dict[str, Picture] = {}  # a few thousand, which several stages read

  def items(self) -> list[Item]:
    """Captions are made with the pictures."""
    mark = f"seed {self.seed}, {self.side} px"
    places = ((i, k) for i in self.ids for k in range(self.each))
    return [
      Item(f"drawn/{i}/{k}", mark, "", f"drawn_{i}", self.licence) for (i, k), _ in zip(places, range(self.count))
    ]

  def read(self, items: Sequence[Item]) -> Iterator[Picture]:
    if new := [i for i in items if i.name not in self._rendered]:
      if len(self._rendered) + len(new) > _KEPT:
        self._rendered.clear()
        new = list(items)
      self._rendered |= zip((i.name for i in new), self._render(new))
    return (self._rendered[i.name] for i in items)

  def _render(self, items: Sequence[Item]) -> Iterator[Picture]:
    import numpy as np
    from PIL import Image

    from idejax.miniature.world import data, people, scene

    places, ids = self._places(items)
    batch = data.batch(ids, self.each, self.seed, self.side, calm=scene.WILD)
    everybody = people.people(np.repeat(ids, self.each))
    scenes = scene.scenes(np.asarray(ids), self.each, self.seed, scene.WILD)
    for i, k in places:
      n = ids.index(i) * self.each + k
      face, hair = map(np.asarray, _masks(self.side)(people.take(everybody, n), people.take(scenes, n)))
      Image.fromarray(batch.images[n]).save(png := io.BytesIO(), "PNG")
      yield Picture(png.getvalue(), Truth(face, hair, batch.geometry.landmarks[n]))

  def captions(self, items: Sequence[Item]) -> list[str]:
    """What the pictures show, in the world's words."""
    from idejax.miniature.world import data

    places, ids = self._places(items)
    texts = data.captions(ids, self.each, self.seed)
    return [texts[ids.index(i) * self.each + k] for i, k in places]

  def _places(self, items: Sequence[Item]) -> tuple[list[tuple[int, int]], list[int]]:
    """(person, picture) of each item, and the people."""
    places = [(int(i), int(k)) for _, i, k in (item.name.split("/") for item in items)]
    return places, sorted({i for i, _ in places})


@functools.cache
def _masks(side: int):
  """A person and a scene -> face and hair bool [side, side], compiled once."""
  import jax
  import jax.numpy as jnp

  from idejax.miniature.world import world

  return jax.jit(lambda person, scene: world.layers(jnp, person, scene, side)[1:])


def inside(name: str, where: str):
  """UserError for a path that is absolute or climbs."""
  path = PurePosixPath(name.replace("\\", "/"))
  if path.is_absolute() or ".." in path.parts or "\0" in name or ":" in path.parts[0]:
    raise UserError(f"{where}: {one_line(name)[:200]} leads out of its folder")


def _field(row: Any, names: Sequence[str]) -> str:
  return next((one_line(str(row[n])) for n in names if row.get(n) not in (None, "")), "")


def _mark(path: Path) -> str:
  """Size and time of a file; nothing for one that is not there, which reading will tell."""
  try:
    s = path.stat()
  except OSError:
    return ""
  return f"{s.st_size}@{s.st_mtime_ns}"


def _sidecar(path: Path) -> str:
  return one_line(read_text(path)) if path.is_file() and path.stat().st_size <= _LONGEST else ""


def _bytes(path: Path) -> bytes | UserError:
  try:
    return photo.encoded(path)
  except UserError as e:
    return e


def _slice(path: Path, at: int, size: int) -> bytes:
  with open(path, "rb") as file:
    file.seek(at)
    return file.read(size)
