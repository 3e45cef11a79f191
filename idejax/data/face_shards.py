"""Face records in the shards of `idejax prepare`, read at random and checked before a training begins."""

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from idejax.data import face_folder
from idejax.errors import UserError
from idejax.storage.files import read_json


class FaceShards(Sequence):
  """Records as dicts of arrays and strings; "image" stays encoded. Pickles into the processes that read."""

  def __init__(self, folder: Path, rows: Sequence[dict[str, Any]], digest: str):
    self.folder, self._rows, self.digest = folder, rows, digest  # sha256 over the shards' own

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, i):
    if not -len(self) <= i < len(self):
      raise IndexError(i)
    try:
      row = self._rows[i % len(self)]
    except Exception as e:  # readers of records raise nearly anything over damaged ones
      raise UserError(f"{self.folder}: record {i} is damaged; idejax prepare makes its shard again: {e}") from e
    return {k: v.decode() if isinstance(v, bytes) and k != "image" else v for k, v in row.items()}


def open_shards(
  folder: Path, fields: Collection[str] = (), recogniser: str | None = None, size: int | None = None
) -> FaceShards:
  """The records of a folder of `idejax prepare`.

  UserError if a shard is missing or has another size than the manifest says, if records lack one of `fields`, if
  another recogniser (sha256 of a pack) made the embeddings, or if they have not `size` pixels a side.
  """
  if not (folder / "manifest.json").is_file():
    raise UserError(f"{folder} has no manifest.json: idejax prepare PHOTOS --out {folder} makes face records")
  about = read_json(folder / "manifest.json")
  if about.get("version") != 1 or not isinstance(about.get("shards"), list):
    raise UserError(f"{folder}/manifest.json is of version {about.get('version')}, and this idejax reads version 1")
  for shard in about["shards"]:
    file = folder / str(shard.get("file"))
    have = file.stat().st_size if file.is_file() else None
    if have != shard.get("bytes"):
      what = "is missing" if have is None else f"has {have:,} bytes, not {shard.get('bytes'):,}"
      raise UserError(f"{file} {what}; the same idejax prepare again makes it anew")
  if lacking := sorted(set(fields) - set(about["fields"])):
    raise UserError(f"the records of {folder} have no {', '.join(lacking)}; they have {', '.join(about['fields'])}")
  made_by = about["pack"]
  if recogniser is not None and made_by["sha256"] != recogniser:
    raise UserError(
      f"the embeddings of {folder} are by {made_by['name']} ({made_by['sha256'][:12]}), not by the recogniser of this "
      f"training ({recogniser[:12]})"
    )
  if size is not None and about["size"] != size:
    raise UserError(
      f"the pictures of {folder} have {about['size'] or 'their own'} pixels a side, and {size} are asked for"
    )
  digest = hashlib.sha256(" ".join(s["sha256"] for s in about["shards"]).encode()).hexdigest()
  return FaceShards(folder, face_folder.source(folder), digest)
