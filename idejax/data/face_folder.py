"""A folder of people as a TFDS data set: ArrayRecord files, read at random without TensorFlow.

    python -m idejax.data.face_folder people data       # a file or a sub-folder per person -> data/face_folder/1.0.0
    idejax personalize data/face_folder/1.0.0

Pictures keep their bytes, so digests, and with them caches and seeds, are those of the files. Thousands
of small files become a few large ones, as network disks and buckets like them.
"""

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from idejax import faces
from idejax.data.people import Person, crowd, pictures_in
from idejax.errors import UserError, one_line, tell
from idejax.faces import photo


class FaceFolder(tfds.core.GeneratorBasedBuilder):
  """Photos by person; `manual_dir` is the folder of people."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First."}
  MANUAL_DOWNLOAD_INSTRUCTIONS = "A folder with a picture, or a sub-folder of pictures, per person."

  def _info(self) -> tfds.core.DatasetInfo:
    features = {
      "image": tfds.features.Image(shape=(None, None, 3)),
      "person": tfds.features.Text(),
      "file": tfds.features.Text(),
    }
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples(Path(dl_manager.manual_dir))}

  def _generate_examples(self, folder: Path):
    for person, file in _files(folder):
      name = file.relative_to(folder).as_posix()
      yield name, {"image": file.read_bytes(), "person": person, "file": name}


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
  """(person, picture) of every picture that opens; the others are reported on stderr."""
  for entry in sorted(p for p in folder.iterdir() if not p.name.startswith(".")):
    if not entry.is_dir() and entry.suffix.lower() not in photo.SUFFIXES:
      continue
    for file in pictures_in(entry):
      if photo.header_size(file) != (0, 0):
        yield entry.stem if entry.is_file() else entry.name, file
      else:
        tell(f"skipped: {file} is no picture that can be read")


def prepare(folder: Path, data: Path, shards: int | None = None) -> Path:
  """Write the people of `folder` below `data` -> the data set's own folder. UserError if there are none."""
  if not folder.is_dir():
    raise UserError(f"{folder} is no folder of people")
  if next(_files(folder), None) is None:
    raise UserError(f"{folder}: no pictures here, and no sub-folders with any")
  builder = FaceFolder(data_dir=str(data), file_format="array_record")
  if Path(builder.data_dir).exists():
    raise UserError(f"{builder.data_dir} is there already; remove it, or choose another folder")
  with contextlib.redirect_stdout(sys.stderr):
    builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(manual_dir=str(folder), num_shards=shards, compute_stats="skip")
    )
  return Path(builder.data_dir)


def source(path: Path, split: str = "train", raw: Iterable[str] = ("image",)) -> Sequence[dict[str, Any]]:
  """The examples {"image": encoded bytes, "person", "file": bytes} of a prepared folder: `len` and [i].

  raw: the pictures that stay encoded. It reads any TFDS data set with an image that was prepared as ArrayRecord;
  UserError for others.
  """
  try:
    builder = tfds.builder_from_directory(str(path))
    return builder.as_data_source(split, decoders={name: tfds.decode.SkipDecoding() for name in raw})
  except Exception as e:  # tfds raises nearly anything over files that are not its own
    raise UserError(
      f"{path} cannot be read as a data set of TFDS in ArrayRecord files: {one_line(str(e))[:200]}"
    ) from e


def people(path: Path, pack: faces.Pack, face: int | None = None, parsing: Path | None = None) -> list[Person]:
  """The people of a data set with the fields of `FaceFolder`. As in a folder, photos that cannot be used
  are skipped and reported; UserError if none is left."""
  examples, sources = source(path), dict[str, list[int]]()
  for i in range(len(examples)):
    example = examples[i]
    if not {"person", "image"} <= example.keys():
      raise UserError(
        f"{path} has {', '.join(sorted(example))}, not image and person: make it with idejax.data.face_folder"
      )
    sources.setdefault(example["person"].decode(), []).append(i)

  def look(i: int) -> faces.FaceRecord:
    example = examples[i]
    try:
      return faces.read(example["image"], pack, face, parsing)
    except UserError as e:
      raise UserError(f"{example.get('file', b'').decode() or i} of {path}: {e}") from e

  return crowd(path, list(sources.items()), look)


if __name__ == "__main__":
  if len(sys.argv) != 3:
    sys.exit("usage: python -m idejax.data.face_folder PEOPLE DATA")
  try:
    print(prepare(Path(sys.argv[1]), Path(sys.argv[2])))
  except UserError as e:
    sys.exit(f"idejax: {e}")
