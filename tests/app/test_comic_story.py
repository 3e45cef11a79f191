"""The story parser: forty stories with pronoun traps, the contract on whatever comes back, and a language model that misbehaves."""

import http.server
import json
import threading
from pathlib import Path

import pytest
from support.scripted import Scripted

from idejax.app import names, remote, story
from idejax.app.rules import Rules
from idejax.errors import UserError

STORIES = json.loads((Path(__file__).parent / "stories.json").read_text())
count = lambda s: len(s.split())


@pytest.mark.parametrize("s", STORIES, ids=[s["why"] for s in STORIES])
def test_a_story_becomes_these_panels(s):
  assert Rules(s.get("pronouns", {})).parse(s["story"], s["names"]) == s["panels"]


def test_there_are_forty_stories_and_more():
  assert len(STORIES) >= 40 and len({s["why"] for s in STORIES}) == len(STORIES)


@pytest.mark.parametrize("s", STORIES, ids=[s["why"] for s in STORIES])
def test_the_contract_holds_for_what_the_rules_say(s):
  """No pronoun means a person, everybody is still there; only what nobody can resolve is told."""
  cut = story.cut(Rules(s.get("pronouns", {})), s["story"], s["names"], count)
  assert [p.split("'")[1] for p in cut.problems] == s.get("open", [])
  for name in s["names"]:
    assert len(names.find(" ".join(cut.sentences), [name])) >= len(names.find(s["story"], [name]))


@pytest.mark.parametrize("answer, words", [
  (["He smiles."], "says 'He'"), (["Anna Field smiles at them."], "says 'them'"), (["It rains."], "Anna Field is in the story and in no sentence"),
  (["Anna Field " + "very " * 60 + "happily smiles."], "at most 60"),
])  # fmt: skip
def test_a_parser_that_breaks_the_contract_is_told(answer, words):
  cut = story.cut(Scripted(tuple(answer)), "Anna Field smiles.", ["Anna Field"], count)
  assert any(words in p for p in cut.problems), cut.problems


def test_pronouns_in_speech_are_the_speakers_own():
  cut = story.cut(Scripted(('Anna Field says "He is late."',)), "Anna Field says something.", ["Anna Field"], count)
  assert cut.problems == ()


@pytest.mark.parametrize(
  "text, words",
  [("  \n", "the story is empty"), ("x" * 20_001, "at most 20,000"), ("It rains. " * 201, "at most 200 panels")],
)
def test_a_story_that_is_none_is_refused(text, words):
  with pytest.raises(UserError, match=words):
    story.cut(Rules(), text, [], count)


def test_speech_becomes_bubbles_and_the_rest_a_caption():
  n = ["Ben Stone"]
  (b,) = story.bubbles('"I like it," Ben Stone says.', n)
  assert (b.text, b.kind, b.speaker) == ("I like it", "speech", "Ben Stone")
  caption, thought = story.bubbles('Ben Stone sits on the beach and thinks "How nice!"', n)
  assert caption.kind == "caption" and caption.text == "Ben Stone sits on the beach and thinks."
  assert (thought.text, thought.kind) == ("How nice!", "thought")
  assert story.bubbles("It rains.", n)[0].text == "It rains."
  assert story.visible_part('Ben Stone says "Hi".') == "Ben Stone says."


# A language model.


class Model:
  """An OpenAI-compatible endpoint on localhost that gives these answers in turn (an int: that status)."""

  def __init__(self, *answers):
    self.answers, self.asked, self.keys = list(answers), [], []
    outer = self

    class Handler(http.server.BaseHTTPRequestHandler):
      def do_POST(self):
        outer.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        outer.keys.append(self.headers.get("Authorization"))
        answer = outer.answers.pop(0)
        if isinstance(answer, int):
          self.send_response(answer)
          if answer == 302:
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
          self.end_headers()
          return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"choices": [{"message": {"content": answer}}]}).encode())

      def log_message(self, *_):
        pass

    self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
    threading.Thread(target=self.server.serve_forever, daemon=True).start()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.server.shutdown()
    self.server.server_close()


STORY, NAMES = "Anna Field meets Ben Stone. She smiles.", ["Anna Field", "Ben Stone"]
GOOD = ["Anna Field meets Ben Stone.", "Anna Field smiles."]
BAD = json.dumps(["Anna Field meets Ben Stone.", "She smiles."])


def ask(*answers):
  said = []
  with Model(*answers) as m:
    out = remote.Remote(m.url, "some-model", "a-key", notify=said.append).parse(STORY, NAMES)
    return out, said, m


@pytest.mark.parametrize("text", [
  json.dumps(GOOD), f"```json\n{json.dumps(GOOD)}\n```", f"Sure! Here it is:\n{json.dumps(GOOD)}\nEnjoy.", json.dumps({"sentences": GOOD}),
  json.dumps([{"sentence": s} for s in GOOD]), json.dumps(GOOD)[:-1] + ",]", '1. "Anna Field meets Ben Stone."\n2. "Anna Field smiles."',
  f"<think>[1, 2] maybe</think>{json.dumps(GOOD)}",
])  # fmt: skip
def test_answers_are_cleaned(text):
  out, said, m = ask(text)
  assert out == GOOD and not said and m.keys == ["Bearer a-key"]
  assert m.asked[0]["model"] == "some-model" and STORY in m.asked[0]["messages"][1]["content"]


def test_a_broken_contract_is_asked_again_with_the_reason():
  out, said, m = ask(BAD, json.dumps(GOOD))
  assert out == GOOD and not said
  assert "says 'She'" in m.asked[1]["messages"][-1]["content"]


@pytest.mark.parametrize("answers", [
  (BAD, BAD, BAD), ("no", "no", "no"), (500, 500, 500), (302, 302, 302), ("[]", "[1, 2]", "{}"), ("[" * 5000, "\0", ""),
  (json.dumps([*GOOD, "Anna Field rides a purple dragon over volcanoes."]),) * 3,
])  # fmt: skip
def test_after_three_failures_the_rules_answer_and_say_so(answers):
  out, said, m = ask(*answers)
  assert out == GOOD
  assert len(m.asked) == 3 and len(said) == 1 and "offline rules" in said[0] and "a-key" not in said[0]


def test_nobody_there_is_no_crash():
  said = []
  assert remote.Remote("http://127.0.0.1:9/v1", "m", notify=said.append).parse(STORY, NAMES) == GOOD
  assert len(said) == 1


def test_the_environment_chooses():
  assert isinstance(remote.choose_parser({}, env={}), Rules)
  parser = remote.choose_parser(
    {}, env={"IDEJAX_LLM_URL": "http://localhost:1/v1", "IDEJAX_LLM_MODEL": "m", "IDEJAX_LLM_KEY": "secret"}
  )
  assert isinstance(parser, remote.Remote) and parser.key == "secret" and "secret" not in repr(parser)
  with pytest.raises(UserError, match="IDEJAX_LLM_MODEL is not"):
    remote.choose_parser({}, env={"IDEJAX_LLM_URL": "http://x/v1"})
  with pytest.raises(UserError, match="must begin with http"):
    remote.choose_parser({}, env={"IDEJAX_LLM_URL": "file:///etc/passwd", "IDEJAX_LLM_MODEL": "m"})


def test_no_key_is_written_anywhere_in_the_source():
  import re

  root = Path(remote.__file__).parents[1]
  looks = re.compile(r"\b(?:sk|hf|or|ghp|AIza)[-_][A-Za-z0-9_-]{16,}|Bearer [A-Za-z0-9._-]{16,}")
  assert not [p for p in root.rglob("*.py") if looks.search(p.read_text())]
