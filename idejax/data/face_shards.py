"""Face records in the shards of `idejax prepare`, read at random and checked before a training begins."""

import bisect
import hashlib
import itertools
import socket
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from idejax.data import face_folder
from idejax.errors import UserError, one_line
from idejax.storage.files import read_json

_SHARD = {"file", "records", "bytes", "sha256"}  # what a manifest says of each
_AGAIN = "the same idejax prepare again makes it anew"


class FaceShards(Sequence):
  """Records as dicts of arrays and strings; "image" stays encoded. Pickles into the processes that read."""

  def __init__(self, folder: Path, rows: Sequence[dict[str, Any]], about: dict[str, Any], raw: Collection[str]):
    self.folder, self.about, self._rows, self._raw = folder, about, rows, raw  # about: the manifest
    self.digest = digest(about)
    self._ends = list(itertools.accumulate(s["records"] for s in about["shards"]))

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, i):
    if not -len(self) <= i < len(self):
      raise IndexError(i)
    try:
      row = self._rows[i % len(self)]
    except Exception as e:  # readers of records raise nearly anything over damaged and missing ones
      raise UserError(self._why(i % len(self), e)) from e
    return {k: v.decode() if isinstance(v, bytes) and k not in self._raw else v for k, v in row.items()}

  def _why(self, i: int, error: Exception) -> str:
    """Which shard, on which host, cannot be read."""
    shard = self.about["shards"][bisect.bisect_right(self._ends, i)]
    if trouble := _trouble(self.folder, shard):
      return f"host {socket.gethostname()}: {trouble}"
    return (
      f"{self.folder}: record {i} is damaged, in {shard['file']} as host {socket.gethostname()} sees it; "
      f"idejax prepare makes its shard again: {one_line(str(error))[:200]}"
    )


def digest(about: dict[str, Any]) -> str:
  """sha256 over the digests of the shards that a manifest names."""
  return hashlib.sha256(" ".join(s["sha256"] for s in about["shards"]).encode()).hexdigest()


def open_shards(
  folder: Path,
  fields: Collection[str] = (),
  recogniser: str | None = None,
  size: int | None = None,
  latents: tuple[str, int] | None = None,
  clip: str | None = None,
  raw: Collection[str] = ("image",),
) -> FaceShards:
  """The records of a folder of `idejax prepare`.

  latents: (sha256 of a VAE's folder, pixels a side); clip: sha256 of an image encoder's. raw: pictures that stay encoded.

  UserError if a shard is missing or has another size than the manifest says, if records lack one of `fields`, if
  another recogniser (sha256 of a pack) made the embeddings, if they have not `size` pixels a side, or if their latents
  or CLIP's tokens, where they have any, are of another model or size.
  """
  if not (folder / "manifest.json").is_file():
    raise UserError(f"{folder} has no manifest.json: idejax prepare PHOTOS --out {folder} makes face records")
  about = read_json(folder / "manifest.json")
  if about.get("version") != 1:
    raise UserError(f"{folder}/manifest.json is of version {about.get('version')}, and this idejax reads version 1")
  if lacking := [k for k in ("fields", "pack", "size", "shards") if k not in about]:
    raise UserError(
      f"{folder}/manifest.json says nothing of {', '.join(lacking)}; the same idejax prepare again writes it"
    )
  if not isinstance(about["shards"], list) or not all(
    isinstance(s, dict) and _SHARD <= s.keys() for s in about["shards"]
  ):
    raise UserError(f"{folder}/manifest.json does not say of each shard its {', '.join(sorted(_SHARD))}; {_AGAIN}")
  for shard in about["shards"]:
    if trouble := _trouble(folder, shard):
      raise UserError(f"{trouble}; {_AGAIN}")
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
  if latents is not None and (theirs := about.get("latents")):
    if theirs["sha256"] != latents[0]:
      raise UserError(
        f"the latents of {folder} are by the VAE of {theirs['name']} ({theirs['sha256'][:12]}), not by that of this "
        f"training ({latents[0][:12]}): idejax prepare with its --model makes them anew"
      )
    if theirs["size"] != latents[1]:
      raise UserError(
        f"the latents of {folder} are of {theirs['size']} pixels a side, and this training is at {latents[1]}: "
        f"idejax prepare --size {latents[1]} makes them anew"
      )
  if clip is not None and (theirs := about.get("clip")) and theirs["sha256"] != clip:
    raise UserError(
      f"CLIP's tokens in {folder} are by {theirs['name']} ({theirs['sha256'][:12]}), not by the image encoder of this "
      f"training ({clip[:12]}): idejax prepare with its --vision makes them anew"
    )
  return FaceShards(folder, face_folder.source(folder, raw=raw), about, raw)


def _trouble(folder: Path, shard: dict[str, Any]) -> str:
  """What is wrong with a shard's file, or nothing."""
  file = folder / str(shard.get("file"))
  have = file.stat().st_size if file.is_file() else None
  if have == shard.get("bytes"):
    return ""
  return f"{file} " + ("is missing" if have is None else f"has {have:,} bytes, not {shard.get('bytes'):,}")
