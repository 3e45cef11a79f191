"""Panels on pages: reading order, text that covers no face, and files that others open."""

import io
import zipfile
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, PdfParser

from idejax.app import bubbles, layout, lettering, pages, script, watermark
from idejax.app.script import Bubble, Layout, Panel, Person, Script, Version
from idejax.errors import UserError

N = ("Anna Field", "Ben Stone")


def comic(count=7, kind="grid", direction="ltr", faces=((0.3, 0.25, 0.7, 0.8),)) -> Script:
  text = "Anna Field and Ben Stone walk to the same school, far away. "
  panels = [Panel(f"p{i}", text * (1 + i % 3), people=N[: len(faces)], bubbles=(Bubble(text * (1 + i % 3)), Bubble(f"Number {i}!", "speech", N[0])),
                  versions=(Version(f"{i}.png", "x", faces=faces),)) for i in range(count)]  # fmt: skip
  return Script(
    title="Numbers & <signs>", people=tuple(map(Person, N)), panels=tuple(panels), layout=Layout(kind, direction)
  )


def red(version: Version) -> Image.Image:
  """Grey, and pure red where the faces are."""
  image = Image.new("RGB", (640, 512), (90, 90, 90))
  for x0, y0, x1, y1 in version.faces:
    ImageDraw.Draw(image).rectangle((x0 * 640, y0 * 512, x1 * 640 - 1, y1 * 512 - 1), (255, 0, 0))
  return image


# Layouts.


@pytest.mark.parametrize("kind", layout.LAYOUTS)
@pytest.mark.parametrize("direction", ["ltr", "rtl"])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 7, 13])
def test_every_panel_is_on_a_page_once_in_order_and_none_overlap(kind, direction, count):
  lengths = [20 + 40 * (i % 5) for i in range(count)]
  made = layout.pages(kind, direction, lengths, 100)
  assert [i for p in made for i, _ in p.cells] == list(range(count))
  for n, page in enumerate(made):
    width, height = page.size
    for i, (x0, y0, x1, y1) in page.cells:
      assert 0 < x0 < x1 < width and (100 if n == 0 else 0) < y0 < y1 < height
      for j, other in page.cells:
        if i != j:
          assert not bubbles._meet((x0, y0, x1, y1), other)
    for (_, a), (_, b) in zip(page.cells, page.cells[1:]):  # on in the row, or down to the next
      assert b[1] >= a[3] or (b[0] >= a[2] if direction == "ltr" else b[2] <= a[0])


def test_there_are_six_layouts_and_one_that_follows_the_text():
  assert len(layout.LAYOUTS) >= 7
  wide = lambda texts: {i: r[2] - r[0] for p in layout.pages("text", "ltr", texts) for i, r in p.cells}
  assert wide([10, 150])[1] > 1.4 * wide([10, 150])[0]
  assert wide([80, 80])[0] == wide([80, 80])[1]
  with pytest.raises(UserError, match="did you mean grid"):
    layout.check("gird")


# Text and faces.

share = st.floats(0, 1, allow_nan=False)
boxes = st.tuples(share, share, share, share).map(
  lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)
texts = st.lists(st.builds(Bubble, st.text("abc é", min_size=1, max_size=120).filter(str.strip), st.sampled_from(["caption", "speech", "thought"]),
                           st.sampled_from(["", *N]), st.none() | st.tuples(share, share)), max_size=4)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(texts, st.lists(boxes, max_size=3), st.integers(180, 1100), st.integers(180, 800))
def test_no_text_covers_a_face_or_another_text_or_leaves_the_panel(said, faces, width, height):
  at = lambda w, h: ([(round(a * w), round(b * h), round(c * w), round(d * h)) for a, b, c, d in faces], {})
  found = bubbles.place(said, width, height, at)
  tall = height - found.band
  assert 0 <= found.band <= height * 0.75
  everything = [p.rect for p in (*found.over, *found.below)]
  for p in found.over:
    assert 0 <= p.rect[0] and p.rect[2] <= width and 0 <= p.rect[1] and p.rect[3] <= tall
    for f in at(width, tall)[0]:
      assert not bubbles._meet(p.rect, f), (p.rect, f)
  for i, a in enumerate(everything):
    for b in everything[i + 1 :]:
      assert not bubbles._meet(a, b)
  assert len(everything) == len([b for b in said if b.text.strip()])


