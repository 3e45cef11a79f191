"""Token ids against transformers' own, and placeholders that stand for several rows."""

import functools
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from idejax.errors import UserError
from idejax.model import families, tokens

LENGTH = 24
TEXTS = [
  "",
  " ",
  "a photo of a cat",
  "A Photo, of THE cat!?",
  "it's 3.14 o'clock & so on -- (really)",
  "na\u00efve caf\u00e9 \u65e5\u672c\u8a9e \U0001f469\u200d\U0001f680",
  "tabs\tand\nlines  and   blanks ",
  "a photo of the cat " * 30,
  "x" * 500,
  "\x00\x7f",
]
CORPUS = ["a photo of the cat", "the photo of a dog and the cat", "it's a painting of the dog"] * 5


def trained(folder):
  """A small CLIP tokenizer: byte-level BPE with real merges, in CLIP's files."""
  families.write_byte_tokenizer(folder, LENGTH, "<|endoftext|>")
  bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
  bpe.normalizer, bpe.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
  bpe.train_from_iterator(
    CORPUS, trainers.BpeTrainer(vocab_size=1000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False)
  )
  merges = [tuple(m) for m in json.loads(bpe.to_str())["model"]["merges"]]
  vocabulary = json.loads((folder / "vocab.json").read_text())
  learned = dict.fromkeys(a + b for a, b in merges)
  every = [*list(vocabulary)[:-2], *learned, *list(vocabulary)[-2:]]
  assert "photo</w>" in learned
  (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(every)}))
  (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))


@functools.cache
def tokenizer(root, kind):
  folder = root / kind
  if kind == "merges":
    trained(folder)
  else:
    families.write_byte_tokenizer(folder, LENGTH, "!" if kind == "padded with !" else "<|endoftext|>")
  return tokens.load(folder)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  return tmp_path_factory.mktemp("tokenizers")


@pytest.fixture
def byte(root):
  return tokenizer(root, "bytes")


def theirs(t, texts):
  return t.bpe(texts, padding="max_length", truncation=True, max_length=LENGTH)["input_ids"]


@pytest.mark.parametrize("kind", ["bytes", "padded with !", "merges"])
def test_equal_to_transformers(root, kind):
  t = tokenizer(root, kind)
  encoding = t.encode(TEXTS)
  np.testing.assert_array_equal(encoding.ids, theirs(t, TEXTS))
  assert encoding.ids.dtype == np.int32 and encoding.ids.shape == (len(TEXTS), LENGTH)
  assert encoding.where.shape == (len(TEXTS), 0)
  # diffusers' padding differs by model: the end token in SD 1.x, "!" in SD 2.x.
  assert t.pad == (0 if kind == "padded with !" else t.eos)
  assert encoding.ids[0].tolist() == [t.bos, t.eos] + [t.pad] * (LENGTH - 2)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60) | st.text("atp' <>|!", max_size=40), kind=st.sampled_from(["bytes", "merges"]))
def test_any_text_equals_transformers(root, text, kind):
  t = tokenizer(root, kind)
  encoding = t.encode([text])
  np.testing.assert_array_equal(encoding.ids, theirs(t, [text]))
  ids = t.bpe(text, add_special_tokens=False)["input_ids"]
  assert encoding.ids[0, 0] == t.bos and encoding.ids[0, encoding.eos[0]] == t.eos
  assert encoding.eos[0] == min(len(ids), LENGTH - 2) + 1
  if len(ids) <= LENGTH - 2:
    assert encoding.overflow == ("",)


def test_the_random_pipelines_tokenizers_too(random_folder):
  for family, folder in (("sd15", "tokenizer"), ("sd21", "tokenizer"), ("sdxl", "tokenizer_2")):
    t = tokens.load(random_folder(family) / folder)
    assert t.length == 77 and t.encode(["a cat"]).ids.shape == (1, 77)
    want = t.bpe(TEXTS, padding="max_length", truncation=True, max_length=77)["input_ids"]
    np.testing.assert_array_equal(t.encode(TEXTS).ids, want)


def test_what_is_cut_is_told(root):
  t = tokenizer(root, "merges")
  words = "the cat of the dog and " * 8
  encoding = t.encode([words, "the cat"])
  rest = t.bpe.decode(encoding.ids[0, 1 : LENGTH - 1].tolist())
  assert encoding.overflow[1] == "" and f"{rest} {encoding.overflow[0]}".split() == words.split()
  assert encoding.eos.tolist() == [LENGTH - 1, 3]


# Placeholders.


def test_rows_stand_side_by_side_in_order_and_later_tokens_shift(byte):
  plain = byte.encode(["ab cd", "ab", "cd"])
  one = byte.encode(["ab <me> cd"], {"<me>": 3})
  assert one.where.tolist() == [[3, 4, 5]]
  ab, cd = plain.ids[1, 1:3], plain.ids[2, 1:3]
  assert one.ids[0, :9].tolist() == [byte.bos, *ab, byte.eos, byte.eos, byte.eos, *cd, byte.eos]
  assert one.eos.tolist() == [8] and plain.eos.tolist() == [5, 3, 3]


def test_rows_are_numbered_through_the_placeholders_not_through_the_prompt(byte):
  encoding = byte.encode(["<b> <a>", "<a>", "none", "<a>, <b>"], {"<a>": 2, "<b>": 1})
  assert encoding.where.tolist() == [[2, 3, 1], [1, 2, -1], [-1, -1, -1], [1, 2, 4]]
  assert encoding.eos.tolist() == [4, 3, 5, 5]


