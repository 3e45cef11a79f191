"""Protocols, published tables and their pages: data that is as the papers have it."""

import json

import pytest

from idejax.errors import UserError
from idejax.evaluation import metrics, protocols, tables


def test_the_paper_of_id_ea_by_its_numbers():
  p = protocols.load("p1")
  assert (
    p.count == 50 * 20 * 32 == 32_000
    and p.seeds == tuple(range(32))
    and (p.steps, p.guidance, p.size) == (50, 7.5, 512)
  )
  assert {
    c: sum(a.category == c for a in p.prompts) for c in ("background", "interaction", "style", "expression")
  } == dict.fromkeys(("background", "interaction", "style", "expression"), 5)
  assert all(a.people == 2 for a in p.prompts if a.category == "interaction")
  assert sum(a.named for a in p.prompts) == 11


def test_lite_forms_are_the_first_of_each_category():
  p = protocols.load("p1-lite")
  assert p.people["count"] * len(p.prompts) * len(p.seeds) == 10 * 8 * 4
  whole = [a.text for a in protocols.load("p1").prompts]
  assert [whole.index(a.text) for a in p.prompts] == [0, 1, 5, 6, 10, 11, 15, 16]


@pytest.mark.parametrize("name", protocols.names())
def test_every_protocol_is_whole(name):
  p = protocols.load(name)
  assert p.name == name and p.count > 0 and len({a.text for a in p.prompts}) == len(p.prompts)
  assert all(a.text.count("{}") == 1 and a.category for a in p.prompts)
  assert not p.table or p.table in protocols.published_tables()


def test_the_drawn_worlds_protocol_is_in_its_words_and_a_judge_reads_them():
  from idejax.evaluation import miniature
  from idejax.miniature.world import captions

  p = protocols.load("miniature")
  assert p.people["count"] == 20 and len(p.seeds) >= 3
  assert {a.category for a in p.prompts} == {a.category for a in protocols.load("p1").prompts}
  for a in p.prompts:
    assert set(captions.words(a.text.replace("{}", ""))) <= set(captions.VOCABULARY)
    assert miniature.parse_prompt(a.text), a.text
  asked = {
    k: v for a in p.prompts for k, v in miniature.parse_prompt(a.text).items() if a.category == "style" and k == "style"
  }
  assert asked["style"] in ("sketch", "pop art")


@pytest.mark.parametrize("change, said", [
  ({"prompts": []}, "list of texts"), ({"prompts": ["no person"]}, "prompt 1 is"), ({"prompts": ["{}", "{}"]}, "there twice"),
  ({"seeds": 0}, "seeds is 0"), ({"seeds": [1, 1]}, "different ones"), ({"steps": "many"}, "steps is 'many'"), ({"steps": 0}, "steps is 0"),
  ({"people": {"count": 0}}, "count of at least 1"), ({"colour": 1}, "no field 'colour'"), ({"guidance": "high"}, "guidance is"),
  ({"prompts": [{"text": "{}", "people": 0}]}, "people is 0"),
])  # fmt: skip
def test_a_protocol_of_ones_own(tmp_path, change, said):
  path = tmp_path / "mine.json"
  good = {"prompts": ["a photo of {}", {"text": "{} at sea", "category": "background"}], "seeds": [3, 5]}
  path.write_text(json.dumps(good))
  p = protocols.load(str(path))
  assert (p.name, p.seeds, p.prompts[1].category) == ("mine", (3, 5), "background")
  path.write_text(json.dumps(good | change))
  with pytest.raises(UserError, match=said):
    protocols.load(str(path))


def test_unknown_protocols_are_named_with_the_known():
  with pytest.raises(UserError, match="p1-lite"):
    protocols.load("p9")


def test_published_tables_are_reproduced_and_say_paper():
  text = tables.markdown([tables.paper_table("id-ea")], "x")
  assert "| ID-EA | 0.6763 | 0.2427 | 0.8190 | 483 |" in text and "| PuLID | 0.4849 | 0.1856 | 0.8039 | - |" in text
  assert text.count("(paper)") == 4
  facesnap = tables.markdown([tables.paper_table("facesnap")], "x")
  assert "| InstantID | 32.8 | 78.9 | 71.1 | 208.9 | 5.4s | 19.8GB |" in facesnap
  for name, p in protocols.published_tables().items():
    assert all(len(r) == len(p["columns"]) == len(p["better"]) for r in p["rows"].values()), name


def test_ours_and_the_papers_never_share_a_column():
  score = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 3, "seeds": 2, "pictures": 12}
  results = {
    "methods": {"id-ea": {"scores": {"identity": score, "prompt": score}, "people": 3, "pictures": 12}},
    "protocol": {"table": "id-ea"},
  }
  t = tables.main(results)
  ours = [i for i, h in enumerate(t.head) if h.endswith("(ours)")]
  paper = [i for i, h in enumerate(t.head) if h.endswith("(paper)")]
  assert ours and paper and len(t.rows) == 1 + 5
  for row in t.rows:
    filled = {i for i in ours + paper if row[i]}
    assert filled <= set(ours) or filled <= set(paper)
  assert any("as printed in ID-EA, Table I" in n for n in t.notes)


def test_every_figure_has_its_words():
  for name, m in metrics.ALL.items():
    assert m.title and m.about and m.better in ("up", "down", ""), name
