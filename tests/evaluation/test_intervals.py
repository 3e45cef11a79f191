"""Means, intervals over people and seeds, and paired differences."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idejax.evaluation.intervals import difference, interval, show


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.floats(-1, 1) | st.none()), min_size=1, max_size=40))
def test_an_interval_holds_its_mean_and_people_weigh_alike(rows):
  people, seeds, values = zip(*rows)
  got = interval(values, people, seeds)
  means = [np.mean(v) for g in set(people) if (v := [x for p, _, x in rows if p == g and x is not None])]
  assert got["n"] == len(means) and got["pictures"] == sum(v is not None for v in values)
  if means:
    assert got["mean"] == pytest.approx(np.mean(means))
  if len(means) > 1:
    assert got["low"] - 1e-9 <= got["mean"] <= got["high"] + 1e-9
  else:
    assert math.isnan(got["low"]) and math.isnan(got["high"])


def table(people, seeds, between, within, noise=0.0, seed=0):
  """Values [people x seeds]: a mean a person, an effect a seed that all share, and noise."""
  rng = np.random.default_rng(seed)
  x = (
    between * rng.normal(size=(people, 1))
    + within * rng.normal(size=(1, seeds))
    + noise * rng.normal(size=(people, seeds))
  )
  where = [(p, s) for p in range(people) for s in range(seeds)]
  return [float(x[p, s]) for p, s in where], [p for p, _ in where], [s for _, s in where]


width = lambda x: x["high"] - x["low"]


def test_the_same_every_time_narrower_with_people_and_wider_with_what_seeds_add():
  few, many = table(8, 3, 1, 0), table(100, 3, 1, 0)
  assert interval(*few) == interval(*few) and interval(*few) != interval(*few, seed=1)
  assert width(interval(*many)) < width(interval(*few))
  values, people, seeds = table(30, 3, 0.1, 1)
  assert width(interval(values, people, seeds)) > 2 * width(interval(values, people))  # people alone would be too sure


def test_the_interval_over_people_covers_what_it_promises():
  """Of 200 experiments whose true mean is 0, about 95 % hold it."""
  held = [x["low"] <= 0 <= x["high"] for k in range(200) for x in [interval(*table(25, 1, 1, 0, seed=k))]]
  assert 0.88 <= np.mean(held) <= 0.99


def test_pairs_tell_what_two_intervals_do_not():
  base, people, seeds = table(20, 3, 1, 0.3)
  key = lambda i: (people[i], "prompt", seeds[i])
  a = {key(i): v for i, v in enumerate(base)}
  b = {key(i): v + 0.1 for i, v in enumerate(base)}
  got = difference(b, a)
  assert got["mean"] == pytest.approx(0.1) and got["low"] == pytest.approx(0.1) and got["above"] == 1 and got["n"] == 20
  assert width(interval(base, people, seeds)) > 0.5
  a[key(0)] = None
  assert difference(b, a)["pictures"] == 59
  assert difference({}, a)["n"] == 0


def trained(people, trainings, seeds, of_training, of_seed, seed=0):
  """Values of a crossed table: nothing of people, an effect of each training and one of each picture's seed."""
  rng = np.random.default_rng(seed)
  a, b = of_training * rng.normal(size=trainings), of_seed * rng.normal(size=seeds)
  where = [(p, (t, s)) for p in range(people) for t in range(trainings) for s in range(seeds)]
  return [float(a[t] + b[s]) for _, (t, s) in where], [p for p, _ in where], [s for _, s in where]


def test_intervals_cover_trainings_as_well_as_pictures_seeds():
  """Each is drawn for itself: what trainings add is not averaged away by pictures, nor the other way round."""
  values, people, pairs = trained(10, 3, 20, 1.0, 0.0)
  got = interval(values, people, pairs)
  assert (got["n"], got["seeds"], got["trainings"], got["pictures"]) == (10, 20, 3, 600)
  few = interval([np.mean(values[20 * i : 20 * i + 20]) for i in range(30)], people[::20], [t for t, _ in pairs[::20]])
  assert width(got) == pytest.approx(width(few), rel=0.15)
  assert width(got) > 2 * width(interval(values, people, [f"{t} {s}" for t, s in pairs]))  # 60 seeds would be too sure
  other = trained(10, 20, 3, 0.0, 1.0)
  assert width(interval(*other)) > 2 * width(interval(*other[:2], [f"{t} {s}" for t, s in other[2]]))


def test_one_training_is_no_other_interval():
  values, people, seeds = table(8, 3, 1, 1, 0.5)
  assert interval(values, people, [(0, s) for s in seeds]) == interval(values, people, seeds)
  assert "trainings" not in interval(values, people, [(4, s) for s in seeds])


def test_pairs_are_of_the_same_training():
  a = {("anna", (t, s)): float(t) for t in range(3) for s in range(2)}
  b = {("anna", (t, s)): float(t) - 0.5 for t in range(1, 4) for s in range(2)}
  got = difference(a, b)
  assert got["mean"] == 0.5 and got["pictures"] == 4 and got["trainings"] == 2


def test_words():
  assert show({"mean": 0.5, "low": 0.4, "high": 0.6, "n": 3}, 2) == "0.50 (0.40 to 0.60)"
  assert show({"mean": 0.5, "low": 0.4, "high": 0.6, "n": 1}) == "0.500"
  assert show({"mean": math.nan, "low": 0, "high": 0, "n": 0}) == "-"
