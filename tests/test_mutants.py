"""Every mutant still has its place in the code, and its test exists."""

import ast
import runpy
from collections import Counter
from pathlib import Path

import pytest

RUN = runpy.run_path(str(Path(__file__).parent / "mutants" / "run.py"), run_name="mutants")
ROOT, MUTANTS = RUN["ROOT"], RUN["read"]()


def functions(tree):
  return {x.name for x in ast.walk(tree) if isinstance(x, ast.FunctionDef)}


@pytest.mark.parametrize("m", MUTANTS, ids=lambda m: m.name)
def test_a_mutant_has_its_place_and_its_test(m):
  text = (ROOT / m.path).read_text("utf-8")
  assert text.count(m.old) == 1 and m.old != m.new
  if m.path.endswith(".py"):  # others are shell scripts
    ast.parse(text.replace(m.old, m.new))
  file, _, node = m.test.partition("::")
  tests = ast.parse((ROOT / file).read_text("utf-8"))
  assert not node or node.partition("[")[0] in functions(tests)


def test_names_are_used_once():
  assert [n for n, count in Counter(m.name for m in MUTANTS).items() if count > 1] == []


def test_a_mutant_is_judged_by_its_test(tmp_path):
  """A tree with one function: a mutant that its test notices, one that it does not, and one whose text is gone."""
  (tmp_path / "add.py").write_text("def add(a, b): return a + b\n")
  (tmp_path / "test_add.py").write_text("from add import add\ndef test_add(): assert add(2, 2) == 4\n")
  judge = lambda old, new, test="test_add.py": RUN["judge"](tmp_path, RUN["Mutant"]("x", "add.py", old, new, test))
  assert [judge("a + b", "a - b"), judge("a + b", "a * b"), judge("a / b", "a")] == ["killed", "survived", "stale"]
  assert judge("a + b", "a b") == judge("a + b", "a - b", "test_no.py") == "stale"
  assert (tmp_path / "add.py").read_text() == "def add(a, b): return a + b\n"
