"""Who may import whom, read from the source; and a few habits that tend to slip."""

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import idejax
from idejax.cli import command as cli

ROOT = Path(idejax.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
TREES = {f: ast.parse(f.read_text(), str(f)) for f in FILES}


def name_of(path: Path) -> str:
  """nets/unet.py -> idejax.nets.unet; nets/__init__.py -> idejax.nets."""
  parts = ["idejax", *path.relative_to(ROOT).with_suffix("").parts]
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(f): f for f in FILES}


class Import(NamedTuple):
  importer: str
  imported: str  # of idejax: the module, such as idejax.nets.unet; of others: the top-level package
  line: int
  at_start: bool  # when the module is imported, not when a function is called


def imports(tree: ast.AST, importer: str):
  """Every import of a module, those inside functions included."""

  def walk(node, at_start):
    for child in ast.iter_child_nodes(node):
      typing = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
      names = []
      if isinstance(child, ast.Import):
        names = [a.name for a in child.names]
      if isinstance(child, ast.ImportFrom):
        assert not child.level, f"{importer}:{child.lineno}: relative import"
        # `from idejax import tokens` imports a module, `from idejax import __version__` a name.
        below = [f"{child.module}.{a.name}" for a in child.names]
        names = [b if b in MODULES else child.module for b in below]
      for name in names:
        ours = name if name.split(".")[0] == "idejax" else name.split(".")[0]
        yield Import(importer, ours, child.lineno, at_start)
      inner = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
      yield from walk(child, at_start and not inner and not typing)

  return list(walk(tree, True))


IMPORTS = [i for f, tree in TREES.items() for i in imports(tree, name_of(f))]
OURS = [i for i in IMPORTS if i.imported.split(".")[0] == "idejax" and i.imported != "idejax"]


def within(name: str, allowed) -> bool:
  return any(name == a or name.startswith(a + ".") for a in allowed)


def test_the_walk_sees_what_is_there():
  """Otherwise every rule below would hold for want of imports."""
  edges = {(i.importer, i.imported, i.at_start) for i in IMPORTS}
  assert ("idejax.model.backbone", "idejax.nets.unet", True) in edges
  assert ("idejax.storage.tensorfiles", "torch", False) in edges
  assert ("idejax", "idejax.sampling.pipeline", False) in edges
  assert ("idejax.nets.controlnet", "idejax.nets.unet", True) in edges
  assert len(FILES) > 40 and len(OURS) > 80


EVERYBODY = {"errors", "tree", "draws", "sharding", "ranges"}  # what every room may know
# The house from the ground up: a room imports the rooms named here, and no other.
ROOMS: dict[str, set[str]] = {
  "errors": set(),
  "tree": set(),
  "draws": set(),
  "sharding": set(),
  "ranges": set(),
  "config": set(),
  "storage": set(),
  "nets": set(),
  "runtime": {"storage"},
  "faces": {"storage"},
  "model": {"nets", "storage"},
  "person": {"model", "nets", "faces", "storage"},
  "methods": {"model", "nets", "person"},
  "training": {"model", "person", "runtime", "methods"},  # of methods: the contract's types
  "sampling": {"methods", "model", "nets", "runtime", "faces", "storage"},
  "cli": {"config", "methods", "model", "runtime", "storage"},
  "miniature": {"sampling", "training", "person", "model", "nets", "storage", "faces", "config"},
  "data": {"miniature", "person", "faces", "runtime", "storage"},  # of miniature: its celebrities' names
  "personalizing": {
    "cli",
    "config",
    "data",
    "training",
    "sampling",
    "methods",
    "person",
    "miniature",
    "model",
    "faces",
    "runtime",
    "storage",
  },
  "evaluation": {"miniature", "sampling", "data", "person", "model", "nets", "faces", "runtime", "storage", "cli"},
  "exporting": {"sampling", "training", "methods", "model", "nets", "faces", "storage"},
  "planning": {"data", "training", "methods", "person", "model", "nets", "runtime", "storage", "miniature", "cli"},
}
WHO_KNOWS_ALL = {"jobs", "bench", "app"}  # and whom nobody imports


def room(module: str) -> str:
  """idejax.nets.unet -> nets; idejax -> ""."""
  return module.split(".")[1] if "." in module else ""


def test_every_room_has_its_place():
  rooms = {room(m) for m in MODULES} - {""}
  assert rooms <= set(ROOMS) | WHO_KNOWS_ALL
  assert len(rooms) + 1 <= 26  # with __init__.py: what a newcomer can take in at a glance


@pytest.mark.parametrize("importer", ROOMS)
def test_imports_point_downwards(importer):
  allowed = ROOMS[importer] | EVERYBODY | {importer}
  wrong = [i for i in OURS if room(i.importer) == importer and room(i.imported) not in allowed]
  assert not wrong


def test_the_floors_have_no_circle():
  """The table itself: from the ground up, every room stands on rooms that are there already."""
  lower: set[str] = set()
  for name, below in ROOMS.items():
    assert below <= lower | {name}, (name, below - lower)
    lower.add(name)


