"""The oldest releases that setup.py allows of what moves fast (jax, flax, ...), as constraints for pip.

A floor of three numbers is a release that everything was tested with; one of two is what the code asks for.
"""

import ast
import re
from pathlib import Path

tree = ast.parse((Path(__file__).parents[1] / "setup.py").read_text("utf-8"))
values = {
  n.targets[0].id: n.value for n in tree.body if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)
}
for requirement in ast.literal_eval(values["REQUIRES"]):
  if found := re.match(r"([\w-]+)>=(\d+\.\d+\.\d+)", requirement):
    print("==".join(found.groups()))
