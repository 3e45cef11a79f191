"""`idejax comic` and `idejax app` as commands: mistakes in one sentence, and the demo from end to end."""

import json
import os
import sys
import zipfile

import pytest
from PIL import PdfParser
from support.command import assert_one_sentence, run

from idejax.app import comic, serve
from idejax.config import App, Comic
from idejax.errors import UserError


@pytest.mark.parametrize(
  "change, words",
  [
    ({"story": "no.txt"}, "no.txt does not exist"),
    ({"story": "binary.txt"}, "cannot be read as UTF-8"),
    ({"story": "large.txt"}, "is larger than 200 kB"),
    ({"story": "naked.txt"}, "the story asks for nudity"),
    ({"story": "broken.json"}, "broken.json is not JSON"),
    ({"people": "no-store"}, "--people no-store is no folder of people"),
    ({"learn": ("a.png",), "names": "Cy Oak"}, "--learn needs --consent"),
    ({"learn": ("a.png", "b.png"), "names": "Cy Oak", "consent": "Cy"}, "each picture needs one name"),
    ({"learn": ("a.png",), "names": "Cy", "consent": "Cy"}, "has 1 word"),
    ({"learn": ("a.png",), "names": "Cy Oak", "consent": "Cy"}, "--learn a.png is no file"),
    ({"style": ("comic stile",)}, "did you mean comic style"),
    ({"title": "Anna n4ked"}, "the title asks for nudity"),
    ({"negative": "n a k e d"}, "the negative prompt asks for nudity"),
  ],
)
def test_mistakes_are_told_before_anything_is_loaded(tmp_path, monkeypatch, change, words):
  from pathlib import Path

  monkeypatch.chdir(tmp_path)
  Path("binary.txt").write_bytes(b"\xff\xfe\xff")
  Path("large.txt").write_text("Anna waits. " * 20_000)
  Path("naked.txt").write_text("Anna is n4ked.")
  Path("broken.json").write_text("{")
  paths = {
    k: Path(v) if k in ("story", "people") else tuple(map(Path, v)) if k == "learn" else v for k, v in change.items()
  }
  monkeypatch.setattr(comic, "run", lambda *a: pytest.fail("the model would have been read"))
  with pytest.raises(UserError, match=words.replace("(", r"\(")):
    comic.main(Comic(out=Path("out"), **paths))
  assert not Path("out").exists()


def test_a_script_from_a_stranger_is_checked(tmp_path):
  folder = tmp_path / "c"
  folder.mkdir()
  bad = {
    "schema": 1,
    "panels": [{"id": "p1", "sentence": "x", "versions": [{"file": "../../secret.png", "inputs": "i"}]}],
  }
  (folder / "comic.json").write_text(json.dumps(bad))
  with pytest.raises(UserError, match="it must lie beside the comic"):
    comic.read(Comic(story=folder))


def test_the_command_says_a_mistake_in_one_sentence(tmp_path):
  assert_one_sentence(run("comic", "no-such-story.txt", cwd=tmp_path), "no-such-story.txt does not exist")
  assert_one_sentence(run("comic", "--layout", "gird", cwd=tmp_path), "--layout")
  for option, least in (("--candidates", "from 1 to 8"), ("--steps", "from 1 to 128")):
    assert_one_sentence(run("comic", option, "0", "--model", "nowhere", cwd=tmp_path), f"{option} is 0", least)
  assert_one_sentence(run("app", "--port", "99999", cwd=tmp_path), "--port is 99999")


def test_the_page_says_what_is_missing_or_taken(monkeypatch):
  import socket

  monkeypatch.setitem(sys.modules, "gradio", None)
  with pytest.raises(UserError, match=r'pip install -e "\.\[app\]"'):
    serve.main(App())
  monkeypatch.undo()
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    s.listen()
    port = s.getsockname()[1]
    with pytest.raises(UserError, match=f"port {port} cannot be used"):
      serve._listen(port)
  with serve._listen(0) as free:
    assert free.getsockname()[0] == "127.0.0.1"  # never an address that others reach


@pytest.mark.slow
def test_the_demo_comic_from_end_to_end(tmp_path):
  """Twelve or so panels of the sample people; the same command again draws nothing; an edit one panel."""
  people = os.path.join(tmp_path, "runs", "store")
  first = run("comic", "--out", "comic", "--steps", "8", cwd=tmp_path, timeout=1500)
  assert first.code == 0, first.err
  folder = tmp_path / "comic"
  d = json.loads((folder / "comic.json").read_text())
  assert len(d["panels"]) >= 10 and all(len(p["versions"]) == 1 and not p["versions"][0]["reason"] for p in d["panels"])
  seen = [len(v["faces"]) for p in d["panels"] if len(p["people"]) == 2 for v in p["versions"]]
  assert sum(n >= 2 for n in seen) >= len(seen) - 1 > 2  # of one candidate each, in eight steps
  likeness = [v["identity"] for p in d["panels"] for v in p["versions"] if v["identity"] is not None]
  assert sum(likeness) / len(likeness) > 0.3  # of two strangers to each other: about 0
  with PdfParser.PdfParser(str(folder / "comic.pdf")) as pdf:
    pages = len(pdf.pages)
  with zipfile.ZipFile(folder / "comic.cbz") as z:
    assert len(z.namelist()) == pages + 1
  before = {p.name: p.stat().st_mtime_ns for p in (folder / "panels").iterdir()}
  assert run("comic", "--out", "comic", "--steps", "8", cwd=tmp_path, timeout=600).code == 0
  assert {p.name: p.stat().st_mtime_ns for p in (folder / "panels").iterdir()} == before
  d["panels"][1]["seed"] = 4711
  (folder / "comic.json").write_text(json.dumps(d))
  again = run("comic", "comic", "--out", "comic", "--people", people, cwd=tmp_path, timeout=600)
  assert again.code == 0, again.err
  after = {p.name: p.stat().st_mtime_ns for p in (folder / "panels").iterdir()}
  assert before.items() <= after.items() and len(after) == len(before) + 1


@pytest.mark.slow
def test_a_comic_through_sdxls_paths(tmp_path):
  """Two text encoders, pooled text, time ids; two people in one picture; another model refuses these people."""
  (tmp_path / "story.txt").write_text("Anna Field smiles on the beach. Anna Field and Ben Stone meet in the city.")
  ask = ("comic", "story.txt", "--steps", "10", "--candidates", "2")
  first = run(*ask, "--model", "miniature-sdxl", "--out", "comic", cwd=tmp_path, timeout=1500)
  assert first.code == 0, first.err
  d = json.loads((tmp_path / "comic" / "comic.json").read_text())
  assert d["model"]["name"] == "miniature-sdxl" and len(d["model"]["digest"]) == 64
  best = [max(p["versions"], key=lambda v: v["identity"] + v["prompt"]) for p in d["panels"]]
  assert all(len(v["faces"]) >= n and v["identity"] > 0.3 for n, v in zip((1, 2), best, strict=True))
  other = run(*ask, "--people", "runs/store", "--out", "other", cwd=tmp_path, timeout=600)
  assert_one_sentence(other, "learned on miniature-sdxl")
  assert not list((tmp_path / "other").glob("panels/*"))
