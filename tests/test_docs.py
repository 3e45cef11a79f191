"""Every Python block of docs/python.md runs, one after the other, as a reader would run them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "python.md"


def blocks(text: str) -> list[tuple[int, bool, str]]:
  """(line, whether it is slow, code) of each ```python block."""
  found = re.finditer(r"^```python( slow)?\n(.*?)^```$", text, re.S | re.M)
  return [(text[: m.start()].count("\n") + 2, bool(m[1]), m[2]) for m in found]


def run(code: list[tuple[int, bool, str]], names: dict):
  for line, _, text in code:
    exec(compile("\n" * (line - 1) + text, str(PAGE), "exec"), names)


def test_no_block_is_overlooked():
  text = PAGE.read_text("utf-8")
  assert len(blocks(text)) == text.count("```python") > 8
  assert text.count("```") == 2 * len(blocks(text))
  assert blocks("x\n```python\na\n```\n```python slow\nb\n```\n") == [(3, False, "a\n"), (6, True, "b\n")]


@pytest.fixture
def here(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_all_blocks_run(here):
  names: dict = {}
  run(blocks(PAGE.read_text("utf-8")), names)
  assert names["results"]["methods"]["copies"]["scores"]["identity"]["mean"] > 0.99
  assert Path("sheet.png").exists() and Path("half/model_index.json").exists()


def test_every_hint_installs_as_the_readme_does():
  """idejax is on no index: `pip install "idejax[plan]"` would fetch nothing, or a stranger's package."""
  texts = {p: p.read_text("utf-8") for p in (*ROOT.glob("idejax/**/*.py"), *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))}
  assert not [str(p) for p, text in texts.items() if 'install "idejax' in text or "pip install idejax" in text]
  extras = set(re.findall(r'pip install -e "\.\[([a-z,]+)\]', "".join(texts.values())))
  known = set(re.findall(r'^  "(\w+)": \[', (ROOT / "setup.py").read_text("utf-8"), re.M))
  assert {"app", "plan", "export", "tensorboard"} <= {e for x in extras for e in x.split(",")} <= known
