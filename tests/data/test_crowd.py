"""Whose photos are whose, and what is told of photos that are no use."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from idejax.data import people
from idejax.errors import UserError


def look(photo):
  if photo == "blurred":
    raise UserError("blurred: no face")
  return SimpleNamespace(meta={"photo_sha256": photo})


def test_people_and_what_was_skipped(capsys):
  got = people.crowd(
    Path("x"), [("Ben", ["b1", "b2"]), ("Cleo M.", ["blurred", "c"]), ("nobody", ["blurred"])], look
  )
  assert [(p.stem, p.word, len(p.photos), p.alone) for p in got] == [
    ("ben", "<ben>", 2, False),
    ("cleo_m", "<cleo_m>", 1, False),
  ]
  assert len({p.digest for p in got}) == 2
  said = capsys.readouterr().err
  assert said.count("blurred: no face") == 2 and "2 photo(s) skipped, 2 people are left" in said


def test_two_of_one_name_are_refused():
  with pytest.raises(UserError, match="two people are called cleo_m"):
    people.crowd(Path("x"), [("Cleo M.", ["a"]), ("cleo-m", ["b"])], look)
  with pytest.raises(UserError, match="no photo here can be used"):
    people.crowd(Path("x"), [("a", ["blurred"])], look)