def test_the_longer_of_two_names_wins(byte):
  names = {"<id>": 1, "<id>2": 1, "sks": 1, "sks person": 1}
  encoding = byte.encode(["<id>2", "<id> 2", "sks person", "sks persons", "a sks, person"], names)
  used = [[i for i, at in enumerate(row) if at >= 0] for row in encoding.where]
  assert used == [[1], [0], [3], [2], [2]]


@pytest.mark.parametrize(
  "prompt, at",
  [
    ("<me>", 1),
    ("<me>.", 1),
    ("(<me>)", 2),
    ("a,<me>", 3),
    ('"<me>"', 2),
    ("<me>'s hat", 1),
    ("a <me>", 2),
    ("\u65e5 <me>", 4),
  ],
)
def test_punctuation_may_touch_a_placeholder(byte, prompt, at):
  encoding = byte.encode([prompt], {"<me>": 2})
  assert encoding.where.tolist() == [[at, at + 1]]
  before, after = prompt.split("<me>")
  body = lambda text: byte.bpe(text, add_special_tokens=False)["input_ids"]
  want = [byte.bos, *body(before), byte.eos, byte.eos, *body(after), byte.eos]
  assert encoding.ids[0, : len(want)].tolist() == want


@pytest.mark.parametrize("prompt", ["x<me>", "<me>x", "<me>_1", "<ME>", "< me>", "1<me>2"])
def test_a_placeholder_stands_alone_and_as_it_is_written(byte, prompt):
  encoding = byte.encode([prompt], {"<me>": 2})
  assert encoding.where.tolist() == [[-1, -1]]
  np.testing.assert_array_equal(encoding.ids, byte.encode([prompt]).ids)


def test_names_are_no_patterns(byte):
  assert byte.encode(["a.c abc"], {"a.c": 1}).where.tolist() == [[1]]
  assert byte.encode(["$^ (x|y)"], {"(x|y)": 1}).where.tolist() == [[3]]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=st.text(max_size=8), after=st.text(max_size=8), rows=st.integers(1, 5))
@example(before="\x1f", after="\x1f", rows=1)
def test_placeholders_between_any_texts(root, before, after, rows):
  t = tokenizer(root, "merges")
  body = lambda text: t.bpe(text, add_special_tokens=False)["input_ids"]
  prompt = f"{before} <me> {after}"
  if len(body(before)) + rows + len(body(after)) > LENGTH - 2:
    return
  encoding = t.encode([prompt], {"<me>": rows})
  start = 1 + len(body(before))
  assert encoding.where[0].tolist() == list(range(start, start + rows))
  want = [t.bos, *body(before), *[t.eos] * rows, *body(after), t.eos]
  assert encoding.ids[0, : len(want)].tolist() == want


def test_a_placeholder_that_is_cut_off_is_an_error(byte):
  room = LENGTH - 2
  for rows in (1, 3):
    fits = "a" * (room - rows)
    assert byte.encode([f"{fits} <me>"], {"<me>": rows}).where.max() == room
    assert byte.encode([f"<me> {fits} and more"], {"<me>": rows}).overflow[0] == "and more"
    with pytest.raises(UserError, match=f"longer than {room} tokens and its placeholder would be cut off"):
      byte.encode(["fine", f"a{fits} <me>"], {"<me>": rows})


def test_a_placeholder_twice_in_one_prompt_is_an_error(byte):
  """A row has one position, so the second use would be read as an end of text."""
  with pytest.raises(UserError, match="<me> is used twice in 'a <me> and <me>'"):
    byte.encode(["a <me> and <me>"], {"<me>": 2})


def test_half_a_surrogate_pair_is_an_error(byte):
  """Python decodes bytes from a terminal that are not UTF-8 to such halves."""
  with pytest.raises(UserError, match="not valid Unicode"):
    byte.encode(["caf\udce9"])


def test_no_prompts(byte):
  encoding = byte.encode([], {"<me>": 2})
  assert encoding.ids.shape == (0, LENGTH) and encoding.where.shape == (0, 2) and encoding.overflow == ()


# Folders.


@pytest.mark.parametrize(
  "file, content",
  [
    ("vocab.json", "{"),
    ("vocab.json", "[1]"),
    ("tokenizer.json", "{"),
    ("tokenizer_config.json", "{"),
    ("merges.txt", "one two three\n"),
  ],
)
def test_a_damaged_tokenizer_is_named(tmp_path, file, content):
  families.write_byte_tokenizer(tmp_path, LENGTH, "!")
  (tmp_path / file).write_text(content)
  with pytest.raises(UserError) as caught:
    tokens.load(tmp_path)
  assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("config", [{}, {"model_max_length": 10**30}])
def test_a_tokenizer_without_a_length_is_refused(tmp_path, config):
  families.write_byte_tokenizer(tmp_path, LENGTH, "!")
  path = tmp_path / "tokenizer_config.json"
  fields = json.loads(path.read_text())
  del fields["model_max_length"]
  path.write_text(json.dumps(fields | config))
  with pytest.raises(UserError, match="model_max_length"):
    tokens.load(tmp_path)


def test_no_tokenizer_at_all(tmp_path):
  with pytest.raises(UserError, match="neither tokenizer.json nor vocab.json"):
    tokens.load(tmp_path)
  with pytest.raises(UserError, match="neither"):
    tokens.load(tmp_path / "nowhere")
