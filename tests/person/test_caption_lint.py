"""Warnings of captions that leave out clothes or background."""

import pytest

from idejax.person import caption_lint


@pytest.mark.parametrize("text, lost", [
  (None, ["clothes", "background"]), ("in a red hat", ["clothes", "background"]), ("in a blue shirt", ["background"]),
  ("on the beach", ["clothes"]), ("wearing a red sweater on a gray background", []), ("In a Suit, outdoors", []), ("", None),
  ("shirts and beaches", ["clothes", "background"]),
])  # fmt: skip
def test_what_is_missing_is_named_with_an_example_that_is_not(text, lost):
  got = caption_lint.advice(text)
  if not lost:
    return pytest.fail("warned") if got else None
  assert f"photo's {' and '.join(lost)}," in got and "\n" not in got
  example = got.split('--describe "')[1].split('"')[0]
  assert example.startswith(text or "in a blue shirt") and caption_lint.advice(example) is None


def test_what_drawn_portraits_are_told_is_whole():
  from idejax.miniature.world import portraits

  assert caption_lint.advice(portraits.SURROUNDINGS) is None
