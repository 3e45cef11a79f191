"""What a start imports and touches: held by names of modules, not by seconds."""

import subprocess
import sys

from support.command import environment

TAKES_LONG = {
  "transformers",
  "diffusers",
  "torch",
  "huggingface_hub",
  "tensorflow_datasets",
  "insightface",
  "onnxruntime",
}


def last_line(code: str, **env: str | None) -> str:
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(**env))
  assert out.returncode == 0, out.stderr
  return out.stdout.splitlines()[-1]


def test_importing_everything_touches_no_device():
  """A program that imports idejax may still choose its devices, and start its processes."""
  code = """
import importlib, pathlib, idejax
root = pathlib.Path(idejax.__file__).parent
for f in sorted(root.rglob("*.py")):
  name = ".".join(("idejax", *f.relative_to(root).with_suffix("").parts))
  if f.stem != "__main__" and "templates" not in name:
    try:
      importlib.import_module(name.removesuffix(".__init__"))
    except ModuleNotFoundError as e:  # an extra that is not installed here, such as gradio
      if e.name.startswith("idejax"):
        raise
from jax._src import xla_bridge
print(xla_bridge.backends_are_initialized())
"""
  assert last_line(code) == "False"


def test_a_sample_needs_no_large_library(tmp_path):
  """From the command's start to the sheet on disk: the tokenizer is of the `tokenizers` library alone."""
  code = f"""
import sys
from idejax.cli import main
from support.command import tiny_model
line = ["sample", "--model", str(tiny_model()), "--prompt", "a photo of a cat", "--num", "1", "--steps", "1"]
code = main([*line, "--out", {str(tmp_path / "out")!r}])
print(code, sorted({TAKES_LONG!r} & set(sys.modules)))
"""
  assert last_line(code, PYTHONPATH=":".join(sys.path)) == "0 []"
  assert (tmp_path / "out" / "sheet.png").exists()
