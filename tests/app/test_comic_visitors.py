"""Everybody who has the page open: folders of their own, one job at a time, a queue that is honest, nothing lost."""

import dataclasses
import html
import json
import re
import threading
import time

import psutil
import pytest
from PIL import Image
from support.drawn_people import PORTRAITS, STORY, edit

from idejax.app import actions, cards, edits, learn, script, stage, studio
from idejax.app.store import Consent
from idejax.app.visitors import Visitors
from idejax.errors import UserError


@pytest.fixture
def visitors(store, tmp_path):
  return Visitors(tmp_path / "comics", store)


def drawn(desk, v) -> script.Script:
  actions.cut(desk, v, STORY, "Hello", [], 0)
  *_, last = actions.draw(desk, v, v.script)
  assert "4 panels are drawn" in last.html, last.html
  return v.script()


def test_a_browser_has_a_folder_that_only_its_token_names(visitors):
  one, a = visitors.get(None)
  two, b = visitors.get("")
  assert one != two and a.folder != b.folder and a.folder.stat().st_mode & 0o077 == 0
  assert visitors.get(one)[1] is a
  for wrong in ("../" + one, one[:-1], "x" * 32, "A" * 31 + "/", None):
    token, v = visitors.get(wrong)
    assert token not in (one, two, wrong) and v.script().panels == ()
    assert visitors.find(wrong or "") is None


def test_offered_people_are_copied_and_stay_deleted(visitors, store):
  token, v = visitors.get(None)
  assert v.store.names() == store.names() == ["Anna Field", "Ben Stone"]
  v.store.delete("Ben Stone")
  again = Visitors(visitors.root, store).get(token)[1]
  assert again.store.names() == ["Anna Field"] and store.names() == ["Anna Field", "Ben Stone"]


def test_what_one_does_another_does_not_see(desk, visitors):
  a, b = visitors.get(None)[1], visitors.get(None)[1]
  drawn(desk, a)
  a.store.delete("Anna Field")
  assert b.script().panels == () and b.store.names() == ["Anna Field", "Ben Stone"] and not b.comic.exists()


def test_a_server_that_starts_again_shows_the_same(desk, visitors, store):
  token, v = visitors.get(None)
  s = drawn(desk, v)
  back = Visitors(visitors.root, store).get(token)[1]
  assert back is not v and back.script() == s and back.story() == STORY
  assert actions.preview(back, token) == actions.preview(v, token) != ""
  assert all(f"comic/{token}/" in actions.preview(v, token) for _ in [0])


def test_editing_a_bubble_draws_nothing_and_a_sentence_one_panel(desk, visitors):
  v = visitors.get(None)[1]
  drawn(desk, v)
  before = len(desk.asked)
  edit(desk, v, "p1", bubbles="speech | Anna Field | Hello! | 0.2,0.9")
  *_, last = actions.draw(desk, v, v.script)
  assert len(desk.asked) == before and v.script().panels[0].bubbles == (
    script.Bubble("Hello!", "speech", "Anna Field", (0.2, 0.9)),
  )
  edit(desk, v, "p1", sentence="Anna Field is at home.")
  *_, last = actions.draw(desk, v, v.script)
  assert len(desk.asked) > before and len(v.script().panels[0].versions) == 2 and v.script().panels[0].id == "p1"


def test_re_rolling_draws_one_panel_and_a_version_can_be_chosen(desk, visitors):
  v = visitors.get(None)[1]
  drawn(desk, v)
  before = len(desk.asked)
  edits.reroll(v, "p3")
  list(actions.draw(desk, v, v.script))
  assert len(desk.asked) == before + 1 and len(v.script().panels[2].versions) == 2
  assert script.current_version(v.script().panels[2]) == v.script().panels[2].versions[1]
  edits.choose(v, "p3", 0)
  assert script.current_version(v.script().panels[2]) == v.script().panels[2].versions[0]
  with pytest.raises(UserError, match="there are 2 versions"):
    edits.choose(v, "p3", 7)


def test_a_mistake_is_a_sentence_and_the_next_thing_works(desk, visitors):
  v = visitors.get(None)[1]
  *_, last = actions.draw(desk, v, v.script)
  assert "There are no panels yet" in last.html and "bad" in last.html
  actions.cut(desk, v, STORY, "x", [], 0)
  boom = lambda: (_ for _ in ()).throw(UserError("no <b>such</b> thing"))
  *_, last = actions.draw(desk, v, boom)
  assert "no &lt;b&gt;such&lt;/b&gt; thing" in last.html
  drawn(desk, v)


def test_one_thing_at_a_time(desk, visitors):
  v = visitors.get(None)[1]
  with v.busy:
    (only,) = actions.draw(desk, v, v.script)
  assert "One thing at a time" in only.html