def place(*said, faces=(), names=None, width=500, height=500):
  at = lambda w, h: (list(faces), names or {})
  return bubbles.place(said, width, height, at)


def test_a_bubble_stays_where_it_was_moved_unless_a_face_is_there():
  (free,) = place(Bubble("Hi", "speech", at=(0.8, 0.8))).over
  assert abs((free.rect[0] + free.rect[2]) / 2 - 400) < 2 and abs((free.rect[1] + free.rect[3]) / 2 - 400) < 2
  (moved,) = place(Bubble("Hi", "speech", at=(0.8, 0.8)), faces=[(350, 350, 450, 450)]).over
  assert not bubbles._meet(moved.rect, (350, 350, 450, 450))
  assert (
    250 < (moved.rect[0] + moved.rect[2]) / 2 and 250 < (moved.rect[1] + moved.rect[3]) / 2
  )  # the nearest free place


def test_the_tail_ends_at_its_speakers_face_and_crosses_no_other():
  left, right = (60, 200, 160, 320), (340, 200, 440, 320)
  (p,) = place(Bubble("Hello there", "speech", N[1]), faces=[left, right], names=dict(zip(N, (left, right)))).over
  assert p.tail and abs(p.tail[0] - 390) < 80 and not bubbles._meet((*p.tail, p.tail[0] + 1, p.tail[1] + 1), left)
  assert not (right[0] < p.tail[0] < right[2] and right[1] < p.tail[1] < right[3])


def test_where_there_is_no_room_the_text_goes_below_with_its_speaker():
  found = place(Bubble("A long remark about the weather", "speech", N[0]), faces=[(0, 0, 500, 500)])
  assert not found.over and found.band > 0 and found.below[0].lines[0].startswith("Anna Field: ")


def test_what_is_said_later_is_read_later():
  first, second = place(Bubble("One", "speech"), Bubble("Two", "speech")).over
  assert second.rect[1] >= first.rect[1] - 2 or second.rect[0] >= first.rect[2] - 2


def test_letters_cover_accents_and_what_no_font_has_is_told():
  assert lettering.lacking("José, “Grüße” — ¿qué? Привет Ωmega") == ""
  assert lettering.lacking("漢字 かな 한국어 हिन्दी ไทย") == ""
  assert lettering.lacking("a\U0010fffd") == "\U0010fffd"
  assert lettering.wrap("one two three", 20, 60)[0] == "one"
  assert "".join(lettering.wrap("x" * 200, 20, 100)) == "x" * 200


