"""The page in a real browser: Debian's Chromium plays the whole story. Screenshots of every step are kept where
IDEJAX_SHOTS names a folder, else beside the test's other files."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image, PdfParser

from idejax.app import script
from idejax.miniature.world import people, scene, world

gradio = pytest.importorskip("gradio", reason='the page needs pip install -e ".[app]"')
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright drives the browser")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine: apt-get install chromium"),
  pytest.mark.filterwarnings("default"),
]

STORY = "Carla Reed and Dan Moor meet in a grocery store in the city. She smiles at him. They walk to the same school in the forest."
LONG = 420_000  # ms: two cores may be busy


class Server:
  """`idejax app` as a process of its own, on a free port."""

  def __init__(self, folder: Path):
    with socket.socket() as s:
      s.bind(("127.0.0.1", 0))
      self.port = s.getsockname()[1]
    self.folder = folder
    self.start()

  def start(self):
    self.log = open(self.folder / "server.log", "ab")
    self.process = subprocess.Popen(
      [sys.executable, "-m", "idejax.cli", "app", "--port", str(self.port), "--people", str(self.folder / "store"), "--out", str(self.folder / "comics")],
      stdout=self.log, stderr=self.log, cwd=self.folder, env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"})  # fmt: skip
    end = time.monotonic() + 900
    while time.monotonic() < end:
      assert self.process.poll() is None, (self.folder / "server.log").read_text()
      try:
        with urllib.request.urlopen(self.url, timeout=5):
          return
      except OSError:
        time.sleep(0.5)
    self.kill()
    raise AssertionError("the page does not answer: " + (self.folder / "server.log").read_text())

  @property
  def url(self) -> str:
    return f"http://127.0.0.1:{self.port}/"

  def kill(self):
    self.process.send_signal(signal.SIGKILL)
    self.process.wait()
    self.log.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
  s = Server(tmp_path_factory.mktemp("app"))
  yield s
  s.kill()


@pytest.fixture(scope="module")
def browser():
  with playwright.sync_playwright() as p:
    b = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    yield b
    b.close()


@pytest.fixture(scope="module")
def shot(tmp_path_factory):
  """Keeps a screenshot; numbered, so that the story can be looked at."""
  folder = Path(os.environ.get("IDEJAX_SHOTS") or tmp_path_factory.mktemp("shots"))
  folder.mkdir(parents=True, exist_ok=True)
  count = iter(range(1, 100))
  return lambda page, name: page.screenshot(path=str(folder / f"{next(count):02d}-{name}.png"), full_page=True)


def portrait(path: Path, who: int) -> str:
  image = world.render(np, people.person(who), scene.scene(background="gray"))
  Image.fromarray((image * 255 + 0.5).astype(np.uint8)).save(path)
  return str(path)


def ready(page):
  page.locator("#people figure, #people .hint").first.wait_for(timeout=60_000)


def says(page, where: str, words: str, timeout: int = LONG):
  playwright.expect(page.locator(f"{where} .status")).to_contain_text(re.compile(words), timeout=timeout)


def fill(page, where: str, text: str):
  page.locator(f"{where} textarea, {where} input").first.fill(text)


def test_the_whole_story(server, browser, shot, tmp_path):
  context = browser.new_context(viewport={"width": 1360, "height": 1000}, accept_downloads=True)
  page = context.new_page()
  page.set_default_timeout(120_000)
  page.goto(server.url)
  ready(page)
  assert page.locator("#people figure").count() == 2  # the sample people are there at once
  shot(page, "first-look")

  # Learn two people; without the tick nothing is learned.
  page.get_by_text("Learn somebody new").click()
  page.locator("#files input[type=file]").set_input_files(
    [portrait(tmp_path / "a.png", 523), portrait(tmp_path / "b.png", 1024)]
  )
  page.locator("#files [aria-label='b.png']").wait_for()
  fill(page, "#names", "Carla Reed, Dan Moor")
  fill(page, "#by", "Carla and Dan")
  page.get_by_role("button", name="Learn", exact=True).click()
  says(page, "#people-status", "without consent nothing is learned")
  page.locator("#files input[type=file]").set_input_files([str(tmp_path / "a.png"), str(tmp_path / "b.png")])
  page.locator("#files [aria-label='b.png']").wait_for()
  page.locator("#agreed input").check()
  page.locator("#method input").click()
  page.get_by_role("option", name="name-inversion").click()
  playwright.expect(page.locator("#cost")).to_contain_text("as many as celeb-basis")
  shot(page, "before-learning")
  page.get_by_role("button", name="Learn", exact=True).click()
  says(page, "#people-status", "Learned: Carla Reed, Dan Moor")
  playwright.expect(page.locator("#people figure")).to_have_count(4)
  shot(page, "learned")
  methods = {json.loads(p.read_text())["method"] for p in (server.folder / "comics").glob("*/store/*/person.json")}
  assert methods == {"celeb-basis", "name-inversion"}  # the sample people's, and what was chosen
  uploads = server.folder / "comics" / ".uploads"
  assert not [p for p in uploads.rglob("*.png") if p.name in ("a.png", "b.png")]  # gone when they were read

  # Cut, edit a sentence, choose a style, draw.
  fill(page, "#title", "The grocery store")
  fill(page, "#story", STORY)
  page.get_by_role("button", name="Cut into panels").click()
  says(page, "#status", "3 panels")
  lines = page.locator("#sentences textarea")
  playwright.expect(lines).to_have_value(re.compile("Carla Reed smiles at Dan Moor"))
  lines.fill(lines.input_value().replace("smiles at", "laughs with"))
  page.locator("#style input").fill("vivid")
  page.get_by_role("option", name="vivid colors").click()
  page.keyboard.press("Escape")
  page.get_by_role("button", name="Draw the comic").click()
  says(page, "#status", "3 panels are drawn")
  playwright.expect(page.locator(".card .shot img")).to_have_count(3)
  playwright.expect(page.locator("#sheets img.sheet")).to_have_count(1)
  shot(page, "drawn")

  # A denied word stops at the door.
  before = lines.input_value()
  lines.fill(before.replace("laughs", "laughs n a k e d"))
  page.get_by_role("button", name="Draw the comic").click()
  says(page, "#status", "asks for nudity")
  lines.fill(before)

  # Re-roll one panel: its first version stays, the others are not touched.
  folder = next(p for p in (server.folder / "comics").iterdir() if (p / "comic" / "comic.json").exists())
  others = {p.name: p.stat().st_mtime_ns for p in (folder / "comic" / "panels").iterdir()}
  page.locator(".card").nth(1).get_by_role("button", name="Re-roll").click()
  page.locator(".card").nth(1).get_by_text("Versions").wait_for(timeout=LONG)
  says(page, "#status", "Panel 2 is drawn")
  after = {p.name: p.stat().st_mtime_ns for p in (folder / "comic" / "panels").iterdir()}
  assert len(after) == len(others) + 1 and all(after[n] == t for n, t in others.items())
  shot(page, "rolled-again")

  # A prompt of its own for one panel, saved and drawn in one go.
  card = page.locator(".card").nth(2)
  card.get_by_text("Prompt, styles and pose").click()
  card.get_by_label("A prompt of its own").fill("a sketch of Carla Reed at night")
  card.get_by_role("button", name="Draw", exact=True).click()
  says(page, "#status", "Panel 3 is drawn")
  last = {p.name: p.stat().st_mtime_ns for p in (folder / "comic" / "panels").iterdir()}
  assert len(last) == len(after) + 1 and all(last[n] == t for n, t in after.items())
  assert script.read(folder / "comic").panels[2].prompt == "a sketch of Carla Reed at night"
  shot(page, "a-prompt-of-its-own")

  # Files: as many pages as there are, opened by others.
  def download(kind: str) -> Path:
    with page.expect_download() as got:
      page.get_by_role("link", name=kind, exact=True).click()
    got.value.save_as(tmp_path / f"comic.{kind.lower()}")
    return tmp_path / f"comic.{kind.lower()}"

  with PdfParser.PdfParser(str(download("PDF"))) as pdf:
    assert len(pdf.pages) == 1
  with zipfile.ZipFile(download("CBZ")) as z:
    assert [n for n in z.namelist() if n.endswith(".png")] == ["001.png"]

  # A second browser at the same time sees its own people and no story.
  other = browser.new_context().new_page()
  other.goto(server.url)
  ready(other)
  assert other.locator("#people figure").count() == 2 and other.locator("#sentences textarea").input_value() == ""
  shot(other, "second-browser")

  # The server is killed and started again: nothing that was finished is lost.
  server.kill()
  server.start()
  page.goto(server.url)
  ready(page)
  playwright.expect(page.locator("#people figure")).to_have_count(4)
  playwright.expect(page.locator("#sentences textarea")).to_have_value(re.compile("laughs with"), timeout=30_000)
  playwright.expect(page.locator(".card .shot img")).to_have_count(3, timeout=30_000)
  shot(page, "after-a-restart")

  # Deleting somebody takes their pictures along.
  page.get_by_text("Delete somebody").click()
  page.locator("#gone input").click()
  page.get_by_role("option", name="Dan Moor").click()
  page.locator("#sure input").check()
  page.get_by_role("button", name="Delete", exact=True).click()
  says(page, "#people-status", "Dan Moor is deleted")
  playwright.expect(page.locator("#people figure")).to_have_count(3)
  playwright.expect(page.locator(".card .shot img")).to_have_count(0)
  assert not list((folder / "comic").glob("comic.p*"))
  shot(page, "deleted")


def test_eight_browsers_draw_in_turn_and_each_sees_its_place(server, browser, shot):
  """The real model: everybody gets their own comic, who waits reads how many are before them, memory stays."""
  process = psutil.Process(server.process.pid)
  pages = [browser.new_context(viewport={"width": 1000, "height": 800}).new_page() for _ in range(8)]
  for i, page in enumerate(pages):
    page.set_default_timeout(LONG)
    page.goto(server.url)
    ready(page)
    fill(page, "#title", f"Comic {i}")
    fill(page, "#story", "Anna Field smiles on the beach. Ben Stone is in the snow.")
    page.get_by_role("button", name="Cut into panels").click()
    says(page, "#status", "2 panels")
  before = process.memory_info().rss
  for page in pages:
    page.get_by_role("button", name="Draw the comic").click()
  waiting = pages[-1].locator("#status").get_by_text(re.compile(r"queue: \d/\d"))
  waiting.first.wait_for(timeout=60_000)
  assert int(re.search(r"queue: (\d)", waiting.first.inner_text())[1]) >= 5
  shot(pages[-1], "waiting")
  most = before
  for page in pages:
    says(page, "#status", "2 panels are drawn", 2 * LONG)
    most = max(most, process.memory_info().rss)
  titles = sorted(
    script.read(p / "comic").title for p in (server.folder / "comics").iterdir() if (p / "comic" / "comic.pdf").exists()
  )
  assert [t for t in titles if t.startswith("Comic ")] == [f"Comic {i}" for i in range(8)]
  assert most < 2 << 30 and most - before < 800 << 20, f"{before >> 20} MiB before, {most >> 20} MiB at most"
  for page in pages:
    page.context.close()


def test_a_phone_has_no_sideways_scrolling_and_the_dark_is_legible(server, browser, shot):
  context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark", device_scale_factor=2)
  page = context.new_page()
  page.goto(server.url + "?__theme=dark")
  ready(page)
  assert page.evaluate("document.documentElement.scrollWidth") <= 391
  shot(page, "phone-dark")
  page.goto(server.url + "?__theme=light")
  ready(page)
  shot(page, "phone-light")


def test_everything_is_reached_by_the_keyboard(server, browser):
  page = browser.new_context().new_page()
  page.goto(server.url)
  ready(page)
  seen = set()
  for _ in range(60):
    page.keyboard.press("Tab")
    seen.add(
      page.evaluate(
        "(document.activeElement.innerText || document.activeElement.getAttribute('aria-label') || document.activeElement.tagName).trim()"
      )
    )
  assert {"Cut into panels", "Draw the comic", "Stop", "Demo story"} <= seen, seen


def test_nothing_else_of_the_disk_and_no_other_name(server):
  def code(path: str, host: str | None = None) -> int:
    request = urllib.request.Request(server.url + path, headers={"Host": host} if host else {})
    try:
      with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.status
    except urllib.error.HTTPError as e:
      return e.code

  token = next(p.name for p in (server.folder / "comics").iterdir() if len(p.name) == 32)
  secret = server.folder / "comics" / token / "store" / "anna_field" / "person.json"
  assert secret.exists()
  for path in (f"gradio_api/file={secret}", "gradio_api/file=/etc/passwd", f"comic/{token}/../store/anna_field/person.json", f"comic/{token}/%2e%2e/offered",
               f"comic/{'A' * 32}/comic.json", f"people/{token}/..%2fanna_field.png", "docs", "openapi.json"):  # fmt: skip
    assert code(path) in (403, 404), path
  assert code(f"people/{token}/anna_field.png") == 200
  assert code("", "evil.example") == 400
