"""Names as anchors: averages, cross-initialisation and statistics, for any text encoder and any list of names."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import subjects, tiny_pipelines

from idejax.errors import UserError
from idejax.methods import textual_inversion
from idejax.model import anchors, conditioning
from idejax.person import subject

# A tokenizer without merges: a byte is a token, "ab" is a and b</w>.
NAMES = ("ab cd", "efg h", "i", "jk lm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tiny_pipelines.write(tmp_path_factory.mktemp("tiny"), "sd15", "sdxl")


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def opened(request, folder):
  return subjects.opened(folder, request.param)


@pytest.fixture(scope="module")
def crossed(opened):
  return anchors.cross(*opened, NAMES)


def columns(tokenizer, table, names, take):
  return np.asarray(table, np.float64)[[take(tokenizer.bpe.ids(n)) for n in names]]


def test_the_mean_name_is_that_of_first_and_second_tokens(opened):
  b, words = opened
  for mean, tokenizer, table in zip(anchors.mean(b, words, NAMES), words, anchors.tables(b)):
    first = columns(tokenizer, table, NAMES, lambda ids: ids[0]).mean(0)
    second = columns(tokenizer, table, [n for n in NAMES if n != "i"], lambda ids: ids[1]).mean(0)
    np.testing.assert_allclose(mean, [first, second], rtol=1e-4, atol=1e-7)


def test_the_mean_name_by_words(opened):
  b, words = opened

  def average(tokenizer, table, word):
    return np.asarray(table, np.float64)[tokenizer.bpe.ids(word)].mean(0)

  for mean, *encoder in zip(anchors.mean(b, words, NAMES, by="words"), words, anchors.tables(b)):
    first = np.mean([average(*encoder, n.split()[0]) for n in NAMES], 0)
    last = np.mean([average(*encoder, n.split()[-1]) for n in NAMES if " " in n], 0)
    np.testing.assert_allclose(mean, [first, last], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("by", ["tokens", "words"])
def test_the_order_of_the_names_does_not_matter(opened, by):
  """The reversed list of names gives the same anchor to the bit."""
  b, words = opened
  for a, c in zip(anchors.mean(b, words, NAMES, by=by), anchors.mean(b, words, NAMES[::-1], by=by)):
    np.testing.assert_array_equal(a, c)


def test_cross_initialisation_is_the_encoders_output_for_the_mean_name(opened, crossed):
  """Rows 1 and 2 of the last layer after its norm; on SD that is the context of those two words."""
  b, words = opened
  assert [c.shape for c in crossed] == [(2, t.hidden_size) for t in b.nets.text]
  if b.nets.xl:
    return  # its context is another layer
  rows = tuple(m[None, None] for m in anchors.mean(b, words, NAMES))
  cond = conditioning.contexts(b, conditioning.tokenise(words, ["<id>"], {"<id>": 2}), rows)
  np.testing.assert_allclose(crossed[0], cond.k[0, 0, 1:3], atol=1e-5)


def test_padding_does_not_matter(opened, crossed):
  """The anchor does not depend on the number of pads after the names, nor on the pad token."""
  b, words = opened
  other = anchors.cross(b, tuple(dataclasses.replace(w, length=8, pad=5) for w in words), NAMES)
  for a, c in zip(crossed, other):
    np.testing.assert_allclose(a, c, atol=1e-5)


def test_words_begin_at_the_anchor_exactly(opened, crossed):
  """Cross-initialised words are the anchor to the bit, in float32."""
  b, words = opened
  cfg = textual_inversion.PRESETS["cross-init"]
  constants = textual_inversion.constants(b, words, NAMES, cfg)
  params = textual_inversion.init(jax.random.key(0), subject.Frozen(b, constants, None, None), cfg)
  for row, anchor in zip(params["rows"], crossed):
    np.testing.assert_array_equal(row, anchor)
    assert row.dtype == jnp.float32


def test_statistics_are_those_of_names_of_two_tokens(opened):
  b, words = opened
  names = ("ab", "cd", "e", "fgh", "ij", "ij")  # "e" and "fgh" do not count
  for (mean, deviation), tokenizer, table in zip(anchors.statistics(b, words, names), words, anchors.tables(b)):
    rows = np.asarray(table, np.float64)[[tokenizer.bpe.ids(n) for n in ("ab", "cd", "ij", "ij")]]
    assert rows.shape[:2] == (4, 2)
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(deviation, np.sqrt(np.square(rows - rows.mean(0)).sum(0) / 3), rtol=1e-4)


def test_a_word_is_one_token(opened):
  b, words = opened
  for row, table, tokenizer in zip(anchors.word_rows(b, words, "f"), anchors.tables(b), words):
    np.testing.assert_array_equal(row[0], table[tokenizer.bpe.ids("f")[0]])
  with pytest.raises(UserError, match="'face' is 4 tokens"):
    anchors.word_rows(b, words, "face")


def test_lists_of_names_that_will_not_do(opened):
  b, words = opened
  with pytest.raises(UserError, match="no celebrity names"):
    anchors.mean(b, words, [])
  with pytest.raises(UserError, match="second token"):
    anchors.mean(b, words, ["a", "b"])
  with pytest.raises(UserError, match="two tokens long"):
    anchors.statistics(b, words, ["ab", "c"])


def test_the_distance_has_a_gradient_where_it_is_zero():
  x = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
  np.testing.assert_allclose(anchors.distance(x, np.zeros_like(x)), [5, 0])
  g = jax.grad(lambda x: anchors.distance(x, np.zeros((2, 2), np.float32)).sum())(x)
  np.testing.assert_allclose(g, [[0.6, 0.8], [0, 0]], rtol=1e-6)