def test_nobody_imports_jobs_benchmarks_or_the_app():
  wrong = [i for i in OURS if room(i.imported) in WHO_KNOWS_ALL and room(i.importer) not in WHO_KNOWS_ALL]
  assert not wrong


def test_methods_know_nothing_of_trainer_sampler_photos_or_files():
  for forbidden in ("training", "sampling", "faces", "storage", "data"):
    assert forbidden not in ROOMS["methods"]


def test_training_takes_methods_as_values():
  """It knows the contract's types, no method."""
  known = {i.imported for i in OURS if room(i.importer) == "training" and room(i.imported) == "methods"}
  assert known <= {"idejax.methods.contract"}


def test_miniatures_rooms_stand_on_one_another():
  """world (drawing) below judging below training; nothing looks up."""
  order = ["world", "judging", "training"]
  part = lambda m: m.split(".")[2] if m.startswith("idejax.miniature.") else None
  wrong = [
    i
    for i in OURS
    if part(i.importer) in order
    and part(i.imported) in order
    and order.index(part(i.imported)) > order.index(part(i.importer))
  ]
  assert not wrong


def test_nets_use_flax_and_jax_only():
  standard = sys.stdlib_module_names
  allowed = {"flax", "jax", "numpy", "onnx", "google", "idejax"}  # google.protobuf comes with onnx
  outside = {
    i for i in IMPORTS if within(i.importer, ["idejax.nets"]) if i.imported.split(".")[0] not in allowed | standard
  }
  assert not outside


def test_every_command_has_an_entry_point():
  assert {module for _, module, _ in cli.COMMANDS.values()} <= set(MODULES)


@pytest.mark.parametrize(
  "package, homes",
  [
    ("flax", ["idejax.nets"]),
    ("onnxruntime", ["idejax.faces", "idejax.miniature.judging", "idejax.evaluation.networks"]),
    ("orbax", ["idejax.training.checkpoint", "idejax.exporting.orbax"]),
    ("msgpack", ["idejax.storage.flaxfiles"]),
  ],
)
def test_a_package_is_known_in_few_places(package, homes):
  assert not [i for i in IMPORTS if i.imported == package and not within(i.importer, homes)]


def test_torch_is_never_needed_to_import_idejax():
  """Only the files that exports carry along import it, and idejax never imports those."""
  assert not [
    i
    for i in IMPORTS
    if i.at_start
    and i.imported in ("torch", "diffusers", "tensorflow")
    and not within(i.importer, ["idejax.exporting.templates"])
  ]


def test_there_are_no_cycles():
  graph = {m: {i.imported for i in OURS if i.importer == m and i.at_start} for m in MODULES}
  visits, path = set(), []

  def visit(m):
    assert m not in path, " -> ".join([*path[path.index(m) :], m])
    if m in visits:
      return
    path.append(m)
    for other in sorted(graph.get(m, ())):
      visit(other)
    path.pop()
    visits.add(m)

  for m in graph:
    visit(m)


def test_importing_idejax_and_its_command_is_light_and_silent():
  """In a fresh process: no jax, torch or transformers, no socket, nothing printed."""
  code = """
import socket, sys
def refuse(*a, **k): raise AssertionError("a socket was opened")
socket.socket.__init__ = socket.create_connection = socket.getaddrinfo = refuse
import idejax, idejax.cli
heavy = {"jax", "jaxlib", "flax", "numpy", "torch", "transformers", "diffusers", "tyro", "huggingface_hub"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
  out = subprocess.run(
    [sys.executable, "-W", "error", "-c", code],
    capture_output=True,
    text=True,
    env={k: v for k, v in os.environ.items() if k != "PYTHONSTARTUP"},
  )
  assert (out.returncode, out.stdout, out.stderr) == (0, "", "")


# Habits.


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_file_fits_one_sitting(file):
  assert len(file.read_text().splitlines()) <= 400
  assert file.name not in ("utils.py", "helpers.py", "misc.py", "common.py")


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_module_says_what_it_is_for(file):
  if file.read_text().strip():
    assert ast.get_docstring(TREES[file]), file


def test_no_error_is_swallowed_whole():
  """A handler for every exception must do something with it: a corrupt file must not pass for a fresh start."""
  broad = {None, "Exception", "BaseException"}
  silent = []
  for file, tree in TREES.items():
    for node in ast.walk(tree):
      if not isinstance(node, ast.ExceptHandler):
        continue
      kind = node.type and ast.unparse(node.type)
      idle = all(
        isinstance(s, ast.Pass | ast.Continue) or isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)
        for s in node.body
      )
      if kind in broad and idle:
        silent.append(f"{file}:{node.lineno}")
  assert not silent


def test_nothing_that_jax_has_dropped_or_is_about_to():
  """Calls that are frequent in old code, and fail on jax 0.10 or silently do nothing."""
  dead = (
    "jax.tree_map",
    "jax.tree_leaves",
    "PositionalSharding",
    "device_put_sharded",
    "jax.lib.xla_bridge",
    "jax.sharding.use_mesh",
    "jax.experimental.shard_map",
    "nn.with_logical_constraint",
    "with mesh:",
    "jax.experimental.maps",
  )
  uses = [(file.name, word) for file in FILES for word in dead if word in file.read_text()]
  assert not uses
