"""A panel's card in a real browser: bubbles are dragged, boxes drawn, by mouse and by keys; styles and a prompt of its
own; what was typed and not saved stays. The sampler is the drawn world's own renderer, in a server of its own.
Screenshots go where IDEJAX_SHOTS names a folder."""

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

gradio = pytest.importorskip("gradio", reason='the page needs pip install -e ".[app]"')
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright drives the browser")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
  pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine: apt-get install chromium"),
  pytest.mark.filterwarnings("default"),
]
LONG = 300_000  # ms: the cores may be busy
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
  url, end = f"http://127.0.0.1:{port}/", time.monotonic() + 900
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


@pytest.fixture(scope="module")
def browser():
  with playwright.sync_playwright() as p:
    b = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    yield b
    b.close()


def shot(page, name: str):
  if folder := os.environ.get("IDEJAX_SHOTS"):
    Path(folder).mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(Path(folder) / f"card-{name}.png"), full_page=True)


def begin(page, url: str):
  """Opens the page and cuts the story."""
  page.set_default_timeout(LONG)
  page.goto(url)
  page.locator("#people figure").first.wait_for()
  page.locator("#story textarea").fill(STORY)
  page.get_by_role("button", name="Cut into panels").click()
  playwright.expect(page.locator("#status .status")).to_contain_text("2 panels", timeout=LONG)


def test_bubbles_and_people_are_placed_by_hand(site, browser):
  url, folder = site
  expect = playwright.expect
  page = browser.new_context(viewport={"width": 1300, "height": 1200}).new_page()
  begin(page, url)
  page.get_by_role("button", name="Draw the comic").click()
  expect(page.locator("#status .status")).to_contain_text("2 panels are drawn", timeout=LONG)
  comic = next(p for p in folder.iterdir() if (p / "comic" / "comic.json").exists()) / "comic"
  drawn = lambda: [e["prompts"] for e in Audit(comic.parent / "store").lines() if e["event"] == "drawn"]
  before = len(drawn())

  page.locator("#more-p1").get_by_text("Bubbles and places").click()
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
  expect(page.locator("#status .status")).to_contain_text("Saved", timeout=LONG)
  p1 = script.read(comic).panels[0]
  assert p1.bubbles[0].at == (0.64, 0.9) and [r.person for r in p1.regions] == ["Ben Stone", "Anna Field"]
  assert p1.regions[0].box[2] <= p1.regions[1].box[0] and p1.regions[0].box[0] < 0.2 and p1.regions[1].box[2] > 0.8
  assert len(drawn()) == before  # saving draws nothing

  page.get_by_role("button", name="Draw the comic").click()
  expect(page.locator("#status .status")).to_contain_text("2 panels are drawn", timeout=LONG)
  assert [p.split()[3] for p in drawn()[before]] == ["<ben_stone>", "<anna_field>", "a"] and len(drawn()) == before + 1
  page.context.close()


def test_a_card_says_how_its_panel_looks(site, browser):
  """Before and after drawing, that panel alone; by keys as well; unsaved words stay while others are saved."""
  url, folder = site
  expect = playwright.expect
  there = set(folder.iterdir()) if folder.exists() else set()
  page = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark").new_page()
  begin(page, url + "?__theme=dark")
  comic = next(p for p in folder.iterdir() if p not in there and (p / "comic" / "comic.json").exists()) / "comic"
  status = page.locator("#status .status")

  # How people are learned: a choice with its cost beside it.
  page.get_by_text("Learn somebody new").click()
  expect(page.locator("#cost")).to_contain_text("150 steps of 8 pictures, the usual length")
  page.locator("#method input").click()
  page.get_by_role("option", name="id-ea").click()
  expect(page.locator("#cost")).to_contain_text("changes of the model")
  shot(page, "methods")

  # Before anything is drawn: a style and a pose, then Draw on the card draws this panel alone.
  page.locator("#look-p2").get_by_text("Prompt, styles and pose").click()
  page.locator("#prompt-p2 textarea").wait_for()
  assert "a photo of Ben Stone" in page.locator("#prompt-p2 textarea").get_attribute("placeholder")
  page.locator("#styles-p2 input").fill("vivid")
  page.get_by_role("option", name="vivid colors").click()
  page.locator("#pose-p2 textarea, #pose-p2 input").first.fill("winking")
  page.locator("#sentence-p1 textarea").fill("Anna Field meets Ben Stone in the snow.")  # and does not save it
  draw = page.locator("button#draw-p2, #draw-p2 button").first
  draw.focus()
  page.keyboard.press("Enter")
  expect(status).to_contain_text("Panel 2 is drawn", timeout=LONG)
  one, two = script.read(comic).panels
  assert (two.style, two.pose) == (("vivid colors",), "winking") and (len(one.versions), len(two.versions)) == (0, 1)
  expect(page.locator("#sentence-p1 textarea")).to_have_value("Anna Field meets Ben Stone in the snow.")
  expect(page.locator("#prompt-p2 textarea")).to_be_visible()  # the card is as open as it was
  shot(page, "phone-dark")
  assert page.evaluate("document.documentElement.scrollWidth") <= 391

  # Afterwards: a prompt of its own; the first picture stays among the versions.
  page.locator("#prompt-p2 textarea").fill("a sketch of Ben Stone at night")
  page.locator("button#save-p2, #save-p2 button").first.click()
  expect(status).to_contain_text("Draw makes the new picture", timeout=LONG)
  draw.click()
  expect(page.locator("#versions-p2")).to_be_visible(timeout=LONG)
  after = script.read(comic).panel("p2")
  assert after.prompt == "a sketch of Ben Stone at night" and after.versions[0] == two.versions[0]
  assert len(after.versions) == 2
  page.set_viewport_size({"width": 1300, "height": 1000})
  page.goto(url + "?__theme=light")
  page.locator("#shot-p2 img").wait_for()
  shot(page, "light")
  page.context.close()


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
