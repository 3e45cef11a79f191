"""What `idejax prepare` takes."""

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from idejax.ranges import at_least, between, not_empty


@dataclasses.dataclass(frozen=True)
class Prepare:
  """Photos of many people -> training shards: faces found, embedded, outlined, and kept by stated rules.

    idejax prepare photos --out faces --pack buffalo_l --size 512
    idejax prepare list.jsonl --out faces --pack buffalo_l          {"image", "caption", "person"} a line
    idejax prepare part-0001.tar part-0002.tar --out faces          WebDataset: KEY.jpg with KEY.txt or KEY.json
    idejax prepare --drawn 400 --out faces                          the same without photos, drawn people
    idejax prepare photos --out faces --size 512 --model SD15 --vision CLIP --stage latents      on a GPU, that alone

  A folder's first sub-folders are the people, and NAME.txt beside a photo is its caption. The same command again
  makes only what is missing or changed; several at the same time, on a disk that they share, divide the work.
  --out receives ArrayRecord shards that tfds.builder_from_directory opens, manifest.json, report.json and dropped.png.
  """

  out: Path
  """Folder for shards, manifest and report; parts/ in it holds the stages' work."""
  photos: tuple[Path, ...] = dataclasses.field(default=(), metadata={"positional": True})
  """A folder tree, a .jsonl list, .tar files of WebDataset, or a prepared data set of TFDS."""
  drawn: Annotated[int, at_least(0)] = 0
  """In place of photos, so many pictures of the built-in world's training people, at least four of each."""
  stage: Literal["all", "detect", "embed", "landmarks", "masks", "captions", "latents", "clip", "shapes", "shards"] = (
    "all"
  )
  """One stage alone, such as on its own kind of machine; give the other options alike each time. Default: all, one
  after the other."""
  pack: Annotated[str, not_empty] = "miniature"
  """Detector and recogniser: miniature (drawn portraits), an insightface pack (buffalo_l), or a folder of ONNX files."""
  parsing: Path | None = None
  """Face-parsing network (ONNX, CelebAMask-HQ's 19 classes) for the masks. Default: they come from landmarks or
  key points, without hair."""
  model: Annotated[str | None, not_empty] = None
  """Store the latents of the squares too, by this pipeline's VAE, at --size: a training at that size and with that VAE
  then computes none. Any other refuses them. 64 kB a photo at 512 pixels, 256 kB at 1024."""
  vision: Annotated[str | None, not_empty] = None
  """Store CLIP's tokens of the portraits too, by this folder's image encoder, or miniature. 640 kB a photo with ViT-H."""
  captioner: Path | None = None
  """Folder of an image-to-text network (`optimum-cli export onnx --task image-to-text` writes one) that says what photos
  show which came without a caption; the records then say whose captions are its. Default: those have none."""
  shape: Annotated[str | None, not_empty] = None
  """Store shape, expression and pose of the faces too: a morphable model (.npz, see docs/methods.md) with --table, fitted
  to their landmarks, or miniature, the drawn world's own."""
  table: Path | None = None
  """The morphable model's 72 landmarks."""
  size: Annotated[int | None, at_least(16)] = None
  """Store squares round the face of so many pixels a side. Default: the photos as they are."""
  around: Annotated[float, at_least(1)] = 4.0
  """Side of those squares, as a multiple of the face's."""
  licence: str = ""
  """Licence of photos that do not say their own; it is stored with every record."""
  face: Annotated[float | None, at_least(0)] = None
  """Drop faces of fewer pixels. Default: 56, half of what a recogniser reads; drawn ones all stay."""
  blur: Annotated[float, at_least(0)] = 0.0
  """Drop faces whose Laplacian varies less; idejax identity FOLDER lists the values of photos."""
  yaw: Annotated[float, between(0, 180)] = 60.0
  """Drop faces that are turned further, in degrees."""
  second: Annotated[float, between(0, 1)] = 0.25
  """Drop photos whose second face has a larger share of the first one's area."""
  enlarged: Annotated[float, at_least(0)] = 2.0
  """Drop photos that --size would enlarge more often; 0 keeps them."""
  keep_duplicates: bool = False
  """Keep near-duplicates too: pictures that look alike and show one face."""
  shard: Annotated[int, at_least(1)] = 1000
  """Photos looked at for one shard; a killed run loses at most one stage of one shard."""
  threads: Annotated[int | None, at_least(1)] = None
  """Photos read at a time. Default: as many as there are cores."""
  seed: Annotated[int, at_least(0)] = 0
  """Seed of the scenes in which drawn people stand."""

  GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
    "photos": ("photos", "drawn", "seed", "licence", "out"),
    "what is stored": ("size", "around", "model", "vision", "captioner", "shape", "table"),
    "which photos are dropped": ("face", "blur", "yaw", "second", "enlarged", "keep_duplicates"),
    "face networks": ("pack", "parsing"),
    "machine": ("stage", "shard", "threads"),
  }
