"""Face packs: folders of ONNX files in insightface's layout, run by insightface.

`miniature` ships in the package; packs of insightface are looked up on this machine and never
downloaded, because their licence is for the user to accept.
"""

import functools
import hashlib
import importlib.metadata
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from idejax.errors import UserError, one_line, tell
from idejax.faces import about, align, onnx_files

MINIATURE = Path(__file__).parent.parent / "miniature" / "weights" / "faces"
_INSIGHTFACE = "non-commercial research only (InsightFace pretrained models)"
_RELEASES = "https://github.com/deepinsight/insightface/releases/tag/model-zoo"
_TASKS = ("detection", "recognition", "landmark_2d_106")
_LEAST = 0.05  # scores below this mean nothing


class Faces(NamedTuple):
  """Detected faces from left to right: boxes float32 [N, 4] x0 y0 x1 y1, scores [N], points [N, 5, 2]."""

  boxes: np.ndarray
  scores: np.ndarray
  points: np.ndarray


class Pack:
  """A pack on disk; its networks are read when first used. All methods may be called from threads."""

  def __init__(self, folder: Path, threads: int = 0):
    self.folder, self.threads = folder, threads  # threads of one network's run; 0: all cores
    facts = about.read(folder)
    self.bundled = folder == MINIATURE
    self.name: str = facts.get("name") or folder.name
    self.licence: str = facts.get("licence") or _INSIGHTFACE
    self.licence_url: str = facts.get("licence_url") or ("" if "licence" in facts else _RELEASES)
    self.det_size: tuple[int, int] = tuple(facts.get("det_size") or (640, 640))
    self.det_threshold: float = facts.get("det_threshold", 0.5)
    self.thresholds: dict[str, float] = facts.get("thresholds") or {}

  @functools.cached_property
  def digest(self) -> str:
    """sha256 over the names and bytes of the ONNX files and pack.json's settings of detection."""
    total = hashlib.sha256(repr((self.det_size, self.det_threshold)).encode())
    for path in sorted(self.folder.rglob("*.onnx")):
      with open(path, "rb") as file:
        total.update(hashlib.file_digest(file, "sha256").digest())
      total.update(path.name.encode())
    return total.hexdigest()

  @functools.cached_property
  def app(self) -> Any:
    """insightface's FaceAnalysis of this folder. UserError if it is not a face pack."""
    import onnxruntime

    # insightface's newer layout has a manifest, which insightface checks itself.
    if not (self.folder / "manifest.json").exists():
      onnx_files.choose(self.folder)
    _warn_of_two_runtimes()
    from insightface.app import FaceAnalysis

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = self.threads
    options.log_severity_level = 3
    available = onnxruntime.get_available_providers()
    cuda = "CUDAExecutionProvider" in available
    providers = ["CUDAExecutionProvider"] * cuda + ["CPUExecutionProvider"]
    try:
      app = FaceAnalysis(str(self.folder), allowed_modules=list(_TASKS), providers=providers, sess_options=options)
      app.prepare(0 if cuda else -1, det_thresh=self.det_threshold, det_size=self.det_size)
    except Exception as e:
      raise UserError(f"{self.folder}: insightface cannot open this pack: {one_line(str(e))[:300]}") from e
    if "recognition" not in app.models:
      raise UserError(f"{self.folder} holds no face recogniser")
    return app

  @property
  def has_landmarks(self) -> bool:
    return "landmark_2d_106" in self.app.models

  def detect(self, pixels: np.ndarray, threshold: float | None = None) -> Faces:
    """Faces in an RGB photo uint8 [H, W, 3]; `threshold` replaces the pack's own."""
    height, width = pixels.shape[:2]
    no_faces = Faces(*(np.zeros(shape, np.float32) for shape in ((0, 4), 0, (0, 5, 2))))
    # Such a narrow photo would vanish at the detector's size.
    if min(width, height) * max(self.det_size) < 2 * max(width, height):
      return no_faces
    bgr = np.ascontiguousarray(pixels[..., ::-1])
    try:
      boxes, points = self.app.det_model.detect(bgr, det_thresh=threshold)
    except Exception as e:  # ONNX Runtime's errors share no base class
      raise UserError(f"{self.folder}: the detector fails: {one_line(str(e))[:300]}") from e
    if not len(boxes) or points is None:
      return no_faces
    ok = np.isfinite(boxes).all(1) & np.isfinite(points).all((1, 2))
    ok &= (boxes[:, 2:4] > boxes[:, :2]).all(1)
    order = [i for i in np.argsort(boxes[:, 0], kind="stable") if ok[i]]
    return Faces(*(x[order].astype(np.float32) for x in (boxes[:, :4], boxes[:, 4], points)))

  def embed(self, crops: list[np.ndarray]) -> np.ndarray:
    """Aligned RGB crops uint8 [`crop_size`, `crop_size`, 3] -> float32 [N, 512], L2-normalised."""
    net = self.app.models["recognition"]
    bgr = [np.ascontiguousarray(c[..., ::-1]) for c in crops]
    single = isinstance(net.input_shape[0], int)  # the file is for a batch of one
    try:
      rows = [net.get_feat(group) for group in ([[c] for c in bgr] if single else [bgr])]
    except Exception as e:
      raise UserError(f"{self.folder}: the recogniser fails: {one_line(str(e))[:300]}") from e
    out = np.concatenate(rows).astype(np.float32).reshape(len(crops), -1)
    norm = np.linalg.norm(out, axis=1, keepdims=True)
    if out.shape[1] != 512 or not np.isfinite(norm).all() or (norm == 0).any():
      what = "numbers that are not finite or all zero"
      if out.shape[1] != 512:
        what = f"{out.shape[1]} numbers, not 512"
      raise UserError(f"{self.folder}: the recogniser gives {what}")
    return out / norm

  @property
  def crop_size(self) -> int:
    return int(self.app.models["recognition"].input_size[0])

  def crop(self, pixels: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The aligned face at the recogniser's own size."""
    return align.crop(pixels, points, self.crop_size)

  def landmarks106(self, pixels: np.ndarray, box: np.ndarray) -> np.ndarray | None:
    """insightface's 106 landmarks float32 [106, 2], or None if the pack has no such network."""
    if not self.has_landmarks:
      return None
    from insightface.app.common import Face

    bgr = np.ascontiguousarray(pixels[..., ::-1])
    return np.asarray(self.app.models["landmark_2d_106"].get(bgr, Face(bbox=box)), np.float32)[:, :2]

  def no_face(self, pixels: np.ndarray) -> str:
    """Why no face was detected in this photo, as the end of a sentence."""
    near = self.detect(pixels, _LEAST)
    best = f"nothing scores even {_LEAST:g}"
    if len(near.scores):
      best = f"the best candidate scores {near.scores.max():.2f}, below {self.det_threshold:g}"
    hint = "a larger, sharper or more frontal face may help"
    if self.bundled:
      hint = (
        "it knows the drawn portraits of the bundled world only: for photographs give an "
        "insightface pack, --pack NAME_OR_FOLDER"
      )
    return f"the detector of the pack {self.name!r} found no face ({best}); {hint}"


def open_pack(name: str | os.PathLike = "miniature", threads: int = 0, notify=tell) -> Pack:
  """`miniature`, an insightface pack installed on this machine, or any folder of ONNX files.

  UserError says what to do if it is not there. Nothing is downloaded. The licence is shown once.
  """
  pack = Pack(_folder(str(name)), threads)
  if (pack.folder, pack.licence) not in _licences:
    _licences.add((pack.folder, pack.licence))
    where = f" ({pack.licence_url})" if pack.licence_url else ""
    notify(f"face pack {pack.name}: {pack.licence}{where}")
  return pack


_licences: set[tuple[Path, str]] = set()


def _folder(name: str) -> Path:
  if name == "miniature":
    if any(MINIATURE.glob("*.onnx")):
      return MINIATURE
    raise UserError(
      f"the face pack miniature is not installed: {MINIATURE} holds no .onnx file; "
      "reinstall idejax, or give --pack NAME_OR_FOLDER"
    )
  path = Path(name).expanduser()
  home = Path("~/.insightface/models").expanduser() / name
  # A single word is a pack's name, even if a folder of that name is in the current folder.
  if Path(name).name == name and home.is_dir():
    path = home
  if path.is_file():
    raise UserError(f"--pack {name} is a file; give the folder that it lies in")
  if not path.is_dir():
    if Path(name).name != name:
      raise UserError(f"--pack {name} does not exist; give a folder of .onnx files")
    raise UserError(
      f"the face pack {name!r} is not on this machine: download {name}.zip from "
      f"{_RELEASES} (its models are for non-commercial research only) and unpack its "
      f".onnx files into {home}, or give a folder"
    )
  if not any(path.glob("*.onnx")):
    inner = next((p.parent for p in sorted(path.glob("*/*.onnx"))), None)
    if (path / "manifest.json").exists():
      return path.resolve()
    hint = f"; did you mean {inner}?" if inner else ""
    raise UserError(f"{path} holds no .onnx file: it is no face pack{hint}")
  return path.resolve()


@functools.cache
def _warn_of_two_runtimes():
  """Warn if both wheels of ONNX Runtime are installed: they share a folder, and either's files may be there."""
  names = {(d.metadata["Name"] or "").lower() for d in importlib.metadata.distributions()}
  if {"onnxruntime", "onnxruntime-gpu"} <= names:
    tell(
      "warning: onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
      "pip uninstall both, then install the one you want"
    )