def test_stop_stops_and_what_is_finished_stays(desk, visitors):
  v = visitors.get(None)[1]
  actions.cut(desk, v, STORY, "x", [], 0)

  def ask():
    v.stop.set()
    return v.script()

  *_, last = actions.draw(desk, v, ask)
  assert "drawing was stopped" in last.html
  kept = sum(len(p.versions) for p in v.script().panels)
  assert 1 <= kept < 4
  *_, last = actions.draw(desk, v, v.script)
  assert "4 panels are drawn" in last.html


def test_stop_counts_for_what_waits_and_for_nothing_later(desk, visitors):
  v = visitors.get(None)[1]
  actions.cut(desk, v, STORY, "x", [], 0)
  actions.stop(v)  # nothing runs or waits
  actions.begin(v)
  waiting = actions.draw(desk, v, v.script)
  assert "will not begin" in actions.stop(v)
  (only,) = waiting
  assert "Stopped before its turn" in only.html and desk.asked == []
  actions.begin(v)
  *_, last = actions.draw(desk, v, v.script)
  assert "4 panels are drawn" in last.html
  with v.busy:
    assert "at the next step" in actions.stop(v)
    actions.begin(v)  # another button, while the first action has yet to notice
    assert v.stop.is_set()


def test_uploads_are_gone_whatever_happens(desk, visitors, tmp_path, monkeypatch):
  v = visitors.get(None)[1]
  seen = []
  monkeypatch.setattr(actions.learn, "learn", lambda *a, **k: seen.append(a[2]))
  for agreed, names, words in (
    (False, "Cy Oak", "without consent"),
    (True, "Cy", "has 1 word"),
    (True, "Cy Oak, Di Elm", "each picture needs one name"),
    (True, "Cy Oak", "Learned: Cy Oak"),
  ):
    path = tmp_path / "me.png"
    Image.fromarray(PORTRAITS["Anna Field"]).save(path)
    *_, last = actions.learn_people(desk, v, [str(path)], names, "Cy", agreed, False)
    assert words in last.html and not path.exists()
  assert [a.name for x in seen for a in x] == ["Cy Oak"]


def test_deleting_wants_a_tick(desk, visitors):
  v = visitors.get(None)[1]
  drawn(desk, v)
  with pytest.raises(UserError, match="cannot be undone"):
    actions.forget(v, "Anna Field", False)
  with pytest.raises(UserError, match="Choose whom"):
    actions.forget(v, "", True)
  assert "Anna Field is deleted" in actions.forget(v, "Anna Field", True)
  assert not (v.comic / "pages").exists() and not list(v.comic.glob("comic.p*"))


def test_bubbles_as_lines_come_back():
  p = script.Panel(
    "p", "x", bubbles=(script.Bubble("One"), script.Bubble("Two, too", "speech", "Anna Field", (0.25, 0.5)))
  )
  assert stage.read_bubbles(stage.bubble_lines(p)) == p.bubbles
  for line, words in (
    ("speech | Hi", "needs kind"),
    ("shout | | Hi", "must be caption"),
    ("speech | | Hi | 2,0", "x,y from 0 to 1"),
    ("speech | | Hi | a", "x,y from 0 to 1"),
  ):
    with pytest.raises(UserError, match=words):
      stage.read_bubbles(line)


def test_places_as_lines_come_back_and_are_checked(desk, visitors):
  p = script.Panel("p1", "x", regions=(script.Region("Anna Field", (0.0, 0.1, 0.5, 1.0)),))
  assert stage.read_regions(stage.region_lines(p), ["Anna Field"]) == p.regions
  for line, words in (
    ("Anna Field", "place 1 needs a name"),
    ("Anna Field | 0.5,0,0.4,1", "left before right"),
    ("Anna Field | 0,0,1,2", "from 0 to 1"),
    ("Ben Stone | 0,0,1,1", "in this panel there are Anna Field"),
    ("Anna Field | 0,0,1,1\nAnna Field | 0,0,1,1", "two places"),
  ):
    with pytest.raises(UserError, match=words):
      stage.read_regions(line, ["Anna Field"])
  v = visitors.get(None)[1]
  drawn(desk, v)
  places = "Ben Stone | 0,0,0.5,1\nAnna Field | 0.5,0,1,1"
  edit(desk, v, "p2", regions=places)
  assert [r.person for r in v.script().panels[1].regions] == ["Ben Stone", "Anna Field"]
  edit(desk, v, "p2", sentence="Ben Stone is at home.", regions=places)  # Anna has left: her place goes with her
  assert [r.person for r in v.script().panels[1].regions] == ["Ben Stone"]


