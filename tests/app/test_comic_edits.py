"""What is changed of one panel: before and after drawing, only that panel is drawn again, and its versions stay."""

import dataclasses

import pytest
from support.drawn_people import STORY, edit

from idejax.app import actions, edits, script
from idejax.app.visitors import Visitors
from idejax.errors import UserError


@pytest.fixture
def v(desk, store, tmp_path):
  v = Visitors(tmp_path / "comics", store).get(None)[1]
  actions.cut(desk, v, STORY, "Hello", ["comic style"], 0)
  return v


def draw(desk, v, panel="", ask=None) -> str:
  *_, last = actions.draw(desk, v, ask or v.script, panel)
  return last.html


def test_prompt_style_and_pose_are_edited_before_anything_is_drawn(desk, v):
  edit(desk, v, "p1", prompt="a sketch of Anna Field  winking")
  edit(desk, v, "p2", style=("watercolor painting",))
  edit(desk, v, "p3", style=("comic style",), pose=" from  above ")
  one, two, three, four = script.read(v.comic).panels  # the document holds them
  assert (one.prompt, one.people) == ("a sketch of Anna Field winking", ("Anna Field",))
  assert (two.style, three.style, three.pose) == (("watercolor painting",), None, "from above")
  assert "4 panels are drawn" in draw(desk, v)
  prompts = [r.prompt for r in desk.asked]
  assert prompts[0] == "a sketch of <anna_field> winking" and prompts[1].startswith("a sketch of a person on the beach")
  assert prompts[2].startswith("pop art of <ben_stone>") and len(prompts) == 4


@pytest.mark.parametrize("change", [{"prompt": "a photo of Anna Field at night"}, {"style": ()}, {"sentence": "Anna Field is in the snow."}])  # fmt: skip
def test_a_change_draws_that_panel_alone_and_going_back_draws_nothing(desk, v, change):
  draw(desk, v)
  before, old = len(desk.asked), v.script().panels
  edit(desk, v, "p2", pose="winking, seen from the side")  # of another panel, saved and not yet drawn
  now = edit(desk, v, "p1", **change)
  assert len(desk.asked) == before and now.versions == old[0].versions  # saving draws nothing
  said = draw(desk, v, "p1")
  assert "Panel 1 is drawn; its earlier pictures" in said and len(desk.asked) == before + 1
  now = v.script().panel("p1")
  assert now.versions[0] == old[0].versions[0] and len(now.versions) == 2
  assert script.current_version(now) == now.versions[1]
  assert [p.versions for p in v.script().panels[1:]] == [p.versions for p in old[1:]]
  assert "needs no new picture" in draw(desk, v, "p1")
  edit(
    desk, v, "p1", **{k: getattr(edits.card(dataclasses.replace(v.script(), panels=old), old[0]), k) for k in change}
  )
  assert "needs no new picture" in draw(desk, v, "p1") and len(desk.asked) == before + 1
  back = v.script().panel("p1")
  assert script.current_version(back) == old[0].versions[0] and set(back.versions) == set(now.versions)


def test_a_card_keeps_what_it_says(desk, v):
  """Styles that are the comic's follow the comic; a prompt of its own outlives another sentence, and that is said."""
  s = v.script()
  assert edits.card(s, s.panel("p1")).style == ("comic style",)
  same = edit(desk, v, "p1")
  assert same == s.panel("p1")
  edit(desk, v, "p1", prompt="a photo of Ben Stone")
  before = v.script().panel("p1")
  assert before.people == ("Anna Field", "Ben Stone")  # named in the sentence, named in the prompt
  after = edit(desk, v, "p1", sentence="Anna Field waits.")
  assert after.prompt == "a photo of Ben Stone" and "clear that prompt" in edits.message(desk, before, v.script())
  assert [b.text for b in after.bubbles] == ["Anna Field waits."]  # nobody had touched them
  assert "versions" not in draw(desk, v, "p1")  # it is the first
  assert desk.asked[-1].prompt == "a photo of <ben_stone>"
  assert script.current_version(v.script().panel("p1")).identity > 0.5  # compared with Ben, who is shown
  cleared = edit(desk, v, "p1", prompt="  ")
  assert cleared.prompt is None and cleared.people == ("Anna Field",)
  assert edits.message(desk, after, v.script()) == "Saved. Draw makes the new picture."
  edit(desk, v, "p1", bubbles="")
  assert v.script().panel("p1").bubbles == ()


def test_what_cannot_be_drawn_is_not_saved(desk, v):
  s = v.script()
  for change, words in (
    ({"sentence": " "}, "needs a sentence"),
    ({"prompt": "Anna Field n4ked"}, "asks for nudity"),
    ({"pose": "n a k e d"}, "asks for nudity"),
    ({"style": ("oil on canvas",)}, "is no style"),
    ({"prompt": "very " * 90}, "the prompt of panel 1 has 90 tokens; the model reads 38"),
  ):
    with pytest.raises(UserError, match=words):
      edit(desk, v, "p1", **change)
  assert v.script() == s


def test_the_prompt_that_is_made_is_shown(desk, v):
  edit(desk, v, "p4", prompt="a photo of the moon")
  shown = edits.plain_prompts(desk, v.script())
  assert shown["p1"] == "pop art of Anna Field in the city" and shown["p4"] == "pop art of a person at night"
  assert shown["p2"].startswith("pop art of Anna Field on the beach / pop art of Ben Stone on the beach")
  v.store.delete("Ben Stone")
  assert edits.plain_prompts(desk.at(v.store), v.script()) == {}


def test_two_panels_may_say_the_same(desk, v):
  """Each keeps its own picture, whatever else is edited."""
  actions.cut(desk, v, "Anna Field waits. Ben Stone laughs. Anna Field waits.", "x", [], 0)
  draw(desk, v)
  before, old = len(desk.asked), v.script().panels
  settings = ("x", [], "grid", "ltr", 0, 1, "", 25)
  s = actions.settings(desk, v, "\n".join(p.sentence for p in old), *settings)
  assert [p.id for p in s.panels] == [p.id for p in old] and "3 panels are drawn" in draw(desk, v)
  edit(desk, v, "p2", sentence="Anna Field waits.")
  draw(desk, v)
  assert len(desk.asked) == before + 1
  assert [len(p.versions) for p in v.script().panels] == [1, 2, 1]


def test_a_re_roll_draws_its_own_panel_alone(desk, v):
  draw(desk, v)
  edit(desk, v, "p1", pose="seen from the side")
  edit(desk, v, "p2", style=())
  before = len(desk.asked)
  draw(desk, v, "p3", lambda: edits.reroll(v, "p3"))
  assert len(desk.asked) == before + 1 and [len(p.versions) for p in v.script().panels] == [1, 1, 2, 1]