@pytest.mark.parametrize("kind", layout.LAYOUTS)
def test_on_the_finished_page_every_face_is_there_and_uncovered(kind):
  """The faces are pure red: on every panel their red is whole, whatever was cut off or written over."""
  s = comic(5, kind)
  sheets = pages.compose(s, red)
  lengths = [sum(len(b.text) for b in p.bubbles) for p in s.panels]
  for sheet, page in zip(sheets, layout.pages(kind, "ltr", lengths, pages._TITLE)):
    for _, (x0, y0, x1, y1) in page.cells:
      cell = sheet.image[y0:y1, x0:x1].astype(int)
      hot = (cell[..., 0] > 180) & (cell[..., 1] < 90) & (cell[..., 2] < 90)
      ys, xs = np.nonzero(hot)
      assert len(ys), kind
      box = hot[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
      assert box.mean() > 0.97
      assert abs((xs.max() - xs.min()) / (ys.max() - ys.min()) / (0.4 * 640 / (0.55 * 512)) - 1) < 0.08  # not cut off


def test_crop_keeps_all_faces_whatever_the_shape():
  faces = [(0.05, 0.3, 0.3, 0.7), (0.7, 0.3, 0.95, 0.7)]
  for wanted in [(400, 400), (200, 500), (900, 200)]:
    part = pages.crop((640, 512), wanted, faces)
    assert (part[2] - part[0]) / (part[3] - part[1]) == pytest.approx(wanted[0] / wanted[1])
    for f in faces:
      x0, y0, x1, y1 = pages.inside(f, (640, 512), part, wanted)
      assert -1 <= x0 < x1 <= wanted[0] + 1 and -1 <= y0 < y1 <= wanted[1] + 1


# Files.


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp("comic")
  s = comic(7, direction="rtl")
  sheets = pages.compose(s, red)
  return s, sheets, {p.suffix[1:]: p for p in pages.export(folder, s, sheets)}


def test_the_strip_is_marked_and_says_what_it_shows(files):
  _, sheets, made = files
  with Image.open(made["png"]) as image:
    assert image.height == sum(p.image.shape[0] for p in sheets)
    assert watermark.present(np.asarray(image.convert("RGB")))
    assert "Number 0!" in image.info["idejax"]
  assert watermark.declares_ai(made["png"])


def test_the_pdf_has_a_page_a_sheet_and_a_title(files):
  s, sheets, made = files
  with PdfParser.PdfParser(str(made["pdf"])) as pdf:
    assert len(pdf.pages) == len(sheets) == 2
    assert pdf.info.Title == s.title and pdf.info.Keywords == "AI-generated"


def test_the_pdf_opens_with_another_library(files):
  pypdf = pytest.importorskip("pypdf", reason="pip install pypdf reads the PDF back")
  _, sheets, made = files
  reader = pypdf.PdfReader(made["pdf"])
  assert len(reader.pages) == len(sheets) and len(reader.pages[0].images) == 1


def test_the_cbz_has_pages_in_order_and_readers_know_the_direction(files):
  s, sheets, made = files
  with zipfile.ZipFile(made["cbz"]) as z:
    assert z.testzip() is None and z.namelist() == ["ComicInfo.xml", "001.png", "002.png"]
    info = ElementTree.fromstring(z.read("ComicInfo.xml"))
    assert (info.findtext("Title"), info.findtext("PageCount"), info.findtext("Manga")) == (
      s.title,
      "2",
      "YesAndRightToLeft",
    )
    for n, sheet in enumerate(sheets, 1):
      with Image.open(io.BytesIO(z.read(f"{n:03d}.png"))) as image:
        assert (np.asarray(image) == sheet.image).all()


def test_the_web_page_has_every_panel_in_words_and_escapes_them(files):
  s, _, made = files
  text = made["html"].read_text()
  assert (
    text.count("<li>") == len(s.panels)
    and "right to left" in text
    and "Numbers &amp; &lt;signs&gt;" in text
    and "<signs>" not in text
  )


def test_alt_texts_are_the_users_else_made_of_sentence_and_speech():
  p = Panel("p", "Ben Stone waves.", bubbles=(Bubble("Ben Stone waves."), Bubble("Hi!", "speech", "Ben Stone")))
  assert pages.alt(Script(), p) == 'Ben Stone waves. Ben Stone: "Hi!"'
  assert pages.alt(Script(), Panel("p", "x", alt="A man waves.")) == "A man waves."


def test_blank_and_missing_panels_say_why():
  grey = lambda s: pages.compose(s, lambda v: None)[0].image
  blank = Panel("p1", "x", versions=(Version("a", "i", reason="left blank: the picture check saw nudity"),))
  shown = [grey(Script(panels=(p,))) for p in (blank, Panel("p1", "x"))]
  assert (shown[0] != shown[1]).any()
  opened = []
  pages.compose(Script(panels=(blank,)), lambda v: opened.append(v))
  assert opened == []  # a flagged picture is not even looked for


def test_a_long_strip_is_halved_until_viewers_open_it(tmp_path):
  sheet = pages.Sheet(np.full((20_000, 400, 3), 200, np.uint8), "x")
  pages.export(tmp_path, Script(title="long"), [sheet, sheet], ["png"])
  with Image.open(tmp_path / "comic.png") as image:
    assert image.size == (200, 20_000)


def test_no_panels_no_pages():
  assert pages.compose(Script(), red) == []
  assert script.current_version(Panel("p", "x")) is None