def test_the_board_shows_what_the_page_cuts_out(desk, visitors):
  token, v = visitors.get(None)
  s = drawn(desk, v)
  p = s.panels[1]
  text = stage.board(token, s, p, edits.size(v, script.current_version(p)))
  assert f"/comic/{token}/{p.versions[0].file}" in text and text.count('class="who"') == 2
  x0, y0, x1, y1 = json.loads(html.unescape(text.split('data-facts="')[1].split('"')[0]))["part"]
  width, height = edits.size(v, p.versions[0])
  cell = [float(n) for n in re.search(r"aspect-ratio:(\d+) / (\d+)", text).groups()]
  assert (x1 - x0) * width / ((y1 - y0) * height) == pytest.approx(cell[0] / cell[1], rel=1e-3)
  assert "<img" not in stage.board(token, s, dataclasses.replace(p, versions=()), None)
  nasty = dataclasses.replace(p, people=('"><script>',), versions=())
  assert "<script>" not in stage.board(token, s, nasty, None)


def test_what_was_typed_stays_until_something_else_is_saved(visitors):
  """Else a picture that is finished would take away what is being typed elsewhere."""
  one, two = visitors.get(None)[1], visitors.get(None)[1]
  one.draft("p1", "pose", "", "wink")
  one.draft("p1", "pose", "", "winking")
  assert one.typed("p1", "pose", "") == "winking" and one.typed("p1", "pose", "from above") == "from above"
  assert one.typed("p2", "pose", "") == one.typed("p1", "sentence", "") == two.typed("p1", "pose", "") == ""


def test_everything_on_the_page_is_escaped():
  s = script.Script(title="<script>", people=(script.Person("Anna Field"),))
  p = script.Panel("p", '"><script>alert(1)</script>', ("<i>",), versions=(script.Version('panels/"><b>.png', "i"),))
  for text in (
    cards.picture("t", s, p, p.versions[0]),
    cards.picture("t", s, p, script.Version("a", "i", reason="<script>")),
    cards.sheets("t", ['"><script>'], "1"),
    cards.status("<script>"),
  ):
    assert "<script>" not in text and '"><b>' not in text


def test_the_time_left_is_told_from_the_time_it_took(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(cards.time, "monotonic", lambda: now[0])
  clock = cards.Clock()
  assert clock.remaining_time(1, 11) == ""
  now[0] = 10.0
  assert clock.remaining_time(6, 11) == ", about 10 s left"
  assert clock.remaining_time(2, 102) == ", about 17 min left"


@pytest.mark.slow
def test_eight_visitors_at_once_take_turns_and_all_get_their_comic(desk, visitors, monkeypatch):
  """One draws at a time; memory does not grow with who waits."""
  most, drawing, lock = [0], [0], threading.Lock()
  real = studio.pl.generate

  def counted(*a):
    with lock:
      drawing[0] += 1
      most[0] = max(most[0], drawing[0])
    try:
      for x in real(*a):
        time.sleep(0.01)
        yield x
    finally:
      with lock:
        drawing[0] -= 1

  monkeypatch.setattr(studio.pl, "generate", counted)
  everybody = [visitors.get(None)[1] for _ in range(8)]
  before = psutil.Process().memory_info().rss
  ends = {}

  def visit(i, v):
    actions.cut(desk, v, STORY, f"Comic {i}", [], i)
    *_, last = actions.draw(desk, v, v.script)
    ends[i] = last.html

  threads = [threading.Thread(target=visit, args=x) for x in enumerate(everybody)]
  for t in threads:
    t.start()
  for t in threads:
    t.join()
  assert all("4 panels are drawn" in ends[i] for i in range(8)), ends
  assert most[0] == 1
  for i, v in enumerate(everybody):
    assert v.script().title == f"Comic {i}" and (v.comic / "comic.pdf").exists()
  assert psutil.Process().memory_info().rss - before < 600e6


def test_the_store_keeps_who_agreed(visitors, desk):
  v = visitors.get(None)[1]
  assert dataclasses.asdict(v.store.record("Anna Field").consent)["by"] == "Anna herself"
  assert Consent("x").validate().date and learn.SAMPLE_CONSENT.by


def test_a_refused_text_is_not_kept(desk, visitors):
  """Else it would stand in the way of everything that is drawn afterwards."""
  v = visitors.get(None)[1]
  s = drawn(desk, v)
  lines = "\n".join(p.sentence for p in s.panels)
  rest = ("Hello", [], "grid", "ltr", 0, 1, "", 25)
  with pytest.raises(UserError, match="asks for nudity"):
    actions.settings(desk, v, lines.replace("is in", "is n4ked in"), *rest)
  with pytest.raises(UserError, match="asks for nudity"):
    edit(desk, v, "p1", bubbles="caption | | naked")
  assert v.script() == s
  *_, last = actions.draw(desk, v, lambda: edits.reroll(v, "p3"))
  assert "4 panels are drawn" in last.html
  assert actions.settings(desk, v, lines, *rest).panels[0].sentence == s.panels[0].sentence
