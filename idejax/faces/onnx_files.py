"""The tasks of a pack's ONNX files, recognised from their headers by insightface's own rules."""

from pathlib import Path
from typing import Any, NamedTuple

from idejax.errors import UserError, one_line

_POINTS = {9: "3 strides", 15: "5 strides"}  # outputs of an SCRFD with key points


class Net(NamedTuple):
  """Shapes hold None where a size is free."""

  path: Path
  task: str  # detection, recognition, landmark_2d_106, attribute, other
  inputs: tuple[tuple[int | None, ...], ...]
  outputs: tuple[tuple[int | None, ...], ...]
  names: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())  # of both


def read(path: Path) -> Net:
  """The shapes and task of a pack's file. UserError if it is not ONNX, or insightface could not run it."""
  net = header(path)
  return net._replace(task=_task(path, net.inputs, net.outputs))


def header(path: Path) -> Net:
  """The shapes of any ONNX file, with the task "other". UserError if it is not ONNX."""
  import onnx
  from google.protobuf.message import DecodeError

  try:
    model = onnx.load(path, load_external_data=False)
  except (DecodeError, ValueError, OSError, RecursionError) as e:
    raise UserError(f"{path} is no ONNX file: {one_line(str(e))[:120]}") from e
  graph = model.graph
  if not graph.node:
    raise UserError(f"{path} is no ONNX file: it holds no network")
  constants = {t.name for t in graph.initializer}
  values = [v for v in graph.input if v.name not in constants]
  inputs, outputs = (tuple(map(_shape, x)) for x in (values, graph.output))
  if not inputs or not outputs:
    raise UserError(f"{path} has no {'outputs' if inputs else 'inputs'}")
  return Net(path, "other", inputs, outputs, (tuple(v.name for v in values), tuple(v.name for v in graph.output)))


def session(path: Path, threads: int, option: str) -> Any:
  """ONNX Runtime's session of a file, on a GPU if there is one. UserError, which names the option that gave it."""
  import onnxruntime

  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = threads
  options.log_severity_level = 3
  have = onnxruntime.get_available_providers()
  providers = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in have]
  try:
    return onnxruntime.InferenceSession(str(path), options, providers=providers)
  except Exception as e:
    raise UserError(f"{option} {path} cannot be opened: {one_line(str(e))[:300]}") from e


def _shape(value: Any) -> tuple[int | None, ...]:
  sizes = value.type.tensor_type.shape.dim
  return tuple(d.dim_value if d.dim_value > 0 else None for d in sizes)


def _task(path: Path, inputs, outputs) -> str:
  image = inputs[0]
  if len(image) != 4:
    if len(outputs) < 5:
      return "other"
    raise UserError(f"{path}: a face detector reads [1, 3, height, width], this reads {show(image)}")
  side = image[2] if image[2] == image[3] else None
  if len(outputs) >= 5:
    if len(outputs) in (6, 10):
      raise UserError(
        f"{path}: this detector gives boxes without the five key points that alignment "
        "needs; use a pack whose detector has them (SCRFD with kps)"
      )
    if len(outputs) not in _POINTS or image[1] not in (3, None):
      raise UserError(
        f"{path}: an SCRFD detector reads [1, 3, height, width] and has 9 or 15 outputs, "
        f"this reads {show(image)} and has {len(outputs)}"
      )
    return "detection"
  if side == 192:
    return "landmark_2d_106" if outputs[0][-1] == 212 else "other"
  if side == 96:
    return "attribute"
  if len(inputs) > 1 or side is None or side < 112 or side % 16:
    return "other"
  if image[1] not in (3, None) or len(outputs) != 1 or outputs[0][-1] not in (512, None):
    raise UserError(
      f"{path}: a recogniser reads [1, 3, 112, 112] and gives 512 numbers, this reads "
      f"{show(image)} and gives {' and '.join(map(show, outputs))}"
    )
  if side % 112 and side % 128:
    raise UserError(f"{path}: a recogniser reads crops of a multiple of 112 or 128 pixels, not {side}")
  return "recognition"


def show(shape: tuple[int | None, ...]) -> str:
  return "[" + ", ".join("?" if n is None else str(n) for n in shape) + "]"


def choose(folder: Path) -> dict[str, Net]:
  """{task: net}, the first by file name, as insightface chooses. UserError if the detector or the
  recogniser is missing, and for files that insightface could not run."""
  files = sorted(folder.glob("*.onnx"))
  if not files:
    raise UserError(f"{folder} holds no .onnx file: it is no face pack")
  nets: dict[str, Net] = {}
  summaries = []
  for path in files:
    net = read(path)
    nets.setdefault(net.task, net)
    summaries.append(f"{path.name} reads {show(net.inputs[0])}")
  for task, name, what in (
    ("detection", "detector", "9 or 15 outputs, as SCRFD has"),
    ("recognition", "recogniser", "input [1, 3, 112, 112], output [1, 512], as ArcFace has"),
  ):
    if task not in nets:
      raise UserError(f"{folder} holds no face {name} (an ONNX file with {what}); found: {'; '.join(summaries)}")
  return nets
