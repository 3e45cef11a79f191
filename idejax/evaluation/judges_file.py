"""judges.json: which of the user's files judge. Nothing is downloaded; each file is named with its
source, licence and digest.

    {"detector": {"pack": "buffalo_l"},
     "arcface": {"onnx": "~/.insightface/models/antelopev2/glintr100.onnx", "far_1e-3": 0.3},
     "clip": {"folder": "clip-vit-base-patch32"},
     "inception": {"file": "inception.safetensors", "resize": "clean"}}

Paths are relative to the file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from idejax import faces
from idejax.errors import UserError
from idejax.evaluation import networks
from idejax.evaluation.judges import CLIPS, RECOGNISERS, ROLES, About, Judges
from idejax.storage import tensorfiles
from idejax.storage.files import read_json


class Kind(NamedTuple):
  """A role: what fills it, where that comes from, under which licence, and what needs it."""

  key: str  # of its path in judges.json
  network: str
  source: str
  licence: str
  metrics: str  # unavailable without it
  options: dict[str, Any] = {}  # with their defaults


_INSIGHTFACE = "non-commercial research only"
KINDS = {
  "detector": Kind("pack", "RetinaFace or SCRFD of an insightface pack",
                   "github.com/deepinsight/insightface, model zoo (buffalo_l)", _INSIGHTFACE,
                   "everything about faces, assignment, pose, expression"),
  "arcface": Kind("onnx", "ArcFace IResNet-100, 112 px, RGB in [-1, 1]",
                  "insightface's antelopev2, glintr100.onnx", _INSIGHTFACE,
                  "identity, ID (F), ID (P), accepted, copied, variety",
                  {"side": 112, "mean": 127.5, "scale": 127.5, "bgr": False, "zoom": 1.0, "far_1e-3": None}),
  "facenet": Kind("onnx", "InceptionResnet-V1 on VGGFace2, 160 px, (x - 127.5) / 128",
                  "github.com/timesler/facenet-pytorch, exported to ONNX", "MIT; its data: research only",
                  "FaceSim",
                  {"side": 160, "mean": 127.5, "scale": 128.0, "bgr": False, "zoom": 1.0, "far_1e-3": None}),
  "adaface": Kind("onnx", "AdaFace IResNet-100, 112 px, BGR in [-1, 1]",
                  "github.com/mk-minchul/AdaFace, exported to ONNX", "MIT; its data: research only",
                  "identity where ArcFace trained the method",
                  {"side": 112, "mean": 127.5, "scale": 127.5, "bgr": True, "zoom": 1.0, "far_1e-3": None}),
  "clip": Kind("folder", "CLIP ViT-B/32, transformers' folder", "hf.co/openai/clip-vit-base-patch32", "MIT",
               "Prompt, CLIP-T, CLIPScore, ID (P), drift", {"variant": None}),
  "clip_large": Kind("folder", "CLIP ViT-L/14, transformers' folder", "hf.co/openai/clip-vit-large-patch14", "MIT",
                     "CLIP-face", {"variant": None}),
  "clip_rn50": Kind("file", "CLIP ResNet-50, OpenAI's tensors as safetensors", "github.com/openai/CLIP, RN50", "MIT",
                    "CLIP-IQA", {"tokenizer": None, "allow_pickle": False}),
  "inception": Kind("file", "Inception-V3 of 2015, pool3",
                    "github.com/mseitzer/pytorch-fid, pt_inception-2015-12-05-6726825d.pth (torch-fidelity's is the same)",
                    "Apache-2.0", "FID, KID", {"resize": "tensorflow", "allow_pickle": False}),
}  # fmt: skip
_SHARED = ("source", "licence", "sha256", "note")


def read(path: Path) -> Judges:
  """The judges that a file names; the others are absent. UserError names the file, the role and the mistake."""
  table = read_json(path)
  for role in table:
    if role not in KINDS:
      raise UserError(f"{path}: there is no judge {role!r}; known are {', '.join(KINDS)}")
  judges = {role: _open(path, role, entry) for role, entry in table.items()}
  absent = {r: f"{path} names no {r}: {KINDS[r].network}" for r in KINDS if r not in judges}
  absent["attributes"] = "a classifier of attributes is known for the drawn world only"
  return Judges(
    judges.get("detector"), {r: judges[r] for r in RECOGNISERS if r in judges},
    {r: judges[r] for r in (*CLIPS, "clip_rn50") if r in judges}, judges.get("inception"), None, absent)  # fmt: skip


def _open(file: Path, role: str, entry: Any) -> Any:
  kind, where = KINDS[role], f"{file}: {role}"
  if not isinstance(entry, dict) or not isinstance(entry.get(kind.key), str):
    raise UserError(f"{where} is to be an object with {kind.key!r}: where the judge lies")
  if odd := set(entry) - {kind.key, *kind.options, *_SHARED}:
    raise UserError(f"{where} has no setting {min(odd)!r}; it has {', '.join([kind.key, *kind.options, *_SHARED])}")
  options: dict[str, Any] = {n: _check(where, n, entry.get(n, d), d) for n, d in kind.options.items()}
  source, licence = (str(entry.get(n) or getattr(kind, n)) for n in ("source", "licence"))
  if role == "detector":
    pack = faces.open_pack(_pack(file.parent, entry["pack"]), notify=lambda _: None)
    return networks.PackDetector(pack, About(f"detector of the pack {pack.name}", source, pack.licence, pack.digest))
  path = (file.parent / Path(entry[kind.key]).expanduser()).resolve()
  if kind.key == "folder" and not path.is_dir():
    raise UserError(f"{where}: {path} is no folder")
  if kind.key != "folder" and not path.is_file():
    raise UserError(f"{where}: {path} is no file")
  digest = tensorfiles.digest(path)
  if entry.get("sha256") not in (None, digest):
    raise UserError(f"{where}: {path} has the sha256 {digest}, not {entry['sha256']}: this is another network")
  if kind.key == "onnx":
    threshold = options.pop("far_1e-3")
    about = About(f"{kind.network.split(',')[0]}, {_preprocessing(options)}", source, licence, digest)
    return networks.OnnxRecogniser(path, about, threshold, **options)
  if role in CLIPS:
    return networks.TransformersClip(path, About(kind.network.split(",")[0], source, licence, digest), **options)
  if role == "inception":
    return networks.Inception(
      path, About(f"{kind.network}, resized as {options['resize']}", source, licence, digest), **options
    )
  return networks.ResNetClip(
    path,
    About(f"{kind.network.split(',')[0]}, native size, no positional embedding", source, licence, digest),
    **options,
  )


def _pack(folder: Path, name: str) -> str:
  """A pack's name as it stands; a path relative to the file."""
  return name if "/" not in name else str((folder / Path(name).expanduser()).resolve())


