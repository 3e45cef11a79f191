"""Prompt files: what each format means, and the sentence for everything that is wrong."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idejax.errors import UserError
from idejax.sampling import prompt_files as prompts
from idejax.sampling.prompt_files import Prompt


@pytest.fixture
def file(tmp_path):
  """A function that writes a prompt file and gives its path."""

  def write(name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path

  return write


@pytest.mark.parametrize(
  "name, content, want",
  [
    ("a.txt", "a cat\n\n  a dog, at night  \r\n# no comment\n", ["a cat", "a dog, at night", "# no comment"]),
    ("a.txt", "\ufeffa cat", ["a cat"]),
    ("a.txt", "caf\u00e9 \u65e5\u672c", ["caf\u00e9 \u65e5\u672c"]),
    ("a.txt", "a\u2028b\nc\x85d", ["a\u2028b", "c\x85d"]),  # line separators inside a prompt
    ("a.jsonl", '{"prompt": " a cat "}\n\n"a dog"\n', ["a cat", "a dog"]),
    ("a.jsonl", '{"prompt": "x", "negative": "y", "seed": 7, "guidance": 2}', [Prompt("x", "y", 7, 2.0)]),
    ("a.jsonl", '{"prompt": "x", "negative": "", "seed": null, "guidance": "3.5"}', [Prompt("x", guidance=3.5)]),
    ("a.jsonl", '{"prompt": "x", "seed": 0, "guidance": 0}', [Prompt("x", None, 0, 0.0)]),
    ("a.csv", "prompt\na cat\n", ["a cat"]),
    (
      "a.csv",
      'guidance,prompt,seed,negative\n1.5,"a, b\nc",12,no\n,d,,\n',
      [Prompt("a, b\nc", "no", 12, 1.5), Prompt("d")],
    ),
  ],
)
def test_formats(file, name, content, want):
  assert prompts.read(file(name, content)) == [Prompt(w) if isinstance(w, str) else w for w in want]


def test_types(file):
  [p] = prompts.read(file("a.csv", "prompt,seed,guidance\nx,5,7\n"))
  assert (type(p.seed), type(p.guidance)) == (int, float)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=5))
def test_any_text_comes_back_from_json_lines(tmp_path_factory, texts):
  path = tmp_path_factory.mktemp("prompts") / "a.jsonl"
  path.write_text("".join(json.dumps({"prompt": t}) + "\n" for t in texts))
  assert [p.text for p in prompts.read(path)] == [t.strip() for t in texts]


@pytest.mark.parametrize(
  "name, content, said",
  [
    ("a.json", "{}", "prompt files end in .txt, .jsonl or .csv, not '.json'"),
    ("a", "x", "not 'nothing'"),
    ("a.txt", "", "holds no prompt"),
    ("a.txt", " \n\n", "holds no prompt"),
    ("a.jsonl", "\n", "holds no prompt"),
    ("a.csv", "prompt\n", "holds no prompt"),
    ("a.csv", "", "holds no prompt"),
    ("a.txt", b"caf\xe9", "cannot be read as UTF-8 text"),
    ("a.jsonl", '{"prompt": "x"}\n{"prompt": }\n', "a.jsonl:2 is not JSON"),
    ("a.jsonl", "[" * 100_000, "a.jsonl:1 is not JSON"),
    ("a.jsonl", '\n{"negative": "x"}', "a.jsonl:2: the field prompt is missing or empty"),
    ("a.jsonl", '{"prompt": "  "}', "the field prompt is missing or empty"),
    ("a.jsonl", '["a", "b"]', "the field prompt is missing or empty"),
    ("a.jsonl", "3", "the field prompt is missing or empty"),
    ("a.jsonl", '{"prompt": "x", "sead": 3}', "unknown field 'sead'; known: prompt, negative, seed, guidance"),
    ("a.jsonl", '{"prompt": "x", "seed": "abc"}', "seed is 'abc', not int"),
    ("a.jsonl", '{"prompt": "x", "seed": 1.5}', "seed is 1.5, not int"),
    ("a.jsonl", '{"prompt": "x", "seed": Infinity}', "seed is inf, not int"),
    ("a.jsonl", '{"prompt": "x", "seed": [1]}', "seed is [1], not int"),
    ("a.jsonl", '{"prompt": "x", "guidance": "much"}', "guidance is 'much', not float"),
    ("a.csv", "prompt,seed\nx,1\ny,z\n", "a.csv:3: seed is 'z', not int"),
    ("a.csv", "text\nx\n", "unknown field 'text'"),
    ("a.csv", "seed\n3\n", "a.csv:2: the field prompt is missing or empty"),
    ("a.csv", "prompt\na, b\n", "a.csv:2: more fields than the first line names"),
    ("a.csv", 'prompt\n"a', "is not CSV"),
    ("a.csv", 'prompt\n"a"b\n', "is not CSV"),
  ],
)
def test_what_is_wrong_is_said_in_one_sentence(file, name, content, said):
  path = file(name, content)
  with pytest.raises(UserError) as caught:
    prompts.read(path)
  message = str(caught.value)
  assert str(path) in message and said in message and "\n" not in message


def test_no_file_and_a_folder(tmp_path):
  with pytest.raises(UserError, match="does not exist"):
    prompts.read(tmp_path / "a.txt")
  (tmp_path / "b.txt").mkdir()
  with pytest.raises(UserError, match="b.txt cannot be read"):
    prompts.read(tmp_path / "b.txt")
