"""The work in pieces: a part is what one stage found out about one shard's photos, in one file.

A part's header says what it was made from. Whatever changes, photos, settings or an earlier part, makes the parts
after it old, and a later run makes those anew and no others. Processes that share a disk never make the same part.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from idejax.data.preparing.sources import Item
from idejax.errors import UserError, one_line
from idejax.faces import npz
from idejax.storage.files import replacing


def divide(folder: Path, items: Sequence[Item], size: int) -> list[list[Item]]:
  """The photos of each shard. Those of an earlier run keep their shards; new ones come into new shards.

  UserError for a list that is damaged, and for two photos of one name.
  """
  with ours(folder, wait=True):
    return _divide(folder, items, size)


def _divide(folder: Path, items: Sequence[Item], size: int) -> list[list[Item]]:
  now = {i.name: i for i in items}
  if len(now) < len(items):
    raise UserError("two photos of the source have one name")
  for i in items:
    try:
      "".join(i).encode()
    except UnicodeEncodeError:
      raise UserError(f"name, caption or person of {ascii(i.name)[:200]} is no valid Unicode text") from None
  shards: list[list[Item]] = []
  for file in sorted(folder.glob("*.jsonl")):
    names = [i.name for i in _listed(file)]
    shards.append([now.pop(n) for n in names if n in now])
  if shards and len(shards[-1]) < size:  # the last was not full
    for name in list(now)[: size - len(shards[-1])]:
      shards[-1].append(now.pop(name))
  rest = list(now.values())
  shards += [rest[k : k + size] for k in range(0, len(rest), size)]
  folder.mkdir(parents=True, exist_ok=True)
  for n, shard in enumerate(shards):
    text = "".join(json.dumps(list(i)) + "\n" for i in shard)
    file = folder / f"{n:05d}.jsonl"
    if not file.exists() or file.read_text("utf-8") != text:
      with replacing(file) as temporary:
        temporary.write_text(text, "utf-8")
  return shards


def require_unchanged(folder: Path, shards: Sequence[Sequence[Item]]):
  """UserError if the lists are no longer those that `divide` wrote here: then another process sees the photos otherwise,
  and each would make the other's work anew, again and again."""
  for n, shard in enumerate(shards):
    now = {i.name: i for i in _listed(folder / f"{n:05d}.jsonl")}
    for i in shard:
      if (other := now.get(i.name)) != i:
        here, there = (f"{x.mark or 'not there'}" if x else "not listed" for x in (i, other))
        raise UserError(
          f"{i.name} is {here} here and {there} for another idejax prepare of this folder (bytes@time): all hosts must see "
          "the same photos with the same times, and none may change meanwhile; what was finished stays"
        )


def _listed(file: Path) -> list[Item]:
  try:
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    return [Item(*map(str, row)) for row in rows]
  except (OSError, ValueError, TypeError, RecursionError) as e:
    raise UserError(f"{file} is damaged ({one_line(str(e))[:120]}); remove it and run idejax prepare again") from e


@contextlib.contextmanager
def together(file: Path, settings: Mapping[str, Any]) -> Iterator[None]:
  """Works beside runs of equal settings alone. UserError, which names a setting, while a run of others is at work."""
  file.parent.mkdir(parents=True, exist_ok=True)
  mine = json.loads(json.dumps(settings, default=str))
  handle = os.open(file, os.O_CREAT | os.O_RDWR, 0o644)
  try:
    try:
      with contextlib.suppress(BlockingIOError):  # others are at work: what they wrote counts
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(mine).encode(), 0)
      fcntl.flock(handle, fcntl.LOCK_SH)
    except OSError as e:
      raise UserError(f"{file.parent} is on a disk without locks: prepare by one process at a time ({e})") from e
    theirs = json.loads(os.pread(handle, 2**20, 0) or b"{}")
    if odd := [k for k in mine if mine[k] != theirs.get(k)]:
      raise UserError(
        f"another idejax prepare is at work in {file.parent.parent} with other settings: {odd[0]} is {theirs.get(odd[0])} "
        f"there and {mine[odd[0]]} here; wait for it, or choose another --out"
      )
    yield
  finally:
    os.close(handle)


def key(stage: str, settings: Mapping[str, Any], items: Sequence[Item], before: Sequence[str]) -> str:
  """What a part is made from, as a digest; `before` are the keys of the parts that it reads."""
  text = json.dumps([stage, dict(settings), [list(i) for i in items], list(before)], ensure_ascii=False, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:24]


def path(folder: Path, shard: int, stage: str) -> Path:
  return folder / f"{shard:05d}.{stage}.npz"


def is_current(file: Path, made_from: str) -> bool:
  """Whether a part is there and made from what is there now."""
  try:
    return str(npz.read(file, only=("key",))["key"]) == made_from
  except (OSError, ValueError, KeyError):
    return False


def read(file: Path) -> dict[str, np.ndarray]:
  """The arrays of a part. UserError if it is damaged."""
  try:
    arrays = npz.read(file)
    arrays.pop("key")
    return arrays
  except (OSError, ValueError, KeyError) as e:
    raise UserError(f"{file} is damaged ({e}); remove it and run idejax prepare again") from e


def write(file: Path, made_from: str, arrays: Mapping[str, np.ndarray]):
  file.parent.mkdir(parents=True, exist_ok=True)
  npz.write(file, {"key": np.array(made_from), **arrays})


@contextlib.contextmanager
def ours(file: Path, wait: bool = False) -> Iterator[bool]:
  """Whether this process may make the part now; False while another does, unless it shall `wait` for that one.
  A killed process lets go."""
  file.parent.mkdir(parents=True, exist_ok=True)
  handle = os.open(file.with_suffix(".lock"), os.O_CREAT | os.O_RDWR, 0o644)
  try:
    try:
      fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
      yield False
      return
    except OSError as e:
      raise UserError(f"{file.parent} is on a disk without locks: prepare by one process at a time ({e})") from e
    yield True
  finally:
    os.close(handle)


def pack(files: Sequence[bytes]) -> dict[str, np.ndarray]:
  """Byte strings as two arrays, without pickles."""
  ends = np.cumsum([len(f) for f in files], dtype=np.int64)
  return {"bytes": np.frombuffer(b"".join(files), np.uint8), "ends": ends}


def unpack(arrays: Mapping[str, np.ndarray], prefix: str = "") -> list[bytes]:
  data, ends = arrays[f"{prefix}bytes"].tobytes(), arrays[f"{prefix}ends"]
  return [data[a:b] for a, b in zip([0, *ends[:-1]], ends)]
