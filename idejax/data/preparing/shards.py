"""Records of kept photos in ArrayRecord shards, which `tfds.builder_from_directory` and grain open, and their manifest."""

import contextlib
import hashlib
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from idejax.data.preparing import parts, rules, stages
from idejax.data.preparing.sources import Item, Source
from idejax.errors import UserError
from idejax.faces import photo
from idejax.person import augment
from idejax.storage.files import replacing

NAME = "face_records"


class Layout:
  """Fields of a record: pixels as they were (size None) or squares round the face, and what is known of them."""

  def __init__(self, size: int | None, has_landmarks: bool):
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
    self.size, self.has_landmarks = size, has_landmarks
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
        place = rules.square_of(detections["size"][i], detections["box"][i], around)
        record |= {n: files[i] for n, files in masks.items()}
        if layout.size is None:
          record["image"] = _image(picture.data)
        else:
          record = cut(record | {"image": photo.read(picture.data).pixels}, place, layout.size)
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


def cut(record: Mapping[str, Any], place: tuple[int, int, int], size: int) -> dict[str, Any]:
  """A record of the photo's square (top, left, side) at `size` pixels: picture, masks, and what is measured in pixels."""
  scale, corner = size / place[2], np.array([place[1], place[0]], np.float32)
  out = dict(record)
  for name in ("box", "points", "landmarks"):
    if name in record:
      # Whole numbers are pixels' centres: the middle of the square stays its middle.
      points = (record[name].reshape(-1, 2) - corner + 0.5) * scale - 0.5
      out[name] = points.reshape(record[name].shape).astype(np.float32)
  top, left, side = place
  shrink = lambda x: augment.resize(np.ascontiguousarray(x[top : top + side, left : left + side]), size)
  out |= {n: stages.png(shrink(_bits(record[n])) > 127) for n in ("face", "hair")}
  return out | {"image": _jpeg(shrink(record["image"]))}


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


def _image(data: bytes) -> bytes:
  """A file that any reader of PNG and JPEG opens; others, and those that lie on their side, are stored as PNG."""
  if data[:3] == b"\xff\xd8\xff" or data[:8] == b"\x89PNG\r\n\x1a\n":
    with Image.open(io.BytesIO(data)) as image:
      if image.mode == "RGB" and image.getexif().get(0x0112, 1) == 1:
        return data
  Image.fromarray(photo.read(data).pixels).save(out := io.BytesIO(), "PNG")
  return out.getvalue()


def _bits(png: bytes) -> np.ndarray:
  return np.asarray(Image.open(io.BytesIO(png)))


def _jpeg(pixels: np.ndarray) -> bytes:
  Image.fromarray(pixels).save(out := io.BytesIO(), "JPEG", quality=95, subsampling=0)
  return out.getvalue()