def _preprocessing(options: Mapping[str, Any]) -> str:
  order = "BGR" if options["bgr"] else "RGB"
  return f"{options['side']} px, {order}, (x - {options['mean']:g}) / {options['scale']:g}, zoom {options['zoom']:g}"


def _check(where: str, name: str, value: Any, default: Any) -> Any:
  """A setting converted to the type of its default; where that is None, a number (thresholds) or a text (names)."""
  number = lambda x: isinstance(x, int | float) and not isinstance(x, bool)
  if name == "far_1e-3":
    right = value is None or number(value) and -1 <= value <= 1
  elif isinstance(default, bool):
    right = isinstance(value, bool)
  elif isinstance(default, int | float):
    right = number(value) and value > 0
  else:
    right = value is None or isinstance(value, str)
  if not right:
    raise UserError(f"{where}: {name} is {value!r}")
  return type(default)(value) if isinstance(default, int | float) else value


def listing(judges: Judges | None = None) -> str:
  """The table of `--list-judges`; of open judges also their networks and digests."""
  there = judges.about() if judges else {}
  lines = []
  for role, kind in KINDS.items():
    lines.append(f"{role} ({kind.key} in judges.json): {kind.network}")
    lines.append(f"  from {kind.source}")
    lines.append(f"  licence: {kind.licence}")
    lines.append(f"  without it there is no: {kind.metrics}")
    if role in there:
      lines.append(f"  here: {there[role].network}; sha256 {there[role].digest}; licence: {there[role].licence}")
    elif judges:
      lines.append("  here: none")
  return "\n".join(lines)


assert set(KINDS) == set(ROLES) - {"attributes"}
