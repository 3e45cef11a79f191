"""Records of kept photos in ArrayRecord shards, which `tfds.builder_from_directory` and grain open, and their manifest."""

import contextlib
import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from idejax.data.preparing import parts, rules, squares
from idejax.data.preparing.sources import Item, Source
from idejax.errors import UserError
from idejax.faces import photo
from idejax.storage.files import replacing

NAME = "face_records"


class Layout:
  """Fields of a record: pixels as they were (size None) or squares round the face, and what is known of them.

  encoded: shapes of what nets made of the pictures, float16, by field: "mean" and "logvar", "clip". coefficients:
  how many numbers, float32, tell of faces by field: "shape", "expression", "pose", "residual". captioned: whether a
  network wrote captions.
  """

  def __init__(
    self,
    size: int | None,
    has_landmarks: bool,
    encoded: Mapping[str, Sequence[int]] | None = None,
    coefficients: Mapping[str, int] | None = None,
    captioned: bool = False,
  ):
    import tensorflow_datasets as tfds

    f = tfds.features
    fields = {
      "image": f.Image(shape=(None, None, 3)),
      "face": f.Image(shape=(None, None, 1)),
      "hair": f.Image(shape=(None, None, 1)),
      "box": f.Tensor(shape=(4,), dtype=np.float32),
      "points": f.Tensor(shape=(5, 2), dtype=np.float32),
      "embedding": f.Tensor(shape=(512,), dtype=np.float32),
      "quality": f.Tensor(shape=(3,), dtype=np.float32),
      "square": f.Tensor(shape=(3,), dtype=np.int32),
      "photo_size": f.Tensor(shape=(2,), dtype=np.int32),
      **{name: f.Text() for name in ("caption", "person", "name", "licence", "photo_sha256")},
    }
    if has_landmarks:
      fields["landmarks"] = f.Tensor(shape=(72, 2), dtype=np.float32)
    for name, shape in (encoded or {}).items():
      fields[name] = f.Tensor(shape=tuple(shape), dtype=np.float16, encoding="bytes")
    for name, count in (coefficients or {}).items():
      fields[name] = f.Tensor(shape=(count,), dtype=np.float32)
    if captioned:
      fields["caption_by"] = f.Text()
    self.size, self.has_landmarks, self.captioned = size, has_landmarks, captioned
    self.encoded, self.coefficients = tuple(encoded or ()), tuple(coefficients or ())
    self.features = f.FeaturesDict(fields)
    self._serializer = tfds.core.example_serializer.ExampleSerializer(self.features.get_serialized_info())

  def serialize(self, record: Mapping[str, Any]) -> bytes:
    example = self._serializer.get_tf_example(self.features.encode_example(dict(record)))
    return example.SerializeToString(deterministic=True)  # equal records, equal bytes


def write(
  file: Path,
  layout: Layout,
  source: Source,
  items: Sequence[Item],
  columns: Mapping[str, Mapping[str, np.ndarray]],
  keep: Sequence[int],
  around: float,
  licence: str,
):
  """One shard of the rows `keep`, from all stages' columns. The file is complete or not there."""
  from array_record.python.array_record_module import ArrayRecordWriter

  detections = columns["detect"]
  texts = parts.unpack(columns["captions"], "caption_")
  writers = parts.unpack(columns["captions"], "caption_by_") if layout.captioned else []
  encoded = {n: x for stage in ("latents", "clip") for n, x in columns.get(stage, {}).items()}
  masks = {n: parts.unpack(columns["masks"], f"{n}_") for n in ("face", "hair")}
  with replacing(file) as temporary:
    writer = ArrayRecordWriter(str(temporary), "group_size:1")
    try:
      for i, picture in zip(keep, source.read([items[i] for i in keep])):
        if isinstance(picture.data, UserError):
          raise UserError(f"{items[i].name} could be read before and cannot now: {picture.data}")
        record: dict[str, Any] = {n: detections[n][i] for n in ("box", "points", "quality")}
        if layout.has_landmarks:
          record["landmarks"] = columns["landmarks"]["landmarks"][i]
        record |= {n: columns["shapes"][n][i] for n in layout.coefficients}
        place = rules.square_of(detections["size"][i], detections["box"][i], around)
        record |= {n: files[i] for n, files in masks.items()}
        if layout.size is None:
          record["image"] = squares.whole(picture.data)
        else:
          record = squares.cut(record | {"image": photo.read(picture.data).pixels}, place, layout.size)
        record |= {n: encoded[n][i] for n in layout.encoded}
        if layout.captioned:
          record["caption_by"] = writers[i]
        record |= dict(
          embedding=columns["embed"]["embedding"][i],
          photo_size=detections["size"][i],
          square=np.array(place, np.int32),
          caption=texts[i],
          person=items[i].person,
          name=items[i].name,
          licence=items[i].licence or licence,
          photo_sha256=str(detections["sha256"][i]),
        )
        writer.write(layout.serialize(record))
    finally:
      writer.close()


def finish(folder: Path, layout: Layout, lengths: Sequence[int], bytes_: int):
  """TFDS's own description of the data set, so that it opens by `tfds.builder_from_directory(folder)`."""
  import tensorflow_datasets as tfds

  place = tfds.core.ShardedFileTemplate(
    data_dir=folder, dataset_name=NAME, split="train", filetype_suffix="array_record"
  )
  split = tfds.core.SplitInfo(name="train", shard_lengths=list(lengths), num_bytes=bytes_, filename_template=place)
  with contextlib.redirect_stdout(sys.stderr):
    tfds.folder_dataset.write_metadata(
      data_dir=str(folder),
      features=layout.features,
      split_infos=[split],
      filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
      check_data=False,
    )


def file_name(n: int, count: int) -> str:
  return f"{NAME}-train.array_record-{n:05d}-of-{count:05d}"


def digest(file: Path) -> str:
  with open(file, "rb") as f:
    return hashlib.file_digest(f, "sha256").hexdigest()
