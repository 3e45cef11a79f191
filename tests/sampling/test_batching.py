"""Batches of one size, people with whole weights apart, no picture left out or made twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idejax import sharding
from idejax.sampling import batching

GROUPS = st.lists(st.sampled_from([(), ("a",), ("b",), ("a", "b"), ("c",)]), min_size=1, max_size=20)
WHOLE = {("a",), ("b",)}


@pytest.mark.parametrize(
  "wanted, count, devices, rows",
  [(None, 20, 1, 4), (None, 20, 2, 8), (None, 3, 1, 3), (None, 3, 8, 8), (3, 20, 2, 4), (8, 5, 1, 5), (1, 9, 4, 4)],
)
def test_a_batch_has_as_many_rows_as_wanted_and_the_devices_divide_it(wanted, count, devices, rows):
  assert batching.size(wanted, count, devices) == rows


@given(GROUPS, st.integers(1, 6))
def test_every_picture_is_in_one_batch_and_whole_weights_are_not_mixed(groups, rows):
  batches = batching.form(groups, rows, WHOLE.__contains__)
  assert all(len(b) == rows for b in batches)
  pictures = [i for b in batches for i in dict.fromkeys(b)]
  assert sorted(pictures) == list(range(len(groups)))
  for b in batches:
    inside = {groups[i] for i in b}
    assert len(inside) == 1 or not inside & WHOLE
  assert len([b for b in batches if groups[b[0]] not in WHOLE]) == -(-sum(g not in WHOLE for g in groups) // rows)


def test_of_padding_the_first_row_counts(monkeypatch):
  """Four rows on two processes: each picture is made by one process, though both hold its rows."""
  rows = {0: slice(0, 2), 1: slice(2, 4)}
  monkeypatch.setattr(sharding, "share", lambda process, count: rows[process])
  mine = lambda batch: [batching.part(batch, process) for process in (0, 1)]
  assert mine([4, 5, 6, 6]) == [([4, 5], {4, 5}), ([6, 6], {6})]
  assert mine([4, 5, 5, 5]) == [([4, 5], {4, 5}), ([5, 5], set())]
