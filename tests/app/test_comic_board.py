"""A panel's board in a real browser: bubbles are dragged, boxes drawn, both by mouse and by keys. The sampler is the
drawn world's own renderer, in a server of its own."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from support import drawn_people

from idejax.app import script
from idejax.app.audit import Audit

gradio = pytest.importorskip("gradio", reason='the page needs pip install "idejax[app]"')
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright drives the browser")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
  pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine: apt-get install chromium"),
  pytest.mark.filterwarnings("default"),
]
STORY = "Anna Field meets Ben Stone on the beach. Ben Stone laughs."


@pytest.fixture(scope="module")
def site(tmp_path_factory):
  """The page's address, and the folder of its visitors."""
  folder = tmp_path_factory.mktemp("page")
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
  tests = Path(drawn_people.__file__).parents[1]
  paths = os.pathsep.join([str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")])
  with open(folder / "log", "wb") as log:
    server = subprocess.Popen(
      [sys.executable, "-m", "support.drawn_page", str(port), str(folder)],
      stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": paths})  # fmt: skip
  url, end = f"http://127.0.0.1:{port}/", time.monotonic() + 300
  while True:
    assert server.poll() is None and time.monotonic() < end, (folder / "log").read_text()
    try:
      with urllib.request.urlopen(url, timeout=5):
        break
    except OSError:
      time.sleep(0.3)
  yield url, folder / "comics"
  server.terminate()
  server.wait()


def test_bubbles_and_people_are_placed_by_hand(site):
  url, folder = site
  expect = playwright.expect
  with playwright.sync_playwright() as p:
    browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    page = browser.new_context(viewport={"width": 1300, "height": 1200}).new_page()
    page.set_default_timeout(60_000)
    page.goto(url)
    page.locator("#people figure").first.wait_for()
    page.locator("#story textarea").fill(STORY)
    page.get_by_role("button", name="Cut into panels").click()
    expect(page.locator("#status .status")).to_contain_text("2 panels", timeout=60_000)
    page.get_by_role("button", name="Draw the comic").click()
    expect(page.locator("#status .status")).to_contain_text("2 panels are drawn", timeout=60_000)
    comic = next(p for p in folder.iterdir() if (p / "comic" / "comic.json").exists()) / "comic"
    drawn = lambda: [e["prompts"] for e in Audit(comic.parent / "store").lines() if e["event"] == "drawn"]
    before = len(drawn())

    page.locator("#more-p1").get_by_text("Pose, bubbles and places").click()
    board, mark = page.locator("#more-p1 .board"), page.locator("#more-p1 .mark")
    expect(mark).to_have_count(1)
    board.scroll_into_view_if_needed()

    def drag(start, end):
      r = board.bounding_box()
      at = lambda x, y: (r["x"] + x * r["width"], r["y"] + y * r["height"])
      page.mouse.move(*(at(*start) if isinstance(start, tuple) else start))
      page.mouse.down()
      page.mouse.move(*at(0.5, 0.5))
      page.mouse.move(*at(*end))
      page.mouse.up()

    # A bubble, with the mouse and then two steps to the right with keys.
    m = mark.bounding_box()
    drag([m["x"] + m["width"] / 2, m["y"] + m["height"] / 2], (0.6, 0.9))
    lines = page.locator("#bubbles-p1 textarea")
    expect(lines).to_have_value(re.compile(r"caption \|  ?\| Anna Field meets .* \| 0\.60,0\.90"))
    mark.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(lines).to_have_value(re.compile(r"0\.64,0\.90"))

    # Ben on the left, Anna on the right: the other way round than they are named.
    for name, start, end in (("Ben Stone", (0.02, 0.03), (0.48, 0.97)), ("Anna Field", (0.52, 0.03), (0.98, 0.97))):
      page.locator("#more-p1").get_by_role("button", name=name, exact=True).click()
      drag(start, end)
    regions = page.locator("#regions-p1 textarea")
    expect(regions).to_have_value(re.compile(r"Ben Stone \| 0\.\d\d,0\.\d\d,0\.\d\d,.*\nAnna Field \| 0\.\d\d"))
    expect(page.locator("#more-p1 .box")).to_have_count(2)
    page.locator("#save-p1 button, button#save-p1").first.click()
    expect(page.locator("#status .status")).to_contain_text("Saved", timeout=60_000)
    p1 = script.read(comic).panels[0]
    assert p1.bubbles[0].at == (0.64, 0.9) and [r.person for r in p1.regions] == ["Ben Stone", "Anna Field"]
    assert p1.regions[0].box[2] <= p1.regions[1].box[0] and p1.regions[0].box[0] < 0.2 and p1.regions[1].box[2] > 0.8
    assert len(drawn()) == before  # saving draws nothing

    page.get_by_role("button", name="Draw the comic").click()
    expect(page.locator("#status .status")).to_contain_text("2 panels are drawn", timeout=60_000)
    assert [p.split()[3] for p in drawn()[before]] == ["<ben_stone>", "<anna_field>", "a"] and len(
      drawn()
    ) == before + 1
    browser.close()


def test_nothing_of_the_server_is_listed(site):
  """Neither the addresses behind the page nor any file but the two fonts."""

  def code(path: str) -> int:
    try:
      with urllib.request.urlopen(site[0] + path, timeout=20) as answer:
        return answer.status
    except urllib.error.HTTPError as e:
      return e.code

  assert code("fonts/ComicNeue-Bold.otf") == 200
  for path in ("openapi.json", "docs", "fonts/OFL.txt", "fonts/..%2fpage.py", "gradio_api/file=/etc/passwd"):
    assert code(path) in (403, 404), path
